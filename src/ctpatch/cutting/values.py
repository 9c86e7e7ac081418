"""How the pixels of a set are spread: sums of a part for its receipt, and of all parts for the meta.

Looking at each pixel once more would make a build half as quick. So percentiles come from every n-th row of pixels,
each slice beginning with another row. What tells more exactly costs nothing and is used: window statistics, and the
extremes of slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.grid import Grid
from ctpatch.core.spread import NUMBER_OF_BINS, PERCENTS, Bins, Counts, Floats, Moments, pack_counts, unpack_counts
from ctpatch.errors import FormatError
from ctpatch.format.meta import ArrayInfo
from ctpatch.format.value_record import ArrayValues, BinsRecord, Spread, ValueRecord

if TYPE_CHECKING:
    from ctpatch.cutting.job import Job
    from ctpatch.cutting.plan import SplitPlan
    from ctpatch.cutting.rows import CutSlice

_SAMPLED_IN_ALL = 1 << 18
_SAMPLED_PER_SLICE = 512
_RUN_SAMPLES = 12_000
"""Samples that are counted at a time: calls of NumPy cost more than counting the few of one slice."""

PATCHES, SLICES = "patches", "slices"
SumsOnRecord = tuple[int, tuple[int, float, float, float, float] | None, str]
"""Pixels, their moments, and the packed counts of the sampled ones."""


def sampled_every(plan: "SplitPlan") -> int:
    """Every how many rows of pixels one is sampled; as it was done in the set that is the source.

    A quarter of a million pixels of a set are sampled, or 512 of each slice where that is more, or all where there are
    fewer.
    """
    if plan.made_from is not None and plan.made_from.values is not None:
        return plan.made_from.values.every
    pixels = sum(each.slices * prod(each.grid.shape) for each in plan.shapes)
    return max(1, pixels // max(_SAMPLED_IN_ALL, _SAMPLED_PER_SLICE * plan.num_slices))


def bins_of(config: PatchConfig) -> Bins:
    """Bins over the value range, and over 0 where windows are padded with it."""
    low, high = config.value_range
    if config.pad_mode == "zero":
        low, high = min(low, 0.0), max(high, 0.0)
    return Bins(low, high, NUMBER_OF_BINS)


@dataclass(slots=True)
class Sums:
    """What is known of some pixels of an array, so that it can be added up.

    Attributes:
        count: how many.
        moments: of all of them, or of the sampled ones; None where none was looked at.
        counts: of the sampled ones in each bin.
    """

    count: int = 0
    moments: Moments | None = None
    counts: Counts = field(default_factory=lambda: np.zeros(NUMBER_OF_BINS, np.int64))

    def add(self, moments: Moments | None) -> None:
        """Add more pixels to the moments."""
        if self.moments is None or moments is None:
            self.moments = self.moments or moments
        else:
            self.moments = self.moments.plus(moments)

    def add_all(self, other: "Sums") -> None:
        """Add all that another part knows."""
        self.count += other.count
        self.add(other.moments)
        self.counts += other.counts

    def on_record(self) -> SumsOnRecord:
        """Plain values for a receipt."""
        each = self.moments
        moments = None if each is None else (each.count, each.mean, each.squares, each.low, each.high)
        return self.count, moments, pack_counts(self.counts)

    @classmethod
    def from_record(cls, record: SumsOnRecord) -> "Sums":
        """Those in a receipt; ValueError where it is damaged."""
        count, moments, counts = record
        return cls(count, None if moments is None else Moments(*moments), unpack_counts(counts, NUMBER_OF_BINS))

    def spread(self, bins: Bins) -> Spread:
        """What the meta says of them."""
        each, sampled = self.moments, int(self.counts.sum())
        if each is None:
            return Spread(count=self.count, sampled=0, mean=None, std=None, min=None, max=None, percentiles=None)
        shown = bins.percentiles(self.counts, each.low, each.high) if sampled else None
        return Spread(
            count=self.count,
            sampled=sampled,
            mean=each.mean,
            std=each.std,
            min=each.low,
            max=each.high,
            percentiles=None if shown is None else tuple(shown),
        )


class _Sample(NamedTuple):
    """The sampled rows of one slice: of the slice, and of what its windows are cut from, with how often they do so."""

    whole: NDArray[Any]
    padded: NDArray[Any]
    weights: Floats


class PartValues:
    """Collects the spread of a part's pixels while its slices are cut."""

    def __init__(self, job: "Job") -> None:
        self._every, self._bins, self._config = job.sampled_every, bins_of(job.config), job.config
        self._arrays = {name: place for place, name in enumerate(job.arrays) if not job.arrays[name].labels}
        self._samples: dict[str, list[_Sample]] = {name: [] for name in self._arrays}
        self._waiting = 0
        self._sums = {name: {PATCHES: Sums(), SLICES: Sums()} for name in self._arrays}
        self._bounds: dict[str, list[tuple[float, float]]] = {name: [] for name in self._arrays}

    def add(self, piece: "CutSlice") -> None:
        """Look at the pixels of a slice that was cut; they may be let go of then."""
        grid = piece.grid
        start = -piece.task.slice_index % self._every
        all_kept = not self._config.drop or not (piece.hits >= 0).any()
        weights = (
            _weights_of_all(grid, start, self._every)
            if all_kept
            else _weights(grid, start, self._every, piece.hits < 0)
        )
        for name, place in self._arrays.items():
            whole = _rows(piece.images[place], start, self._every)
            padded = _rows(piece.padded[place], start, self._every) if grid.pads else whole
            self._samples[name].append(_Sample(whole, padded, weights))
            if piece.array_bounds:
                self._bounds[name].append(piece.array_bounds[place])
        self._waiting += len(weights)
        if self._waiting >= _RUN_SAMPLES:
            self._count_samples()

    def _count_samples(self) -> None:
        with np.errstate(all="ignore"):  # pixels of a damaged set may be no numbers; what writes them finds that
            self._count_all()
        self._waiting = 0

    def _count_all(self) -> None:
        for name, samples in self._samples.items():
            if not samples:
                continue
            of_patches, of_slices = self._sums[name][PATCHES], self._sums[name][SLICES]
            values = np.concatenate([each.whole for each in samples]).astype(np.float64)
            places = self._bins.places(values)
            if self._bounds[name]:  # else slices are put together from patches, and not whole
                of_slices.counts += self._bins.counts(places)
                of_slices.add(Moments.of(values))
            if any(each.padded is not each.whole for each in samples):
                values = np.concatenate([each.padded for each in samples]).astype(np.float64)
                places = self._bins.places(values)
            weights = np.concatenate([each.weights for each in samples])
            of_patches.counts += self._bins.counts(places, weights)
            if name != self._config.rules_on:
                inside = weights > 0
                of_patches.add(Moments.of(values[inside], weights[inside]))
            samples.clear()

    def on_record(self, done: Sequence["CutSlice"], kept: NDArray[np.bool_]) -> dict[str, dict[str, SumsOnRecord]]:
        """The sums for the receipt of a part: its slices that were cut, and whether each of their windows was kept."""
        self._count_samples()
        area = prod(self._config.patch_size)
        num_kept = int(kept.sum())
        pixels = sum(prod(piece.grid.shape) for piece in done)
        for name, sums in self._sums.items():
            sums[PATCHES].count, sums[SLICES].count = num_kept * area, pixels
            if name == self._config.rules_on and num_kept:
                columns = (
                    np.concatenate([piece.statistics[each] for piece in done])[kept]
                    for each in ("mean", "std", "min", "max")
                )
                sums[PATCHES].moments = Moments.of_groups(*columns, size=area)
            moments, bounds = sums[SLICES].moments, self._bounds[name]
            if moments is not None and bounds:
                low, high = min(each[0] for each in bounds), max(each[1] for each in bounds)
                sums[SLICES].moments = Moments(moments.count, moments.mean, moments.squares, low, high)
        return {name: {which: each.on_record() for which, each in sums.items()} for name, sums in self._sums.items()}


