"""Files that are whole or not there, whatever the system writes at a time and wherever it fails."""

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.errors import SystemFailureError
from ctpatch.files import atomic
from ctpatch.files.atomic import (
    end_file,
    explain_os_error,
    open_for_writing,
    publish,
    read_regular,
    remove_file,
    sync_file,
    sync_folder,
    sync_outputs,
    system_errors,
    write_atomic,
    write_buffers,
    write_file,
)

needs_writev = pytest.mark.skipif(not hasattr(os, "writev"), reason="this system has no writev")
needs_nofollow = pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="this system cannot refuse links on opening")


def test_a_file_holds_the_buffers_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert write_file(str(path), [b"head", memoryview(b"body"), b"", memoryview(bytearray(b"!"))]) == 9
    assert path.read_bytes() == b"headbody!"


def test_what_an_earlier_longer_file_left_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"longer than before")
    assert write_file(str(path), [b"short"]) == 5
    assert path.read_bytes() == b"short"
    assert write_file(str(path), [b""]) == 0
    assert path.read_bytes() == b""


def test_opening_alone_takes_nothing_away(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"whole")
    fd = open_for_writing(str(path))
    assert path.read_bytes() == b"whole"
    write_buffers(fd, [b"WH"])
    assert path.read_bytes() == b"WHole"
    end_file(fd, 2)
    os.close(fd)
    assert path.read_bytes() == b"WH"


@needs_writev
@settings(deadline=None, max_examples=150)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=5), st.integers(0, 12), st.integers(1, 4))
def test_no_byte_is_lost_where_the_system_writes_a_part_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, buffers: list[bytes], first: int, then: int
) -> None:
    """Writes `first` bytes in the vectored call and at most `then` in each that follows."""
    path = tmp_path_factory.getbasetemp() / "parts"
    real_write = os.write

    def some_writev(fd: int, views: Sequence[memoryview]) -> int:
        return real_write(fd, b"".join(views)[:first])

    def some_write(fd: int, view: memoryview) -> int:
        return real_write(fd, view[:then])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", some_writev)
        patch.setattr(os, "write", some_write)
        assert write_file(str(path), buffers) == len(b"".join(buffers))
    assert path.read_bytes() == b"".join(buffers)


def test_systems_without_writev_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_HAS_WRITEV", False)
    path = tmp_path / "x"
    assert write_file(str(path), [b"ab", b"", b"cde"]) == 5
    assert path.read_bytes() == b"abcde"


@needs_nofollow
def test_a_planted_link_leads_no_write_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    link = tmp_path / "ours"
    link.symlink_to(victim)
    with pytest.raises(OSError, match=r"."):
        write_file(str(link), [b"gone"])
    monkeypatch.setattr("secrets.randbits", lambda _bits: 7)
    (tmp_path / "meta.7.tmp").symlink_to(victim)
    with pytest.raises(SystemFailureError, match="remove the link"):
        write_atomic(tmp_path / "meta", b"gone")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "meta").exists()


def test_an_atomic_write_replaces_the_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    write_atomic(path, b"first, and longer")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["meta.json"]


@pytest.mark.parametrize("step", ["write", "writev", "fsync", "replace"])
def test_a_failed_atomic_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    if not hasattr(os, step) or (step == "write" and hasattr(os, "writev")):
        pytest.skip(f"os.{step} is not used here")
    path = tmp_path / "meta.json"
    path.write_bytes(b"old")

    def full(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(SystemFailureError) as caught:
        write_atomic(path, b"new content")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert (caught.value.exit_status, caught.value.code) == (1, "system")
    assert str(caught.value) == (
        "writing meta.json failed: No space left on device; free some space, then run the same command again to go on"
    )


def test_an_atomic_write_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    path = tmp_path / "receipt"
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        temporary = [entry for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")]
        steps.append(f"fsync with {temporary[0].read_bytes()!r}" if temporary else "fsync of the folder")
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        steps.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomic(path, b"done")
    wanted = ["fsync with b'done'", "rename", "fsync of the folder"]
    assert steps == (wanted if os.name != "nt" else wanted[:2])


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "free some space, then run the same command again to go on"),
        (errno.EDQUOT, "your quota is used up: free some space"),
        (errno.EACCES, "check the permissions of the file and its folder"),
        (errno.EPERM, "check the permissions of the file and its folder"),
        (errno.EROFS, "the file system is read-only: choose another --out"),
        (errno.EMFILE, "raise the limit (ulimit -n) or use fewer workers"),
        (errno.EIO, "the device reports a fault: check the disk"),
        (errno.ELOOP, "remove the link"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.EXDEV, "check the file and its folder, then run the same command again"),
    ],
)
def test_an_error_of_the_system_says_what_failed_and_the_cure(number: int, cure: str) -> None:
    error = explain_os_error(OSError(number, "Reason"), "writing", "shards/x.npy")
    assert error.exit_status == 1
    assert str(error).startswith("writing shards/x.npy failed: Reason; ")
    assert cure in str(error)


