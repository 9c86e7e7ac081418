"""A slice that really ends the process that cuts it; a parent that is killed. The build lives, or says which slice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.testing.executors import DEADLINE, wait_until
from helpers import SMALL, Prepared, assert_same_tree, build_one, csv_rows, make_split, small_parts, tree_bytes
from reliability.common import FULL, Count, environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and process groups")

TESTS = Path(__file__).parent.parent
SLICES = 8
POISON = 3

# Spawned workers import the script again, so that what it puts around `cut_slice` is there as well.
DRIVER = """
import importlib, os, resource, signal, sys, time
part = importlib.import_module("ctpatch.cutting.cut")
plan = importlib.import_module("ctpatch.cutting.plan")
plan.LIMITS = plan.PartLimits(slices=2, packed_windows=2)
real = part.cut_slice
poison, how, once = int(os.environ["POISON"]), os.environ["HOW"], os.environ["ONCE"]

def end():
    if how.startswith("SIG"):
        if how != "SIGKILL":
            signal.signal(getattr(signal, how), signal.SIG_DFL)
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    elif how == "exit":
        os._exit(0)
    elif how == "address-space":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        bytearray(4 << 30)
    elif how == "cgroup":
        with open(os.environ["CGROUP"] + "/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
        hog = bytearray(os.urandom(1 << 20)) * 1024
        time.sleep(60)

def cut_slice(job, task, *rest):
    if task.slice_index == poison:
        if not once:
            end()
        try:
            os.close(os.open(once, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            end()
    if task.slice_index >= int(os.environ.get("STOP", "999")):
        open(os.environ["STOPPED"] + f"/{os.getpid()}", "x").close()
        time.sleep(600)
    return real(job, task, *rest)

part.cut_slice = cut_slice
if __name__ == "__main__":
    from ctpatch.cli.app import main
    sys.exit(main())
"""


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """A split of slices with pairs."""
    return make_split(tmp_path / "root", [(40, 50)] * SLICES, arrays={"target": np.float32, "mask": np.uint8})


@pytest.fixture
def whole(tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bytes of an undisturbed set of a layout."""
    small_parts(monkeypatch, slices=2, packed_windows=2)

    def made(layout: str) -> dict[str, bytes]:
        build_one(prepared, SMALL, layout=layout, out=tmp_path / "whole")
        return tree_bytes(tmp_path / "whole")

    return made


def command(prepared: Prepared, layout: str, out: Path, workers: int, *more: str) -> list[str]:
    driver = prepared.root / "driver.py"
    driver.write_text(DRIVER)
    where = [str(prepared.folder), "--out", str(out), "--layout", layout, "--workers", str(workers)]
    return [sys.executable, str(driver), "build", *where, "--patch-size", "16", "--stride", "8", *more]


def surroundings(how: str, poison: int, once: Path | None, **more: str) -> dict[str, str]:
    found = os.pathsep.join([str(TESTS), str(Path(ctpatch.__file__).parent.parent)])
    return environment(POISON=str(poison), HOW=how, ONCE=str(once or ""), PYTHONPATH=found, **more)


def run(
    prepared: Prepared,
    layout: str,
    how: str,
    *more: str,
    out: Path,
    poison: int = POISON,
    once: Path | None = None,
    workers: int = 2,
    cgroup: str = "",
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(prepared, layout, out, workers, *more),
        env=surroundings(how, poison, once, CGROUP=cgroup),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A control group that gives its processes 256 MiB."""
    folder = Path(f"/sys/fs/cgroup/memory/ctpatch-{os.getpid()}")
    limit = folder / "memory.limit_in_bytes"
    if not limit.parent.parent.is_dir():
        folder = Path(f"/sys/fs/cgroup/ctpatch-{os.getpid()}")
        limit = folder / "memory.max"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        try:
            limit.write_text(str(256 << 20))
        except OSError as error:
            pytest.skip(f"a control group's memory cannot be limited here: {error.strerror}")
        yield str(folder)
    finally:
        folder.rmdir()


WAYS = ["SIGKILL", "SIGSEGV", "SIGABRT", "exit", "address-space"]
LAYOUTS = ("files", "shards", "slices", "index")
# In the full run each way once for all layouts, and always for two of them.
CASES = [(layout, how) for how in WAYS for layout in LAYOUTS] if FULL else [("shards", "SIGKILL")]
TWO_EACH = [CASES[at] for at in range(len(CASES)) if (at + at // 4) % 2 == 0]


@pytest.mark.parametrize(("layout", "how"), CASES)
def test_ended_once_the_bytes_are_the_same(
    tmp_path: Path, prepared: Prepared, whole: Any, layout: str, how: str, count: Count
) -> None:
    count("workers: ended once, same bytes")
    done = run(prepared, layout, how, out=tmp_path / "set", once=tmp_path / "once")
    assert (tmp_path / "once").exists()
    assert done.returncode == 0, done.stderr
    assert_same_tree(tree_bytes(tmp_path / "set"), whole(layout))


@pytest.mark.parametrize(("layout", "how"), TWO_EACH)
def test_ended_always_the_slice_is_named_and_the_rest_is_done(
    tmp_path: Path, prepared: Prepared, whole: Any, layout: str, how: str, count: Count
) -> None:
    count("workers: ended always, slice named, the rest done")
    out = tmp_path / "set"
    done = run(prepared, layout, how, out=out)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    for number, path in enumerate(prepared.paths["image"]):
        assert (path in done.stderr) is (number == POISON), done.stderr
    assert not (out / "patch_meta.json").exists()
    assert not list(out.glob("*.csv"))
    receipts = {int(path.name.split(".")[0]) for path in (out / ".ctpatch").glob("*.receipt.json")}
    parts = range(SLICES // 2) if layout in {"files", "index"} else range(SLICES)
    poisoned = POISON // 2 if layout in {"files", "index"} else POISON
    assert receipts == set(parts) - {poisoned}
    assert ctpatch.verify(out).status == "incomplete"
    again = run(prepared, layout, "none", out=out, poison=-1)
    assert again.returncode == 0, again.stderr
    assert_same_tree(tree_bytes(out), whole(layout))


@pytest.mark.parametrize(("layout", "how"), TWO_EACH)
def test_ended_always_it_can_be_left_out(
    tmp_path: Path, prepared: Prepared, layout: str, how: str, count: Count
) -> None:
    count("workers: ended always, slice left out")
    out = tmp_path / "set"
    done = run(prepared, layout, how, "--on-error", "skip", out=out)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 1, done.stderr  # a slice is not in the set
    rows = csv_rows(out / "slice_manifest.csv")
    assert [row["status"] for row in rows] == ["skipped" if k == POISON else "ok" for k in range(SLICES)]
    assert "its process was ended twice while it was cut" in rows[POISON]["reason"]
    report = ctpatch.verify(out, deep=True, data_root=prepared.root)
    assert report.ok, report.findings
    ps = ctpatch.open(out, data_root=prepared.root)
    assert set(ps.manifest["slice_index"]) == set(range(SLICES)) - {POISON}
    assert len(ps) == (SLICES - 1) * 20


@pytest.mark.parametrize("always", [False, True] if FULL else [True])
def test_the_memory_limit_of_the_kernel(
    tmp_path: Path, prepared: Prepared, whole: Any, cgroup: str, always: bool, count: Count
) -> None:
    count("workers: ended by the kernel's memory limit")
    once = None if always else tmp_path / "once"
    done = run(prepared, "shards", "cgroup", out=tmp_path / "set", once=once, cgroup=cgroup)
    if always:
        assert done.returncode == 1
        assert prepared.paths["image"][POISON] in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert_same_tree(tree_bytes(tmp_path / "set"), whole("shards"))


def test_memory_that_runs_out_in_the_one_process(tmp_path: Path, prepared: Prepared, whole: Any) -> None:
    out = tmp_path / "set"
    done = run(prepared, "files", "address-space", out=out, workers=1)
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 1
    assert "memory" in done.stderr
    assert prepared.paths["image"][POISON - 1] in done.stderr  # the first slice of its part
    assert ctpatch.verify(out).status == "incomplete"
    assert run(prepared, "files", "none", out=out, poison=-1, workers=1).returncode == 0
    assert_same_tree(tree_bytes(out), whole("files"))


def group_members(group: int) -> set[int]:
    """Processes of a group that are not yet gone, by /proc."""
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            fields = text.rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.add(int(entry))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("stop", range(SLICES - 3) if FULL else [2])
def test_a_killed_parent_takes_its_workers_along(
    tmp_path: Path, prepared: Prepared, whole: Any, stop: int, count: Count
) -> None:
    """Its workers stand still at a slice, and would for minutes."""
    layout = LAYOUTS[stop % 4]
    out, stopped = tmp_path / "set", tmp_path / "stopped"
    stopped.mkdir()
    with subprocess.Popen(
        command(prepared, layout, out, 2),
        env=surroundings("none", -1, None, STOP=str(stop), STOPPED=str(stopped)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as parent:
        try:
            wait_until(lambda: len(os.listdir(stopped)) == 2 or parent.poll() is not None, "two workers are at work")
            assert parent.poll() is None
            assert {int(name) for name in os.listdir(stopped)} < group_members(parent.pid)
        finally:
            parent.kill()
    wait_until(lambda: not group_members(parent.pid), "the workers have ended with their parent")
    count("workers: parents killed, their workers gone")
    assert ctpatch.verify(out, data_root=prepared.root).status == "incomplete"
    done = run(prepared, layout, "none", out=out, poison=-1)
    assert done.returncode == 0, done.stderr
    assert_same_tree(tree_bytes(out), whole(layout))