class SetValues:
    """The spread of a whole set's pixels, added up in the order of its parts."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, Sums]] = {}
        self._complete = True

    def add(self, part: int, record: Mapping[str, Mapping[str, SumsOnRecord]]) -> None:
        """Add a part's sums; a part that an earlier version cut has none, and then the set has none.

        Raises:
            FormatError: its receipt is damaged.
        """
        if not record:
            self._complete = False
        try:
            for name, scopes in record.items():
                mine = self._sums.setdefault(name, {PATCHES: Sums(), SLICES: Sums()})
                for scope, sums in mine.items():
                    sums.add_all(Sums.from_record(scopes[scope]))
        except (ValueError, KeyError, TypeError, ArithmeticError):
            raise FormatError(f"the receipt of part {part} is damaged; start anew with --overwrite") from None

    def record(
        self, config: PatchConfig, arrays: Mapping[str, ArrayInfo], every: int, before: ValueRecord | None = None
    ) -> ValueRecord | None:
        """What the meta says; None where some part says nothing.

        Args:
            config: of the set.
            arrays: of the set.
            every: every how many rows one was sampled.
            before: of the set that this one is made from: what it says of whole slices holds here.

        Raises:
            FormatError: receipts have numbers that no pixels have.
        """
        if not self._complete:
            return None
        try:
            with np.errstate(all="ignore"):
                return self._record(config, arrays, every, before)
        except (ValueError, OverflowError, ZeroDivisionError):  # pydantic's error is a ValueError
            raise FormatError(
                "the receipts of a part hold numbers that no pixels have; are they damaged? Start anew with --overwrite"
            ) from None

    def _record(
        self, config: PatchConfig, arrays: Mapping[str, ArrayInfo], every: int, before: ValueRecord | None
    ) -> ValueRecord:
        bins = bins_of(config)
        values = {}
        for name in (name for name, info in arrays.items() if not info.labels):
            sums = self._sums.get(name, {PATCHES: Sums(), SLICES: Sums()})
            slices = sums[SLICES].spread(bins) if before is None else before.arrays[name].slices
            values[name] = ArrayValues(patches=sums[PATCHES].spread(bins), slices=slices)
        record = BinsRecord(low=bins.low, high=bins.high, number=bins.number)
        return ValueRecord(every=every, bins=record, percents=PERCENTS, arrays=values)


def _rows(image: NDArray[Any], start: int, every: int) -> NDArray[Any]:
    """A copy of the sampled rows, one after the other."""
    return np.array(image[start::every], order="C").reshape(-1)


def _weights(grid: Grid, start: int, every: int, kept: NDArray[np.bool_]) -> Floats:
    """In how many windows each sampled pixel lies, `(N,)`, where `kept` says for each window whether it counts."""
    chosen = kept.reshape(len(grid.row_starts), len(grid.col_starts)).astype(np.float64)
    rows = np.arange(start, grid.padded_shape[0], every)
    cols = np.arange(grid.padded_shape[1])
    down = _within(rows, grid.row_starts, grid.patch_size[0])
    right = _within(cols, grid.col_starts, grid.patch_size[1])
    # Whole numbers below 2**53: exact in whatever order they are added.
    weights: Floats = (down @ chosen @ right.T).reshape(-1)
    return weights


def _within(pixels: NDArray[np.int64], starts: Sequence[int], size: int) -> Floats:
    begins = np.asarray(starts, np.int64)
    return ((pixels[:, None] >= begins) & (pixels[:, None] < begins + size)).astype(np.float64)


@lru_cache(maxsize=512)
def _weights_of_all(grid: Grid, start: int, every: int) -> Floats:
    return _weights(grid, start, every, np.ones(len(grid), np.bool_))
