"""Starting anew removes what is ours and nothing else; faults of the system leave nothing that looks finished."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import OutputConflictError, OutputLockedError, SystemFailureError
from ctpatch.events import Event, WorkAdvanced, WorkStarted
from helpers import (
    LAYOUTS,
    SMALL,
    Heard,
    Prepared,
    assert_same_tree,
    build_one,
    make_split,
    small_parts,
    tree_bytes,
)


class CutOffError(Exception):
    """Raised by a listener in the middle of a build."""


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_a_set_is_made_anew(tmp_path: Path, before: Any, after: Any) -> None:
    prepared = make_split(tmp_path / "both", arrays={"mask": np.uint8})
    build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=16), layout=before)
    result = build_one(prepared, layout=after, overwrite=True)
    assert result.outcome == "built"
    fresh = make_split(tmp_path / "fresh", arrays={"mask": np.uint8})
    build_one(fresh, layout=after)
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(fresh.out))


def test_overwriting_nothing_is_building(prepared: Prepared) -> None:
    assert build_one(prepared, overwrite=True).outcome == "built"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_foreign_files_stay(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    foreign = {
        "notes.txt": b"mine",
        "my_patch.npy": b"no array",
        "train_1_2_3.npy": b"of another tool",
        "test_000000_000_000.npy": b"of another split",
        "deep/train_000000_000_000.npy": b"in a folder of its own",
        "shards/other.npy": b"beside ours",
    }
    for name, content in foreign.items():
        (prepared.out / name).parent.mkdir(exist_ok=True)
        (prepared.out / name).write_bytes(content)
    build_one(prepared, ctpatch.PatchConfig(patch_size=20, stride=20), layout=layout, overwrite=True)
    tree = tree_bytes(prepared.out)
    assert {name: tree[name] for name in foreign} == foreign
    assert ctpatch.open(prepared.out).meta.num_patches == 3 * 2 * 2


@pytest.mark.parametrize("cut_at", [WorkStarted, WorkAdvanced])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unfinished_build_is_overwritten(tmp_path: Path, layout: Any, cut_at: type[Event]) -> None:
    prepared = make_split(tmp_path / "cut")

    def listener(event: Event) -> None:
        if isinstance(event, cut_at):
            raise CutOffError

    with pytest.raises(CutOffError):
        build_one(prepared, ctpatch.PatchConfig(patch_size=10, stride=10), layout="files", listener=listener)
    assert build_one(prepared, layout=layout, overwrite=True).outcome == "built"
    fresh = make_split(tmp_path / "fresh")
    build_one(fresh, layout=layout)
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(fresh.out))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("moved", [(), ("patch_meta.json",), ("patch_meta.json", "patch_manifest.csv")])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_clearing_that_was_cut_off_goes_on(tmp_path: Path, layout: Any, moved: tuple[str], overwrite: bool) -> None:
    prepared = make_split(tmp_path / "cut")
    build_one(prepared, ctpatch.PatchConfig(patch_size=10, stride=10), layout="files")
    (prepared.out / ".ctpatch").mkdir()
    (prepared.out / ".ctpatch/clearing.json").write_bytes(b"{}")
    for name in moved:
        os.replace(prepared.out / name, prepared.out / ".ctpatch" / name)
    assert build_one(prepared, layout=layout, overwrite=overwrite).outcome == "built"
    fresh = make_split(tmp_path / "fresh")
    build_one(fresh, layout=layout)
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(fresh.out))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("files", "train_000000_000_000.npy"),
        ("files", "train_1234567_000_1000.npy"),
        ("files", "mask/train_000000_000_000.npy"),
        ("shards", "shards/train_00000.npy"),
        ("slices", "shards/train_00003_mask.npy"),
        ("index", "patch_manifest.csv"),
        ("files", "slice_manifest.csv"),
        ("files", "rejected_patches.csv"),
    ],
)
def test_files_of_our_names_that_we_did_not_write_are_refused(
    tmp_path: Path, layout: Any, name: str, overwrite: bool
) -> None:
    prepared = make_split(tmp_path, arrays={"mask": np.uint8})
    (prepared.out / name).parent.mkdir(parents=True)
    (prepared.out / name).write_bytes(b"of someone else")
    with pytest.raises(OutputConflictError) as error:
        build_one(prepared, layout=layout, overwrite=overwrite)
    assert f"holds {name}, which this build would write and ctpatch did not put there" in error.value.message
    assert [each for each in tree_bytes(prepared.out) if not each.endswith("/")] == [name]
    assert (prepared.out / name).read_bytes() == b"of someone else"


def test_nothing_is_removed_where_a_file_stands_in_the_way_of_the_new_set(prepared: Prepared) -> None:
    def cut_off(event: Event) -> None:
        if isinstance(event, WorkAdvanced):
            raise CutOffError

    with pytest.raises(CutOffError):
        build_one(prepared, layout="files", listener=cut_off)
    (prepared.out / "shards").mkdir()
    (prepared.out / "shards/train_00000.npy").write_bytes(b"of someone else")
    before = tree_bytes(prepared.out)
    with pytest.raises(OutputConflictError, match=r"holds shards/train_00000\.npy, which this build would write"):
        build_one(prepared, layout="shards", overwrite=True)
    assert_same_tree(tree_bytes(prepared.out), before)
    assert build_one(prepared, layout="files").outcome == "resumed"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("meta", [b'{"num_slices": 3, "num_patches": 60}', b"not json", b"[]"])
def test_sets_of_the_notebook_are_refused(prepared: Prepared, overwrite: bool, meta: bytes) -> None:
    prepared.out.mkdir(parents=True)
    np.save(prepared.out / "train_000000_000_000.npy", np.zeros((16, 16), np.float32))
    (prepared.out / "patch_manifest.csv").write_text("patch_id\n")
    (prepared.out / "patch_meta.json").write_bytes(meta)
    before = tree_bytes(prepared.out)
    with pytest.raises(OutputConflictError, match=r"patch_meta\.json"):
        build_one(prepared, overwrite=overwrite)
    assert_same_tree(tree_bytes(prepared.out), before)


@pytest.mark.parametrize(("layout", "name"), [("shards", "shards"), ("files", "mask"), ("files", ".ctpatch")])
def test_planted_links_are_not_followed(tmp_path: Path, layout: Any, name: str) -> None:
    prepared = make_split(tmp_path / "root", arrays={"mask": np.uint8})
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    prepared.out.mkdir(parents=True)
    (prepared.out / name).symlink_to(precious)
    for overwrite in (False, True):
        with pytest.raises(OutputConflictError):
            build_one(prepared, layout=layout, overwrite=overwrite)
    assert tree_bytes(precious) == {"thesis.txt": b"years of work"}


def test_a_patches_folder_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    prepared = make_split(tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    (prepared.root / "patches").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ctpatch.CtPatchError, match="leaves the data root through a link"):
        build_one(prepared)
    assert tree_bytes(tmp_path / "elsewhere") == {}


def test_an_output_that_is_a_file(prepared: Prepared) -> None:
    prepared.out.parent.mkdir(parents=True)
    prepared.out.write_bytes(b"mine")
    with pytest.raises(SystemFailureError, match="train failed"):
        build_one(prepared)
    assert prepared.out.read_bytes() == b"mine"


# Two builders.


def test_a_second_build_is_told_who_holds_the_output(prepared: Prepared) -> None:
    said: list[str] = []

    def listener(event: Event) -> None:
        if isinstance(event, WorkAdvanced):
            with pytest.raises(OutputLockedError) as error:
                build_one(prepared, overwrite=True)
            said.append(error.value.message)

    assert build_one(prepared, listener=listener).outcome == "built"
    assert len(said) == 1
    assert f"is being written by process {os.getpid()} on {socket.gethostname()!r}" in said[0]
    assert ctpatch.verify(prepared.out, deep=True).ok
    assert not (prepared.out / ".ctpatch").exists()


HOLDER = """
import sys
from pathlib import Path
from ctpatch.events import ignore
from ctpatch.cutting.output import PATCH_SET
from ctpatch.work.folder import WorkFolder
if __name__ == "__main__":
    with WorkFolder(Path(sys.argv[1]), PATCH_SET, ignore).held():
        print("held", flush=True)
        sys.stdin.readline()
