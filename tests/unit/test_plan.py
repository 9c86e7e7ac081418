"""The plan against what a build then does, counted on disk, and against sums done by hand."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import ctpatch
from ctpatch import plan as plan_function
from ctpatch.config import PatchConfig
from ctpatch.cutting.plan import Part, SplitPlan, plan_split
from ctpatch.errors import ConfigError, NpyError, RuleError, SourceManifestError
from ctpatch.layouts.base import PartLimits
from ctpatch.words import LAYOUTS, LayoutName, PadMode
from helpers import refusal

MODULE = sys.modules["ctpatch.cutting.plan"]  # `ctpatch.plan` is the function
SMALL = PatchConfig(patch_size=8, stride=4)


@dataclass
class Split:
    root: Path
    folder: Path

    def plan(self, config: PatchConfig = SMALL, **options: Any) -> SplitPlan:
        (made,) = plan_function(self.folder, config=config, **options)
        return made


def split(
    tmp_path: Path,
    shapes: Sequence[tuple[int, ...]],
    *,
    more: dict[str, Any] | None = None,
    indices: Sequence[int] | None = None,
) -> Split:
    """A split with slices of these shapes; `more` gives arrays beside `image` with their dtypes."""
    folder = tmp_path / "data/prepared/ds/train"
    folder.mkdir(parents=True)
    header = ["path", *(f"{array}_path" for array in more or {}), *(["index"] if indices else [])]
    lines = [",".join(header)]
    for number, shape in enumerate(shapes):
        cells = []
        for array, dtype in {"image": np.float32, **(more or {})}.items():
            name = f"{array}_{number:03d}.npy"
            np.save(folder / name, (np.arange(np.prod(shape)) % 7 / 8).reshape(shape).astype(dtype))
            cells.append(f"prepared/ds/train/{name}")
        lines.append(",".join([*cells, *([str(indices[number])] if indices else [])]))
    (folder / "train_manifest.csv").write_text("\n".join(lines) + "\n")
    return Split(tmp_path / "data", folder)


MIXED = [(20, 20), (17, 9), (20, 20), (4, 30), (8, 8), (20, 20)]


def test_counts_and_coverage_by_hand(tmp_path: Path) -> None:
    made = split(tmp_path, MIXED).plan()
    # 20: 0, 4, 8, 12; 17: 0, 4, 8; 9: 0; 8: 0
    assert [(each.grid.shape, each.slices, len(each.grid)) for each in made.shapes] == [
        ((20, 20), 3, 16), ((17, 9), 1, 3), ((4, 30), 1, 0), ((8, 8), 1, 1)
    ]  # fmt: skip
    assert (made.num_slices, made.num_faulty, made.num_windows, made.slices_without_windows) == (6, 0, 52, 1)
    covered = 3 * 400 + 16 * 8 + 0 + 64
    assert made.coverage == covered / (3 * 400 + 17 * 9 + 4 * 30 + 64)


@pytest.mark.parametrize("mode", get_args(PadMode))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_are_those_that_a_build_writes(tmp_path: Path, layout: LayoutName, mode: PadMode) -> None:
    cfg = PatchConfig(patch_size=(8, 6), stride=(4, 5), pad_mode=mode)
    here = split(tmp_path, MIXED, more={"target": np.float64, "mask": np.uint8})
    made = here.plan(cfg)
    (result,) = ctpatch.build(here.folder, config=cfg, layout=layout)
    files = [path for path in result.folder.rglob("*.npy") if path.is_file()]
    assert made.pixel_bytes(layout) == sum(path.stat().st_size for path in files)
    assert made.pixel_bytes(layout) == result.meta.pixel_bytes
    assert (made.num_windows, made.num_slices) == (result.meta.num_patches, result.meta.num_slices)
    assert made.coverage == result.meta.coverage
    assert made.first_patch_ids() == ctpatch.open(result.folder).manifest["patch_id"].to_list()[:3]


def test_bytes_by_hand(tmp_path: Path) -> None:
    made = split(tmp_path, MIXED).plan()
    assert {layout: made.pixel_bytes(layout) for layout in LAYOUTS} == {
        "files": 52 * (128 + 256),
        "shards": 4096 + 52 * 256,
        "slices": 3 * 4096 + 4 * (3 * 400 + 17 * 9 + 64),
        "index": 0,
    }


def test_a_plan_writes_nothing(tmp_path: Path) -> None:
    here = split(tmp_path, MIXED)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    here.plan().summary()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (here.root / "patches").exists()


def test_the_first_names_follow_the_index_of_the_manifest(tmp_path: Path) -> None:
    made = split(tmp_path, [(4, 4), (8, 12), (9, 9)], indices=[3, 12345678, 0]).plan()
    assert made.first_patch_ids() == ["train_12345678_000_000", "train_12345678_000_004", "train_000000_000_000"]
    assert made.first_patch_ids(1) == ["train_12345678_000_000"]


@pytest.mark.parametrize(
    ("shapes", "config", "stride", "windows"),
    [
        ([(362, 362)], PatchConfig(), 78, 16),
        ([(362, 512)], PatchConfig(), (78, 64), 28),
        ([(512, 512)], PatchConfig(), None, 49),
        ([(362, 362)], PatchConfig(pad_mode="shift"), None, 25),
        ([(100, 100)], PatchConfig(), None, 0),
        ([(512, 512), (362, 362), (362, 362)], PatchConfig(), 78, 16 * 2 + 25),
        ([(300, 300), (362, 362), (362, 362)], PatchConfig(), 78, 9 + 16 * 2),  # that of the most frequent shape
    ],
)
def test_the_stride_that_loses_nothing(
    tmp_path: Path,
    shapes: list[tuple[int, int]],
    config: PatchConfig,
    stride: int | tuple[int, int] | None,
    windows: int,
) -> None:
    made = split(tmp_path, shapes).plan(config)
    assert made.covering_stride == stride
    assert made.windows_at_covering_stride() == windows


def partition(made: SplitPlan, layout: LayoutName) -> list[Part]:
    """The parts, after looking that they are the slices in order, each once."""
    parts = list(made.parts(layout))
    assert [part.number for part in parts] == list(range(len(parts)))
    assert [task for part in parts for task in part.tasks] == list(made.tasks())
    assert all(part.tasks for part in parts)
    return parts


def windows_of(made: SplitPlan, part: Part) -> int:
    return sum(len(made.grid(task.shape)) for task in part.tasks if task.problem is None)


@pytest.mark.parametrize("layout", ["files", "index"])
def test_parts_have_at_most_so_many_slices(tmp_path: Path, layout: LayoutName) -> None:
    made = split(tmp_path, [(8, 8)] * 10).plan()
    assert [len(part.tasks) for part in partition(made, layout)] == [10]
    made = replace(made, limits=PartLimits(slices=4))
    assert [len(part.tasks) for part in partition(made, layout)] == [4, 4, 2]
    assert all(part.shards == {} for part in made.parts(layout))
    made = replace(made, limits=PartLimits(windows=3))
    assert [len(part.tasks) for part in partition(made, layout)] == [3, 3, 3, 1]


@pytest.mark.parametrize("layout", ["files", "shards", "slices", "index"])
def test_one_slice_with_too_many_windows_is_a_part_of_its_own(tmp_path: Path, layout: LayoutName) -> None:
    made = split(tmp_path, [(8, 8), (20, 20), (8, 8)]).plan()
    made = replace(made, limits=PartLimits(windows=4, packed_windows=4))
    assert [len(part.tasks) for part in partition(made, layout)] == [1, 1, 1]


def test_shards_stay_below_their_size_and_are_numbered_one_by_one(tmp_path: Path) -> None:
    made = split(tmp_path, MIXED).plan()
    made = replace(made, limits=PartLimits(shard_bytes=20 * 256))
    parts = partition(made, "shards")
    assert [windows_of(made, part) for part in parts] == [19, 17, 16]
    assert [part.shards for part in parts] == [
        {(20, 20): 0, (17, 9): 0}, {(20, 20): 1, (8, 8): 1}, {(20, 20): 2}
    ]  # fmt: skip


def test_slices_have_a_shard_for_each_shape(tmp_path: Path) -> None:
    made = split(tmp_path, MIXED).plan()
    assert [part.shards for part in partition(made, "slices")] == [{(20, 20): 0, (17, 9): 1, (8, 8): 2}]
    made = replace(made, limits=PartLimits(shard_bytes=4 * (400 + 17 * 9)))
    parts = partition(made, "slices")
    assert [[task.slice_index for task in part.tasks] for part in parts] == [[0, 1], [2, 3, 4], [5]]
    assert [part.shards for part in parts] == [{(20, 20): 0, (17, 9): 1}, {(20, 20): 2, (8, 8): 3}, {(20, 20): 4}]


def test_parts_without_windows_take_no_shard(tmp_path: Path) -> None:
    made = split(tmp_path, [(8, 8), (2, 2), (9, 9)]).plan()
    made = replace(made, limits=PartLimits(shard_bytes=256))
    for layout in ("shards", "slices"):
        parts = partition(made, layout)
        numbers = [number for part in parts for number in part.shards.values()]
        assert numbers == [0, 1]


def test_faulty_slices_are_raised_or_counted(tmp_path: Path) -> None:
    here = split(tmp_path, [(20, 20), (3, 20, 20), (8, 8)])
    (here.folder / "image_002.npy").unlink()
    message = refusal(NpyError, here.plan)
    assert message.startswith("prepared/ds/train/image_001.npy has 3 dimensions (3, 20, 20)")
    made = here.plan(skip_faulty=True)
    assert (made.num_slices, made.num_faulty, made.num_windows) == (1, 2, 16)
    assert [task.problem is None for task in made.tasks()] == [True, False, False]
    assert made.first_patch_ids(99)[-1] == "train_000000_012_012"
    assert made.coverage == 1.0


def test_arrays_and_their_dtypes(tmp_path: Path) -> None:
    made = split(tmp_path, [(8, 8)], more={"target": ">f8", "lung_mask": "uint8", "weights": "int16"}).plan()
    assert {name: (info.dtype, info.labels) for name, info in made.arrays.items()} == {
        "image": ("float32", False),
        "target": ("float32", False),
        "lung_mask": ("uint8", True),
        "weights": ("int16", True),
    }
    (task,) = made.tasks()
    folder = "prepared/ds/train"
    assert task.paths == tuple(f"{folder}/{each}_000.npy" for each in ("image", "target", "lung_mask", "weights"))
    assert (task.shape, task.src_dtype, task.problem) == ((8, 8), "float32", None)


def test_labels_of_two_dtypes_are_refused(tmp_path: Path) -> None:
    here = split(tmp_path, [(8, 8), (8, 8)], more={"mask": "uint8"})
    np.save(here.folder / "mask_001.npy", np.zeros((8, 8), np.int64))
    message = refusal(SourceManifestError, here.plan)
    assert message.startswith("prepared/ds/train/train_manifest.csv, column mask_path: prepared/ds/train/mask_001.npy")
    assert "is int64, those before are uint8" in message


def test_options_that_do_not_fit_the_data_are_refused(tmp_path: Path) -> None:
    here = split(tmp_path, [(8, 8)], more={"target": "float32"})
    message = refusal(ConfigError, lambda: here.plan(PatchConfig(rules_on="targets")))
    assert "rules_on: there is no array 'targets'" in message
    assert message.endswith("it has image, target")
    assert here.plan(PatchConfig(rules_on="target")).config.rules_on == "target"
    message = refusal(RuleError, lambda: here.plan(PatchConfig(drop=("a: sdt < 1",))))
    assert "unknown column 'sdt'" in message


def test_a_stride_that_makes_too_many_windows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = split(tmp_path, [(8, 8), (20, 20)])
    monkeypatch.setattr(MODULE, "MAX_WINDOWS_PER_SLICE", 16)
    assert here.plan().num_windows == 17
    monkeypatch.setattr(MODULE, "MAX_WINDOWS_PER_SLICE", 15)
    message = refusal(ConfigError, here.plan)
    assert message.startswith("stride: 4 gives 16 windows in a slice of 20x20, at most 15 are cut")


def test_the_summary_is_plain_json(tmp_path: Path) -> None:
    summary = split(tmp_path, [(10, 9)]).plan().summary()
    assert json.loads(json.dumps(summary)) == {
        "dataset": "ds",
        "split": "train",
        "source_manifest": "prepared/ds/train/train_manifest.csv",
        "num_slices": 1,
        "num_faulty": 0,
        "num_windows": 1,
        "slices_without_windows": 0,
        "arrays": ["image"],
        "carried": {},
        "notes": [],
        "shapes": [{"shape": [10, 9], "slices": 1, "windows_per_slice": 1, "windows": 1, "coverage": 64 / 90}],
        "coverage": 64 / 90,
        "covering_stride": [2, 1],
        "windows_at_covering_stride": 4,
        "windows_spread_evenly": 4,
        "pixel_bytes": {"files": 384, "shards": 4352, "slices": 4456, "index": 0},
        "first_patch_ids": ["train_000000_000_000"],
    }


def test_the_digest_tells_what_decides_the_work_and_nothing_else(tmp_path: Path) -> None:
    here = split(tmp_path, [(8, 8), (9, 9)])
    first = here.plan().digest()
    assert here.plan().digest() == first
    assert here.plan(PatchConfig(patch_size=8, stride=5)).digest() != first
    assert here.plan(SMALL.with_rules(ctpatch.Rule.parse("a: std < 1"))).digest() != first
    np.save(here.folder / "image_001.npy", np.ones((9, 9), np.float32))
    assert here.plan().digest() == first  # pixels are compared by their own digests
    np.save(here.folder / "image_001.npy", np.ones((9, 10), np.float32))
    assert here.plan().digest() != first


def test_several_splits_in_the_order_given(tmp_path: Path) -> None:
    here = split(tmp_path, [(8, 8)])
    other = here.folder.parent / "test"
    other.mkdir()
    (other / "manifest.csv").write_text("path\nprepared/ds/train/image_000.npy\n")
    plans = plan_function(here.folder.parent, config=SMALL)
    assert [each.source.name for each in plans] == ["ds/test", "ds/train"]
    assert plan_split(plans[0].source, SMALL).first_patch_ids() == ["test_000000_000_000"]


def test_very_many_files_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = split(tmp_path, [(20, 20)] * 2, more={"target": "float32"}).plan()
    assert made.many_files_hint("files") is None
    monkeypatch.setattr(MODULE, "MANY_FILES", 32)
    assert made.many_files_hint("files") is None
    monkeypatch.setattr(MODULE, "MANY_FILES", 31)
    hint = made.many_files_hint("files")
    assert hint is not None
    assert hint.startswith("the layout files makes 64 files; --layout shards puts the same patches into 2, ")
