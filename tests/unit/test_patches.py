"""Cutting against a plain double loop over pixels and windows, in every pad mode."""

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.config import MAX_PIXELS_PER_AXIS, PatchConfig
from ctpatch.core.grid import make_grid
from ctpatch.core.patches import cut, extract_from_grid, extract_patches_2d, pad_slice, paste, window_of
from ctpatch.words import PadMode
from helpers import reference_origins

MODES: tuple[PadMode, ...] = get_args(PadMode)


def numbered(height: int, width: int) -> NDArray[np.float32]:
    """A slice in which each pixel has a value of its own."""
    return np.arange(1, height * width + 1, dtype=np.float32).reshape(height, width)


def inside(position: int, length: int, mode: PadMode) -> int | None:
    """Where the pixel at a position beyond the border is taken from; None is zero."""
    if position < length:
        return position
    if mode == "zero":
        return None
    if mode == "edge" or length == 1:
        return length - 1
    period = 2 * (length - 1)
    position %= period
    return position if position < length else period - position


def pixel(image: NDArray[Any], row: int, col: int, mode: PadMode) -> float:
    source_row, source_col = inside(row, image.shape[0], mode), inside(col, image.shape[1], mode)
    return 0.0 if source_row is None or source_col is None else float(image[source_row, source_col])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 13),
    st.integers(1, 13),
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(MODES),
)
def test_patches_are_those_of_the_double_loop(
    height: int, width: int, size: tuple[int, int], stride: tuple[int, int], mode: PadMode
) -> None:
    image = numbered(height, width)
    before = image.copy()
    patches, coords = extract_patches_2d(image, PatchConfig(patch_size=size, stride=stride, pad_mode=mode))
    assert coords == reference_origins((height, width), size, stride, mode)
    wanted = [
        [[pixel(image, row + i, col + j, mode) for j in range(size[1])] for i in range(size[0])] for row, col in coords
    ]
    assert patches.dtype == np.float32
    np.testing.assert_array_equal(patches, np.array(wanted, np.float32).reshape(-1, *size))
    np.testing.assert_array_equal(image, before)
    patches[...] = -1
    np.testing.assert_array_equal(image, before)  # a copy, not a view


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("edge", "edge"), ("reflect", "reflect")])
@pytest.mark.parametrize("shape", [(7, 9), (12, 12), (5, 6)])
def test_padding_is_numpys_at_the_bottom_and_right(mode: PadMode, numpy_mode: Any, shape: tuple[int, int]) -> None:
    image = numbered(5, 6)
    padded = pad_slice(image, shape, mode)
    np.testing.assert_array_equal(padded, np.pad(image, ((0, shape[0] - 5), (0, shape[1] - 6)), mode=numpy_mode))
    np.testing.assert_array_equal(padded[:5, :6], image)
    assert (padded is image) is (shape == (5, 6))
    stack = np.stack([image, image[::-1]])
    one_by_one = np.stack([pad_slice(each, shape, mode) for each in stack])
    np.testing.assert_array_equal(pad_slice(stack, shape, mode), one_by_one)


@pytest.mark.parametrize("shape", [(100, 512), (512, 100), (127, 127)])
def test_a_smaller_image_gives_no_patch_of_the_right_shape(shape: tuple[int, int]) -> None:
    patches, coords = extract_patches_2d(np.zeros(shape), PatchConfig())
    assert coords == []
    assert patches.shape == (0, 128, 128)
    assert patches.dtype == np.float32


@pytest.mark.parametrize(("shape", "count"), [((512, 512), 49), ((480, 512), 42), ((362, 362), 16)])
def test_the_notebooks_counts_and_pixels(shape: tuple[int, int], count: int) -> None:
    image = numbered(*shape)
    patches, coords = extract_patches_2d(image, PatchConfig())
    assert patches.shape == (count, 128, 128)
    assert coords[:3] == [(0, 0), (0, 64), (0, 128)]
    for patch, (row, col) in zip(patches, coords, strict=True):
        np.testing.assert_array_equal(patch, image[row : row + 128, col : col + 128])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", ">f4", ">f8", "<f8"])
def test_every_real_dtype_becomes_float32_with_its_values(dtype: str) -> None:
    image = (numbered(6, 6) % 2).astype(dtype)
    patches, _ = extract_patches_2d(image, PatchConfig(patch_size=4, stride=2))
    assert patches.dtype == np.dtype(np.float32)
    assert patches.dtype.isnative
    np.testing.assert_array_equal(patches[3], image[2:6, 2:6].astype("=f4"))


