"""How values are spread: mean, standard deviation and counts in fixed bins, so that parts add up to the whole.

Counts are whole numbers. Sums come from `ufunc.reduce`, whose order follows from shapes alone. So the same parts, added
in the same order, give the same numbers to the bit on every machine.
"""

import base64
import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

PERCENTS = (0.5, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.5)
"""The percentiles that are put on record."""

NUMBER_OF_BINS = 2048
_CODES = ("<u1", "<u2", "<u4", "<u8")

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Bins(NamedTuple):
    """Bins of the same width from `low` to `high`; what lies outside counts in the outermost bin.

    Bin `k` of `number` holds values from `low + k * width` on, and `high` itself is in the last one.
    """

    low: float
    high: float
    number: int

    @property
    def width(self) -> float:
        """How wide a bin is, in the unit of the values."""
        return (self.high - self.low) / self.number

    def places(self, values: Floats) -> Counts:
        """The bin of each value, int64."""
        scaled = values - self.low
        scaled *= self.number / (self.high - self.low)
        places = scaled.astype(np.int64)
        np.minimum(places, self.number - 1, out=places)
        return np.maximum(places, 0, out=places)

    def counts(self, places: Counts, weights: Floats | None = None) -> Counts:
        """How often each bin is among `places`, `(number,)`; a place counts `weights` times, whole numbers."""
        counted = np.bincount(places, weights, self.number)
        return counted.astype(np.int64, copy=False)  # sums of whole numbers below 2**53 are exact in float64

    def percentiles(self, counts: Counts, low: float, high: float) -> list[float]:
        """The values below which `PERCENTS` of the pixels lie, within `low` and `high`.

        A bin's pixels are taken as spread evenly over it: a percentile is off by the width of a bin at most.
        """
        ends = np.cumsum(counts)
        found = []
        for percent in PERCENTS:
            wanted = percent / 100 * int(ends[-1])
            place = min(int(np.searchsorted(ends, wanted)), self.number - 1)
            before = int(ends[place]) - int(counts[place])
            value = self.low + self.width * (place + (wanted - before) / int(counts[place]))
            found.append(min(max(value, low), high))
        return found


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and spread of some pixels.

    Attributes:
        count: how many.
        mean: of them.
        squares: sum of the squared deviations from the mean.
        low, high: the smallest and the largest.
    """

    count: int
    mean: float
    squares: float
    low: float
    high: float

    @property
    def std(self) -> float:
        """Population standard deviation."""
        return math.sqrt(self.squares / self.count)

    @classmethod
    def of(cls, values: Floats, weights: Floats | None = None) -> Self | None:
        """Of values `(N,)`, each counted `weights` times (whole numbers, 1 or more); None where there are none."""
        if not len(values):
            return None
        # Deviations from one of the values keep their digits where all values are near each other.
        centre = float(values[0])
        off = values - centre
        first = off if weights is None else off * weights
        total = float(np.add.reduce(first))
        off *= first
        count = len(values) if weights is None else int(np.add.reduce(weights))
        squares = float(np.add.reduce(off)) - total * (total / count)
        return cls(count, centre + total / count, max(squares, 0.0), float(values.min()), float(values.max()))

    @classmethod
    def of_groups(cls, means: Floats, stds: Floats, lows: Floats, highs: Floats, *, size: int) -> Self | None:
        """Of groups of `size` pixels each, from the numbers of each group `(N,)`; None where there are none."""
        if not len(means):
            return None
        mean = float(np.add.reduce(means)) / len(means)
        low, high = float(lows.min()), float(highs.max())
        mean = min(max(mean, low), high)
        squares = float(np.add.reduce(stds * stds + (means - mean) ** 2)) * size
        return cls(len(means) * size, mean, squares, low, high)

    def plus(self, other: "Moments") -> "Moments":
        """Those of both together."""
        count, apart = self.count + other.count, other.mean - self.mean
        share = other.count / count
        return Moments(
            count,
            self.mean + apart * share,
            self.squares + other.squares + apart * apart * (self.count * share),
            min(self.low, other.low),
            max(self.high, other.high),
        )


def pack_counts(counts: Counts) -> str:
    """Counts as a short text: the first bin that is not empty, how counts are stored, and the counts up to the last."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return ""
    run = counts[filled[0] : filled[-1] + 1]
    code = next(each for each in _CODES if int(run.max()) <= np.iinfo(each).max)
    return f"{filled[0]}{code}{base64.b64encode(run.astype(code).tobytes()).decode()}"


def unpack_counts(text: str, number: int) -> Counts:
    """The counts in a text that `pack_counts` made, `(number,)`; ValueError where it is damaged."""
    counts = np.zeros(number, np.int64)
    if text:
        first, _, rest = text.partition("<")
        code, start = f"<{rest[:2]}", int(first)
        if code not in _CODES:
            raise ValueError(f"counts are stored as {code}, wanted one of {', '.join(_CODES)}")
        run = np.frombuffer(base64.b64decode(rest[2:], validate=True), code)
        if not 0 <= start <= start + len(run) <= number:
            raise ValueError(f"{len(run)} counts from bin {start} on, wanted those of {number} bins")
        counts[start : start + len(run)] = run
    return counts
