"""The system says no: the exit status, the name and the cause; nothing that passes; and the right bytes afterwards."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

import ctpatch
from helpers import Prepared, assert_same_tree, tree_bytes
from reliability.common import (
    FULL,
    SMALL_PARTS,
    Count,
    Ran,
    build_arguments,
    finished_tree,
    mounted,
    need_root,
    restore,
    run,
    run_here,
    set_state,
    small_split,
    spread,
)
from reliability.tracing import Call, disturb, need_strace, spread_over_kinds, trace

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs strace, tmpfs and setuid of Linux")

CONDITIONS = {"plan": SMALL_PARTS}
NOBODY = 65534
SYNCS = {"fsync", "syncfs"}
WRITES = {"write", "writev", "ftruncate"}
NAMES = {"openat", "mkdir", "rename", "unlink"}

FAULTS = {
    "EIO": ("Input/output error", SYNCS | WRITES | NAMES | {"rmdir"}),
    "ENOSPC": ("No space left on device", SYNCS | WRITES | {"openat", "mkdir", "rename"}),
    "EDQUOT": ("Disk quota exceeded", SYNCS | WRITES),
    "EMFILE": ("Too many open files", {"openat"}),
    "EACCES": ("Permission denied", NAMES),
    "EROFS": ("Read-only file system", NAMES),
}
SAMPLE = {("EIO", "files")}


def assert_said(ran: Ran, cause: str, *names: str) -> None:
    """The command failed, and its message has the cause and one of the names."""
    assert ran.status in {1, 2}, ran
    assert "Traceback" not in ran.err, ran.err
    without_notes = [line for line in ran.err.splitlines() if not line.startswith("note: ")]
    assert without_notes[0].startswith("error: "), ran.err
    assert cause in ran.err, ran.err
    assert any(re.search(rf"(^|[\s/]){re.escape(name)}([\s/:;,]|$)", ran.err) for name in names), (names, ran.err)


def names_in(call: Call) -> set[str]:
    """What a message may call the file of a call by: its name, or its folder's where a folder was made durable."""
    paths = [Path(found) for found in re.findall(r'["<](…[^">]*|/[^">]*)[">]', call.line)]
    names = {re.sub(r"\.\d+\.tmp$", "", path.name) for path in paths} | {"train"}
    if call.kind in SYNCS and names & {"train", ".ctpatch"}:  # or by what was given its name in the folder
        tables = {"patch_manifest.csv", "slice_manifest.csv", "rejected_patches.csv", "patch_meta.json"}
        names |= {"owner.json", "build.json", *(f"{part:06d}.receipt.json" for part in range(8)), *tables}
    return names


