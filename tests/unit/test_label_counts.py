"""Labels are counted as plain loops count them, in slices and in windows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.grid import make_grid
from ctpatch.core.label_counts import MAX_LABELS, LabelCounts, count_labels, read_labels, windows_with
from ctpatch.core.patches import pad_slice
from helpers import PAD_MODES

DTYPES = ("bool", "uint8", "int8", "int16", "uint16", "int32", "uint64", "float32")


def by_hand(mask: NDArray[Any]) -> dict[int, int]:
    found: dict[int, int] = {}
    for pixel in mask.ravel().tolist():
        if pixel:
            found[int(pixel)] = found.get(int(pixel), 0) + 1
    return dict(sorted(found.items()))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), mode=st.sampled_from(PAD_MODES), dtype=st.sampled_from(DTYPES))
def test_counts_are_those_of_plain_loops(data: st.DataObject, mode: Any, dtype: str) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    config = PatchConfig(
        patch_size=data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6))),
        stride=data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7))),
        pad_mode=mode,
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    low = 0 if dtype.startswith(("u", "b")) else -2
    mask = (rng.integers(low, 2 if dtype == "bool" else 4, shape) * (rng.random(shape) < 0.4)).astype(dtype)
    grid = make_grid(*shape, config)
    kept = rng.random(len(grid)) < 0.6
    padded = pad_slice(mask, grid.padded_shape, mode)
    found = count_labels(padded, grid, kept)
    assert found.pixels == by_hand(mask)
    assert found.above == sum(pixel > 0 for pixel in mask.ravel().tolist())
    windows = dict.fromkeys(by_hand(mask), 0)
    for (row, col), keep in zip(grid, kept, strict=True):
        window = padded[row : row + config.patch_size[0], col : col + config.patch_size[1]]
        for label in by_hand(window) if keep else ():
            windows[label] += 1
    assert found.windows == windows
    text = found.text()
    assert text is not None
    assert read_labels(text) == found.pixels


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int8", [-128, 127]),
        ("uint64", [2**63 - 1, 2**63 - 2, 3]),
        ("int64", [-(2**62), 2**62]),
        ("uint64", [2**63 - 1, 2**63 - 2]),
        ("float32", [-3, 2**24]),
    ],
)
def test_labels_may_be_far_apart(dtype: str, values: list[int]) -> None:
    mask = np.zeros((6, 6), dtype)
    mask[2, : len(values)] = np.array(values, dtype)
    grid = make_grid(6, 6, PatchConfig(patch_size=3, stride=3))
    found = count_labels(mask, grid, np.ones(4, bool))
    assert found.pixels == dict.fromkeys(sorted(values), 1)
    assert found.windows == dict.fromkeys(sorted(values), 1)


def test_a_mask_that_is_one_label_throughout() -> None:
    grid = make_grid(4, 4, PatchConfig(patch_size=2, stride=2))
    found = count_labels(np.full((4, 4), 200, np.uint8), grid, np.array([True, False, True, True]))
    assert (found.above, found.pixels, found.windows) == (16, {200: 16}, {200: 3})


@pytest.mark.parametrize("odd", [0.5, np.nan, np.inf, 2.0**60])
def test_numbers_that_are_no_labels_are_not_counted_one_by_one(odd: float) -> None:
    mask = np.zeros((4, 4), np.float32)
    mask[0, :2] = 1, odd
    found = count_labels(mask, make_grid(4, 4, PatchConfig(patch_size=2, stride=2)), np.ones(4, bool))
    assert found == LabelCounts(1 if np.isnan(odd) else 2, None)
    assert found.text() is None


def test_labels_that_are_no_int64_are_not_counted_one_by_one() -> None:
    mask = np.array([[2**63, 0]], np.uint64)
    assert count_labels(mask, make_grid(1, 2, PatchConfig(patch_size=1)), np.ones(1, bool)) == LabelCounts(1, None)


@pytest.mark.parametrize(("count", "counted"), [(MAX_LABELS, True), (MAX_LABELS + 1, False)])
def test_so_many_labels_are_counted_and_no_more(count: int, counted: bool) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask.ravel()[:count] = np.arange(1, count + 1)
    found = count_labels(mask, make_grid(8, 8, PatchConfig(patch_size=8)), np.ones(1, bool))
    assert found.above == count
    assert (found.pixels is not None) is counted


def test_no_window_holds_anything_where_none_is_kept_or_none_fits() -> None:
    mask = np.ones((4, 4), np.uint8)
    for grid in (make_grid(4, 4, PatchConfig(patch_size=2, stride=2)), make_grid(4, 4, PatchConfig(patch_size=8))):
        assert windows_with(mask, grid, np.zeros(len(grid), bool), [1]) == {1: 0}


@pytest.mark.parametrize(
    "text", ["1", "1:0", "1:-2", "0:3", "2:1;1:1", "1:1;1:2", "a:1", "1:1;", " 1:1", "01:1", "1: 2"]
)
def test_texts_that_no_build_writes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"wanted labels|invalid literal"):
        read_labels(text)
