"""How a slice lies in the patient: ImageOrientationPatient, else what other tags say of it, else unknown."""

import math
from typing import NamedTuple

from ctpatch.prepare.readers.base import SliceRemark
from ctpatch.prepare.readers.dicom.tags import Tags

Cosines = tuple[float, float, float, float, float, float]
_TOLERANCE = 0.02

_OF_LETTER = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "H": (0.0, 0.0, 1.0),
    "F": (0.0, 0.0, -1.0),
}
"""Directions of DICOM PS3.3, C.7.6.1.1.1: left, right, back, front, head, feet."""

_OF_POSITION: dict[str, Cosines] = {
    "S": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "P": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "DL": (0.0, -1.0, 0.0, 1.0, 0.0, 0.0),
    "DR": (0.0, 1.0, 0.0, -1.0, 0.0, 0.0),
}
"""Supine, prone, on the left side, on the right: the table is below, and one looks from the feet, as scanners store
slices whether the head (HF) or the feet (FF) go first."""

_NAMES = {"S": "supine", "P": "prone", "DL": "on the left side", "DR": "on the right side"}


class Oriented(NamedTuple):
    """Directions of the columns' and of the rows' numbers.

    Attributes:
        axes: None where nothing says them.
        remarks: what is odd about them.
        assumed: whether another tag than ImageOrientationPatient says them.
    """

    axes: Cosines | None
    remarks: tuple[SliceRemark, ...] = ()
    assumed: bool = False


def orientation_of(tags: Tags) -> Oriented:
    """Find out how a slice lies. Of several tags that say it, ImageOrientationPatient is right."""
    said = tags.numbers("ImageOrientationPatient", 6)
    axes = _unit_vectors(said)
    letters = _of_letters(tags.words("PatientOrientation"))
    if axes is not None:
        if letters is None or _same_main_directions(axes, letters):
            return Oriented(axes)
        conflict = "PatientOrientation names other directions than ImageOrientationPatient, which is used"
        return Oriented(axes, (SliceRemark("orientation-conflict", conflict),))
    wrong = "ImageOrientationPatient is " + ("missing" if said is None else "no pair of directions")
    if letters is not None:
        return Oriented(
            letters, (SliceRemark("orientation-assumed", f"{wrong}; PatientOrientation is used"),), assumed=True
        )
    position = "".join(tags.words("PatientPosition"))
    lies = position[2:] if position[:2] in {"HF", "FF"} else ""
    if lies in _OF_POSITION:
        assumed = (
            f"{wrong}; PatientPosition says {_NAMES[lies]}, and slices are taken to be seen from the feet, as usual; "
            "check that left is left"
        )
        return Oriented(_OF_POSITION[lies], (SliceRemark("orientation-assumed", assumed),), assumed=True)
    unknown = (
        f"orientation unknown: {wrong}, and neither PatientOrientation nor PatientPosition says how the patient lies; "
        "slices are kept as they are stored"
    )
    return Oriented(None, (SliceRemark("orientation-unknown", unknown),))


def across_the_table(axes: Cosines) -> bool:
    """Whether the plane stands at more than 60 degrees to the axial one: sagittal, coronal, or a scout view."""
    return abs(axes[0] * axes[4] - axes[1] * axes[3]) < 0.5  # noqa: PLR2004 - along the patient, of the normal


def _unit_vectors(numbers: tuple[float, ...] | None) -> Cosines | None:
    """Two unit vectors at a right angle, or None."""
    if numbers is None:
        return None
    a, b = numbers[:3], numbers[3:]
    errors = [math.hypot(*a) - 1, math.hypot(*b) - 1, sum(x * y for x, y in zip(a, b, strict=True))]
    return None if any(abs(error) > _TOLERANCE for error in errors) else (a[0], a[1], a[2], b[0], b[1], b[2])


def _of_letters(words: list[str]) -> Cosines | None:
    """The main directions that two values such as `L` and `PF` name, or None; a blank one names none."""
    if len(words) != 2:  # noqa: PLR2004 - along a row, along a column
        return None
    a, b = (_OF_LETTER.get(each[:1]) for each in words)
    if a is None or b is None or not set("".join(words)) <= set(_OF_LETTER):
        return None
    return None if any(x and y for x, y in zip(a, b, strict=True)) else (*a, *b)


def _same_main_directions(axes: Cosines, letters: Cosines) -> bool:
    """Whether each direction is closer to the one of the letters than to any other, or near the middle of two."""
    inside = [sum(axes[at + k] * letters[at + k] for k in range(3)) for at in (0, 3)]
    return min(inside) > 0.5  # noqa: PLR2004 - 60 degrees: a tilted slice whose first letter is the second largest
