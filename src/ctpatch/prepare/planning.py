"""What a preparation is to do: which slices, with which partners, in which splits, under which names."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ctpatch.errors import SourceManifestError
from ctpatch.files.digest import json_digest
from ctpatch.format.prepared_meta import NoteInfo
from ctpatch.prepare.geometry import Geometry
from ctpatch.prepare.part import ArraySource, PrepareTask
from ctpatch.prepare.privacy.pseudonyms import Pseudonyms
from ctpatch.prepare.readers.base import LeftOut, RawSlice

Row = tuple[RawSlice, ...]
"""A slice and its partners, in the order of the arrays."""


@dataclass(slots=True)
class PreparePlan:
    """What is to be done: the slices of each split, in the order of their numbers, and what goes on record with them.

    Attributes:
        options: what decides the result, by name, as plain values.
        left_out: pseudonym of the file, array, kind and reason of what is left out before any slice is read.
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
            # Sets whose groups are the patients have the digest that they always had.
            [task.split, task.index, task.patient, task.series, task.file, task.shape, task.slices[0].item]
            + ([] if task.group is None else [task.group])
            for task in self.all_tasks()
        ]
        self.digest = json_digest({"options": self.options, "slices": described})

    def all_tasks(self) -> Iterator[PrepareTask]:
        """Every slice of every split."""
        return chain.from_iterable(self.tasks.values())

    def grouped_by(self) -> dict[str, int]:
        """What kept slices together, with the number of slices."""
        return dict(sorted(Counter(task.slices[0].group_kind for task in self.all_tasks()).items()))


def fitting_rows(rows: Sequence[Row], geometry: Geometry) -> tuple[list[Row], list[LeftOut]]:
    """The rows that can be brought to the size and spacing wanted, and why the others cannot."""
    judged = [(row, geometry.fault(row[0].shape, row[0].spacing_mm)) for row in rows]
    unfit = [LeftOut(row[0].file, *fault) for row, fault in judged if fault is not None]
    return [row for row, fault in judged if fault is None], unfit


def given_splits(rows: Sequence[Row]) -> dict[str, str] | None:
    """The split of each group where the source itself says it, else None; SourceManifestError where it says two."""
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


def listed_as(rows: Sequence[Row], pseudonyms: Pseudonyms) -> dict[str, tuple[str, ...]]:
    """How a table of patients may call a group that is of one patient: as the patient, by id or by pseudonym."""
    patients: dict[str, set[str]] = {}
    for row in rows:
        patients.setdefault(row[0].group, set()).add(row[0].who)
    return {group: (who, pseudonyms.patient(who)) for group, (who, *others) in patients.items() if not others}


def make_tasks(
    rows: Sequence[Row], splits: Mapping[str, str], order: Sequence[str], geometry: Geometry, pseudonyms: Pseudonyms
) -> dict[str, list[PrepareTask]]:
    """The slices of each split, numbered; splits in the `order` given, then others by name.

    They stand in the order of the pseudonyms of patients and series, so that not even the order tells who is who; where
    the source gives splits, in the order of the source. Where splits keep something else together than patients, each
    task has the pseudonym of its group as well.
    """
    by_split: dict[str, list[Row]] = {}
    for row in rows:
        by_split.setdefault(splits[row[0].group], []).append(row)

    def place(row: Row) -> tuple[str, str, int]:
        raw = row[0]
        given = raw.split is not None
        return ("", "", 0) if given else (pseudonyms.patient(raw.who), pseudonyms.series(raw.series), raw.order)

    grouped = any(row[0].patient is not None for row in rows)

    def task(index: int, split: str, row: Row) -> PrepareTask:
        raw = row[0]
        shape, spacing = geometry.result(raw.shape, raw.spacing_mm)
        group = pseudonyms.patient(raw.group) if grouped else None
        ids = (pseudonyms.patient(raw.who), pseudonyms.series(raw.series), pseudonyms.file(raw.file))
        return PrepareTask(index, split, row, shape, *ids, spacing, group=group)

    names = [*(name for name in order if name in by_split), *sorted(set(by_split) - set(order))]
    return {
        name: [task(index, name, row) for index, row in enumerate(sorted(by_split[name], key=place))] for name in names
    }
