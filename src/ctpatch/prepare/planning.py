"""What a preparation is to do: which slices, with which partners, in which splits, under which names."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctpatch.errors import SourceManifestError
from ctpatch.files.digest import json_digest
from ctpatch.format.prepared_meta import NoteInfo
from ctpatch.prepare.geometry import Geometry
from ctpatch.prepare.part import ArraySource, PreparePart, PrepareTask
from ctpatch.prepare.privacy.pseudonyms import Pseudonyms
from ctpatch.prepare.readers.base import LeftOut, RawSlice

SLICES_PER_PART = 32

Row = tuple[RawSlice, ...]
"""A slice and its partners, in the order of the arrays."""


@dataclass(slots=True)
class PreparePlan:
    """What is to be done.

    Attributes:
        tasks: the slices of each split, in the order of their numbers.
        options: what decides the result, by name, as plain values.
        left_out: pseudonym of the file, array, kind and reason of what is left out before any slice is read.
        notes: what a user should know of a series.
        digest: of options and slices.
    """

    dataset: str
    arrays: tuple[ArraySource, ...]
    geometry: Geometry
    tasks: dict[str, list[PrepareTask]]
    options: dict[str, Any]
    left_out: Sequence[tuple[str, str, str, str]] = ()
    notes: Sequence[NoteInfo] = ()
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        described = [
            [task.split, task.index, task.patient, task.series, task.file, task.shape, task.slices[0].item]
            for task in self.all_tasks()
        ]
        self.digest = json_digest({"options": self.options, "slices": described})

    def all_tasks(self) -> Iterator[PrepareTask]:
        """Every slice of every split."""
        for tasks in self.tasks.values():
            yield from tasks

    @property
    def num_slices(self) -> int:
        """Slices in all splits."""
        return sum(len(tasks) for tasks in self.tasks.values())

    def parts(self) -> Iterator[PreparePart]:
        """Runs of slices, none across two splits."""
        number = 0
        for tasks in self.tasks.values():
            for start in range(0, len(tasks), SLICES_PER_PART):
                yield PreparePart(number, tuple(tasks[start : start + SLICES_PER_PART]))
                number += 1

    def grouped_by(self) -> dict[str, int]:
        """What kept slices together, with the number of slices."""
        return dict(sorted(Counter(task.slices[0].group_kind for task in self.all_tasks()).items()))


def fitting_rows(rows: Sequence[Row], geometry: Geometry) -> tuple[list[Row], list[LeftOut]]:
    """The rows that can be brought to the size and spacing wanted, and why the others cannot."""
    faults = [geometry.fault(row[0].shape, row[0].spacing_mm) for row in rows]
    kept = [row for row, fault in zip(rows, faults, strict=True) if fault is None]
    return kept, [LeftOut(row[0].file, *fault) for row, fault in zip(rows, faults, strict=True) if fault is not None]


def given_splits(rows: Sequence[Row]) -> dict[str, str] | None:
    """The split of each group where the source itself says it; None where it does not.

    Raises:
        SourceManifestError: a group is in two splits.
    """
    splits: dict[str, str] = {}
    for row in rows:
        if row[0].split is None:
            return None
        if splits.setdefault(row[0].group, row[0].split) != row[0].split:
            raise SourceManifestError(
                f"the source puts {row[0].group!r} into {splits[row[0].group]} and into {row[0].split}; "
                "a patient is in one split"
            )
    return splits


def make_tasks(
    rows: Sequence[Row], splits: Mapping[str, str], order: Sequence[str], geometry: Geometry, pseudonyms: Pseudonyms
) -> dict[str, list[PrepareTask]]:
    """The slices of each split, numbered.

    They stand in the order of the pseudonyms of patients and series, so that not even the order tells who is who; where
    the source gives splits, in the order of the source.

    Args:
        rows: slices with their partners.
        splits: of each group.
        order: of the splits, where they are named; others follow by name.
        geometry: gives each its shape and spacing.
        pseudonyms: what stands for ids.
    """
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(splits[row[0].group], []).append(row)

    def place(row: Row) -> tuple[str, str, int]:
        raw = row[0]
        given = raw.split is not None
        return ("", "", 0) if given else (pseudonyms.patient(raw.group), pseudonyms.series(raw.series), raw.order)

    def numbered(split: str) -> Iterator[PrepareTask]:
        for index, row in enumerate(sorted(by_split[split], key=place)):
            raw = row[0]
            shape, spacing = geometry.result(raw.shape, raw.spacing_mm)
            ids = (pseudonyms.patient(raw.group), pseudonyms.series(raw.series), pseudonyms.file(raw.file))
            yield PrepareTask(index, split, row, shape, *ids, spacing)

    names = [*(name for name in order if name in by_split), *sorted(set(by_split) - set(order))]
    return {name: list(numbered(name)) for name in names}
