"""Labels where patches overlap, against a plain double loop; and what no label can stand for is refused."""

import warnings
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.grid import make_grid
from ctpatch.core.reassembly import WINDOWS, Reassembler, ReassemblyError, WindowName, reassemble, window_weights

DTYPES = ("uint8", "int8", "uint16", "int32", "int64", "uint64", "bool", ">i2")
Origins = list[tuple[int, int]]


def by_pixels(patches: NDArray[Any], coords: Origins, shape: tuple[int, int], window: WindowName) -> NDArray[Any]:
    """The label of each pixel by itself: sums of weights as fractions, near ones are equal, the smallest first."""
    weights = window_weights((patches.shape[1], patches.shape[2]), window)
    result = np.zeros(shape, patches.dtype)
    for row in range(shape[0]):
        for col in range(shape[1]):
            votes: dict[int, Fraction] = {}
            for patch, (top, left) in zip(patches, coords, strict=True):
                y, x = row - top, col - left
                if 0 <= y < patch.shape[0] and 0 <= x < patch.shape[1]:
                    label = int(patch[y, x])
                    votes[label] = votes.get(label, Fraction(0)) + Fraction(float(weights[y, x]))
            largest = max(votes.values())
            near = largest * (1 - Fraction(1, 10**9))
            result[row, col] = min(label for label, vote in votes.items() if vote >= near)
    return result


def noise(dtype: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[Any]:
    """Labels of which few are used, at both ends of what the dtype holds."""
    kind = np.dtype(dtype)
    labels = [0, 1]
    if kind.kind != "b":
        info = np.iinfo(kind)
        labels = [int(info.min), int(info.max), 0, 7]
    return np.array(labels, kind)[np.random.default_rng(seed).integers(0, len(labels), shape)]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_are_those_of_a_plain_double_loop(window: WindowName, dtype: str) -> None:
    cfg = PatchConfig(patch_size=(6, 8), stride=(3, 3), pad_mode="even")
    grid = make_grid(14, 17, cfg)
    patches = noise(dtype, (len(grid), 6, 8))
    found = reassemble(patches, list(grid), (14, 17), window)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, by_pixels(patches, list(grid), (14, 17), window))


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 16), st.integers(1, 16)),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(1, 7),
    st.sampled_from(WINDOWS),
    st.integers(0, 99),
)
def test_any_geometry(
    shape: tuple[int, int], size: tuple[int, int], stride: int, window: WindowName, seed: int
) -> None:
    cfg = PatchConfig(patch_size=size, stride=min(stride, *size), pad_mode="edge")
    grid = make_grid(*shape, cfg)
    patches = noise("uint8", (len(grid), *size), seed)
    found = reassemble(patches, list(grid), shape, window)
    np.testing.assert_array_equal(found, by_pixels(patches, list(grid), shape, window))


