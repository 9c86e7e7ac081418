"""Where a mask holds some labels, kept as runs: a pixel of the mask is found without looking at the mask again."""

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 256 << 20
"""Of runs that are kept: at 1,000 runs a slice, 32,000 slices. The others are found again each time."""
_FEW_LABELS = 8
"""So many labels or fewer are compared one by one, which is quicker than looking each pixel up."""


class LabelRuns:
    """The pixels of a mask that hold one of some labels, counted in C order.

    Args:
        mask: `(H, W)`, any bool, integer or float dtype.
        labels: whole numbers that its dtype can hold.
    """

    __slots__ = ("_begins", "_ends")

    def __init__(self, mask: NDArray[np.generic], labels: tuple[int, ...]) -> None:
        held = np.zeros(mask.size + 2, np.bool_)
        held[1:-1] = _holds(mask, labels).ravel()
        edges = np.flatnonzero(held[1:] != held[:-1])
        dtype = np.int32 if mask.size <= np.iinfo(np.int32).max else np.int64
        self._begins = edges[::2].astype(dtype)
        # How many pixels are in the runs up to each one, itself included.
        self._ends = np.cumsum(edges[1::2] - edges[::2]).astype(dtype)

    @property
    def pixels(self) -> int:
        """How many pixels hold one of the labels."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._begins.nbytes + self._ends.nbytes

    def pixel(self, number: int) -> int:
        """The place of such a pixel in the flat mask, by its number from 0 to `pixels` - 1."""
        run = int(self._ends.searchsorted(number, side="right"))
        before = int(self._ends[run - 1]) if run else 0
        return int(self._begins[run]) + number - before


def _holds(mask: NDArray[np.generic], labels: tuple[int, ...]) -> NDArray[np.bool_]:
    wanted = np.array(labels).astype(mask.dtype)
    if len(wanted) > _FEW_LABELS:
        return np.isin(mask, wanted)
    held: NDArray[np.bool_] = mask == wanted[0]
    for label in wanted[1:]:
        held |= mask == label
    return held
