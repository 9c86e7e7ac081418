"""Whose slices are whose: what stands for patients in the output, and their slices in order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_PSEUDONYM = re.compile(r"P[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Patients:
    """The patients of slices.

    Attributes:
        names: what stands for the patient of each slice; None where its slice names none.
        unknown: slices that name no patient.
        numbered: whether numbers stand for ids: an id that `ctpatch prepare` did not make may be a real one.
        groups: rows of each patient's slices, patients in the order of their first slices; none where a slice names no
            patient: a mean over some of the patients would pass for one over all.
    """

    names: list[str | None]
    unknown: int
    numbered: bool
    groups: dict[str, list[int]]


def patients_of(ids: Sequence[str | None]) -> Patients:
    """The patients of slices, by the ids on record."""
    known = [each for each in ids if each is not None]
    numbered = not all(_PSEUDONYM.fullmatch(each) for each in known)
    order = {each: f"patient {at}" if numbered else each for at, each in enumerate(dict.fromkeys(known), 1)}
    names = [None if each is None else order[each] for each in ids]
    unknown = len(ids) - len(known)
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names if not unknown else ()):
        assert name is not None
        groups.setdefault(name, []).append(row)
    return Patients(names, unknown, numbered and bool(known), groups)
