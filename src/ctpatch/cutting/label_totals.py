"""The labels of a whole set, added up over its parts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from ctpatch.format.meta import LabelTotal, LabelTotals

MAX_LABELS_OF_SET = 1000
"""A set with more labels has numbered instances, and no list of them."""

LabelSums: TypeAlias = dict[int, tuple[int, int, int]]
"""For each label its pixels, the slices that hold it, and the kept windows that do."""


def add_labels(sums: LabelSums, rows: Iterable[tuple[int, int, int, int]]) -> None:
    """Add a part's labels, each with its pixels, slices and windows, unless there are too many already."""
    for label, pixels, slices, windows in rows:
        if label in sums or len(sums) <= MAX_LABELS_OF_SET:
            before = sums.get(label, (0, 0, 0))
            sums[label] = before[0] + pixels, before[1] + slices, before[2] + windows


def label_totals(
    arrays: Sequence[str], sums: Mapping[str, LabelSums], uncounted: Mapping[str, int]
) -> dict[str, LabelTotals]:
    """What a meta says of the labels of each of these arrays."""
    found = {}
    for array in arrays:
        mine = sums.get(array, {})
        listed = tuple(
            LabelTotal(label=label, pixels=mine[label][0], slices=mine[label][1], windows=mine[label][2])
            for label in sorted(mine)
        )
        few = len(listed) <= MAX_LABELS_OF_SET
        found[array] = LabelTotals(uncounted=uncounted.get(array, 0), labels=listed if few else None)
    return found
