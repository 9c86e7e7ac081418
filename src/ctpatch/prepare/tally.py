"""What the values of a series are, counted slice by slice in memory that does not grow with the series."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.format.hu_values import BIN_HU, HIGH_HU, LOW_HU, NUM_BINS
from ctpatch.prepare.readers.base import Observed, SliceRemark
from ctpatch.prepare.values import AIR_HU

MAX_HU = 30_710
"""Highest HU that a CT stores: 12 bits with the slope 10 and the intercept -10,240 of the extended scale."""

MAX_8_BIT = 255

PADDING_IS_AIR_HU = -500
"""Padding whose pixels would be below is air or nothing, wherever it lies."""

_MAX_REMARKS = 16


@dataclass(slots=True)
class Tally:
    """Counts over the pixels of some slices; those that the file declares to be padding stand apart.

    Attributes:
        slices: how many.
        pixels: how many that are no padding.
        counts: `(NUM_BINS + 2,)` int64 of these: below the histogram, in each of its bins, above it.
        at_air: of these, how many are -1024 HU exactly, which is also what programs fill with.
        too_high: of these, how many are above `MAX_HU`.
        low, high: lowest and highest of these; infinities where there is none.
        whole_8_bit: whether all of these are whole numbers from 0 to 255.
        padding: how many that are padding.
        padding_amid: of these, how many would not be air and lie where no row or column of padding leads to the border.
        padding_low, padding_high: lowest and highest HU that padding would have; infinities where there is none.
        remarks: what readers say of slices, with the number of slices.
    """

    slices: int = 0
    pixels: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS + 2, np.int64))
    at_air: int = 0
    too_high: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    whole_8_bit: bool = True
    padding: int = 0
    padding_amid: int = 0
    padding_low: float = float("inf")
    padding_high: float = float("-inf")
    remarks: Counter[SliceRemark] = field(default_factory=Counter)

    @classmethod
    def of(cls, seen: Observed) -> "Tally":
        """Count one slice; its values are finite HU, as the reader gave them."""
        tally = cls.without_values(seen)
        padding = seen.padding
        values = seen.image.ravel() if padding is None else seen.image[~padding]
        tally.pixels = values.size
        if padding is not None and seen.padding_hu is not None and values.size < padding.size:
            tally.padding = padding.size - values.size
            tally.padding_low, tally.padding_high = seen.padding_hu
            if tally.padding_high > PADDING_IS_AIR_HU:
                tally.padding_amid = int(np.count_nonzero(padding & ~_leads_to_border(padding)))
        if values.size:
            tally.low, tally.high = float(values.min()), float(values.max())
            # One bin lower, so that nothing is below 0, where whole numbers would be rounded up.
            places = np.clip(values, LOW_HU - BIN_HU, HIGH_HU)
            places -= LOW_HU - BIN_HU
            places /= BIN_HU
            tally.counts = np.bincount(places.astype(np.int32), minlength=NUM_BINS + 2).astype(np.int64)
            tally.at_air = int(np.count_nonzero(values == AIR_HU)) if tally.low <= AIR_HU else 0
            tally.too_high = int(np.count_nonzero(values > MAX_HU)) if tally.high > MAX_HU else 0
            in_8_bit = tally.low >= 0 and tally.high <= MAX_8_BIT
            tally.whole_8_bit = in_8_bit and bool((values == np.rint(values)).all())
        return tally

    @classmethod
    def without_values(cls, seen: Observed) -> "Tally":
        """Count one slice whose values are no HU: what its reader says of it alone."""
        return cls(slices=1, remarks=Counter(seen.remarks))

    def add(self, other: "Tally") -> None:
        """Count the slices of another tally too."""
        for name in ("slices", "pixels", "at_air", "too_high", "padding", "padding_amid"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.counts = self.counts + other.counts
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.padding_low = min(self.padding_low, other.padding_low)
        self.padding_high = max(self.padding_high, other.padding_high)
        self.whole_8_bit = self.whole_8_bit and other.whole_8_bit
        for remark, slices in other.remarks.items():
            if remark in self.remarks or len(self.remarks) < _MAX_REMARKS:
                self.remarks[remark] += slices

    def number(self, low: float, high: float) -> int:
        """Pixels from `low` to below `high` HU, both multiples of the bins' width; infinities take the rest along."""
        return int(self.counts[_place(low) : _place(high)].sum())

    def share(self, low: float, high: float) -> float:
        """The same as a share of all pixels that are no padding; 0 where there is none."""
        return self.number(low, high) / self.pixels if self.pixels else 0.0

    def as_plain(self) -> dict[str, Any]:
        """Values for a receipt, of which most are in the histogram's bins that are not empty."""
        filled = np.flatnonzero(self.counts)
        plain = {name: getattr(self, name) for name in _PLAIN}
        plain |= {name: getattr(self, name) for name in _LIMITS if np.isfinite(getattr(self, name))}
        plain["counts"] = [filled.tolist(), self.counts[filled].tolist()]
        plain["remarks"] = [[each.kind, each.message, slices] for each, slices in self.remarks.items()]
        return plain

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Tally":
        """What `as_plain` gave."""
        tally = cls(**{name: plain[name] for name in (*_PLAIN, *_LIMITS) if name in plain})
        bins, counts = plain["counts"]
        tally.counts[bins] = counts
        tally.remarks = Counter({SliceRemark(kind, message): slices for kind, message, slices in plain["remarks"]})
        return tally


_PLAIN = ("slices", "pixels", "at_air", "too_high", "whole_8_bit", "padding", "padding_amid")
_LIMITS = ("low", "high", "padding_low", "padding_high")


def _place(hu: float) -> int:
    """Number of the bin that begins at some HU."""
    if np.isinf(hu):
        return 0 if hu < 0 else NUM_BINS + 2
    return int((min(max(hu, LOW_HU), HIGH_HU) - LOW_HU) // BIN_HU) + 1


def _leads_to_border(padding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of padding from which a row or a column of padding leads straight to the border, `(H, W)` bool."""
    found = np.zeros_like(padding)
    for axis in (0, 1):
        found |= np.logical_and.accumulate(padding, axis=axis)
        found |= np.flip(np.logical_and.accumulate(np.flip(padding, axis), axis=axis), axis)
    return found
