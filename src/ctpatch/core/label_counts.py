"""Which labels a mask holds: pixels of each in the slice, and the windows that hold it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.grid import Grid

MAX_LABELS = 32
"""Labels of a slice that are counted one by one; a slice with more of them has instances, not classes."""

_LARGEST = 2**53
_LARGEST_INT64 = 2**63 - 1
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
    labelled = inside[inside != 0]
    with np.errstate(invalid="ignore"):
        above = int(np.count_nonzero(labelled > 0))
        pixels = _pixels(labelled) if len(labelled) else {}
    if pixels is None or len(pixels) > MAX_LABELS:
        return LabelCounts(above, None)
    return LabelCounts(above, pixels, windows_with(padded, grid, kept, pixels))


def _pixels(labelled: NDArray[Any]) -> dict[int, int] | None:
    """How many of some pixels, `(N,)`, have each label; None where one is no whole number of int64."""
    if labelled.dtype.kind == "f":
        if not ((np.abs(labelled) <= _LARGEST) & (np.floor(labelled) == labelled)).all():
            return None
        labelled = labelled.astype(np.int64)
    low, high = int(labelled.min()), int(labelled.max())
    if high > _LARGEST_INT64:
        return None
    if high - low < _MANY_VALUES:
        # As int64 before the difference: 127 - (-128) is no int8.
        counts = np.bincount(labelled.astype(np.int64) - low)
        return {int(place) + low: int(counts[place]) for place in np.flatnonzero(counts)}
    values, counts = np.unique(labelled, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def windows_with(padded: NDArray[Any], grid: Grid, kept: NDArray[np.bool_], labels: Iterable[int]) -> dict[int, int]:
    """For each label how many of the kept windows hold it; see `count_labels`."""
    if not kept.any():
        return dict.fromkeys(labels, 0)
    begins = np.array(grid.row_starts, np.int64)
    ends, lefts = begins + grid.patch_size[0], np.array(grid.col_starts, np.int64)
    # Rows are taken together wherever a window begins or ends: `any` over many rows is quick.
    edges = np.unique(np.concatenate([begins, ends]))
    tops, bottoms = np.searchsorted(edges, begins), np.searchsorted(edges, ends)
    found = {}
    for label in labels:
        here = padded == label
        bands = np.array([here[top:bottom].any(axis=0) for top, bottom in pairwise(edges.tolist())])
        columns = _sums(bands, 0)
        rows_of_windows = columns[bottoms] > columns[tops]
        reached = _sums(rows_of_windows, 1)
        holds = reached[:, lefts + grid.patch_size[1]] > reached[:, lefts]
        found[label] = int(np.count_nonzero(holds.ravel()[kept]))
    return found


def _sums(flags: NDArray[np.bool_], axis: int) -> NDArray[np.int32]:
    """How many flags stand before each place along an axis, and before its end."""
    shape = tuple(side + (place == axis) for place, side in enumerate(flags.shape))
    sums = np.zeros(shape, np.int32)
    np.cumsum(flags, axis=axis, out=sums[1:] if axis == 0 else sums[:, 1:])
    return sums
