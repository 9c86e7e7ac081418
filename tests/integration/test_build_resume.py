"""Cut off anywhere and run again: the same bytes as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import IncompleteError, OutputConflictError, RangeError, SourceChangedError, UsageError
from ctpatch.events import Event, WorkAdvanced, WorkFinished
from ctpatch.testing.executors import DEADLINE, wait_until
from helpers import (
    EPOCH,
    LAYOUTS,
    SMALL,
    Heard,
    Prepared,
    assert_same_tree,
    build_one,
    make_split,
    small_parts,
    tree_bytes,
    tree_stamps,
)

TESTS = Path(__file__).parent.parent

# A build whose workers stop at a slice, and at all after it, until they are ended: each leaves a file that says so.
SCRIPT = """
import importlib, os, sys, threading
from pathlib import Path
import ctpatch
part = importlib.import_module("ctpatch.cutting.cut")
plan = importlib.import_module("ctpatch.cutting.plan")
plan.LIMITS = plan.PartLimits(slices=2, shard_bytes=2)
real = part.cut_slice
stop, stopped = int(os.environ["STOP"]), Path(os.environ["STOPPED"])

def cut_slice(job, task, *rest):
    if task.slice_index >= stop:
        (stopped / str(os.getpid())).touch()
        threading.Event().wait(600)
    return real(job, task, *rest)

part.cut_slice = cut_slice
if __name__ == "__main__":
    source, layout, workers = sys.argv[1:]
    config = ctpatch.PatchConfig(patch_size=16, stride=4)
    ctpatch.build(source, config=config, layout=layout, workers=int(workers))
"""


class CutOffError(Exception):
    """Raised by a listener in the middle of a build."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=2, shard_bytes=2)


def cut_off_after(parts: int) -> Any:
    """A listener that ends the build when so many parts are done."""
    done = 0

    def listener(event: Event) -> None:
        nonlocal done
        if isinstance(event, WorkAdvanced):
            done += 1
            if done == parts:
                raise CutOffError

    return listener


def interrupted(tmp_path: Path, parts: int = 2, **options: Any) -> Prepared:
    prepared = make_split(tmp_path, [(40, 50)] * 8, arrays={"mask": np.uint8})
    with pytest.raises(CutOffError):
        build_one(prepared, listener=cut_off_after(parts), **options)
    return prepared


def undisturbed(tmp_path: Path, **options: Any) -> dict[str, bytes]:
    prepared = make_split(tmp_path, [(40, 50)] * 8, arrays={"mask": np.uint8})
    build_one(prepared, **options)
    return tree_bytes(prepared.out)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of each layout as a build leaves them that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", EPOCH)
        small_parts(patch, slices=2, shard_bytes=2)
        return {layout: undisturbed(tmp_path_factory.mktemp(layout), layout=layout) for layout in LAYOUTS}


