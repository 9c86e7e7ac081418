"""Locks: planted links lead nowhere, and a file system without locks is held by the name of the holder."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ctpatch
from ctpatch.errors import OutputConflictError, OutputLockedError
from ctpatch.files.locks import FileLock
from helpers import Heard, Prepared, assert_same_tree, build_one, make_split, tree_bytes

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="needs links that any user may make")
needs_flock = pytest.mark.skipif(sys.platform == "win32", reason="Windows always has locks")

NO_LOCKS = ["ENOLCK", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EINVAL"]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return make_split(tmp_path / "root", [(40, 50)] * 2)


def state_of(prepared: Prepared) -> Path:
    state = prepared.out / ".ctpatch"
    state.mkdir(parents=True)
    return state


# Planted links.


def plant(kind: str, place: Path, precious: Path) -> None:
    {
        "symbolic": lambda: place.symlink_to(precious),
        "symbolic to nothing": lambda: place.symlink_to(precious.with_name("new")),
        "hard": lambda: os.link(precious, place),
        "pipe": lambda: os.mkfifo(place),
    }[kind]()


PLANTED = ["symbolic", "symbolic to nothing", "hard", "pipe"]


@needs_links
@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("share", [None, "1/2"])
def test_a_lock_file_that_is_a_link(tmp_path: Path, prepared: Prepared, kind: str, share: str | None) -> None:
    """Nothing is opened, made or changed through it; the message names it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = outside / "precious"
    precious.write_bytes(b"mine")
    precious.chmod(0o640)
    place = state_of(prepared)
    if share is not None:
        place = place / "share-1-of-2"
        place.mkdir()
    plant(kind, place / "lock", precious)
    config = ctpatch.PatchConfig(patch_size=16, stride=8)
    opened: list[str] = []
    watch(opened)
    with pytest.raises(OutputConflictError, match=rf"{place.name}/lock is .*; remove it"):
        build_one(prepared) if share is None else ctpatch.build_share(prepared.folder, share, config)
    unwatch(opened)
    assert [path for path in opened if os.path.basename(path) in {"lock", "precious", "new"}] == []
    assert tree_bytes(outside) == {"precious": b"mine"}
    assert precious.stat().st_mode & 0o777 == 0o640
    (place / "lock").unlink()
    assert build_one(prepared).complete


_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching and isinstance(arguments[0], str | bytes | os.PathLike):
        for opened in _watching:
            opened.append(os.fsdecode(arguments[0]))


def watch(opened: list[str]) -> None:
    if not hasattr(sys, "_ctpatch_test_hook"):
        sys.addaudithook(_hook)
        sys._ctpatch_test_hook = True  # type: ignore[attr-defined]
    _watching.append(opened)


def unwatch(opened: list[str]) -> None:
    _watching.remove(opened)


@needs_links
@pytest.mark.parametrize("kind", PLANTED)
def test_a_link_that_is_planted_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Between the look and the opening: what was opened is let go of unchanged, and nothing is made."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    place = tmp_path / "state/lock"
    place.parent.mkdir()
    looked = os.lstat

    def look_then_plant(path: Any, **options: Any) -> os.stat_result:
        try:
            return looked(path, **options)
        finally:
            if path == place and place.name not in os.listdir(place.parent):
                plant(kind, place, precious)

    monkeypatch.setattr(os, "lstat", look_then_plant)
    before = looked(precious)
    with pytest.raises(OutputConflictError, match="state/lock is"):
        FileLock(place).acquire()
    monkeypatch.undo()
    assert precious.read_bytes() == b"mine"
    assert precious.stat().st_mtime_ns == before.st_mtime_ns
    assert sorted(os.listdir(tmp_path)) == ["precious", "state"]


@needs_links
def test_a_share_whose_folder_is_a_link(tmp_path: Path, prepared: Prepared) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (state_of(prepared) / "share-1-of-2").symlink_to(outside)
    with pytest.raises(OutputConflictError, match="share-1-of-2 is a link"):
        ctpatch.build_share(prepared.folder, "1/2", ctpatch.PatchConfig(patch_size=16, stride=8))
    assert tree_bytes(outside) == {}


@needs_links
def test_a_holder_s_file_that_is_a_link_is_not_read(tmp_path: Path, prepared: Prepared) -> None:
    """What it leads to says that another machine holds the folder; it does not count."""
    outside = tmp_path / "owner.json"
    outside.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "2024-01-01T00:00:00Z"}))
    (state_of(prepared) / "owner.json").symlink_to(outside)
    assert build_one(prepared).outcome == "built"
    assert json.loads(outside.read_text())["pid"] == 7


