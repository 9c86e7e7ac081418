"""Which labels a mask holds: pixels of each in the slice, and the windows that hold it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.grid import Grid

MAX_LABELS = 32
"""Labels of a slice that are counted one by one; a slice with more of them has instances, not classes."""

_LARGEST = 2**53
_MANY_VALUES = 1 << 16
"""So many values or fewer between the smallest and the largest are counted by a table, else they are sorted."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """What a mask holds.

    Attributes:
        above: pixels above 0.
        pixels: for each label but 0 its pixels, ascending; None where there are more than `MAX_LABELS`, or a pixel is
            no whole number.
        windows: for each of these labels how many of the chosen windows hold it, padding included.
    """

    above: int
    pixels: Mapping[int, int] | None
    windows: Mapping[int, int] = field(default_factory=dict)

    def rows(self) -> list[tuple[int, int, int, int]]:
        """Each label with its pixels, 1 slice, and its windows."""
        return [(label, count, 1, self.windows[label]) for label, count in (self.pixels or {}).items()]

    def text(self) -> str | None:
        """The pixels as `1:200;2:30`; an empty text where there is no label, None where they were not counted."""
        return None if self.pixels is None else ";".join(f"{label}:{count}" for label, count in self.pixels.items())


def read_labels(text: str) -> dict[int, int]:
    """Pixels by label from their text; ValueError where that is none.

    >>> read_labels("1:200;2:30")
    {1: 200, 2: 30}
    """
    found: dict[int, int] = {}
    for part in text.split(";") if text else []:
        label, _, count = part.partition(":")
        found[int(label)] = int(count)
    if LabelCounts(0, dict(sorted(found.items()))).text() != text or 0 in found or min(found.values(), default=1) < 1:
        raise ValueError(f"{text[:60]!r}, wanted labels and their pixels as 1:200;2:30, ascending")
    return found


def count_labels(padded: NDArray[Any], grid: Grid, kept: NDArray[np.bool_]) -> LabelCounts:
    """Count the labels of a mask.

    Args:
        padded: the mask, `(H, W)` with the padding that the grid's windows need; any bool, integer or float dtype.
        grid: its windows.
        kept: which of the windows count, `(N,)`, row-major as the grid has them.

    Returns:
        Counts of the slice, without padding, and of the windows.
    """
    inside = padded[: grid.shape[0], : grid.shape[1]]
    with np.errstate(invalid="ignore"):
        above = int(np.count_nonzero(inside > 0))
        pixels = _pixels(inside)
    if pixels is None or len(pixels) > MAX_LABELS:
        return LabelCounts(above, None)
    return LabelCounts(above, pixels, windows_with(padded, grid, kept, pixels))


def _pixels(mask: NDArray[Any]) -> dict[int, int] | None:
    """The pixels of each label but 0; None where a pixel is no whole number."""
    if mask.dtype.kind == "f":
        if not ((np.abs(mask) <= _LARGEST) & (np.floor(mask) == mask)).all():
            return None
        mask = mask.astype(np.int64)
    low, high = int(mask.min()), int(mask.max())
    if high - low < _MANY_VALUES:
        # As int64 before the difference: 127 - (-128) is no int8. Only uint64 has numbers that int64 lacks.
        shifted = (mask - np.uint64(low)).astype(np.int64) if mask.dtype == np.uint64 else mask.astype(np.int64) - low
        counts = np.bincount(shifted.ravel())
        labels = np.flatnonzero(counts)
        found = zip((int(label) + low for label in labels), counts[labels].tolist(), strict=True)
    else:
        values, counts = np.unique(mask, return_counts=True)
        found = zip(values.tolist(), counts.tolist(), strict=True)
    return {label: count for label, count in found if label}


def windows_with(padded: NDArray[Any], grid: Grid, kept: NDArray[np.bool_], labels: Iterable[int]) -> dict[int, int]:
    """For each label how many of the kept windows hold it; see `count_labels`."""
    if not kept.any():
        return dict.fromkeys(labels, 0)
    (row_cells, tops, bottoms), (col_cells, lefts, rights) = (
        _cells(length, size, starts)
        for length, size, starts in zip(padded.shape, grid.patch_size, (grid.row_starts, grid.col_starts), strict=True)
    )
    shape = int(row_cells[-1]) + 1, int(col_cells[-1]) + 1
    found = {}
    for label in labels:
        rows, cols = np.nonzero(padded == label)
        inside = np.bincount(row_cells[rows] * shape[1] + col_cells[cols], minlength=shape[0] * shape[1])
        # Sums over all cells above and left of each corner: a window's sum is that of four corners.
        sums = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
        sums[1:, 1:] = inside.reshape(shape).cumsum(axis=0).cumsum(axis=1)
        lower, upper = sums[bottoms], sums[tops]
        windows = (lower[:, rights] - lower[:, lefts]) - (upper[:, rights] - upper[:, lefts])
        found[label] = int(np.count_nonzero(windows.ravel()[kept]))
    return found


def _cells(
    length: int, size: int, starts: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """An axis cut wherever a window begins or ends: the cell of each pixel, each window's first cell, and its end."""
    begins = np.array(starts, np.int64)
    edges = np.unique(np.concatenate([[0], begins, begins + size]))
    cells = np.searchsorted(edges, np.arange(length), side="right") - 1
    return cells, np.searchsorted(edges, begins), np.searchsorted(edges, begins + size)