@pytest.mark.parametrize("doing", ["writing", "removing"])
@pytest.mark.parametrize("number", [5, 32, 33, 1224, 19])
def test_windows_keeps_a_file_that_is_open(number: int, doing: str) -> None:
    error = PermissionError(errno.EACCES, "Access is denied")
    error.winerror = number  # type: ignore[attr-defined, unused-ignore]
    said = atomic.explain_os_error(error, doing, "train").message
    in_use = number in {32, 33, 1224} or (number, doing) == (5, "removing")
    assert ("a program has a file open" in said) == in_use
    assert ("check the permissions" in said) == (not in_use)


def test_system_errors_translates_only_errors_of_the_system() -> None:
    cause = OSError(errno.EIO, "Input/output error")
    with (
        pytest.raises(SystemFailureError, match=r"reading x failed: Input/output error") as caught,
        system_errors("reading", "x"),
    ):
        raise cause
    assert caught.value.__cause__ is cause
    with pytest.raises(KeyError), system_errors("reading", "x"):
        raise KeyError
    assert "failed: OSError;" in str(explain_os_error(OSError(), "writing", "x"))


@pytest.mark.parametrize("count", [0, 1, 8, 9, 30])
@pytest.mark.parametrize("syncfs", ["there", "absent", "unsupported"])
def test_all_outputs_are_made_durable_one_way_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, syncfs: str
) -> None:
    files = [tmp_path / ("a" if number % 2 else "b") / str(number) for number in range(count)]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    synced: list[str] = []
    whole: list[int] = []

    def whole_system(fd: int) -> int:
        whole.append(fd)
        return 0 if syncfs == "there" else -1

    monkeypatch.setattr(atomic, "_SYNCFS", None if syncfs == "absent" else whole_system)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.ENOSYS)
    monkeypatch.setattr(atomic, "sync_file", lambda path: synced.append(str(path)))
    monkeypatch.setattr(atomic, "sync_folder", lambda path: synced.append(str(path)))
    sync_outputs(tmp_path, files)
    if syncfs == "there" and count > 2 and os.name != "nt":
        assert (len(whole), synced) == (1, [])
    else:
        assert sorted(synced) == sorted({str(path) for file in files for path in (file, file.parent)})


@pytest.mark.skipif(os.name == "nt", reason="Windows has no syncfs, and folders cannot be opened")
def test_a_fault_of_syncfs_is_an_error_never_a_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / str(number) for number in range(20)]
    monkeypatch.setattr(atomic, "_SYNCFS", lambda _fd: -1)
    monkeypatch.setattr(ctypes, "get_errno", lambda: errno.EIO)
    with pytest.raises(SystemFailureError, match=r"making durable .* failed: .*the device reports a fault"):
        sync_outputs(tmp_path, files)


def test_a_file_that_is_gone_before_it_is_durable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemFailureError, match=f"making durable {tmp_path.name} failed"):
        sync_outputs(tmp_path, [tmp_path / "none"])


def test_real_syncs_leave_files_as_they_are(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(12)]
    for file in files:
        file.write_bytes(file.name.encode())
    sync_outputs(tmp_path, files)
    sync_outputs(tmp_path, files[:2])
    sync_file(files[0])
    sync_folder(tmp_path)
    assert [file.read_bytes() for file in files] == [file.name.encode() for file in files]


def test_publish_and_remove(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    publish(tmp_path / "new", tmp_path / "old")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"old": b"new"}
    remove_file(tmp_path / "old")
    remove_file(tmp_path / "old")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_just_the_limit_is_read_and_one_byte_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "meta"
    path.write_bytes(b"0123456789")
    assert read_regular(path, 10) == read_regular(path, 11) == read_regular(path) == b"0123456789"
    with pytest.raises(OSError, match="it has 10 bytes, which no such file has") as refused:
        read_regular(path, 9)
    assert refused.value.errno == errno.EFBIG
    path.write_bytes(b"")
    assert read_regular(path, 0) == b""
