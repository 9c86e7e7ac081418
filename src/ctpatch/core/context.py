"""The neighbours of a slice in its series, in the order of position."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ContextEdge = Literal["repeat", "zero", "drop"]
ContextGap = Literal["refuse", "end", "ignore"]

NO_SLICE = -1
"""In the place of a neighbour that is not there."""

WIDEST_GAP = 1.5
"""Neighbours further apart than this many usual spacings have a gap between them: half a slice more is no jitter, and a
missing slice makes 2."""
_SAME_PLACE = 1e-3
"""Positions closer than this share of the usual spacing are one place."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why neighbours cannot be told.

    Attributes:
        at: number of a slice at which it shows.
        why: what is wrong there, in words that follow the slice's name.
        count: slices of which something like this holds.
    """

    at: int
    why: str
    count: int


def find_fault(series: NDArray[np.int64], positions: NDArray[np.float64]) -> Fault | None:
    """Why neighbours cannot be told from series and positions; None where they can.

    Args:
        series: a number for the series of each slice, -1 where it is not known, `(N,)`.
        positions: of each slice along its series, in mm, NaN where it is not known, `(N,)`.
    """
    unplaced = (series < 0) | ~np.isfinite(positions)
    if not len(series):
        return None
    if unplaced.any():
        return Fault(int(unplaced.argmax()), "has no position in a series", int(unplaced.sum()))
    order, begins, steps, usual = _along(series, positions)
    inner = ~begins[1:]
    same = inner & (steps <= _SAME_PLACE * usual)
    if same.any():
        at = int(same.argmax()) + 1
        return Fault(int(order[at]), "has the position of another slice of its series", int(same.sum()))
    wide = inner & (steps > WIDEST_GAP * usual)
    if wide.any():
        at = int(wide.argmax())
        why = f"lies {steps[at]:.4g} mm before the next slice of its series; usual are {usual[at]:.4g} mm"
        return Fault(int(order[at]), why, int(wide.sum()))
    return None


def neighbours(
    series: NDArray[np.int64], positions: NDArray[np.float64], reach: int, edge: ContextEdge, *, gaps_end: bool
) -> NDArray[np.int64]:
    """For each slice the numbers of its neighbours and, in the middle, its own: `(N, 2 * reach + 1)`.

    Where a series ends, `repeat` gives its last slice, the others `NO_SLICE`. Slices whose positions are NaN keep the
    order in which they are given. A slice of no series (-1) has no neighbours.

    Args:
        series: see `find_fault`.
        positions: likewise.
        reach: neighbours on each side.
        edge: what is at the ends of a series.
        gaps_end: whether a gap ends a series, as does a slice without a position.
    """
    count = len(series)
    if count == 0:
        return np.empty((0, 2 * reach + 1), np.int64)
    order, begins, steps, usual = _along(series, positions)
    if gaps_end:
        with np.errstate(invalid="ignore"):
            begins[1:] |= ~(steps <= WIDEST_GAP * usual)
    begins[1:] |= series[order[1:]] < 0
    run = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    last = np.append(first[1:], count) - 1
    places = np.arange(count)
    found = np.empty((count, 2 * reach + 1), np.int64)
    for column, step in enumerate(range(-reach, reach + 1)):
        wanted = places + step
        inside = np.clip(wanted, first[run], last[run])
        found[order, column] = np.where((inside == wanted) | (edge == "repeat"), order[inside], NO_SLICE)
    return found


def _along(
    series: NDArray[np.int64], positions: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Slices in the order of series and position; where a series begins; steps to the next; and what steps are usual.

    The last two are `(N - 1,)`, and mean nothing between two series.
    """
    order = np.lexsort((positions, series))
    codes, places = series[order], positions[order]
    begins = np.append(True, codes[1:] != codes[:-1])[: len(codes)]
    steps = np.diff(places)
    usual = np.full(len(steps), np.nan)
    for first, last in zip(np.flatnonzero(begins), np.append(np.flatnonzero(begins)[1:], len(codes)), strict=True):
        own = steps[first : last - 1]
        finite = own[np.isfinite(own)]
        if len(finite):
            usual[first : last - 1] = np.median(finite)
    return order, begins, steps, usual
