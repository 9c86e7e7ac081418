"""How a slice is cut up for its grid: cells that windows are put together from, blocks that fit the cache."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Bands this high are counted in uint8 without overflow.
_MAX_COUNTED_ROWS = 255
# Numpy's pairwise sum adds up to 128 values in eight lanes, and more than that in halves.
_MAX_ADDED = 129
# Measured on 362 x 362 and 512 x 512: larger blocks save calls, until 1 MiB of float64 no longer stays in the cache;
# four rows laid side by side save inner loops, as long as they stay in L1.
_BLOCK_PIXELS = 1 << 17
_MAX_FOLD = 4
_FOLD_PIXELS = 1 << 12

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Image = NDArray[Any]


class Reductions(NamedTuple):
    """What an engine makes of a stack of N slices.

    Attributes:
        low: for each window its smallest pixel and the negative of its largest, shape (N, 2, rows, columns of windows).
        sums: for each window the sums of pixels, of squares and of air, shape (N, 3, rows, columns of windows).
        ends: smallest and largest pixel of each whole slice, shape (N, 2); NaN if any pixel is.
    """

    low: Image
    sums: Floats
    ends: Floats


@dataclass(frozen=True, slots=True)
class Axis:
    """How windows are put together from cells, along rows or along columns.

    Attributes:
        starts: where windows begin.
        edges: where cells begin, and where the last one ends.
        covered: for each cell, whether any window lies over it.
        ends: first cell of each window, and the cell after its last, shape (windows, 2).
    """

    starts: tuple[int, ...]
    edges: tuple[int, ...]
    covered: tuple[bool, ...]
    ends: Indices


class Bands(NamedTuple):
    """Consecutive rows of cells, all of the same height, that are reduced together; or rows that no window covers.

    Attributes:
        start, stop: rows of the slice.
        number: how many rows of cells; 0 where no window lies.
        first_cell: the first of them; -1 where no window lies.
        fold: rows of pixels that are laid side by side.
    """

    start: int
    stop: int
    number: int
    first_cell: int
    fold: int

    @property
    def height(self) -> int:
        """Rows of pixels in each row of cells."""
        return (self.stop - self.start) // max(1, self.number)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Everything that follows from the shape of a slice and its grid.

    Attributes:
        shape, patch_size: of the slice and of its windows.
        rows, cols: both axes.
        columns: from the first window to the last.
        cuts: first column of each cell, counted from the first window.
        blocks: all rows of the slice in pieces that fit the cache, each as its bands.
        tables: the same as `numba_engine.reduce_stack` takes it.
        serves_compiled: whether that adds in the same order.
    """

    shape: tuple[int, int]
    patch_size: tuple[int, int]
    rows: Axis
    cols: Axis
    columns: slice
    cuts: Indices
    blocks: tuple[tuple[Bands, ...], ...]
    tables: tuple[Indices, ...]
    serves_compiled: bool


@lru_cache(maxsize=16)
def plan_cells(
    shape: tuple[int, int], row_starts: tuple[int, ...], col_starts: tuple[int, ...], patch_size: tuple[int, int]
) -> Plan:
    """Plan how slices of a shape are reduced; see `api.window_statistics` for the arguments."""
    if not (row_starts and col_starts):
        row_starts = col_starts = ()
    most_rows = max(1, _BLOCK_PIXELS // max(1, shape[1]))
    rows = _axis(row_starts, patch_size[0], min(_MAX_COUNTED_ROWS, most_rows))
    cols = _axis(col_starts, patch_size[1], _MAX_ADDED)
    max_fold = _MAX_FOLD if _MAX_FOLD * shape[1] <= _FOLD_PIXELS else 1
    blocks = tuple(_blocks(rows, shape[0], most_rows, max_fold))
    bands = [
        (top, top + each.height, each.fold, each.first_cell + k)
        for block in blocks
        for each in block
        for k, top in enumerate(range(each.start, each.stop, each.height))
    ]
    edges = np.array(cols.edges, dtype=np.int64)
    # In a single column, and more than 129 cells of a window, numpy's order is another one.
    most_cells = max(int(np.diff(axis.ends).max(initial=0)) for axis in (rows, cols))
    return Plan(
        shape,
        patch_size,
        rows,
        cols,
        slice(cols.edges[0], cols.edges[-1]),
        edges[:-1] - edges[0],
        blocks,
        (np.array(bands, dtype=np.int64).reshape(-1, 4), edges, rows.ends, cols.ends),
        serves_compiled=cols.edges[-1] - cols.edges[0] > 1 and most_cells <= _MAX_ADDED,
    )


def _axis(starts: tuple[int, ...], size: int, longest: int) -> Axis:
    """Cut an axis at all starts and ends of windows, and cells longer than `longest` into equal parts."""
    if not starts:
        return Axis((), (0,), (), np.zeros((0, 2), dtype=np.int64))
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
    return Axis(starts, tuple(edges), tuple((np.cumsum(depth[:-1]) > 0).tolist()), ends)


def _blocks(rows: Axis, height: int, most_rows: int, max_fold: int) -> Iterator[tuple[Bands, ...]]:
    """Cut all rows of a slice into blocks of at most `most_rows`, from the top down."""

    def bare(start: int, stop: int) -> Iterator[tuple[Bands, ...]]:
        return ((Bands(row, min(row + most_rows, stop), 0, -1, 1),) for row in range(start, stop, most_rows))

    yield from bare(0, rows.edges[0])
    block: list[Bands] = []
    for cell, (start, stop) in enumerate(pairwise(rows.edges)):
        if block and (not rows.covered[cell] or stop - block[0].start > most_rows):
            yield tuple(block)
            block = []
        if not rows.covered[cell]:
            yield from bare(start, stop)
        elif block and block[-1].height == stop - start:
            block[-1] = block[-1]._replace(stop=stop, number=block[-1].number + 1)
        else:
            block.append(Bands(start, stop, 1, cell, math.gcd(stop - start, max_fold)))
    if block:
        yield tuple(block)
    yield from bare(rows.edges[-1], height)
