"""Checks on the counts of labels: those of each slice agree with each other, and with those of the whole set."""

from collections.abc import Iterator
from typing import Any

from ctpatch.checking.findings import Finding
from ctpatch.core.label_counts import MAX_LABELS, read_labels
from ctpatch.cutting.label_totals import LabelSums, add_labels, label_totals
from ctpatch.format.columns import labels_column, pixels_column
from ctpatch.format.meta import PATCH_META
from ctpatch.format.tables import SLICE_MANIFEST, STATUS_OK
from ctpatch.reading.patchset import PatchSet

_WINDOWS: Any = {"labels": {"__all__": {"windows"}}}
_SHOWN_CHARACTERS = 200


def check_labels(ps: PatchSet) -> Iterator[Finding]:
    """What is on record of the labels of each mask; which windows hold them is found out from the sources alone."""
    stated = ps.meta.label_counts or {}
    for array in stated:
        sums: LabelSums = {}
        uncounted = 0
        for at, row in enumerate(ps.slices.iter_rows(named=True)):
            fault, labels = _counts(row, array)
            if fault is not None:
                yield Finding("labels", SLICE_MANIFEST, at + 2, fault)
            uncounted += row["status"] == STATUS_OK and labels is None
            add_labels(sums, [(label, count, 1, 0) for label, count in sorted((labels or {}).items())])
        wanted = label_totals([array], {array: sums}, {array: uncounted})[array].model_dump(exclude=_WINDOWS)
        seen = stated[array].model_dump(exclude=_WINDOWS)
        if seen != wanted:
            message = f"label_counts of {array} are {_shown(seen)}, the slices have {_shown(wanted)}"
            yield Finding("labels", PATCH_META, None, message)
        held = max((each.windows for each in stated[array].labels or ()), default=0)
        if held > ps.manifest.height:
            message = f"label_counts of {array} has {held} windows of a label, the set has {ps.manifest.height} patches"
            yield Finding("labels", PATCH_META, None, message)


def _shown(value: object) -> str:
    return str(value)[:_SHOWN_CHARACTERS]


def _counts(row: dict[str, Any], array: str) -> tuple[str | None, dict[int, int] | None]:
    """What is wrong with a slice's counts, and the pixels of each label where they are on record."""
    above, text = row[pixels_column(array)], row[labels_column(array)]
    if row["status"] != STATUS_OK:
        left = above is None and text is None
        return (None if left else f"{pixels_column(array)} is {above!r}, wanted nothing: the slice was left out"), None
    if above is None or not 0 <= above <= row["height"] * row["width"]:
        return f"{pixels_column(array)} is {above!r}, wanted 0 to the slice's {row['height']}x{row['width']}", None
    if text is None:
        return None, None
    try:
        labels = read_labels(text)
    except ValueError as error:
        return f"{labels_column(array)} is {error}", None
    positive = sum(count for label, count in labels.items() if label > 0)
    if len(labels) > MAX_LABELS:
        return f"{labels_column(array)} has {len(labels)} labels, wanted {MAX_LABELS} at most", labels
    if positive != above:
        return f"{pixels_column(array)} is {above}, {labels_column(array)} has {positive} above 0", labels
    return None, labels
