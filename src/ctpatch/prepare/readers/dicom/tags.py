"""Values of a dataset's tags, within bounds. A value that stands there twice is taken once, and that is remembered."""

import math
from collections.abc import Sequence
from typing import Any

_MAX_TEXT = 512
_LARGEST = 1e6


class HeaderError(ValueError):
    """A header that cannot be used: a kind, a reason, and whether it is a fault, as `LeftOut` has them."""

    def __init__(self, kind: str, reason: str, *, fault: bool = True) -> None:
        super().__init__(reason)
        self.kind, self.reason, self.fault = kind, reason, fault


class Tags:
    """Reads tags by their keyword.

    Attributes:
        doubled: tags whose one value stood there several times.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.doubled: set[str] = set()

    def settle(self, *names: str) -> None:
        """Put the one number into the dataset where it stands several times, for all who read it.

        Raises:
            HeaderError: there are several different ones.
        """
        for tag in names:
            value = self._dataset.get(tag)
            if isinstance(value, Sequence) and not isinstance(value, str | bytes):
                self._one(tag)
                setattr(self._dataset, tag, next((each for each in value if each not in {None, ""}), None))

    def text(self, tag: str) -> str:
        """A text, blank where there is none; several different ones are joined by a backslash, as the file has them."""
        values = self._values(tag)
        if len(set(values)) == 1:
            return self._once(tag, values)[:_MAX_TEXT]
        return "\\".join(values)[:_MAX_TEXT]

    def words(self, tag: str) -> list[str]:
        """Each of several texts in capitals, with single blanks for blanks, underscores and hyphens."""
        return [" ".join(each.upper().replace("_", " ").replace("-", " ").split()) for each in self._values(tag)]

    def whole(self, tag: str) -> int | None:
        """A whole number, or None where there is none."""
        number = self._one(tag)
        return None if number is None else int(number)

    def number(self, tag: str) -> float | None:
        """A number, or None where there is none that is finite."""
        number = self._one(tag)
        return number if number is not None and math.isfinite(number) else None

    def length(self, tag: str) -> float | None:
        """A number above 0 for the user's eyes, or None: whatever else stands there is no fault of the file."""
        try:
            number = float(self._dataset.get(tag))
        except Exception:  # noqa: BLE001 - pydicom converts when it is asked, and raises many kinds
            return None
        return number if math.isfinite(number) and number > 0 else None

    def numbers(self, tag: str, count: int) -> tuple[float, ...] | None:
        """So many numbers, or None where they are not said or make no sense."""
        values = [float(each) for each in self._values(tag)]
        if len(values) > count and len(values) % count == 0 and values == values[:count] * (len(values) // count):
            self.doubled.add(tag)
            values = values[:count]
        fit = len(values) == count and all(math.isfinite(each) and abs(each) < _LARGEST for each in values)
        return tuple(values) if fit else None

    def _one(self, tag: str) -> float | None:
        values = self._values(tag)
        if not values:
            return None
        numbers = [float(each) for each in values]
        if len(set(numbers)) > 1:
            seen = " and ".join(f"{each:g}" for each in sorted(set(numbers))[:2])
            reason = f"its {tag} has {len(numbers)} values that differ ({seen}), wanted one; correct its header"
            raise HeaderError("conflicting-values", reason)
        return float(self._once(tag, values))

    def _once(self, tag: str, values: list[str]) -> str:
        if len(values) > 1:
            self.doubled.add(tag)
        return values[0]

    def _values(self, tag: str) -> list[str]:
        """All values that are not blank, as texts."""
        value = self._dataset.get(tag)
        if value is None:
            return []
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        texts = [str(each).strip("\0 ") for each in (value if several else [value]) if each is not None]
        return [each for each in texts if each]