"""


def test_another_process_holds_the_output_and_dies(prepared: Prepared) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(prepared.out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputLockedError, match=rf"is being written by process {holder.pid} on"):
            build_one(prepared)
        holder.kill()
        holder.wait()
    heard = Heard()
    assert build_one(prepared, listener=heard).outcome == "built"
    notices = heard.notices("stale-lock")
    assert len(notices) == 1
    assert f"took over from process {holder.pid} on" in notices[0]
    assert not (prepared.out / ".ctpatch").exists()


@pytest.mark.parametrize("same_number", [False, True])
def test_the_owner_on_another_machine_is_respected(prepared: Prepared, same_number: bool) -> None:
    state = prepared.out / ".ctpatch"
    state.mkdir(parents=True)
    pid = os.getpid() if same_number else 4_000_000
    owner = json.dumps({"pid": pid, "host": "elsewhere", "since": "2024-01-01T00:00:00Z"}).encode()
    (state / "owner.json").write_bytes(owner)
    for _attempt in range(2):
        with pytest.raises(OutputLockedError) as error:
            build_one(prepared)
        assert f"is held by process {pid} on 'elsewhere' since 2024-01-01T00:00:00Z" in error.value.message
        assert "remove .ctpatch/owner.json" in error.value.message
        assert (state / "owner.json").read_bytes() == owner
    (state / "owner.json").unlink()
    assert build_one(prepared).outcome == "built"
    assert not state.exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_of_the_making_is_left(prepared: Prepared, layout: Any) -> None:
    build_one(prepared, layout=layout)
    names = set(tree_bytes(prepared.out))
    wanted = {"patch_manifest.csv", "slice_manifest.csv", "rejected_patches.csv", "patch_meta.json"}
    rest = {name for name in names - wanted if not name.endswith(".npy")}
    assert rest == ({"shards/"} if layout in {"shards", "slices"} else set())


# Faults of the system.


def mounted(folder: Path, options: str) -> bool:
    tool = shutil.which("mount")
    if tool is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return False
    done = subprocess.run([tool, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True)
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted(folder, "size=160k"):
        pytest.skip("a small file system cannot be mounted here (needs root and mount)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("layout", ["files", "shards", "slices"])
def test_a_full_disk_is_said_and_resumed_from(
    tmp_path: Path, small_disk: Path, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, slices=2, shard_bytes=20_000)
    prepared = make_split(tmp_path / "root", [(40, 50)] * 12)
    whole = tmp_path / "whole"
    build_one(prepared, layout=layout, out=whole)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 120_000)
    out = small_disk / "set"
    with pytest.raises(SystemFailureError) as error:
        build_one(prepared, layout=layout, out=out)
    assert "No space left on device" in error.value.message
    assert "free some space" in error.value.message
    assert not (out / "patch_meta.json").exists()
    assert not (out / "patch_manifest.csv").exists()
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert build_one(prepared, layout=layout, out=out).outcome in {"built", "resumed"}
    assert_same_tree(tree_bytes(out), tree_bytes(whole))


def test_a_read_only_file_system(tmp_path: Path, small_disk: Path) -> None:
    prepared = make_split(tmp_path / "root")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SystemFailureError, match="Read-only file system; the file system is read-only: choose"):
        build_one(prepared, out=small_disk / "set")


def test_a_folder_that_may_not_be_written(tmp_path: Path, prepared: Prepared) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.access(closed, os.W_OK):
        pytest.skip("permissions do not bind this user (root)")
    with pytest.raises(SystemFailureError, match="Permission denied; check the permissions"):
        build_one(prepared, out=closed / "set")


LIMITED = """
import resource, sys
import ctpatch
if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
    try:
        ctpatch.build(sys.argv[1], config=ctpatch.PatchConfig(patch_size=16, stride=8), layout=sys.argv[2])
    except ctpatch.CtPatchError as error:
        print(error.code, error.message)
"""


@pytest.mark.parametrize("layout", ["files", "shards", "slices"])
def test_a_write_that_fails_in_the_middle(tmp_path: Path, layout: Any) -> None:
    pytest.importorskip("resource")
    prepared = make_split(tmp_path / "cut")
    # Enough for lock and records, not for a table or a shard.
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(prepared.folder), layout, "6000"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("system writing ")
    assert "File too large" in done.stdout
    assert not (prepared.out / "patch_meta.json").exists()
    assert ctpatch.verify(prepared.out).status == "incomplete"
    build_one(prepared, layout=layout)
    fresh = make_split(tmp_path / "fresh")
    build_one(fresh, SMALL, layout=layout)
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(fresh.out))
