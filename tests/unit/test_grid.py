"""The grid against plain loops over every origin and a mask of every pixel."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.config import PatchConfig
from ctpatch.core.grid import Grid, axis_starts, covering_stride, make_grid, sliding_window_coords
from ctpatch.words import PadMode
from helpers import reference_starts

MODES: tuple[PadMode, ...] = get_args(PadMode)
PADDING: tuple[PadMode, ...] = ("zero", "edge", "reflect")
lengths = st.integers(1, 60)
sizes = st.integers(1, 40)
strides = st.integers(1, 45)
modes = st.sampled_from(MODES)


def config(size: tuple[int, int], stride: tuple[int, int], mode: PadMode) -> PatchConfig:
    return PatchConfig(patch_size=size, stride=stride, pad_mode=mode)


@settings(deadline=None)
@given(lengths, sizes, strides, modes)
def test_axis_starts_are_those_of_the_definition(length: int, size: int, stride: int, mode: PadMode) -> None:
    assert axis_starts(length, size, stride, mode) == reference_starts(length, size, stride, mode)


@settings(deadline=None)
@given(st.integers(1, 16384), st.integers(1, 400), st.integers(1, 400))
def test_even_takes_the_fewest_windows_whose_spacing_fits_the_stride(length: int, size: int, stride: int) -> None:
    starts = axis_starts(length, size, stride, "even")
    span = length - size
    if span < 0:
        assert starts == []
        return
    assert (starts[0], starts[-1]) == (0, span)
    gaps = np.diff(starts)
    assert (gaps >= 1).all()
    assert (gaps <= stride).all()
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
    # one window less could not reach from 0 to the border in steps of at most a stride
    assert len(starts) == 1 or (len(starts) - 2) * stride < span


@settings(deadline=None)
@given(lengths, lengths, sizes, sizes, strides, strides, modes)
def test_windows_are_the_double_loop_row_major(
    height: int, width: int, h: int, w: int, row_stride: int, col_stride: int, mode: PadMode
) -> None:
    cfg = config((h, w), (row_stride, col_stride), mode)
    wanted = []
    for row in reference_starts(height, h, row_stride, mode):
        for col in reference_starts(width, w, col_stride, mode):
            wanted.append((row, col))  # noqa: PERF401 - the plain double loop is the reference
    grid = make_grid(height, width, cfg)
    assert sliding_window_coords(height, width, cfg) == wanted
    assert list(grid) == wanted
    assert len(grid) == len(wanted)
    rows, cols = grid.origins()
    assert rows.dtype == cols.dtype == np.int32
    assert list(zip(rows.tolist(), cols.tolist(), strict=True)) == wanted
    assert wanted == sorted(set(wanted))


@settings(deadline=None)
@given(lengths, lengths, sizes, sizes, strides, strides, modes)
def test_every_window_lies_inside_and_coverage_is_that_of_a_mask(
    height: int, width: int, h: int, w: int, row_stride: int, col_stride: int, mode: PadMode
) -> None:
    grid = make_grid(height, width, config((h, w), (row_stride, col_stride), mode))
    assert grid.shape == (height, width)
    padded_height, padded_width = grid.padded_shape
    mask = np.zeros(grid.padded_shape, bool)
    for row, col in grid:
        assert 0 <= row <= padded_height - h
        assert 0 <= col <= padded_width - w
        mask[row : row + h, col : col + w] = True
    covered = int(mask[:height, :width].sum())
    assert grid.covered_pixels() == covered
    assert grid.coverage == covered / (height * width)
    if mode in PADDING:
        for length, size, stride, padded, starts in zip(
            grid.shape, (h, w), (row_stride, col_stride), grid.padded_shape, (grid.row_starts, grid.col_starts),
            strict=True,
        ):  # fmt: skip
            assert padded == max(length, starts[-1] + size)
            assert starts == tuple(range(0, len(starts) * stride, stride))
        if row_stride <= h and col_stride <= w:
            assert covered == height * width
    else:
        assert grid.padded_shape == grid.shape
    assert grid.pads is (grid.padded_shape != grid.shape)


@pytest.mark.parametrize(
    ("height", "width", "count", "last"),
    [(512, 512, 49, (384, 384)), (480, 512, 42, (320, 384)), (362, 362, 16, (192, 192)), (128, 128, 1, (0, 0))],
)
def test_the_numbers_of_the_notebook(height: int, width: int, count: int, last: tuple[int, int]) -> None:
    coords = sliding_window_coords(height, width, PatchConfig())
    assert len(coords) == count
    assert coords[:3] == [(0, 0), (0, 64), (0, 128)][: min(count, 3)]
    assert coords[-1] == last
    assert all(type(number) is int for pair in coords for number in pair)


@pytest.mark.parametrize("mode", ["none", "shift", "even"])
@pytest.mark.parametrize("shape", [(127, 512), (512, 127), (1, 1)])
def test_a_slice_smaller_than_a_patch_has_no_window(shape: tuple[int, int], mode: PadMode) -> None:
    grid = make_grid(*shape, PatchConfig(pad_mode=mode))
    assert sliding_window_coords(*shape, PatchConfig(pad_mode=mode)) == []
    assert (len(grid), grid.covered_pixels(), grid.coverage, grid.pads) == (0, 0, 0.0, False)
    assert (grid.row_starts, grid.col_starts) == ((), ())


@pytest.mark.parametrize("mode", PADDING)
def test_a_smaller_slice_has_one_window_where_it_is_padded(mode: PadMode) -> None:
    grid = make_grid(100, 130, PatchConfig(pad_mode=mode))
    assert list(grid) == [(0, 0), (0, 64)]
    assert (grid.padded_shape, grid.coverage, grid.pads) == ((128, 192), 1.0, True)


def test_exact_coverage_of_the_lodopab_slice() -> None:
    assert make_grid(362, 362, PatchConfig()).covered_pixels() == 320 * 320
    assert make_grid(362, 362, PatchConfig(pad_mode="shift")).coverage == 1.0
    assert make_grid(362, 362, PatchConfig(patch_size=10, stride=20)).covered_pixels() == 180 * 180
    assert Grid((5, 5), (2, 2), (0, 1), (0, 3), (5, 5)).covered_pixels() == 3 * 4


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (-1, 5)])
def test_a_slice_without_pixels_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"at least 1 x 1 pixels, got {shape[0]} x {shape[1]}"):
        make_grid(*shape, PatchConfig())


@pytest.mark.parametrize(
    ("length", "size", "stride", "wanted"),
    [
        (362, 128, 64, 78),  # as many windows, nothing lost
        (512, 128, 64, 64),  # nothing was lost
        (128, 128, 64, 64),  # one window is all
        (127, 128, 64, None),  # not even one fits
        (130, 128, 64, 2),  # one window was not enough, two are
        (300, 10, 100, 10),  # gaps between windows: no more than a window apart
        (129, 64, 64, 13),  # two windows would leave a gap; 65 = 5 * 13
        (131, 64, 32, 1),  # 67 is prime and larger than a window
        (256, 128, 100, 128),  # as large as a window: the two windows touch
        (384, 128, 200, 128),  # 256 would leave a gap between two windows
    ],
)
def test_covering_stride_examples(length: int, size: int, stride: int, wanted: int | None) -> None:
    assert covering_stride(length, size, stride) == wanted


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 150), st.integers(1, 200))
def test_covering_stride_covers_all_with_as_many_windows_where_that_can_be(length: int, size: int, stride: int) -> None:
    found = covering_stride(length, size, stride)
    if length < size:
        assert found is None
        return
    assert found is not None

    def covers(each: int) -> bool:
        mask = np.zeros(length, bool)
        for start in range(0, length - size + 1, each):
            mask[start : start + size] = True
        return bool(mask.all())

    def windows(each: int) -> int:
        return len(range(0, length - size + 1, each))

    assert covers(found)
    # beyond the span a stride changes nothing: one window
    as_many = [each for each in range(1, length + 1) if windows(each) == windows(stride) and covers(each)]
    if as_many:
        assert windows(found) == windows(stride)
    else:
        assert found == max(each for each in range(1, stride + 1) if covers(each))


def test_origins_are_shared_and_therefore_cannot_be_written() -> None:
    rows, cols = make_grid(20, 20, config((8, 8), (4, 4), "none")).origins()
    for array in (rows, cols):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 9