@pytest.mark.parametrize("layout", ["files", "shards", "slices", "index"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_fails_is_named_and_the_next_run_goes_on(
    small: Prepared, tmp_path: Path, fault: str, layout: str, count: Count
) -> None:
    need_strace()
    if not FULL and (fault, layout) not in SAMPLE:
        pytest.skip("a part of the full suite: make reliability")
    cause, kinds = FAULTS[fault]
    command, log = build_arguments(small, layout), tmp_path / "strace.log"
    ran, calls = trace(command, CONDITIONS, small.out, log)
    assert ran.status == 0, ran.err
    wanted = tree_bytes(small.out)
    # A call that failed undisturbed is one whose failure is expected, and so is a file without a name: where a file
    # system does not have them, `tempfile` makes one with a name instead.
    expected = ("= -1 E", "O_TMPFILE")
    fitting = [call for call in calls if call.kind in kinds and not any(mark in call.line for mark in expected)]
    for call in spread_over_kinds(fitting, (10 if fault == "EIO" else 6) if FULL else 2):
        restore(small.root / "patches", None)
        ran = disturb(command, CONDITIONS, call, f"error={fault}", log)
        happened = "(INJECTED)" in log.read_text(errors="replace")
        count("errors of the system", int(happened))
        count(f"errors of the system: {fault}", int(happened))
        if ran.status == 0:  # what could not be removed at the very end does not spoil the set
            assert call.kind in {"unlink", "rmdir"} or not happened, (call, ran)
            assert finished_tree(small.out) == wanted
        else:
            assert happened
            assert_said(ran, cause, *names_in(call))
            assert_nothing_passes(small.out, finished_tree_of(wanted))
        if call.kind in SYNCS:
            assert_no_receipt_after(log)
        again = run_here(command, CONDITIONS)
        assert again.status == 0, (call, again.err)
        assert_same_tree(tree_bytes(small.out), wanted)


def finished_tree_of(tree: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in tree.items() if not name.startswith(".ctpatch/")}


def assert_nothing_passes(out: Path, wanted: dict[str, bytes]) -> None:
    state = set_state(out)
    if state == "complete":  # the fault came after the last byte
        assert finished_tree(out) == wanted
    else:
        assert state in {"absent", "incomplete"}, state


def assert_no_receipt_after(log: Path) -> None:
    """After an fsync that failed, nothing is given the name that says it is complete."""
    _before, _mark, after = log.read_text(errors="replace").partition("(INJECTED)")
    assert not re.search(r'rename\(.*"[^"]*(receipt\.json|patch_meta\.json)"\) = 0', after), after


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_a_device_that_is_gone_from_some_moment_on(small: Prepared, tmp_path: Path, layout: str, count: Count) -> None:
    """From the k-th on, every fsync fails; a second run on the same device fails as well and is not called success."""
    need_strace()
    if not FULL:
        pytest.skip("a part of the full suite: make reliability")
    command, log = build_arguments(small, layout), tmp_path / "strace.log"
    _ran, calls = trace(command, CONDITIONS, small.out, log)
    wanted = tree_bytes(small.out)
    for call in spread([call for call in calls if call.kind == "fsync"], 4):
        restore(small.out, None)
        for _ in range(2):
            ran = disturb(command, CONDITIONS, call, "error=EIO", log, onwards=True)
            if ran.status == 0:
                break  # the second run had less to do than k calls
            assert_said(ran, "Input/output error", *names_in(call))
            assert_no_receipt_after(log)
            assert_nothing_passes(small.out, finished_tree_of(wanted))
            count("errors of the system")
        assert run_here(command, CONDITIONS).status == 0
        assert_same_tree(tree_bytes(small.out), wanted)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Prepared:
    """A split whose data root does not hold the place of the output."""
    return small_split(tmp_path / "data")


def _wanted(split: Prepared, layout: str, folder: Path) -> dict[str, bytes]:
    out = folder / "undisturbed" / "train"
    assert run_here(build_arguments(split, layout, "--out", out)).status == 0
    return tree_bytes(out)


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


@pytest.mark.parametrize("layout", ["files", "shards", "slices", "index"])
def test_a_full_disk(elsewhere: Prepared, tmp_path: Path, layout: str, count: Count) -> None:
    need_root()
    if not FULL and layout not in {"files", "shards"}:
        pytest.skip("a part of the full suite: make reliability")
    wanted = _wanted(elsewhere, layout, tmp_path)
    pages = sum(4 + len(content) // 4096 * 4 for content in wanted.values())
    for kilobytes in [pages * part // 16 for part in ((2, 4, 6, 8, 10, 12, 14) if FULL else (8,))]:
        with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={max(8, kilobytes)}k", "tmpfs") as disk:
            command = build_arguments(elsewhere, layout, "--out", disk / "train")
            ran = run(command)
            assert_said(ran, "No space left on device", *_names(wanted))
            assert set_state(disk / "train", data_root=elsewhere.root) in {"absent", "incomplete"}
            count("errors of the system")
            count("errors of the system: disk full")
            _remount(disk, "size=64m")
            assert run_here(command).status == 0
            assert_same_tree(tree_bytes(disk / "train"), wanted)


def _names(wanted: dict[str, bytes]) -> set[str]:
    tables = {name for name in wanted if name.endswith(".csv")}
    pieces = {f"{part:06d}.{table}" for part in range(8) for table in tables}
    files = {Path(name).name for name in wanted} | set(wanted)
    return (
        {"train", ".ctpatch", "owner.json", "build.json", *(f"{part:06d}.receipt.json" for part in range(8))}
        | files
        | pieces
    )


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_no_inodes_left(elsewhere: Prepared, tmp_path: Path, layout: str, count: Count) -> None:
    need_root()
    wanted = _wanted(elsewhere, layout, tmp_path)
    # The root folder has one; the output, its state folder, the lock and the owner come before the first patch.
    for inodes in [n for n in (1, 2, 3, 4, 6, 8, 9, 11, 100, 300) if n < len(wanted)] if FULL else [9]:
        with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size=64m,nr_inodes={inodes}", "tmpfs") as disk:
            command = build_arguments(elsewhere, layout, "--out", disk / "train")
            ran = run(command)
            assert_said(ran, "No space left on device", *_names(wanted))
            assert set_state(disk / "train", data_root=elsewhere.root) in {"absent", "incomplete"}
            count("errors of the system")
            count("errors of the system: no inodes")
            _remount(disk, "nr_inodes=100000")
            assert run_here(command).status == 0
            assert_same_tree(tree_bytes(disk / "train"), wanted)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("layout", ["files", "slices"])
def test_too_few_open_files(small: Prepared, layout: str, workers: int, count: Count) -> None:
    if not FULL and (layout, workers) not in {("slices", 1), ("files", 2)}:
        pytest.skip("a part of the full suite: make reliability")
    command = build_arguments(small, layout, "--workers", str(workers))
    assert run_here(command, CONDITIONS).status == 0
    wanted = tree_bytes(small.out)
    failed = 0
    for spare in (1, 2, 3, 4, 5, 6, 8, 10, 14, 18) if FULL else (4,):
        restore(small.out, None)
        ran = run(command, {**CONDITIONS, "spare_files": spare})
        if ran.status != 0:
            failed += 1
            assert_said(
                ran, "Too many open files", "train", ".ctpatch", "worker processes", *_sources(small), *_names(wanted)
            )
            assert set_state(small.out) in {"absent", "incomplete"}
        assert run_here(command, CONDITIONS).status == 0
        assert_same_tree(tree_bytes(small.out), wanted)
    count("errors of the system", failed)
    count("errors of the system: too few open files", failed)
    assert failed


def _sources(split: Prepared) -> set[str]:
    return {split.manifest.name} | {Path(path).name for paths in split.paths.values() for path in paths}


@dataclass(frozen=True)
class Denied:
    """What the user nobody may not do, and what the message must name."""

    deny: Callable[[Prepared], list[Path]]
    name: str
    made_before: bool = False
    options: tuple[str, ...] = ()


def _deny(*paths: str) -> Callable[[Prepared], list[Path]]:
    return lambda split: [split.root / path for path in paths]


PIXELS = "patches/phantoms/train/shards"
DENIED = {
    "no folder may be made": Denied(_deny("."), "train"),
    "nothing may be put into the folder": Denied(
        _deny("patches/phantoms/train"), "patch_manifest.csv", made_before=True
    ),
    "the state of another user": Denied(_deny("patches/phantoms/train/.ctpatch"), "train", made_before=True),
    "the folder of pixels": Denied(_deny(PIXELS), "train_00000.npy", made_before=True),
    "a slice": Denied(_deny("prepared/phantoms/train/train_000004.npy"), "train_000004.npy"),
    "a mask": Denied(_deny("prepared/phantoms/train/train_000002_mask.npy"), "train_000002_mask.npy"),
    "the source manifest": Denied(_deny("prepared/phantoms/train/train_manifest.csv"), "train_manifest.csv"),
    "the folder of slices": Denied(_deny("prepared/phantoms/train"), "manifest.csv"),
}


@pytest.mark.parametrize("name", DENIED)
def test_permission_denied(open_tmp: Path, name: str, count: Count) -> None:
    need_root()
    if not FULL and name not in {"no folder may be made", "a slice"}:
        pytest.skip("a part of the full suite: make reliability")
    case = DENIED[name]
    split = small_split(open_tmp)
    command = build_arguments(split, "shards")
    conditions = {**CONDITIONS, "uid": NOBODY}
    assert run_here(command, CONDITIONS).status == 0
    wanted = tree_bytes(split.out)
    restore(split.root / "patches", None)
    if case.made_before:
        (split.out / "shards").mkdir(parents=True)
        (split.out / ".ctpatch").mkdir()
    _give_away(split.root)
    for path in case.deny(split):
        os.chown(path, 0, 0)
        path.chmod(0o000 if "prepared" in path.parts else 0o555)
    ran = run(command, conditions)
    assert_said(ran, "Permission denied", case.name)
    assert set_state(split.out) in {"absent", "incomplete"}
    count("errors of the system")
    count("errors of the system: permission denied")
    _give_away(split.root)
    for path in case.deny(split):
        path.chmod(0o755)
    again = run(command, conditions)
    assert again.status == 0, again.err
    assert_same_tree(tree_bytes(split.out), wanted)


def _give_away(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize("moment", ["before", "amid", "finished"])
def test_a_file_system_that_may_only_be_read(elsewhere: Prepared, tmp_path: Path, moment: str, count: Count) -> None:
    need_root()
    wanted = _wanted(elsewhere, "shards", tmp_path)
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m", "tmpfs") as disk:
        out = disk / "train"
        command = build_arguments(elsewhere, "shards", "--out", out)
        if moment == "amid":
            need_strace()
            call = Call("rename", 3, "")
            assert disturb(command, None, call, "signal=SIGKILL", tmp_path / "strace.log").killed
        if moment == "finished":
            assert run_here(command).status == 0
        _remount(disk, "ro")
        ran = run([*command, "--overwrite"] if moment == "finished" else command)
        assert_said(ran, "Read-only file system", "train", ".ctpatch")
        count("errors of the system")
        count("errors of the system: read-only")
        assert (
            set_state(out, data_root=elsewhere.root)
            == {"before": "absent", "amid": "incomplete", "finished": "complete"}[moment]
        )
        _remount(disk, "rw")
        assert run_here(command).status == 0
        assert_same_tree(tree_bytes(out), wanted)


def test_sources_that_may_only_be_read_are_cut(tmp_path: Path) -> None:
    """The data themselves are never written to, not even a lock."""
    need_root()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64m", "tmpfs") as disk:
        split = small_split(disk / "data")
        wanted = _wanted(split, "shards", tmp_path)
        _remount(disk, "ro")
        out = tmp_path / "train"
        assert run_here(build_arguments(split, "shards", "--out", out)).status == 0
        assert_same_tree(tree_bytes(out), wanted)
        assert set_state(out, deep=True, data_root=split.root) == "complete"


# Slices are opened first to look at their headers; only their pixels are read by readv.
READ_FAULTS = [("EIO", "readv"), ("EIO", "openat"), ("EMFILE", "openat"), ("ENFILE", "openat"), ("ENOMEM", "openat")]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(("fault", "kind"), READ_FAULTS if FULL else READ_FAULTS[:3:2])
def test_a_slice_that_cannot_be_read_is_named(
    small: Prepared, tmp_path: Path, fault: str, kind: str, on_error: str, count: Count
) -> None:
    """A fault of one file may be left out with `skip`; one of the machine never is: it would silently thin the set."""
    need_strace()
    command, log = [*build_arguments(small, "shards"), "--on-error", on_error], tmp_path / "strace.log"
    undisturbed = run_here(build_arguments(small, "shards"), CONDITIONS)
    assert undisturbed.status == 0, undisturbed.err
    wanted = tree_bytes(small.out)
    slice_path = small.file(2)
    restore(small.root / "patches", None)
    before = ["strace", "-f", "-qq", "-o", str(log), "-P", str(slice_path), "-e", f"trace={kind}"]
    ran = run(command, CONDITIONS, before=[*before, "-e", f"inject={kind}:error={fault}:when=1"])
    assert "(INJECTED)" in log.read_text(errors="replace")
    count("errors of the system")
    count(f"errors of the system: {fault} reading a slice")
    assert slice_path.name in ran.out + ran.err, ran
    assert "Traceback" not in ran.err
    assert ran.status == 1
    if fault == "EIO" and on_error == "skip":
        skipped = ctpatch.open(small.out).slices.filter(pl.col("status") == "skipped")
        assert skipped["src_path"].to_list() == [small.paths["image"][2]]
        assert "Input/output error" in skipped["reason"][0]
        assert run_here([*command, "--overwrite"], CONDITIONS).status == 0
    else:
        assert os.strerror(getattr(errno, fault)) in ran.err
        assert set_state(small.out) in {"absent", "incomplete"}
        assert run_here(command, CONDITIONS).status == 0
    assert_same_tree(tree_bytes(small.out), wanted)
