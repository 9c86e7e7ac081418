"""The values a slider can stand at, and window statistics as numbers relative to them.

A comparison of a float64 with a threshold must come out in the browser as it does in `ctpatch.core.rules`, for each of
half a million windows, from two bytes a value. So a slider has stops, and a value is not rounded but placed: code
`2k + 1` is a value equal to stop `k`, code `2k` one between stops `k - 1` and `k`. `v < stop[k]` is `code < 2k + 1`,
`v <= stop[k]` is `code <= 2k + 1`, exactly.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_STOPS = 4000
_LARGEST_WHOLE = 2.0**50
"""Multiples of the step stay whole numbers that float64, and so JavaScript, holds."""


@dataclass(frozen=True)
class Stops:
    """Stops `(first + k) * step * 10**exponent` for `k = 0 … count - 1`, and some more.

    Attributes:
        first, count, step, exponent: whole numbers; a value is read from its decimal text, as JavaScript reads it.
        extra: further stops, such as the thresholds of the set's own rules.
    """

    first: int
    count: int
    step: int
    exponent: int
    extra: tuple[float, ...]

    @cached_property
    def regular(self) -> NDArray[np.float64]:
        """The stops at equal distances, float64 `(count,)`."""
        return np.array([float(f"{(self.first + k) * self.step}e{self.exponent}") for k in range(self.count)])

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """All stops, ascending, each once."""
        return np.unique(np.concatenate([self.regular, np.asarray(self.extra, np.float64)]))

    def number_of(self, value: float) -> int:
        """The position of a stop.

        Raises:
            ValueError: it is none.
        """
        at = int(np.searchsorted(self.values, value))
        if at == len(self.values) or self.values[at] != value:
            raise ValueError(f"{value} is no stop")
        return at

    def codes(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """The place of each value among the stops, uint16 `(N,)`."""
        below = np.searchsorted(self.values, values, side="left")
        upto = np.searchsorted(self.values, values, side="right")
        return (below + upto).astype(np.uint16)


def make_stops(
    low: float, high: float, extra: Iterable[float], *, most: int = MOST_STOPS, whole: bool = False
) -> Stops:
    """Stops from `low` to `high` at round decimal distances.

    Args:
        low: finite; the first stop lies at or below it.
        high: finite, `low` or more; the last stop at equal distances lies at or above it.
        extra: values that must be stops too.
        most: at most about so many at equal distances.
        whole: only whole numbers.
    """
    span = high - low if high > low else max(abs(low), 1.0) * 1e-3
    least = max(span / most, max(abs(low), abs(high)) / _LARGEST_WHOLE, 1.0 if whole else 0.0)
    exponent = math.floor(math.log10(least))
    step = next((each for each in (1, 2, 5) if each * 10.0**exponent >= least), None)
    if step is None:
        step, exponent = 1, exponent + 1
    distance = float(f"{step}e{exponent}")
    first, last = math.floor(low / distance), math.ceil(high / distance)
    if float(f"{first * step}e{exponent}") > low:  # the division was rounded
        first -= 1
    if float(f"{last * step}e{exponent}") < high:
        last += 1
    return Stops(first, max(last, first + 1) - first + 1, step, exponent, tuple(sorted(set(extra))))