def test_equal_sums_take_the_smallest_label_whatever_the_order() -> None:
    """Windows of 6, 3 apart, overlap in columns 3 to 5; in the middle one both weigh the same."""
    for first, second in ((5, 2), (2, 5)):
        patches = np.stack([np.full((4, 6), first), np.full((4, 6), second)])
        found = reassemble(patches, [(0, 0), (0, 3)], (4, 9))
        assert found[0].tolist() == [first] * 4 + [2] + [second] * 4
    patches = np.stack([np.full((2, 2), label) for label in (9, 4, 4, 9)])
    everywhere = [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert reassemble(patches, everywhere, (3, 3), "uniform")[1, 1] == 4


def test_one_large_weight_beats_several_small_ones_and_the_other_way_round() -> None:
    """Of 8 pixels, windows weigh 0.04, 0.31, 0.69, 0.96, 0.96, 0.69, 0.31 and 0.04."""
    patches = np.full((3, 1, 8), 3, np.uint8)
    patches[0] = 1
    found = reassemble(patches, [(0, 0), (0, 2), (0, 3)], (1, 11))
    # Column 3: 0.96 against 0.31 + 0.04. Column 4: 0.96 against 0.69 + 0.31.
    assert found[0].tolist() == [1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_reassembler_gives_the_same_in_any_order_and_batch(window: WindowName) -> None:
    grid = make_grid(20, 18, PatchConfig(patch_size=6, stride=2, pad_mode="even"))
    rows, cols = grid.origins()
    patches = noise("int16", (len(grid), 6, 6), 3)
    wanted = by_pixels(patches, list(grid), (20, 18), window)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(grid))
        whole = Reassembler(np.zeros(len(grid), int), rows, cols, {0: (20, 18)}, (6, 6), window)
        done = []
        for start in range(0, len(order), 7):
            which = order[start : start + 7]
            batch = patches[which]
            done += whole.add(which, batch)
            batch[...] = 99  # memory that is used again
        (only,) = done
        assert only.image.dtype == np.int16
        np.testing.assert_array_equal(only.image, wanted)


def test_bands_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = make_grid(23, 19, PatchConfig(patch_size=8, stride=3, pad_mode="even"))
    patches = noise("uint8", (len(grid), 8, 8), 5)
    wanted = reassemble(patches, list(grid), (23, 19))
    for entries in (1, 400, 3000):
        monkeypatch.setattr("ctpatch.core.labels._ENTRIES_AT_A_TIME", entries)
        np.testing.assert_array_equal(reassemble(patches, list(grid), (23, 19)), wanted)


def test_a_fill_is_a_label() -> None:
    patches = np.full((1, 2, 2), 3, np.uint8)
    wanted = np.array([[3, 3, 8], [3, 3, 8]], np.uint8)
    assert reassemble(patches, [(0, 0)], (2, 3), fill=8).tolist() == wanted.tolist()
    assert reassemble(patches, [(0, 0)], (2, 2)).tolist() == [[3, 3], [3, 3]]  # nothing to fill
    for fill in (float("nan"), float("inf"), -1, 256, 0.5):
        with pytest.raises(ReassemblyError, match=r"no patch covers 2 of its pixels, .* from 0 to 255 as fill"):
            reassemble(patches, [(0, 0)], (2, 3), fill=fill)
    assert reassemble(patches.astype(bool), [(0, 0)], (2, 3), fill=0).tolist() == [[True, True, False]] * 2
    with pytest.raises(ReassemblyError, match="from 0 to 1 as fill"):
        reassemble(patches.astype(bool), [(0, 0)], (2, 3), fill=2)


def test_a_refused_fill_or_dtype_leaves_nothing_behind() -> None:
    whole = Reassembler([0, 0], [0, 0], [0, 2], {0: (2, 5)}, (2, 2))
    labels = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    whole.add([0], labels[:1])
    with pytest.raises(ReassemblyError, match="slice 0: no patch covers 2 of its pixels"):
        whole.add([1], labels[1:])
    with pytest.raises(ReassemblyError, match="slice 0: its patches are float64, those before were int64"):
        whole.add([1], labels[1:] * 1.0)
    assert whole.open_slices == 1
    whole = Reassembler([0, 0], [0, 0], [0, 2], {0: (2, 5)}, (2, 2), fill=-1)
    whole.add([0], labels[:1])
    with pytest.raises(ReassemblyError, match="uint8, those before were int64"):
        whole.add([1], labels[1:].astype(np.uint8))
    (done,) = whole.add([1], labels[1:])
    assert (done.image.tolist(), done.uncovered) == ([[1, 2, 5, 6, -1], [3, 4, 7, 8, -1]], 2)


def test_class_numbers_as_floats_are_averaged_but_it_is_said() -> None:
    coords = [(0, 0), (0, 2)]
    classes = np.stack([np.zeros((4, 4)), np.full((4, 4), 2.0)])
    with pytest.warns(UserWarning, match=r"only whole numbers \(2 different ones\).* 8 pixels are now a mean"):
        found = reassemble(classes, coords, (4, 6))
    assert 0 < found[0, 2] < 1 < found[0, 3] < 2
    with pytest.warns(UserWarning, match="8 pixels are now a mean"):
        assert reassemble(classes / 2, coords, (4, 6), "uniform")[0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_images_are_averaged_without_a_word() -> None:
    coords = [(0, 0), (0, 2)]
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reassemble(rng.random((2, 4, 4)), coords, (4, 6))
        reassemble(np.ones((2, 4, 4)), coords, (4, 6))
        reassemble(np.zeros((2, 4, 4)), coords, (4, 6))
        hu = np.rint(rng.normal(0, 400, (2, 40, 40)))  # rounded HU: more values than a mask has classes
        reassemble(hu, coords, (40, 42))
