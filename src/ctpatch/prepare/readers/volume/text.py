"""Numbers and sizes in headers that are text."""

import math
from collections.abc import Sequence

from ctpatch.errors import SliceError

_SHOWN = 60
_LARGEST = 2**31


def shown(text: str) -> str:
    """A value of a header as messages quote it."""
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


def _words(text: str) -> list[str]:
    # Python takes 1_0 and digits of other scripts for numbers; other readers of these formats do not.
    return text.split() if text.isascii() and "_" not in text else []


def finite(name: str, field: str, text: str, count: int | None = None) -> list[float]:
    """Numbers with blanks between them; SliceError where they are not finite, or not as many as wanted."""
    words = _words(text)
    try:
        found = [float(word) for word in words[: (count or _SHOWN) + 1]]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)) or (count is not None and len(words) != count):
        wanted = "numbers" if count is None else "a number" if count == 1 else f"{count} numbers"
        raise SliceError(f"{name}: its {field} is {shown(text)}, wanted {wanted}; write its header again")
    return found


def whole(name: str, field: str, text: str, count: int | None = None) -> list[int]:
    """Whole numbers with blanks between them."""
    words = _words(text)
    try:
        found = [int(word) for word in words[: (count or _SHOWN) + 1]]
    except ValueError:
        found = []
    if not found or any(abs(each) > _LARGEST for each in found) or (count is not None and len(words) != count):
        wanted = "whole numbers" if count is None else "a whole number" if count == 1 else f"{count} whole numbers"
        raise SliceError(f"{name}: its {field} is {shown(text)}, wanted {wanted}; write its header again")
    return found


def sizes(name: str, field: str, text: str, count: int) -> list[int]:
    """How many voxels an axis has, for each axis."""
    found = whole(name, field, text, count)
    if min(found) < 1:
        raise SliceError(f"{name} says it has {' x '.join(map(str, found))} voxels; copy it again")
    return found


def above_zero(name: str, field: str, numbers: Sequence[float]) -> list[float]:
    """Distances in mm."""
    if min(numbers) <= 0:
        stated = " ".join(f"{each:g}" for each in numbers)
        raise SliceError(f"{name}: its {field} is {stated}, wanted millimetres above 0; write its header again")
    return list(numbers)
