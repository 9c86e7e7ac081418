"""The reductions in numpy, for every dtype and memory order."""

import math
import threading
from typing import Any, NamedTuple

import numpy as np

from ctpatch.core.statistics.cells import Axis, Bands, Floats, Image, Plan, Reductions

_CACHE_LINE = 64
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def reduce(images: Image, plan: Plan, air_level: float) -> Reductions:
    """Reduce each pixel of each slice once."""
    low, sums, ends = zip(*(_reduce_slice(image, plan, air_level) for image in images), strict=True)
    return Reductions(np.stack(low), np.stack(sums), np.array(ends, _FLOAT64))


def _reduce_slice(image: Image, plan: Plan, air_level: float) -> tuple[Image, Floats, tuple[float, float]]:
    """Reduce a slice, block by block."""
    dtype = _FLOAT32 if image.dtype == _FLOAT32 else _FLOAT64
    buffers = _kept.buffers
    if buffers is None or buffers.plan is not plan or buffers.dtype is not dtype:
        buffers = _kept.buffers = _Buffers(plan, dtype)
    low, sums = buffers.low, buffers.sums
    ends = []
    for start, stop, air, values, bands in buffers.blocks:
        original = image[start:stop]
        pixels = np.ascontiguousarray(original, dtype)
        if not bands:
            ends.append((pixels.min(), -pixels.max()))
            continue
        np.less_equal(original, air_level, air)
        np.copyto(values, pixels[:, plan.columns])
        for band in bands:
            folded = pixels[band.rows].reshape(band.shape)
            band.low.fill(np.minimum, folded)
            band.high.fill(np.maximum, folded)
            band.sums.fill(np.add, band.values)
            band.counts.fill(np.add, band.air)
        np.multiply(values, values, values)
        for band in bands:
            band.squares.fill(np.add, band.values)
    if plan.rows.starts:
        np.negative(buffers.high, low[1])
        sums[2] = buffers.counts[:, plan.columns]
        ends.append(np.minimum.reduce(low, (1, 2)))
        low = np.minimum.reduceat(low[:, :, plan.columns], plan.cuts, 2)
        low = _combine(np.minimum, _combine(np.minimum, low, plan.rows, 1), plan.cols, 2)
        sums = np.add.reduceat(sums, plan.cuts, 2)
        sums = _combine(np.add, _combine(np.add, sums, plan.rows, 1), plan.cols, 2)
    slice_min, negated_max = np.minimum.reduce(ends, 0).tolist() if ends else (math.nan, math.nan)
    return low, sums, (slice_min, -negated_max)


def _combine(operation: np.ufunc, cells: Image, axis: Axis, dim: int) -> Image:
    """Reduce the cells of each window along `dim`."""
    # What lies between the end of a window and the start of the next is reduced in vain; the last cell has no next.
    every = operation.reduceat(cells, axis.ends.reshape(-1)[:-1], dim)
    return every[(*(slice(None),) * dim, slice(None, None, 2))]


class _Target(NamedTuple):
    """Where the rows of some bands are reduced to, at once or in two steps.

    Attributes:
        rows: rows laid side by side, which makes inner loops long and few, shape (bands, fold * columns).
        unfolded: the same as (bands, fold, columns); None where one step does.
        result: shape (bands, columns).
    """

    rows: Image
    unfolded: Image | None
    result: Image

    def fill(self, operation: np.ufunc, pixels: Image) -> None:
        operation.reduce(pixels, 1, self.rows.dtype, self.rows)
        if self.unfolded is not None:
            operation.reduce(self.unfolded, 1, self.rows.dtype, self.result)


class _Band(NamedTuple):
    """Views of the buffers for some bands of a block.

    Attributes:
        rows: of the block.
        shape: in which their pixels are reduced, (bands, height / fold, fold * width).
        values: the pixels as float64, and then their squares, in that shape.
        air: whether each pixel is air, as uint8, likewise.
        low, high, sums, squares, counts: where the results go.
    """

    rows: slice
    shape: tuple[int, int, int]
    values: Floats
    air: Image
    low: _Target
    high: _Target
    sums: _Target
    squares: _Target
    counts: _Target


class _Buffers:
    """Memory for slices of one plan and dtype, laid out once.

    Attributes:
        low: for each row of cells and each column, the smallest pixel, and the negative of the largest; infinite where
            no window lies. Shape (2, rows of cells, W).
        high, counts: the largest pixel and the number of air pixels, shape (rows of cells, W).
        sums: sums of pixels, squares and air, shape (3, rows of cells, columns that windows cover).
        blocks: for each block of the plan its rows, memory for air and values, and its bands, none without windows.
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any]) -> None:
        self.plan, self.dtype = plan, dtype
        width, span = plan.shape[1], plan.columns.stop - plan.columns.start
        number = len(plan.rows.covered)
        self.low, self.high = _zeros((2, number, width), dtype), _zeros((number, width), dtype)
        self.low[0], self.high[:] = np.inf, -np.inf
        self.counts, self.sums = _zeros((number, width), np.uint8), _zeros((3, number, span))
        tallest = max((block[-1].stop - block[0].start for block in plan.blocks if block[0].number), default=0)
        air, values = _zeros((tallest, width), np.bool_), _zeros((tallest, span))
        most = max((bands.number * bands.fold for block in plan.blocks for bands in block), default=0)
        self._scratch = _zeros((most * max(width, span),))
        self.blocks = []
        for block in plan.blocks:
            start, stop = block[0].start, block[-1].stop
            mine = air[: stop - start], values[: stop - start]
            self.blocks.append((start, stop, *mine, [self._band(each, start, *mine) for each in block if each.number]))

    def _band(self, bands: Bands, start: int, air: Image, values: Floats) -> _Band:
        rows = slice(bands.start - start, bands.stop - start)
        cells = slice(bands.first_cell, bands.first_cell + bands.number)
        side_by_side = bands.number, bands.height // bands.fold
        wide = (*side_by_side, bands.fold * air.shape[1])
        results = (self.low[0, cells], self.high[cells], self.sums[0, cells], self.sums[1, cells], self.counts[cells])
        return _Band(
            rows,
            wide,
            values[rows].reshape(*side_by_side, bands.fold * values.shape[1]),
            air[rows].view(np.uint8).reshape(wide),
            *(self._target(result, bands.fold) for result in results),
        )

    def _target(self, result: Image, fold: int) -> _Target:
        if fold == 1:
            return _Target(result, None, result)
        bands, length = result.shape
        rows = self._scratch.view(result.dtype)[: bands * fold * length].reshape(bands, fold * length)
        return _Target(rows, rows.reshape(bands, fold, length), result)


class _Kept(threading.local):
    """The buffers that each thread used last."""

    buffers: _Buffers | None = None


_kept = _Kept()


def _zeros(shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
    """Like `np.zeros`, but aligned: vector stores that straddle cache lines cost a third of the speed."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)