def test_memory_order_and_views_do_not_matter() -> None:
    image = numbered(9, 10)
    wanted, _ = extract_patches_2d(image, PatchConfig(patch_size=4, stride=3))
    backwards = image[::-1, ::-1].copy()[::-1, ::-1]
    for other in (np.asfortranarray(image), backwards, image.tolist()):
        patches, _ = extract_patches_2d(other, PatchConfig(patch_size=4, stride=3))
        np.testing.assert_array_equal(patches, wanted)
        assert patches.flags.c_contiguous


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((2, 3, 4)), r"2 dimensions \(row, col\), got shape \(2, 3, 4\)"),
        (np.zeros(3), r"2 dimensions \(row, col\), got shape \(3,\)"),
        (np.zeros((3, 3), complex), "real numbers, got dtype complex128"),
        (np.array([["a", "b"]]), "real numbers, got dtype <U1"),
        (np.array([[None]]), "real numbers, got dtype object"),
        (np.zeros((0, 4)), "at least 1 x 1 pixels, got 0 x 4"),
    ],
)
def test_what_is_no_slice_is_refused(image: NDArray[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        extract_patches_2d(image, PatchConfig(patch_size=2))


def test_extract_from_grid_keeps_the_dtype() -> None:
    labels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    cfg = PatchConfig(patch_size=(2, 4), stride=(3, 4), pad_mode="edge")
    patches = extract_from_grid(labels, make_grid(5, 6, cfg), "edge")
    assert patches.dtype == np.uint8
    np.testing.assert_array_equal(patches[1], [[4, 5, 5, 5], [10, 11, 11, 11]])
    np.testing.assert_array_equal(patches[2], [[18, 19, 20, 21], [24, 25, 26, 27]])


def test_cut_takes_windows_in_the_order_asked() -> None:
    image = numbered(4, 5)
    patches = cut(image, np.array([2, 0, 2]), np.array([3, 1, 3]), (2, 2))
    np.testing.assert_array_equal(patches, [[[14, 15], [19, 20]], [[2, 3], [7, 8]], [[14, 15], [19, 20]]])
    assert patches.flags.c_contiguous
    none = cut(image, np.array([], np.int32), np.array([], np.int32), (9, 9))
    assert none.shape == (0, 9, 9)
    assert none.dtype == np.float32


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(0, 25), st.integers(0, 25)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(["zero", "edge", "reflect"]),
)
def test_one_padded_window_is_that_of_the_padded_slice(
    shape: tuple[int, int], origin: tuple[int, int], size: tuple[int, int], mode: PadMode
) -> None:
    image = numbered(*shape)
    wanted = [[pixel(image, origin[0] + i, origin[1] + j, mode) for j in range(size[1])] for i in range(size[0])]
    found = window_of(image, *origin, size, mode)
    assert found is not None
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("mode", MODES)
def test_a_window_that_no_grid_has_is_none(mode: PadMode) -> None:
    image = numbered(6, 5)
    whole = window_of(image, 2, 1, (4, 3), mode)
    assert whole is not None
    assert np.shares_memory(whole, image)
    np.testing.assert_array_equal(whole, image[2:6, 1:4])
    over = [(3, 0), (0, 3), (6, 5), (6 + MAX_PIXELS_PER_AXIS - 1, 0)]
    pads = mode in {"zero", "edge", "reflect"}
    assert [window_of(image, *each, (4, 3), mode) is not None for each in over] == [pads] * len(over)
    for row, col in [(-1, 0), (0, -1), (-4, -3), (6 + MAX_PIXELS_PER_AXIS, 0), (0, 2**31 - 1)]:
        assert window_of(image, row, col, (4, 3), mode) is None


@pytest.mark.parametrize("mode", MODES)
def test_pasted_patches_are_the_slice_again(mode: PadMode) -> None:
    image = numbered(11, 10)
    image[4, 4] = np.nan
    image[5, 5] = -0.0
    grid = make_grid(11, 10, PatchConfig(patch_size=(4, 3), stride=(3, 2), pad_mode=mode))
    rows, cols = grid.origins()
    canvas = np.full((11, 10), -1, np.float32)
    paste(canvas, extract_from_grid(image, grid, mode), rows, cols)
    reached = np.zeros((11, 10), dtype=bool)
    for row, col in zip(rows, cols, strict=True):
        reached[row : row + 4, col : col + 3] = True
    assert canvas[reached].tobytes() == image[reached].tobytes()
    assert (canvas[~reached] == -1).all()


def test_a_patch_that_begins_before_the_canvas_is_refused() -> None:
    canvas = np.zeros((6, 6))
    with pytest.raises(ValueError, match="a patch begins at row -1 or col 0"):
        paste(canvas, np.ones((2, 2, 2)), np.array([0, -1]), np.array([3, 0]))
    paste(canvas, np.ones((1, 2, 2)), np.array([6]), np.array([9]))  # wholly beyond: nothing of it is there
    assert not canvas.any()
