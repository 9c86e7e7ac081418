"""The reductions compiled by numba: one pass over the pixels, and the same results to the bit as `numpy_engine`.

Sums are added in the order that the package lays down. Nothing may be reassociated: no
`fastmath` here, no `parallel`. Squares of float32 values are exact in float64, so a compiler that fuses their
multiplication with the addition changes nothing.

Importing this module imports numba, which takes most of a second: `api` does so when it pays.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.statistics.cells import Floats, Image, Indices, Plan, Reductions

Pixels = NDArray[np.float32]
Counts = NDArray[np.int32]
Function = TypeVar("Function", bound=Callable[..., Any])

# Not a plain import: numba is an extra, and where types are checked it may or may not be there.
_numba = import_module("numba")
# Of the five kinds of results, the first two are minima, the others are sums.
_MINIMA = 2
_OPTIONS = {"nogil": True, "error_model": "numpy"}


def load() -> Callable[[Image, Plan, float], Reductions]:
    """Return the engine, from numba's cache or compiled anew.

    Returns:
        A function like `numpy_engine.reduce`, for C-contiguous, aligned float32 slices, also read-only ones.
    """
    index, number = _numba.int64, _numba.float64
    # An array that may be written passes where a read-only one is asked for.
    slices = _numba.types.Array(_numba.float32, 3, "C", readonly=True)
    table = index[:, ::1]
    signature = _numba.void(
        slices, _numba.float32, table, index[::1], table, table, number[:, :, :, ::1], number[:, ::1]
    )
    try:
        code = _numba.njit(signature, cache=True, **_OPTIONS)(reduce_stack)
    except Exception:  # noqa: BLE001  (no folder to write to, a full disk, a damaged file: all cost only time)
        code = _numba.njit(signature, **_OPTIONS)(reduce_stack)

    def reduce(images: Image, plan: Plan, air_level: float) -> Reductions:
        reduced = np.empty((len(images), 5, len(plan.rows.starts), len(plan.cols.starts)))
        ends = np.empty((len(images), 2))
        code(np.asarray(images), np.float32(air_level), *plan.tables, reduced, ends)
        for k in np.flatnonzero(np.isnan(ends[:, 0])):
            ends[k] = images[k].min(), images[k].max()
        return Reductions(reduced[:, :2], reduced[:, 2:], ends)

    return reduce


def _inner(function: Function) -> Function:
    """Compile a function that only compiled ones call, when they are compiled."""
    return cast("Function", _numba.njit(**_OPTIONS)(function))


def reduce_stack(
    images: Pixels,
    air_level: np.float32,
    bands: Indices,
    cuts: Indices,
    rows: Indices,
    cols: Indices,
    out: Floats,
    ends: Floats,
) -> None:
    """Reduce slices of one shape `(N, H, W)`, one after the other; see `_reduce_windows` for the other arguments.

    `ends` gets the smallest and the largest pixel of each, shape (N, 2); NaN where not all its pixels are finite.
    """
    for k in range(len(images)):
        low, high, finite = _reduce_windows(images[k], air_level, bands, cuts, rows, cols, out[k])
        ends[k, 0] = low if finite else np.nan
        ends[k, 1] = high if finite else np.nan


@_inner
def _reduce_windows(
    image: Pixels, air_level: np.float32, bands: Indices, cuts: Indices, rows: Indices, cols: Indices, out: Floats
) -> tuple[float, float, bool]:
    """Reduce a slice to cells and put windows together from them.

    Args:
        image: Slice of shape (H, W).
        air_level: Pixels at or below it are air.
        bands: All rows of the slice, in order: (first row, row after the last, fold, row of cells or -1 for none).
        cuts: First column of each cell and, at the end, the column after the last; all windows lie between.
        rows: For each row of windows: (its first row of cells, the row after its last), 129 at most.
        cols: The same for columns.
        out: Where the results go, for each window: its smallest pixel, the negative of its largest, the sums of
            pixels, squares and air; shape (5, rows of windows, columns of windows).

    Returns:
        The smallest and the largest pixel of the slice, and whether all its pixels are finite. If not, nothing else
        means anything.
    """
    width = image.shape[1]
    low, high = np.empty(width, np.float32), np.empty(width, np.float32)
    air = np.empty(width, np.int32)
    sums, lane = np.empty((2, width)), np.empty((2, width))
    cells = np.zeros((5, len(cuts) - 1, rows[-1, 1]))
    slice_low, slice_high, doubt = np.inf, -np.inf, 0.0
    for band in range(len(bands)):
        start, stop, fold, row = bands[band]
        low[:], high[:], air[:], sums[:] = np.inf, -np.inf, 0, 0.0
        _add_extremes(image[start:stop], air_level, low, high, air)
        for first in range(start, start + fold):
            lane[:] = 0.0
            _add_rows(image[first:stop], fold, lane[0], lane[1])
            for k in range(width):
                sums[0, k] += lane[0, k]
                sums[1, k] += lane[1, k]
        for k in range(width):
            slice_low, slice_high = min(slice_low, low[k]), max(slice_high, high[k])
            # Sums of finite float32 values stay in the range of float64; so this is 0, or NaN for good.
            doubt += sums[0, k] - sums[0, k]
        if row >= 0:
            for col in range(len(cuts) - 1):
                begin, end = cuts[col], cuts[col + 1]
                cell_low, cell_high, cell_air = low[begin], high[begin], 0
                for k in range(begin, end):
                    cell_low, cell_high, cell_air = min(cell_low, low[k]), max(cell_high, high[k]), cell_air + air[k]
                cells[0, col, row], cells[1, col, row], cells[4, col, row] = cell_low, -cell_high, cell_air
                cells[2, col, row] = _add(sums[0, begin:end])
                cells[3, col, row] = _add(sums[1, begin:end])
    strip = np.empty(len(cuts) - 1)  # all cells of a row of windows, added down to one row
    for kind in range(5):
        for row in range(len(rows)):
            for col in range(len(strip)):
                run = cells[kind, col, rows[row, 0] : rows[row, 1]]
                strip[col] = run.min() if kind < _MINIMA else _add(run)
            for col in range(len(cols)):
                run = strip[cols[col, 0] : cols[col, 1]]
                out[kind, row, col] = run.min() if kind < _MINIMA else _add(run)
    return slice_low, slice_high, doubt == 0.0


@_inner
def _add_extremes(pixels: Pixels, air_level: np.float32, low: Pixels, high: Pixels, air: Counts) -> None:
    """Update the extremes and the count of air of each column; NaN counts as nothing.

    Four rows at a time save loads and stores.
    """
    one, zero = np.int32(1), np.int32(0)
    height = len(pixels)
    for row in range(0, height - 3, 4):
        a, b, c, d = pixels[row], pixels[row + 1], pixels[row + 2], pixels[row + 3]
        for k in range(len(low)):
            p, q, r, s = a[k], b[k], c[k], d[k]
            x = low[k]
            x = min(x, p)
            x = min(x, q)
            x = min(x, r)
            low[k] = min(x, s)
            x = high[k]
            x = max(x, p)
            x = max(x, q)
            x = max(x, r)
            high[k] = max(x, s)
            upper = (one if p <= air_level else zero) + (one if q <= air_level else zero)
            air[k] += upper + (one if r <= air_level else zero) + (one if s <= air_level else zero)
    for row in range(height - height % 4, height):
        a = pixels[row]
        for k in range(len(low)):
            p = a[k]
            low[k] = min(low[k], p)
            high[k] = max(high[k], p)
            air[k] += one if p <= air_level else zero


@_inner
def _add_rows(pixels: Pixels, fold: int, sums: Floats, squares: Floats) -> None:
    """Add each `fold`-th row to the sums of each column, one after the other."""
    row, height = 0, len(pixels)
    while row + 3 * fold < height:
        a, b, c, d = pixels[row], pixels[row + fold], pixels[row + 2 * fold], pixels[row + 3 * fold]
        for k in range(len(sums)):
            p, q, r, s = np.float64(a[k]), np.float64(b[k]), np.float64(c[k]), np.float64(d[k])
            sums[k] = (((sums[k] + p) + q) + r) + s
            squares[k] = (((squares[k] + p * p) + q * q) + r * r) + s * s
        row += 4 * fold
    while row < height:
        a = pixels[row]
        for k in range(len(sums)):
            p = np.float64(a[k])
            sums[k] += p
            squares[k] += p * p
        row += fold


@_inner
def _add(values: Floats) -> float:
    """Add up to 129 values in the order of `np.add.reduceat`: the first, and then the rest in eight lanes."""
    count = len(values) - 1
    rest = 0.0
    if count < 8:  # noqa: PLR2004
        for k in range(1, count + 1):
            rest += values[k]
        return float(values[0] + rest)
    a, b, c, d = values[1], values[2], values[3], values[4]
    e, f, g, h = values[5], values[6], values[7], values[8]
    for k in range(9, count - 6, 8):
        a, b, c, d = a + values[k], b + values[k + 1], c + values[k + 2], d + values[k + 3]
        e, f, g, h = e + values[k + 4], f + values[k + 5], g + values[k + 6], h + values[k + 7]
    rest = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for k in range(count - count % 8 + 1, count + 1):
        rest += values[k]
    return float(values[0] + rest)
