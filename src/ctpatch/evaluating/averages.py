"""From slices to patients to the set, with intervals from a bootstrap over patients."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.loading.sampling import random_bits

FEWEST_PATIENTS = 5
"""Of fewer there is no interval: there are no more than 126 ways to draw 5 of 5 with replacement."""
FEW_PATIENTS = 20
"""Of fewer an interval by bootstrap is narrower than it should be, and says so."""
CONFIDENCE = 0.95
_PURPOSE = 18
"""Of random numbers, apart from those of loaders and reports."""
_DRAWS_TOGETHER = 256

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """One number of the set.

    Attributes:
        metric: its name, as that of the column of the slices.
        label: the label it is about; None for images.
        mean: the mean over patients of each patient's value; None where patients are not known, or none has a value.
        low, high: the interval of `mean`; None where there are too few patients.
        std: standard deviation between patients, of the sample; None for fewer than 2.
        patients: how many have a value.
        mean_over_slices: the mean over all slices that have a value, whosever they are; None where none has.
        slices: how many have a value.
        left_out: slices whose value is not finite or not defined: they are in no mean.
    """

    metric: str
    label: int | None
    mean: float | None
    low: float | None
    high: float | None
    std: float | None
    patients: int
    mean_over_slices: float | None
    slices: int
    left_out: int

    @property
    def headline(self) -> float | None:
        """The mean over patients; that over slices where patients are not known."""
        return self.mean_over_slices if self.mean is None else self.mean

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are finite; None where none is."""
    finite = [each for each in values if each is not None and math.isfinite(each)]
    return math.fsum(finite) / len(finite) if finite else None


def summarise(
    metric: str,
    label: int | None,
    by_slice: Sequence[float | None],
    by_patient: Sequence[float | None] | None,
    *,
    seed: int,
    draws: int,
) -> Summary:
    """One number of the set, from those of its slices and of its patients."""
    finite = sum(each is not None and math.isfinite(each) for each in by_slice)
    values = np.array([each for each in by_patient or () if each is not None and math.isfinite(each)])
    mean = mean_of(by_patient or ())
    low, high = interval(values, seed, draws) if len(values) >= FEWEST_PATIENTS else (None, None)
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    over_slices = mean_of(by_slice)
    return Summary(metric, label, mean, low, high, std, len(values), over_slices, finite, len(by_slice) - finite)


def interval(values: Floats, seed: int, draws: int) -> tuple[float, float]:
    """The interval of the mean that a percentile bootstrap gives, 2.5 % to 97.5 %.

    Args:
        values: a value for each patient, `(N,)`.
        seed: of the counter-based generator: the same seed, draws and values give the same interval everywhere.
        draws: how many means of `N` patients are drawn, with replacement.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    count = len(values)
    means = np.empty(draws)
    for stream, start in enumerate(range(0, draws, _DRAWS_TOGETHER)):
        some = means[start : start + _DRAWS_TOGETHER]
        bits = random_bits(seed, stream, _PURPOSE, len(some) * count)
        # 53 bits make a number in [0, 1); times the count it is a patient, each as likely as the others to 2^-53.
        drawn = ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53 * count).astype(np.int64)
        some[:] = values[drawn].reshape(-1, count).mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