@pytest.mark.parametrize(("layout", "workers"), [*((layout, 1) for layout in LAYOUTS), ("files", 2), ("slices", 2)])
def test_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, whole: dict[str, dict[str, bytes]], layout: Any, workers: int
) -> None:
    prepared = interrupted(tmp_path / "cut", layout=layout, workers=workers)
    assert not (prepared.out / "patch_meta.json").exists()
    assert ctpatch.verify(prepared.out).status == "incomplete"
    with pytest.raises(IncompleteError, match="train is incomplete"):
        ctpatch.open(prepared.out)
    heard = Heard()
    result = build_one(prepared, layout=layout, workers=workers, listener=heard)
    reused = [event.steps for event in heard.events if isinstance(event, WorkAdvanced) and event.reused]
    assert result.outcome == "resumed"
    assert sum(reused) >= 2
    assert_same_tree(tree_bytes(prepared.out), whole[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_off_again_and_again(tmp_path: Path, layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=1, shard_bytes=1)
    wanted = undisturbed(tmp_path / "whole", layout=layout)
    prepared = interrupted(tmp_path / "cut", 1, layout=layout)
    cuts = 1
    for parts in range(2, 30):
        try:
            result = build_one(prepared, layout=layout, listener=cut_off_after(parts))
        except CutOffError:
            cuts += 1
        else:
            assert result.outcome == "resumed"
            break
    assert cuts == 8
    assert_same_tree(tree_bytes(prepared.out), wanted)


def test_reused_outputs_are_not_written_again(tmp_path: Path) -> None:
    prepared = interrupted(tmp_path, 2)
    before = {name: stamp for name, stamp in tree_stamps(prepared.out).items() if name.endswith(".npy")}
    assert len(before) == 2 * 2 * 20 * 2
    build_one(prepared)
    after = tree_stamps(prepared.out)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("layout", ["files", "shards", "slices"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "lengthen"])
def test_a_damaged_output_of_a_finished_part_is_made_again(
    tmp_path: Path, whole: dict[str, dict[str, bytes]], layout: Any, damage: str
) -> None:
    prepared = interrupted(tmp_path / "cut", layout=layout)
    victim = min(prepared.out.rglob("train_*.npy"))
    content = bytearray(victim.read_bytes())
    content[-3] ^= 16
    if damage == "flip":
        victim.write_bytes(content)
    elif damage == "cut":
        victim.write_bytes(content[:-1])
    elif damage == "lengthen":
        victim.write_bytes(victim.read_bytes() + b"\0")
    else:
        victim.unlink()
    assert build_one(prepared, layout=layout).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), whole[layout])


@pytest.mark.parametrize("name", ["000000.receipt.json", "000000.patch_manifest.csv", "000001.slice_manifest.csv"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_receipts_and_rows_are_not_trusted(
    tmp_path: Path, whole: dict[str, dict[str, bytes]], name: str, damage: str
) -> None:
    prepared = interrupted(tmp_path / "cut")
    victim = prepared.out / ".ctpatch" / name
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flip":
        victim.write_bytes(content)
    elif damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        victim.unlink()
    heard = Heard()
    assert build_one(prepared, listener=heard).outcome == "resumed"
    assert [event.reused for event in heard.events if isinstance(event, WorkAdvanced)].count(True) == 1
    assert_same_tree(tree_bytes(prepared.out), whole["files"])


def test_an_interrupted_build_refuses_other_options(tmp_path: Path) -> None:
    prepared = interrupted(tmp_path)
    before = tree_bytes(prepared.out)
    with pytest.raises(OutputConflictError) as error:
        build_one(prepared, ctpatch.PatchConfig(patch_size=16, stride=16))
    assert "stride was [8, 8], now [16, 16]" in error.value.message
    with pytest.raises(OutputConflictError, match='layout was "files", now "shards"'):
        build_one(prepared, layout="shards")
    assert_same_tree(tree_bytes(prepared.out), before)


def test_an_interrupted_build_notices_a_changed_source(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    prepared = interrupted(tmp_path)
    original = prepared.images["image"][1]
    changed = original.copy()
    changed[0, 0] = 0.25
    np.save(prepared.file(1), changed)
    with pytest.raises(SourceChangedError) as error:
        build_one(prepared)
    assert prepared.paths["image"][1] in error.value.message
    np.save(prepared.file(1), original)
    assert build_one(prepared).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), whole["files"])


def test_a_bad_slice_stops_and_its_repair_resumes(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    prepared = make_split(tmp_path / "cut", [(40, 50)] * 8, arrays={"mask": np.uint8})
    original = prepared.images["image"][6].copy()
    bad = original.copy()
    bad[3, 4] = 1.5
    np.save(prepared.file(6), bad)
    with pytest.raises(RangeError, match="3 finished parts are kept; run the same command again"):
        build_one(prepared)
    assert ctpatch.verify(prepared.out).status == "incomplete"
    np.save(prepared.file(6), original)
    assert build_one(prepared).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), whole["files"])


