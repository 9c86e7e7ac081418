"""Windows with their neighbouring slices, from sets and prepared splits, against the pixels that were written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError, NpyError
from helpers import Prepared, build_one, make_split

SHAPE = (24, 20)
SERIES = ["b", "a", "b", "a", "b", "a", "b"]
POSITIONS = [5.0, 0, 0, 6, 15, 3, 10]
# In the order of position: series a is 1, 5, 3; series b is 2, 0, 6, 4.
BEFORE = {1: None, 5: 1, 3: 5, 2: None, 0: 2, 6: 0, 4: 6}
AFTER = {1: 5, 5: 3, 3: None, 2: 0, 0: 6, 6: 4, 4: None}
KEPT = {"keep_columns": "series,position_mm"}


def made(root: Path, positions: list[Any] = POSITIONS, **options: Any) -> Prepared:
    columns = {"series": SERIES, "position_mm": positions, "patient_id": ["p"] * 7}
    return make_split(root, [SHAPE] * 7, arrays={"target": np.float32}, columns=columns, **options)


def opened(split: Prepared, layout: str = "slices", drop: str = "", **options: Any) -> ctpatch.PatchSet:
    config = ctpatch.PatchConfig(patch_size=8, stride=8, pad_mode="reflect", drop=drop or ())
    build_one(split, layout=layout, config=config, **{**KEPT, **options})
    return ctpatch.open(split.out)


def wanted(split: Prepared, number: int, row: int, col: int, edge: str) -> Any:
    """Three windows, one after another; None where the slice has not both neighbours and is dropped."""
    images = split.images["image"]
    found = []
    for other in (BEFORE[number], number, AFTER[number]):
        if other is None and edge == "drop":
            return None
        whole = images[number if other is None else other]
        window = np.pad(whole, [(0, 8), (0, 8)], mode="reflect")[row : row + 8, col : col + 8]
        found.append(np.zeros_like(window) if other is None and edge == "zero" else window)
    return np.stack(found)


@pytest.mark.parametrize("layout", ["slices", "index"])
@pytest.mark.parametrize("edge", ["repeat", "zero", "drop"])
def test_patches_come_with_their_neighbours(tmp_path: Path, layout: str, edge: Any) -> None:
    split = made(tmp_path)
    ps = opened(split, layout)
    seen = 0
    for batch in ps.batches(5, context=1, context_edge=edge, shuffle=True, columns=["slice_index", "row", "col"]):
        for at, patch in enumerate(batch.arrays["image"]):
            number, row, col = (int(batch.columns[name][at]) for name in ("slice_index", "row", "col"))
            np.testing.assert_array_equal(patch, wanted(split, number, row, col, edge))
            np.testing.assert_array_equal(batch.arrays["target"][at], ps[int(batch.indices[at])]["target"][np.newaxis])
            seen += 1
    complete = sum(BEFORE[number] is not None and AFTER[number] is not None for number in range(7))
    assert seen == len(ps) * (complete if edge == "drop" else 7) // 7


def test_random_windows_come_with_their_neighbours(tmp_path: Path) -> None:
    split = made(tmp_path)
    loader = opened(split).batches(
        8, context=1, windows=ctpatch.RandomWindows(8, 6), context_arrays=["image", "target"],
        columns=["slice_index", "row", "col"],
    )  # fmt: skip
    for batch in loader:
        assert batch.arrays["target"].shape[1:] == (3, 8, 8)
        for at, patch in enumerate(batch.arrays["image"]):
            number, row, col = (int(batch.columns[name][at]) for name in ("slice_index", "row", "col"))
            np.testing.assert_array_equal(patch, wanted(split, number, row, col, "repeat"))


def test_a_neighbour_of_which_no_patch_was_kept_comes_from_the_data_root(tmp_path: Path) -> None:
    """Slice 5 is between 1 and 3; layout `slices` has not stored it, and its source must be what was cut."""
    images = [np.full(SHAPE, (number + 1) / 10, np.float32) for number in range(7)]
    split = made(tmp_path, images=images)
    drop = "fifth: slice_index == 5"
    for layout in ("slices", "index"):
        ps = opened(split, layout, drop, overwrite=layout == "index")
        assert 5 not in ps.manifest["slice_index"].to_list()
        for batch in ps.batches(4, context=1, columns=["slice_index"]):
            for patch, number in zip(batch.arrays["image"], batch.columns["slice_index"].tolist(), strict=True):
                others = [number if other is None else other for other in (BEFORE[number], number, AFTER[number])]
                assert patch[:, 0, 0].tolist() == [images[other][0, 0] for other in others]
    opened(split, "slices", drop, overwrite=True)
    split.file(5).unlink()
    with pytest.raises(NpyError, match=r"train_000005\.npy is missing"):
        list(ctpatch.open(split.out).batches(64, context=1))


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ([5.0, 0, 0, 9, 15, 3, 10], None),
        (
            [5.0, 0, 0, 9, 25, 3, 10],
            r"slice 6 \(prepared/.* lies 15 mm before the next slice of its series; usual are 5",
        ),
        ([5.0, 0, 0, 9, "", 3, 10], r"slice 4 \(.*\) has no position in a series, so ctpatch cannot tell"),
    ],
)
def test_where_neighbours_cannot_be_told(tmp_path: Path, positions: list[Any], words: str | None) -> None:
    ps = opened(made(tmp_path, positions))
    if words is None:
        ps.batches(4, context=1)
        return
    with pytest.raises(ConfigError, match=words):
        ps.batches(4, context=1)
    (batch,) = ps.batches(1000, context=1, context_gap="end", columns=["slice_index"])
    at = batch.columns["slice_index"].tolist().index(6)
    np.testing.assert_array_equal(batch.arrays["image"][at, 2], batch.arrays["image"][at, 1])


def test_a_set_without_positions(tmp_path: Path) -> None:
    """As LoDoPaB-CT: the order within a patient is chance."""
    split = make_split(tmp_path, [SHAPE] * 4, columns={"patient_id": ["a", "b", "a", "a"]})
    ps = opened(split, keep_columns="none")
    with pytest.raises(ConfigError, match="phantoms/train has no columns series and position_mm"):
        ps.batches(4, context=1)
    (batch,) = ps.batches(100, context=1, context_gap="ignore", columns=["slice_index"])
    first = {number: at for at, number in reversed(list(enumerate(batch.columns["slice_index"].tolist())))}
    images = split.images["image"]
    for number, others in {0: (0, 0, 2), 1: (1, 1, 1), 2: (0, 2, 3), 3: (2, 3, 3)}.items():
        np.testing.assert_array_equal(batch.arrays["image"][first[number]], [images[at][:8, :8] for at in others])


def test_prepared_splits_work_without_a_build(tmp_path: Path) -> None:
    """The same windows as from a patch set of the same slices."""
    split = made(tmp_path)
    ps = opened(split)
    slices = ctpatch.open_slices(split.folder)
    assert (len(slices), slices.arrays) == (7, ("image", "target"))
    np.testing.assert_array_equal(slices.slice(3)["target"], split.images["target"][3])
    options: dict[str, Any] = {"windows": ctpatch.RandomWindows(8, 5), "shuffle": True, "seed": 4}
    for one, other in zip(ps.batches(6, **options), slices.batches(6, **options), strict=True):
        for array in ("image", "target"):
            np.testing.assert_array_equal(one.arrays[array], other.arrays[array])
    with pytest.raises(ConfigError, match="is a prepared split, which has slices and no patches"):
        slices.batches(6)
    with pytest.raises(KeyError, match="no slice 70"):
        slices.slice(70)


def test_the_folder_of_a_prepared_split_is_a_source_of_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from ctpatch.torch import PatchLoader

    split = made(tmp_path)
    windows = ctpatch.RandomWindows(8, 5)
    loader: Any = PatchLoader(split.folder, 6, windows=windows, seed=4, context=0)
    for tensors, batch in zip(
        loader, ctpatch.open_slices(split.folder).batches(6, windows=windows, seed=4), strict=True
    ):
        assert tensors["image"].dtype is torch.float32
        np.testing.assert_array_equal(tensors["image"].numpy(), batch.arrays["image"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context": -1}, "context: wanted 0 to 64"),
        ({"context": 1, "context_edge": "wrap"}, "context_edge: wanted repeat, zero, drop, got 'wrap'"),
        ({"context": 1, "context_gap": "no"}, "context_gap: wanted refuse, end, ignore"),
        ({"context": 1, "context_arrays": "image"}, "context_arrays: wanted a list"),
        ({"context": 9, "context_edge": "drop"}, "context_edge: 'drop' leaves nothing"),
    ],
)
def test_senseless_context(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(made(tmp_path)).batches(4, **options)