def test_one_at_a_time_in_one_process(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    second.release()


@needs_flock
def test_a_lock_without_its_name_holds_nothing(tmp_path: Path) -> None:
    """Its holder removes the file as it leaves; who takes the lock then has that of a new file."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    (tmp_path / "lock").unlink()
    assert second.acquire()
    assert (tmp_path / "lock").exists()
    first.release()
    assert not FileLock(tmp_path / "lock").acquire()
    second.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A process forks while it holds the lock and is killed: the child that lives on does not hold it."""
    done = subprocess.run([sys.executable, "-c", FORKS, str(tmp_path / "lock")], check=True, stdout=subprocess.PIPE)
    assert done.stdout.split() == [b"held", b"free"]


FORKS = """
import os, signal, sys
from pathlib import Path
from ctpatch.files.locks import FileLock
lock = Path(sys.argv[1])
ready, wait = os.pipe(), os.pipe()
holder = os.fork()
if holder == 0:
    assert FileLock(lock).acquire()
    if os.fork() == 0:
        os.write(ready[1], b"x")
        os.close(wait[1])
        os.read(wait[0], 1)  # lives until the first process ends
        os._exit(0)
    signal.pause()
os.read(ready[0], 1)
os.close(wait[0])
print("free" if FileLock(lock).acquire() else "held")
os.kill(holder, signal.SIGKILL)
os.waitpid(holder, 0)
print("free" if FileLock(lock).acquire() else "held")
"""


# No locks.


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.ENOLCK)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@needs_flock
@pytest.mark.parametrize("name", NO_LOCKS)
def test_a_file_system_without_locks(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wanted = make_split(tmp_path / "wanted", [(40, 50)] * 2)
    build_one(wanted)
    refuse_locks(monkeypatch, getattr(errno, name))
    heard = Heard()
    assert build_one(prepared, listener=heard).outcome == "built"
    said = os.strerror(getattr(errno, name))
    (notice,) = heard.notices("no-locks")
    assert notice == (
        f"the file system has no locks ({said}): .ctpatch/owner.json alone holds train; if a run is killed on another "
        "machine, remove that file before the next run"
    )
    pixels = {name: content for name, content in tree_bytes(wanted.out).items() if name.endswith(".npy")}
    found = {name: content for name, content in tree_bytes(prepared.out).items() if name.endswith(".npy")}
    assert_same_tree(found, pixels)
    assert not (prepared.out / ".ctpatch").exists()
    assert ctpatch.verify(prepared.out, deep=True).ok
    assert build_one(prepared).outcome == "complete"


@needs_flock
def test_another_fault_of_the_lock_is_said(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(ctpatch.CtPatchError, match="locking train failed: Input/output error"):
        build_one(prepared)


@needs_flock
@pytest.mark.usefixtures("no_locks")
def test_shares_without_locks(prepared: Prepared) -> None:
    config = ctpatch.PatchConfig(patch_size=16, stride=8)
    for share in ("1/2", "2/2"):
        ctpatch.build_share(prepared.folder, share, config)
    ctpatch.merge(prepared.out)
    assert ctpatch.verify(prepared.out, deep=True).ok


HOLDER = """
import errno, fcntl, os, sys
from pathlib import Path
def flock(_fd, _operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = flock
from ctpatch.events import ignore
from ctpatch.work.lock import Hold
place = Path(sys.argv[1])
with Hold(place.parent, place, "train", ignore).held():
    print("held", flush=True)
    sys.stdin.read(1)
"""


@needs_flock
@pytest.mark.usefixtures("no_locks")
def test_a_holder_without_a_lock_lives_and_dies(prepared: Prepared) -> None:
    state = prepared.out / ".ctpatch"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputLockedError) as caught:
            build_one(prepared)
        assert f"is being written by process {holder.pid} on" in caught.value.message
        assert "if that process is gone, remove .ctpatch/owner.json and run again" in caught.value.message
        holder.kill()
        holder.wait()
    heard = Heard()
    assert build_one(prepared, listener=heard).outcome == "built"
    assert len(heard.notices("stale-lock")) == 1
    assert f"took over from process {holder.pid} on" in heard.notices("stale-lock")[0]


@needs_flock
@pytest.mark.usefixtures("no_locks")
def test_without_locks_this_process_s_own_number_on_an_old_file_is_followed(prepared: Prepared) -> None:
    """A container begins with the same number each time: a name of its own number that it does not hold is old."""
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2024-01-01T00:00:00Z"}
    (state_of(prepared) / "owner.json").write_text(json.dumps(owner))
    assert build_one(prepared).outcome == "built"


@needs_flock
@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_holder_elsewhere_is_respected(prepared: Prepared) -> None:
    owner = json.dumps({"pid": 7, "host": "elsewhere", "since": "2024-01-01T00:00:00Z"})
    (state_of(prepared) / "owner.json").write_text(owner)
    with pytest.raises(OutputLockedError, match=r"held by process 7 on 'elsewhere'.*remove .ctpatch/owner.json"):
        build_one(prepared)
    assert (prepared.out / ".ctpatch/owner.json").read_text() == owner


@needs_flock
@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_file_that_says_nothing_is_named(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctpatch.work.lock._LOOK_AGAIN", 0)
    (state_of(prepared) / "owner.json").write_bytes(b"")
    with pytest.raises(OutputLockedError, match=r"another process.*remove .ctpatch/owner.json"):
        build_one(prepared)


TAKES_TURNS = """
import errno, fcntl, os, sys
from pathlib import Path
def flock(_fd, _operation):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = flock
from ctpatch.errors import OutputLockedError
from ctpatch.events import ignore
from ctpatch.work.lock import Hold
place, inside, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sys.stdin.readline()
held = 0
while held < rounds:
    try:
        with Hold(place.parent, place, "train", ignore).held():
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
            held += 1
            inside.unlink()
    except OutputLockedError:
        pass
print(held)
"""


@needs_flock
def test_of_several_without_locks_one_holds_at_a_time(tmp_path: Path) -> None:
    """Each makes a file that must not be there while it holds; a dead one's name waits for all of them at first."""
    place = tmp_path / "out/.ctpatch"
    place.mkdir(parents=True)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True)
    owner = {"pid": int(dead.stdout), "host": socket.gethostname(), "since": "2024-01-01T00:00:00Z"}
    (place / "owner.json").write_text(json.dumps(owner))
    words = [sys.executable, "-c", TAKES_TURNS, str(place), str(tmp_path / "inside"), "5"]
    started = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in started]
    assert said == ["5\n"] * 3
    assert [process.returncode for process in started] == [0] * 3
    # The folder itself may stay where one looked into it while the last one left.
    assert not (place / "owner.json").exists()