def test_a_cut_off_after_the_last_part_resumes(tmp_path: Path, whole: dict[str, dict[str, bytes]]) -> None:
    prepared = make_split(tmp_path / "cut", [(40, 50)] * 8, arrays={"mask": np.uint8})

    def listener(event: Event) -> None:
        if isinstance(event, WorkFinished):
            raise CutOffError

    with pytest.raises(CutOffError):
        build_one(prepared, listener=listener)
    assert build_one(prepared).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), whole["files"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_finished_build_is_left_alone(tmp_path: Path, layout: Any) -> None:
    prepared = make_split(tmp_path)
    build_one(prepared, layout=layout)
    stamps, tree = tree_stamps(prepared.out), tree_bytes(prepared.out)
    again = build_one(prepared, layout=layout, workers=2)
    assert (again.outcome, again.complete, again.meta.num_patches) == ("complete", True, 60)
    assert tree_stamps(prepared.out) == stamps
    assert tree_bytes(prepared.out) == tree


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"config": ctpatch.PatchConfig(patch_size=16, stride=16)}, "stride was [8, 8], now [16, 16]"),
        ({"config": ctpatch.PatchConfig(patch_size=20, stride=8)}, "patch_size was [16, 16], now [20, 20]"),
        ({"config": ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="zero")}, 'pad_mode was "none", now "zero"'),
        ({"config": ctpatch.PatchConfig(patch_size=16, stride=8, air_level=0.1)}, "air_level was 0.02, now 0.1"),
        ({"config": ctpatch.PatchConfig(patch_size=16, stride=8, drop=("a: std < 0",))}, "drop was []"),
        ({"config": ctpatch.PatchConfig(patch_size=16, stride=8, value_range=(0, 2))}, "value_range was [0.0, 1.0]"),
        ({"layout": "index"}, 'layout was "files", now "index"'),
    ],
)
def test_a_finished_build_refuses_other_options_by_name(prepared: Prepared, options: dict[str, Any], said: str) -> None:
    build_one(prepared)
    before = tree_stamps(prepared.out)
    with pytest.raises(OutputConflictError) as error:
        ctpatch.build(prepared.folder, **{"config": SMALL, **options})
    assert said in error.value.message
    assert "--overwrite" in error.value.message
    assert tree_stamps(prepared.out) == before


@pytest.mark.parametrize("strict", [False, True])
def test_touched_and_copied_sources_are_the_same(prepared: Prepared, strict: bool) -> None:
    build_one(prepared)
    os.utime(prepared.file(0))
    copy = prepared.file(1).with_suffix(".copy")
    copy.write_bytes(prepared.file(1).read_bytes())
    os.replace(copy, prepared.file(1))
    before = tree_stamps(prepared.out)
    assert build_one(prepared, strict=strict).outcome == "complete"
    assert tree_stamps(prepared.out) == before


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("layout", ["files", "index"])
def test_changed_content_of_the_same_size_is_refused(prepared: Prepared, layout: Any, keep_time: bool) -> None:
    build_one(prepared, layout=layout)
    victim = prepared.file(2)
    status = victim.stat()
    changed = prepared.images["image"][2].copy()
    changed[39, 49] = 0.125
    np.save(victim, changed)
    assert victim.stat().st_size == status.st_size
    if keep_time:
        os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    for strict in (False, True):
        with pytest.raises(OutputConflictError) as error:
            build_one(prepared, layout=layout, strict=strict)
        assert f"{prepared.paths['image'][2]} has changed since it was cut" in error.value.message


def test_strict_sees_what_the_times_hide(prepared: Prepared) -> None:
    changed = prepared.images["image"][2].copy()
    changed[39, 49] = 0.125
    build_one(prepared)
    np.save(prepared.file(2), changed)
    # As if the tables were younger than the change: a set that was copied after it.
    changed_at, table = prepared.file(2).stat().st_ctime_ns, prepared.out / "slice_manifest.csv"

    def touch() -> bool:
        os.utime(table)
        return table.stat().st_mtime_ns > changed_at

    wait_until(touch, "the clock of files has moved on")
    assert build_one(prepared).outcome == "complete"
    with pytest.raises(OutputConflictError, match="has changed since it was cut"):
        build_one(prepared, strict=True)


