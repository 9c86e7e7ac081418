"""Statistics of all windows of a slice: one pass over the pixels, however much the windows overlap.

Rows are cut where a window starts or ends, and so are columns; each pixel is reduced once, into the cell that it
lies in, and windows are put together from cells.

Results are the same to the bit on every machine: there are only element-wise ufuncs, ``ufunc.reduce`` and
``ufunc.reduceat`` here, whose order follows from shapes alone. ``dot``, ``@`` and ``einsum`` add in an order that
depends on the CPU, and may fuse multiplication with addition. The order of each sum is:

1. In a cell, rows ``r, r + fold, r + 2 * fold, …`` of each column are added one by one, for each ``r < fold``;
   then these ``fold`` sums.
2. The columns of a cell, 129 at most, are added as ``reduceat`` does: the first, plus numpy's pairwise sum of the rest.
3. Cells are added to windows along rows, then along columns, in the same way.

``statistics_numba`` follows the same order in machine code, and takes over where it is worth its start.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Windows whose variance is a smaller share of the mean square than this are computed again in two passes.
_CANCELLATION = 1e-5
# Float64 squares lose digits to underflow below this; the variance of distinct float32 values never is.
_UNDERFLOW = 1e-200
# Bands this high are counted in uint8 without overflow.
_MAX_COUNTED_ROWS = 255
# Numpy's pairwise sum adds up to 128 values in eight lanes, and more than that in halves.
_MAX_ADDED = 129
# Measured on 362 x 362 and 512 x 512: larger blocks save calls, until 1 MiB of float64 no longer stays in the cache;
# four rows laid side by side save inner loops, as long as they stay in L1.
_BLOCK_PIXELS = 1 << 17
_MAX_FOLD = 4
_FOLD_PIXELS = 1 << 12
_CACHE_LINE = 64
# Machine code saves 0.1 ms a call, and takes about half a second to load: this many calls make up for it.
_CALLS_IN_NUMPY = 4096
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

Floats = NDArray[np.float64]
Image = NDArray[Any]


@dataclass(frozen=True, slots=True)
class WindowStatistics:
    """Statistics of windows, in the order of the grid (row-major).

    All arrays are float64 of shape ``(windows,)``; the first four are in the unit of the slice.

    Attributes:
        min: Smallest pixel, exact.
        max: Largest pixel, exact.
        mean: Mean.
        std: Population standard deviation (ddof 0); exactly 0 where all pixels are equal.
        air_fraction: Share of pixels at or below the air level: exact count / pixels.
    """

    min: Floats
    max: Floats
    mean: Floats
    std: Floats
    air_fraction: Floats


@dataclass(frozen=True, slots=True)
class SliceStatistics:
    """Statistics of a slice's windows, and of the slice itself.

    Attributes:
        windows: One entry for each window.
        slice_min: Smallest pixel of the whole slice, also where no window lies; NaN if any pixel is NaN.
        slice_max: Largest pixel, likewise; so both are finite if and only if all pixels are.
    """

    windows: WindowStatistics
    slice_min: float
    slice_max: float


def window_statistics(
    image: Image,
    row_starts: Sequence[int] | NDArray[np.integer],
    col_starts: Sequence[int] | NDArray[np.integer],
    patch_size: tuple[int, int],
    air_level: float,
) -> SliceStatistics:
    """Compute the statistics of the windows at ``row_starts`` x ``col_starts``.

    Sums of pixels and of squares are kept in float64. Squares of float32 values are exact there, so the only
    errors are those of adding. With at most ``d = h + w`` additions on the way of a pixel and ``u = 2**-53``:

    - ``mean`` is off by at most ``(d + 2) * u * mean(abs(x))``.
    - the variance ``E[x^2] - mean^2`` is off by at most ``3 * (d + 3) * u * E[x^2]``. It is used where it exceeds
      ``1e-5 * E[x^2]``, so std is off by at most ``1.7e-11 * (d + 3)`` relative: 5e-9 for 128 x 128, 6e-7 for
      16384 x 16384. Elsewhere the window is computed again in two passes.

    Args:
        image: Slice of shape (H, W), any bool, integer or float dtype; quick for C-contiguous float32.
        row_starts: First row of each row of windows, increasing, at any distance. May be empty.
        col_starts: First column of each column of windows, likewise.
        patch_size: Height and width of a window, in pixels; all windows lie inside the image.
        air_level: Pixels at or below it are air; compared as ``image <= air_level`` does.

    Returns:
        Statistics of ``len(row_starts) * len(col_starts)`` windows, and of the slice. If the slice has NaN or
        infinite pixels, its own minimum and maximum tell, and the statistics of all windows are NaN.
    """
    plan = _plan(image.shape, tuple(row_starts), tuple(col_starts), tuple(patch_size))
    with np.errstate(all="ignore"):
        compiled = _compiled.reduction(image, plan)
        if compiled:
            low, sums, slice_min, slice_max = _reduce_compiled(compiled, image, plan, float(air_level))
        else:
            low, sums, slice_min, slice_max = _reduce(image, plan, float(air_level))
        # Which zero wins in min(0, -0) depends on the CPU; adding 0 leaves only the positive one.
        slice_min, slice_max = slice_min + 0.0, slice_max + 0.0
        if not (math.isfinite(slice_min) and math.isfinite(slice_max)):
            if math.isnan(slice_min):
                slice_min = slice_max = math.nan  # whatever bits the pixel had
            return SliceStatistics(WindowStatistics(*np.full((5, low[0].size), math.nan)), slice_min, slice_max)
        window_min, negated_max = np.add(low, 0.0, dtype=_FLOAT64).reshape(2, -1)
        window_max = 0.0 - negated_max
        height, width = plan.patch_size
        mean, mean_square, air_fraction = (sums / (height * width)).reshape(3, -1)
        variance = mean_square - mean * mean
        # Written so that NaN, which overflow of float64 input leaves, counts as doubtful.
        doubtful = ~(variance > mean_square * _CANCELLATION + _UNDERFLOW)
        std = np.sqrt(variance)
        if doubtful.any():
            constant = window_min == window_max
            mean[constant], std[constant] = window_min[constant], 0.0
            for k in np.flatnonzero(doubtful & ~constant):
                row = plan.rows.starts[k // len(plan.cols.starts)]
                col = plan.cols.starts[k % len(plan.cols.starts)]
                mean[k], std[k] = _two_pass(image[row : row + height, col : col + width], window_min[k], window_max[k])
    return SliceStatistics(WindowStatistics(window_min, window_max, mean, std, air_fraction), slice_min, slice_max)


def patch_statistics(patches: Image, air_level: float) -> WindowStatistics:
    """Compute the statistics of patches one by one, in two passes: what ``window_statistics`` is held against.

    Args:
        patches: Array of shape (N, h, w), any bool, integer or float dtype.
        air_level: Pixels at or below it are air.

    Returns:
        Statistics of the N patches.
    """
    result = WindowStatistics(*(np.zeros(len(patches)) for _ in fields(WindowStatistics)))
    with np.errstate(all="ignore"):
        for k, patch in enumerate(patches):
            result.min[k] = patch.min() + 0.0
            result.max[k] = patch.max() + 0.0
            result.mean[k], result.std[k] = _two_pass(patch, result.min[k], result.max[k])
            result.air_fraction[k] = np.count_nonzero(patch <= float(air_level)) / patch.size
    return result


def _two_pass(pixels: Image, low: float, high: float) -> tuple[float, float]:
    """Return mean and std of ``pixels``, whose extremes are ``low`` and ``high``, right where they nearly agree."""
    if low == high:
        return low, 0.0
    values = pixels.astype(np.float64).reshape(-1)
    # Rounding can push the mean out of the range; inside it, differences of near-equal values are exact.
    centre = min(max(float(np.add.reduce(values)) / values.size, low), high)
    scale = max(high - centre, centre - low)
    # In units of the largest deviation no square can underflow to nothing or overflow.
    values -= centre
    values /= scale
    rest = float(np.add.reduce(values)) / values.size
    np.multiply(values, values, out=values)
    variance = float(np.add.reduce(values)) / values.size - rest * rest
    return centre + rest * scale, scale * math.sqrt(variance) if variance >= 0 else math.nan


class _Axis(NamedTuple):
    """How windows are put together from cells, along rows or along columns."""

    starts: tuple[int, ...]  # of windows
    edges: tuple[int, ...]  # of cells, one more than there are cells
    covered: tuple[bool, ...]  # for each cell: does any window lie over it
    ends: NDArray[np.int64]  # (windows, 2): first cell of each window, and the cell after its last


class _Bands(NamedTuple):
    """Consecutive rows of cells, all of the same height, that are reduced together."""

    start: int
    stop: int
    number: int
    first_cell: int
    fold: int  # rows that are laid side by side


class _Block(NamedTuple):
    """Consecutive rows that fit the cache: bands, or rows that no window covers."""

    start: int
    stop: int
    bands: tuple[_Bands, ...]


class _Plan(NamedTuple):
    """Everything that follows from the shape of a slice and its grid."""

    shape: tuple[int, int]
    patch_size: tuple[int, int]
    rows: _Axis
    cols: _Axis
    columns: slice  # from the first window to the last
    cuts: NDArray[np.int64]  # first column of each cell, counted from there
    blocks: tuple[_Block, ...]
    compiled: tuple[NDArray[np.int64], ...]  # the same, as ``statistics_numba.reduce_windows`` takes it
    serves_compiled: bool  # whether that adds in the same order


@lru_cache(maxsize=16)
def _plan(
    shape: tuple[int, int], row_starts: tuple[int, ...], col_starts: tuple[int, ...], patch_size: tuple[int, int]
) -> _Plan:
    if not (row_starts and col_starts):
        row_starts = col_starts = ()
    most_rows = max(1, _BLOCK_PIXELS // max(1, shape[1]))
    rows = _axis(row_starts, patch_size[0], min(_MAX_COUNTED_ROWS, most_rows))
    cols = _axis(col_starts, patch_size[1], _MAX_ADDED)
    max_fold = _MAX_FOLD if _MAX_FOLD * shape[1] <= _FOLD_PIXELS else 1
    blocks: list[_Block] = []
    bands: list[_Bands] = []

    def close_block() -> None:
        if bands:
            blocks.append(_Block(bands[0].start, bands[-1].stop, tuple(bands)))
            bands.clear()

    def skip(start: int, stop: int) -> None:
        close_block()
        blocks.extend(_Block(row, min(row + most_rows, stop), ()) for row in range(start, stop, most_rows))

    skip(0, rows.edges[0])
    for cell, (start, stop) in enumerate(pairwise(rows.edges)):
        if not rows.covered[cell]:
            skip(start, stop)
            continue
        if bands and stop - bands[0].start > most_rows:
            close_block()
        fold = math.gcd(stop - start, max_fold)
        if bands and (bands[-1].stop - bands[-1].start) == bands[-1].number * (stop - start):
            last = bands.pop()
            bands.append(_Bands(last.start, stop, last.number + 1, last.first_cell, fold))
        else:
            bands.append(_Bands(start, stop, 1, cell, fold))
    skip(rows.edges[-1], shape[0])
    columns, cuts = slice(cols.edges[0], cols.edges[-1]), np.array(cols.edges[:-1], dtype=np.int64) - cols.edges[0]
    table = []
    for block in blocks:
        if not block.bands:
            table.append((block.start, block.stop, 1, -1))
        for group in block.bands:
            height = (group.stop - group.start) // group.number
            tops = range(group.start, group.stop, height)
            table += [(top, top + height, group.fold, group.first_cell + k) for k, top in enumerate(tops)]
    as_table = np.array(table, dtype=np.int64).reshape(-1, 4)
    compiled = as_table, np.array(cols.edges, dtype=np.int64), rows.ends, cols.ends
    # In a single column, and more than 129 cells of a window, numpy's order is another one.
    most_cells = max(int(np.diff(axis.ends).max(initial=0)) for axis in (rows, cols))
    serves_compiled = columns.stop - columns.start > 1 and most_cells <= _MAX_ADDED
    return _Plan(shape, patch_size, rows, cols, columns, cuts, tuple(blocks), compiled, serves_compiled)


def _axis(starts: tuple[int, ...], size: int, longest: int) -> _Axis:
    """Cut an axis at all starts and ends of windows, and cells longer than ``longest`` into equal parts."""
    if not starts:
        return _Axis((), (0,), (), np.zeros((0, 2), dtype=np.int64))
    begins = np.array(starts)
    cuts = np.unique(np.concatenate([begins, begins + size])).tolist()
    edges = [cuts[0]]
    for low, high in pairwise(cuts):
        parts = -(-(high - low) // longest)
        edges.extend(low + (high - low) * part // parts for part in range(1, parts + 1))
    ends = np.searchsorted(edges, np.stack([begins, begins + size], axis=1))
    depth = np.zeros(len(edges), dtype=np.int64)
    np.add.at(depth, ends[:, 0], 1)
    np.add.at(depth, ends[:, 1], -1)
    return _Axis(starts, tuple(edges), tuple((np.cumsum(depth[:-1]) > 0).tolist()), ends)


def _combine(operation: np.ufunc, cells: Image, axis: _Axis, dim: int) -> Image:
    """Reduce the cells of each window along ``dim``."""
    # What lies between the end of a window and the start of the next is reduced in vain; the last cell has no next.
    every = operation.reduceat(cells, axis.ends.reshape(-1)[:-1], dim)
    return every[(*(slice(None),) * dim, slice(None, None, 2))]


class _Reductions(NamedTuple):
    """What the statistics are made of."""

    low: Image  # (2, rows, columns) of windows: smallest, negative of largest
    sums: Floats  # (3, rows, columns) of windows: of pixels, of squares, of air
    slice_min: float  # both NaN if any pixel is
    slice_max: float


class _Compiled:
    """Machine code, loaded when enough calls have been made that it pays, or when it is asked for."""

    def __init__(self) -> None:
        self.wanted: bool | None = None
        self._calls = 0
        self._tried = False
        self._code: Callable[..., tuple[float, float, bool]] | None = None
        self._lock = threading.Lock()

    def reduction(self, image: Image, plan: _Plan) -> Callable[..., tuple[float, float, bool]] | None:
        """Return the code if it can be used for ``image``; no lock is taken on the way."""
        if self.wanted is False or not (
            image.dtype == _FLOAT32 and image.flags.c_contiguous and image.flags.aligned and plan.serves_compiled
        ):
            return None
        if not self._tried:
            # Threads may lose a count to each other; it only has to grow.
            self._calls += 1
            if self._calls > _CALLS_IN_NUMPY:
                self.load(wait=False)
        return self._code

    def load(self, *, wait: bool) -> bool:
        """Load the code, once; return whether it is there. Without ``wait``, leave it to a thread that is at it."""
        if not self._tried and self._lock.acquire(blocking=wait):
            try:
                if not self._tried:
                    from ctpatch.core.statistics import numba_engine as statistics_numba  # noqa: PLC0415  (importing numba takes its time)

                    self._code = statistics_numba.load()
            except Exception:  # noqa: BLE001  (not installed, or broken in one of many ways: numpy does as well)
                self._code = None
            finally:
                self._tried = True
                self._lock.release()
        return self._code is not None


_compiled = _Compiled()


def use_compiled(wanted: bool | None) -> bool:
    """Choose between numpy and machine code for the whole process. Results are the same to the bit.

    Args:
        wanted: True to use machine code from now on, False never to use it, None to begin when it pays, after
            thousands of calls: the default. It needs numba (``ctpatch[fast]``), and serves C-contiguous float32.

    Returns:
        Whether machine code is used from now on: False if it is wanted but cannot be had.
    """
    _compiled.wanted = wanted
    return bool(wanted) and _compiled.load(wait=True)


def _reduce_compiled(
    code: Callable[..., tuple[float, float, bool]], image: Image, plan: _Plan, air_level: float
) -> _Reductions:
    """Reduce each pixel once, in machine code."""
    reduced = np.empty((5, len(plan.rows.starts), len(plan.cols.starts)))
    slice_min, slice_max, finite = code(np.asarray(image), np.float32(air_level), *plan.compiled, reduced)
    if not finite:
        slice_min, slice_max = float(image.min()), float(image.max())
    return _Reductions(reduced[:2], reduced[2:], slice_min, slice_max)


class _Target(NamedTuple):
    """Where rows are reduced to: directly, or first to ``fold`` sums (or extremes) for each column."""

    rows: Image  # (bands, fold * W): of rows that are laid side by side, which makes inner loops long and few
    unfolded: Image  # (bands, fold, W): the same, without columns that no window covers where they do not matter
    result: Image  # (bands, W)
    folded: bool

    def reduce(self, operation: np.ufunc, pixels: Image) -> None:
        operation.reduce(pixels, 1, self.rows.dtype, self.rows)
        if self.folded:
            operation.reduce(self.unfolded, 1, self.rows.dtype, self.result)


class _BandViews(NamedTuple):
    """Views of the buffers for some bands."""

    rows: slice  # in the block
    shape: tuple[int, int, int]  # in which their pixels are reduced: (bands, height / fold, fold * W)
    values: Floats  # the pixels as float64, and then their squares, in this shape
    air: Image  # the same, uint8
    low: _Target
    high: _Target
    sums: _Target
    squares: _Target
    counts: _Target


class _BlockViews(NamedTuple):
    """Views of the buffers for a block."""

    air: Image  # (rows, W), bool
    values: Floats  # (rows, columns)
    bands: tuple[_BandViews, ...]


class _Buffers(NamedTuple):
    """Buffers for slices of one shape, dtype and grid."""

    low: Image  # (2, rows of cells, W): smallest and negative of largest; infinite where no window lies
    high: Image  # (rows of cells, W)
    counts: Image  # (rows of cells, W)
    sums: Floats  # (3, rows of cells, columns): of pixels, of squares, of air
    blocks: tuple[_BlockViews, ...]  # empty views for those that no window covers


class _Workspace(threading.local):
    """The buffers of each thread, for the slice shape, dtype and grid that it used last."""

    plan: _Plan | None = None
    dtype: np.dtype[Any] | None = None
    buffers: _Buffers | None = None


_workspace = _Workspace()


def _zeros(shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
    """Like ``np.zeros``, but aligned: vector stores that straddle cache lines cost a third of the speed."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + _CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def _buffers(plan: _Plan, dtype: np.dtype[Any]) -> _Buffers:
    """Return this thread's buffers."""
    if _workspace.buffers is not None and _workspace.plan is plan and _workspace.dtype is dtype:
        return _workspace.buffers
    width, columns = plan.shape[1], plan.columns
    span = columns.stop - columns.start
    number = len(plan.rows.covered)
    low, high = _zeros((2, number, width), dtype), _zeros((number, width), dtype)
    low[0], high[:] = np.inf, -np.inf
    counts, sums = _zeros((number, width), np.uint8), _zeros((3, number, span))
    tallest = max((block.stop - block.start for block in plan.blocks if block.bands), default=0)
    air, values = _zeros((tallest, width), np.bool_), _zeros((tallest, span))
    most = max((bands.number * bands.fold for block in plan.blocks for bands in block.bands), default=0)
    scratch = _zeros((most * max(width, span),))

    def target(result: Image, fold: int) -> _Target:
        if fold == 1:
            return _Target(result, result, result, folded=False)
        bands, length = result.shape
        rows = scratch.view(result.dtype)[: bands * fold * length].reshape(bands, fold * length)
        return _Target(rows, rows.reshape(bands, fold, length), result, folded=True)

    def views(block: _Block, bands: _Bands) -> _BandViews:
        rows = slice(bands.start - block.start, bands.stop - block.start)
        cells = slice(bands.first_cell, bands.first_cell + bands.number)
        side_by_side = bands.number, (bands.stop - bands.start) // bands.number // bands.fold
        return _BandViews(
            rows,
            (*side_by_side, bands.fold * width),
            values[rows].reshape(*side_by_side, bands.fold * span),
            air[rows].view(np.uint8).reshape(*side_by_side, bands.fold * width),
            target(low[0, cells], bands.fold),
            target(high[cells], bands.fold),
            target(sums[0, cells], bands.fold),
            target(sums[1, cells], bands.fold),
            target(counts[cells], bands.fold),
        )

    blocks = tuple(
        _BlockViews(
            air[: block.stop - block.start],
            values[: block.stop - block.start],
            tuple(views(block, bands) for bands in block.bands),
        )
        for block in plan.blocks
    )
    _workspace.plan, _workspace.dtype = plan, dtype
    _workspace.buffers = _Buffers(low, high, counts, sums, blocks)
    return _workspace.buffers


