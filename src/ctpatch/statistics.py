"""Statistics of all windows of a slice: one pass over the pixels, however much the windows overlap.

Rows are cut where a window starts or ends, and so are columns; each pixel is reduced once, into the cell that it
lies in, and windows are put together from cells.

Results are the same to the bit on every machine: there are only element-wise ufuncs and ``ufunc.reduce`` here,
whose order follows from shapes alone. ``dot``, ``@`` and ``einsum`` add in an order that depends on the CPU, and
may fuse multiplication with addition.
"""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Windows whose variance is a smaller share of the mean square than this are computed again in two passes.
_CANCELLATION = 1e-5
# Float64 squares lose digits to underflow below this; the variance of distinct float32 values never is.
_UNDERFLOW = 1e-200
# Bands this high are counted in uint8 without overflow.
_MAX_COUNTED_ROWS = 255
# Measured on 362 x 362 and 512 x 512: larger blocks save calls, until 1 MiB of float64 no longer stays in the cache;
# four rows laid side by side save inner loops, as long as they stay in L1.
_BLOCK_PIXELS = 1 << 17
_MAX_FOLD = 4
_FOLD_PIXELS = 1 << 12
_CACHE_LINE = 64
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
        infinite pixels, its own minimum and maximum tell, and those of the windows mean nothing.
    """
    plan = _plan(image.shape, tuple(row_starts), tuple(col_starts), tuple(patch_size))
    with np.errstate(all="ignore"):
        low, sums, slice_min, slice_max = _reduce_cells(image, plan, float(air_level))
        low = _combine(np.minimum, _combine(np.minimum, low, plan.rows, 1), plan.cols, 2)
        sums = _combine(np.add, _combine(np.add, sums, plan.rows, 1), plan.cols, 2)
        # Which zero wins in min(0, -0) depends on the CPU; adding 0 leaves only the positive one.
        window_min, negated_max = (low + 0.0).reshape(2, -1)
        window_max = 0.0 - negated_max
        height, width = plan.patch_size
        mean, mean_square, air_fraction = (sums / (height * width)).reshape(3, -1)
        variance = mean_square - mean * mean
        # Written so that NaN, which overflow of float64 input leaves, counts as doubtful.
        doubtful = ~(variance > mean_square * _CANCELLATION + _UNDERFLOW)
        std = np.sqrt(variance)
        if doubtful.any() and math.isfinite(slice_min) and math.isfinite(slice_max):
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
    pieces: tuple[tuple[int, Any, Any], ...]  # (run of 2**k cells, the windows that contain it, its first cells)


class _Block(NamedTuple):
    """Consecutive rows that are reduced together: ``bands`` cells of equal height, or rows that no window covers."""

    start: int
    stop: int
    bands: int
    first_cell: int
    covered: bool


class _Plan(NamedTuple):
    """Everything that follows from the shape of a slice and its grid."""

    shape: tuple[int, int]
    patch_size: tuple[int, int]
    rows: _Axis
    cols: _Axis
    columns: slice  # from the first window to the last
    cuts: NDArray[np.int64]  # first column of each cell, counted from there
    blocks: tuple[_Block, ...]


@lru_cache(maxsize=16)
def _plan(
    shape: tuple[int, int], row_starts: tuple[int, ...], col_starts: tuple[int, ...], patch_size: tuple[int, int]
) -> _Plan:
    if not (row_starts and col_starts):
        row_starts = col_starts = ()
    most_rows = max(1, _BLOCK_PIXELS // max(1, shape[1]))
    rows = _axis(row_starts, patch_size[0], min(_MAX_COUNTED_ROWS, most_rows))
    cols = _axis(col_starts, patch_size[1], shape[1])
    blocks: list[_Block] = []

    def skip(start: int, stop: int) -> None:
        steps = range(start, stop, most_rows)
        blocks.extend(_Block(row, min(row + most_rows, stop), 1, 0, covered=False) for row in steps)

    skip(0, rows.edges[0])
    heights = np.diff(rows.edges).tolist()
    cell = 0
    while cell < len(heights):
        start, height = rows.edges[cell], heights[cell]
        if rows.covered[cell]:
            bands = 1
            alike = zip(heights[cell + 1 :], rows.covered[cell + 1 :], strict=True)
            while (bands + 1) * height <= most_rows and next(alike, None) == (height, True):
                bands += 1
            blocks.append(_Block(start, start + bands * height, bands, cell, covered=True))
            cell += bands
        else:
            skip(start, start + height)
            cell += 1
    skip(rows.edges[-1], shape[0])
    columns, cuts = slice(cols.edges[0], cols.edges[-1]), np.array(cols.edges[:-1], dtype=np.int64) - cols.edges[0]
    return _Plan(shape, patch_size, rows, cols, columns, cuts, tuple(blocks))


def _axis(starts: tuple[int, ...], size: int, longest: int) -> _Axis:
    """Cut an axis at all starts and ends of windows, and cells longer than ``longest`` into equal parts."""
    if not starts:
        return _Axis((), (0,), (), ())
    begins = np.array(starts)
    cuts = np.unique(np.concatenate([begins, begins + size])).tolist()
    edges = [cuts[0]]
    for low, high in pairwise(cuts):
        parts = -(-(high - low) // longest)
        edges.extend(low + (high - low) * part // parts for part in range(1, parts + 1))
    first = np.searchsorted(edges, begins)
    span = np.searchsorted(edges, begins + size) - first
    depth = np.zeros(len(edges), dtype=np.int64)
    np.add.at(depth, first, 1)
    np.add.at(depth, first + span, -1)
    pieces: list[tuple[int, Any, Any]] = []
    for power in range(int(span.max()).bit_length()):
        chosen = np.flatnonzero(span >> power & 1)
        at = first[chosen] + (span[chosen] & (1 << power) - 1)
        steps = np.unique(np.diff(at))
        if not len(chosen):
            pieces.append((power, None, None))
        elif len(chosen) == len(starts) and len(steps) <= 1:
            # A slice is a view, where an index array would copy.
            step = int(steps[0]) if len(steps) else 1
            pieces.append((power, None, slice(int(at[0]), int(at[-1]) + 1, step)))
        else:
            pieces.append((power, chosen, at))
    return _Axis(starts, tuple(edges), tuple((np.cumsum(depth[:-1]) > 0).tolist()), tuple(pieces))


def _combine(operation: np.ufunc, cells: Image, axis: _Axis, dim: int) -> Image:
    """Reduce the cells of each window along ``dim``, from runs of 1, 2, 4, … cells: log(cells in a window) steps."""
    before = (slice(None),) * dim
    runs, result = cells, None
    for power, windows, at in axis.pieces:
        if power:
            half = 1 << power - 1
            runs = operation(runs[(*before, slice(None, -half))], runs[(*before, slice(half, None))])
        if at is None:
            continue
        piece = runs[(*before, at)]
        if windows is None:
            result = piece if result is None else operation(result, piece)
            continue
        shape = list(cells.shape)
        shape[dim] = len(axis.starts)
        part = np.full(shape, 0.0 if operation is np.add else np.inf, cells.dtype)
        part[(*before, windows)] = piece
        result = part if result is None else operation(result, part)
    return cells if result is None else result


class _Views(NamedTuple):
    """Where the reductions of a block go: views of shared buffers, for one number of bands and one height.

    Folding, which is laying rows side by side, makes the inner loops of a reduction long and few.
    """

    folded: tuple[int, int, int]  # shape of the block's pixels: (bands, height / fold, fold * W)
    ends: Image  # (bands, fold * W): smallest or largest
    ends_unfolded: Image  # (bands, fold, W)
    low: Image  # (2, bands, W): smallest, negative of largest
    air: Image  # (bands * height, W), bool
    air_folded: Image  # (bands, height / fold, fold * W), uint8
    counts: Image  # (bands, fold * W), uint8
    counts_unfolded: Image  # (bands, fold, columns)
    counts_reduced: Image  # (bands, columns)
    values: Floats  # (bands * height, columns)
    values_folded: Floats  # (bands, height / fold, fold * columns)
    powers: Floats  # (2, bands, fold * columns): sums of pixels, of squares
    powers_unfolded: Floats  # (2, bands, fold, columns)
    sums: Floats  # (3, bands, columns): of pixels, of squares, of air


class _Workspace(threading.local):
    """The buffers of each thread, for the slice shape, dtype and grid that it used last."""

    plan: _Plan | None = None
    dtype: np.dtype[Any] | None = None
    views: Mapping[tuple[int, int], _Views] = MappingProxyType({})


_workspace = _Workspace()


def _views(plan: _Plan, dtype: np.dtype[Any]) -> Mapping[tuple[int, int], _Views]:
    """Return this thread's views, by bands and height."""
    if _workspace.plan is plan and _workspace.dtype is dtype:
        return _workspace.views
    pool: dict[str, NDArray[np.uint8]] = {}

    def take(name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> Any:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in pool or pool[name].size < size:
            # Vector stores that straddle cache lines cost a third of the speed; malloc aligns to 16 bytes.
            raw = np.zeros(size + _CACHE_LINE, dtype=np.uint8)
            pool[name] = raw[-raw.ctypes.data % _CACHE_LINE :]
        return pool[name][:size].view(dtype).reshape(shape)

    width, columns = plan.shape[1], plan.columns
    span = columns.stop - columns.start
    views: dict[tuple[int, int], _Views] = {}
    shapes = {(block.bands, (block.stop - block.start) // block.bands) for block in plan.blocks if block.covered}
    for bands, height in sorted(shapes, key=math.prod, reverse=True):
        fold = math.gcd(height, _MAX_FOLD) if _MAX_FOLD * width <= _FOLD_PIXELS else 1
        folded = bands, height // fold, fold * width
        ends = take("ends", (bands, fold * width), dtype)
        air = take("air", (bands * height, width), np.bool_)
        counts = take("counts", (bands, fold * width), np.uint8)
        values = take("values", (bands * height, span))
        powers = take("powers", (2, bands, fold * span))
        views[bands, height] = _Views(
            folded,
            ends,
            ends.reshape(bands, fold, width),
            take("low", (2, bands, width), dtype),
            air,
            air.view(np.uint8).reshape(folded),
            counts,
            counts.reshape(bands, fold, width)[:, :, columns],
            take("counts_reduced", (bands, span), np.uint8),
            values,
            values.reshape(bands, height // fold, fold * span),
            powers,
            powers.reshape(2, bands, fold, span),
            take("sums", (3, bands, span)),
        )
    _workspace.plan, _workspace.dtype, _workspace.views = plan, dtype, views
    return views


def _reduce_cells(image: Image, plan: _Plan, air_level: float) -> tuple[Image, Floats, float, float]:
    """Reduce each pixel once.

    Returns:
        The smallest and the negative of the largest pixel of each cell, (2, rows, columns); the sums of pixels,
        squares and air, (3, rows, columns); the smallest and the largest pixel of the slice.
    """
    dtype = _FLOAT32 if image.dtype == _FLOAT32 else _FLOAT64
    views = _views(plan, dtype)
    cells = len(plan.rows.covered), len(plan.cols.covered)
    low, sums = np.zeros((2, *cells)), np.zeros((3, *cells))
    ends = []
    for block in plan.blocks:
        original = image[block.start : block.stop]
        pixels = np.ascontiguousarray(original, dtype)
        if not block.covered:
            ends.append((pixels.min(), -pixels.max()))
            continue
        view = views[block.bands, (block.stop - block.start) // block.bands]
        folded = pixels.reshape(view.folded)
        np.minimum.reduce(folded, 1, out=view.ends)
        np.minimum.reduce(view.ends_unfolded, 1, out=view.low[0])
        np.maximum.reduce(folded, 1, out=view.ends)
        np.maximum.reduce(view.ends_unfolded, 1, out=view.low[1])
        np.negative(view.low[1], view.low[1])
        ends.append(np.minimum.reduce(view.low, (1, 2)))
        np.less_equal(original, air_level, view.air)
        np.add.reduce(view.air_folded, 1, dtype=np.uint8, out=view.counts)
        np.add.reduce(view.counts_unfolded, 1, dtype=np.uint8, out=view.counts_reduced)
        np.copyto(view.values, pixels[:, plan.columns])
        np.add.reduce(view.values_folded, 1, out=view.powers[0])
        np.multiply(view.values, view.values, view.values)
        np.add.reduce(view.values_folded, 1, out=view.powers[1])
        np.add.reduce(view.powers_unfolded, 2, out=view.sums[:2])
        view.sums[2] = view.counts_reduced
        bands = slice(block.first_cell, block.first_cell + block.bands)
        low[:, bands] = np.minimum.reduceat(view.low[:, :, plan.columns], plan.cuts, 2)
        np.add.reduceat(view.sums, plan.cuts, 2, out=sums[:, bands])
    slice_min, negated_max = np.minimum.reduce(ends, 0).tolist() if ends else (math.nan, math.nan)
    return low, sums, slice_min + 0.0, 0.0 - negated_max
