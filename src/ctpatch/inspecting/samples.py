"""A few slices of each series, read to see its values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctpatch.errors import SliceError
from ctpatch.prepare.doubts import doubts
from ctpatch.prepare.readers.base import LeftOut, RawSlice, Reader, observed
from ctpatch.prepare.tally import Tally

MOST_LABELS = 128
"""A mask has no more labels than this: TotalSegmentator's has 117 structures."""


@dataclass(slots=True)
class Sample:
    """What slices of a series show.

    Attributes:
        tally: of their values.
        labels: the values, where all are whole numbers from 0 on and few; None where they are not.
        faults: slices that could not be read.
    """

    tally: Tally = field(default_factory=Tally)
    labels: set[int] | None = field(default_factory=set)
    faults: list[LeftOut] = field(default_factory=list)

    @property
    def like_a_mask(self) -> bool:
        """Whether the values are labels, and some pixel has one."""
        return bool(self.labels) and max(self.labels or {0}) > 0

    def suspicions(self) -> list[tuple[str, str]]:
        """Kind and sentence of each reason to doubt that the values are HU."""
        return doubts(self.tally) if self.tally.slices else []


def spread(slices: Sequence[RawSlice], count: int) -> list[RawSlice]:
    """So many slices of a series, evenly spread and in order, its first and last ones spared where there are others.

    >>> list(spread(range(9), 3))
    [1, 4, 7]
    """
    count = min(count, len(slices))
    return [slices[(2 * number + 1) * len(slices) // (2 * count)] for number in range(count)]


def sample(reader: Reader, root: Path, slices: Sequence[RawSlice]) -> Sample:
    """Read slices of one series, each by itself, so that one that is damaged hides no other."""
    found = Sample()
    for raw in slices:
        try:
            seen = next(iter(observed(reader, root, [raw])))
        except SliceError as error:
            reason = error.message.removeprefix(raw.file).lstrip(": ")
            found.faults.append(LeftOut(raw.file, "unreadable-pixels", reason, fault=True))
            continue
        found.tally.add(Tally.of(seen))
        if found.labels is not None:
            values = np.unique(seen.image)
            few = len(values) <= MOST_LABELS and bool((values >= 0).all() and (values == np.rint(values)).all())
            found.labels = found.labels | set(values.astype(int).tolist()) if few else None
    if found.labels is not None and len(found.labels) > MOST_LABELS:
        found.labels = None
    return found