def _reduce(image: Image, plan: _Plan, air_level: float) -> _Reductions:
    """Reduce each pixel once, in numpy."""
    dtype = _FLOAT32 if image.dtype == _FLOAT32 else _FLOAT64
    low, high, counts, sums, blocks = _buffers(plan, dtype)
    ends = []
    for (start, stop, bands), views in zip(plan.blocks, blocks, strict=True):
        original = image[start:stop]
        pixels = np.ascontiguousarray(original, dtype)
        if not bands:
            ends.append((pixels.min(), -pixels.max()))
            continue
        np.less_equal(original, air_level, views.air)
        np.copyto(views.values, pixels[:, plan.columns])
        for view in views.bands:
            folded = pixels[view.rows].reshape(view.shape)
            view.low.reduce(np.minimum, folded)
            view.high.reduce(np.maximum, folded)
            view.sums.reduce(np.add, view.values)
            view.counts.reduce(np.add, view.air)
        np.multiply(views.values, views.values, views.values)
        for view in views.bands:
            view.squares.reduce(np.add, view.values)
    if plan.rows.starts:
        np.negative(high, low[1])
        sums[2] = counts[:, plan.columns]
        ends.append(np.minimum.reduce(low, (1, 2)))
        low = np.minimum.reduceat(low[:, :, plan.columns], plan.cuts, 2)
        low = _combine(np.minimum, _combine(np.minimum, low, plan.rows, 1), plan.cols, 2)
        sums = np.add.reduceat(sums, plan.cuts, 2)
        sums = _combine(np.add, _combine(np.add, sums, plan.rows, 1), plan.cols, 2)
    slice_min, negated_max = np.minimum.reduce(ends, 0).tolist() if ends else (math.nan, math.nan)
    return _Reductions(low, sums, slice_min, -negated_max)
