"""Closed contours to pixels: even-odd, by pixel centres, with a rule for centres on the outline."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DIGITS = 6
"""Millionths of a pixel: what is closer to a pixel centre lies on it, whatever the last bits of its conversion say."""
_CROSSINGS_AT_ONCE = 1 << 20
Points = NDArray[np.float64]


def fill_even_odd(contours: Sequence[Points], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the pixels whose centre lies inside an odd number of contours.

    A contour inside another one of the list is a hole; two that overlap leave out what they share. A centre on an
    outline is inside where the area lies after it, to higher columns (on a horizontal edge: to higher rows): two areas
    that share an edge share no pixel. Points are rounded to a millionth of a pixel first.

    Args:
        contours: `(N, 2)` each, `(row, col)` in pixels, pixel centres at whole numbers; the last point is joined to
            the first one. Finite; they may lie outside the image.
        shape: `(H, W)`.

    Returns:
        `(H, W)` bool.

    The rule is that of the crossing number, see Haines, "Point in polygon strategies", Graphics Gems IV, 1994.
    """
    height, width = shape
    changes = np.zeros((height, width + 1), np.uint8)
    for contour in contours:
        points: Points = np.round(np.asarray(contour, np.float64), _DIGITS).astype(np.float64, copy=False)
        if len(points) < 3:  # noqa: PLR2004 - no area
            continue
        _cross(points, np.roll(points, -1, axis=0), changes)
    inside: NDArray[np.bool_] = np.bitwise_xor.accumulate(changes[:, :width], axis=1).astype(np.bool_)
    return inside


def _cross(starts: Points, ends: Points, changes: NDArray[np.uint8]) -> None:
    """Change, in each row that an edge crosses, between outside and inside at the first column not before the edge."""
    height, last = changes.shape[0], changes.shape[1] - 1
    # From low to high rows, so that an edge that is gone both ways (a keyhole) crosses at the same column, to the bit.
    swap = starts[:, 0] > ends[:, 0]
    low, high = np.where(swap[:, None], ends, starts), np.where(swap[:, None], starts, ends)
    first = np.clip(np.ceil(low[:, 0]), 0, height).astype(np.int64)
    stop = np.clip(np.ceil(high[:, 0]), 0, height).astype(np.int64)
    counts = stop - first
    crossing = counts > 0
    low, high, first, counts = low[crossing], high[crossing], first[crossing], counts[crossing]
    totals = np.cumsum(counts)
    at = 0
    while at < len(counts):
        done = totals[at - 1] if at else 0
        until = max(int(np.searchsorted(totals, done + _CROSSINGS_AT_ONCE, side="right")), at + 1)
        some = slice(at, until)
        each = np.repeat(np.arange(at, until), counts[some])
        starts_at = np.repeat(totals[some] - counts[some] - done, counts[some])
        rows = first[each] + (np.arange(len(each)) - starts_at)
        share = (rows - low[each, 0]) / (high[each, 0] - low[each, 0])
        cols = np.round(low[each, 1] + share * (high[each, 1] - low[each, 1]), _DIGITS)
        cols = np.clip(np.ceil(cols), 0, last).astype(np.int64)
        np.bitwise_xor.at(changes, (rows, cols), np.uint8(1))
        at = until
