"""From stored numbers to HU: what RescaleSlope, RescaleIntercept and RescaleType say, and what they leave open."""

import re
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from ctpatch.prepare.readers.dicom.tags import HeaderError, Tags

_UNIT = "HOUNSFIELD"
_SIMILAR = 0.8
"""Of letters in common: `HOUNDSFIELD` has 0.95 and `HOUSFEILD` 0.84, no other term of the standard more than 0.4."""

_OTHER_TERMS = frozenset({"OD", "HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT"})
"""What RescaleType can be besides HU and US (DICOM PS3.3, C.11.1.1.2)."""


class Rescale(NamedTuple):
    """How stored numbers become HU.

    Attributes:
        missing: those of the two tags that are not there; the usual 1 and 0 stand in their place.
        not_hu: why the values are no HU, or blank.
        unspecified: whether RescaleType leaves the unit open.
    """

    missing: tuple[str, ...]
    not_hu: str
    unspecified: bool


def settle_rescale(dataset: Any, tags: Tags) -> Rescale:
    """Find what makes HU of stored numbers, and put the usual slope or intercept into a dataset that lacks it.

    Raises:
        HeaderError: a tag is there and makes no sense.
    """
    missing: list[str] = []
    for tag, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        number = tags.number(tag)
        if number is None or (tag == "RescaleSlope" and number == 0):
            if tags.text(tag):
                wanted = "a number, not 0" if tag == "RescaleSlope" else "a number"
                seen = "no finite number" if number is None else "0"
                raise HeaderError("no-rescale", f"its {tag} is {seen}, wanted {wanted}; correct its header")
            missing.append(tag)
            setattr(dataset, tag, usual)
    unit = tags.text("RescaleType")
    unspecified = unit.upper() in {"US", "UNSPECIFIED"}
    not_hu = "" if unspecified or means_hu(unit) else f"its RescaleType{_named(unit)} says that its values are no HU"
    return Rescale(tuple(missing), not_hu, unspecified)


def means_hu(unit: str) -> bool:
    """Whether a RescaleType is blank or HU, in whatever spelling: `HU `, `Hounsfield`, `Houndsfield Unit`."""
    letters = re.sub("[^A-Z]", "", unit.upper())
    if letters in {"", "HU"}:
        return not unit or bool(letters)
    word = re.sub("UNITS?$", "", letters)
    return SequenceMatcher(None, word, _UNIT).ratio() >= _SIMILAR


def why_no_hu(missing: tuple[str, ...]) -> str:
    """What to say of a file that lacks one of the two tags, or both."""
    other = {"RescaleSlope": "RescaleIntercept", "RescaleIntercept": "RescaleSlope"}
    lacks = (
        f"it has {other[missing[0]]} and no {missing[0]}" if len(missing) == 1 else f"it has no {' or '.join(missing)}"
    )
    return f"{lacks}, so its values may be no HU; --assume-hu takes 1 for a missing slope and 0 for a missing intercept"


def _named(unit: str) -> str:
    """The value, where it is a term of the standard; anything else could hold a name."""
    return f" {unit.upper()}" if unit.upper() in _OTHER_TERMS else ""