def test_a_changed_list_of_slices_is_refused(prepared: Prepared) -> None:
    build_one(prepared)
    lines = prepared.manifest.read_text().splitlines(keepends=True)
    prepared.manifest.write_text("".join(lines[:-1]))
    with pytest.raises(OutputConflictError, match="the source manifest listed 3 slices then, 2 now"):
        build_one(prepared)
    prepared.manifest.write_text("".join([lines[0], lines[2], lines[1], lines[3]]))
    with pytest.raises(OutputConflictError, match=r"train_000000\.npy.*train_000001\.npy"):
        build_one(prepared)
    prepared.manifest.write_text("".join(lines))
    assert build_one(prepared).outcome == "complete"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
@pytest.mark.parametrize(("layout", "workers"), [("files", 1), ("shards", 1), ("slices", 2)])
def test_killed_again_and_again(tmp_path: Path, layout: Any, workers: int) -> None:
    shapes = [(60, 60)] * 24
    config = ctpatch.PatchConfig(patch_size=16, stride=4)
    whole = make_split(tmp_path / "whole", shapes)
    build_one(whole, config, layout=layout)
    prepared = make_split(tmp_path / "cut", shapes)
    script, stopped = tmp_path / "script.py", tmp_path / "stopped"
    script.write_text(SCRIPT)
    stopped.mkdir()
    done = 0
    for stop in sorted(random.Random(layout).sample(range(20), 4)):
        with subprocess.Popen(
            [sys.executable, str(script), str(prepared.folder), layout, str(workers)],
            stdout=subprocess.PIPE,
            env={**os.environ, "STOP": str(stop), "STOPPED": str(stopped)},
        ) as process:
            try:
                wait_until(
                    lambda: len(os.listdir(stopped)) == workers or process.poll() is not None, "the workers stand still"
                )
                assert process.poll() is None
            finally:
                process.kill()
            process.communicate(timeout=DEADLINE)  # to the end of what it and its workers could say: they are gone
        assert ctpatch.verify(prepared.out).status == "incomplete"
        receipts = len(list((prepared.out / ".ctpatch").glob("*.receipt.json")))
        assert done <= receipts < 24
        if workers == 1 and layout == "files":
            assert receipts == stop // 2
        done = receipts
        for path in stopped.iterdir():
            path.unlink()
    assert build_one(prepared, config, layout=layout).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), tree_bytes(whole.out))


@pytest.mark.parametrize("layout", ["files", "shards", "slices"])
@pytest.mark.parametrize("harm", ["gone", "cut", "longer"])
def test_a_finished_set_whose_pixels_are_gone_is_not_called_complete(
    prepared: Prepared, layout: Any, harm: str
) -> None:
    build_one(prepared, layout=layout)
    wanted = tree_bytes(prepared.out)
    victim = max(prepared.out.rglob("*.npy"))
    content = victim.read_bytes()
    if harm == "gone":
        victim.unlink()
    else:
        victim.write_bytes(content[:-1] if harm == "cut" else content + b"x")
    with pytest.raises(OutputConflictError, match=r"is damaged: .*--overwrite") as caught:
        build_one(prepared, layout=layout)
    assert victim.name in str(caught.value)
    assert build_one(prepared, layout=layout, overwrite=True).outcome == "built"
    assert_same_tree(tree_bytes(prepared.out), wanted)
    assert build_one(prepared, layout=layout).outcome == "complete"


def test_patches_do_not_go_among_the_slices(prepared: Prepared) -> None:
    before = tree_bytes(prepared.folder)
    with pytest.raises(UsageError, match="--out is the folder of the slices"):
        build_one(prepared, out=prepared.folder)
    assert tree_bytes(prepared.folder) == before
