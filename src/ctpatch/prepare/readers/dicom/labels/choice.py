"""Which segments become which label: by their own number, or by patterns of their names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ctpatch.errors import ConfigError, UsageError

MAX_LABEL = 32767
"""The largest number of int16, which masks have."""


@dataclass(frozen=True, slots=True)
class LabelChoice:
    """Labels and the patterns of names that they are given to, in the order stated; none: each keeps its number."""

    wanted: tuple[tuple[int, str], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> "LabelChoice":
        """Read `1=liver,2=*tumour*`; ConfigError where it makes no sense."""
        if text is None:
            return cls()
        wanted = []
        for entry in text.split(","):
            number, equals, pattern = entry.partition("=")
            number, pattern = number.strip(), pattern.strip()
            if not (equals and pattern and number.isascii() and number.isdigit() and 0 < int(number) <= MAX_LABEL):
                raise ConfigError(
                    f"labels: {entry.strip()!r} is no label; wanted a number from 1 to {MAX_LABEL} and a pattern of "
                    "names, such as 1=liver,2=*tumour*"
                )
            wanted.append((int(number), pattern))
        return cls(tuple(wanted))

    def order(self) -> list[int]:
        """The labels in the order stated."""
        return list(dict.fromkeys(number for number, _ in self.wanted))

    def called(self, label: int) -> str:
        """A label with the user's own word for it, for messages."""
        words = [pattern for number, pattern in self.wanted if number == label]
        return f"{label} ({', '.join(words)})" if words else str(label)

    def numbers(self, names: Mapping[int, str]) -> dict[int, int]:
        """The label of each segment that has one.

        Raises:
            ValueError: a segment has two labels, or its own number is no label.
        """
        if not self.wanted:
            wrong = [number for number in names if not 0 < number <= MAX_LABEL]
            if wrong:
                raise ValueError(f"its segment or ROI number {wrong[0]} is no label (1 to {MAX_LABEL}); use --labels")
            return {number: number for number in names}
        found = {}
        for number, name in names.items():
            labels = {label for label, pattern in self.wanted if _fits(name, pattern)}
            if len(labels) > 1:
                raise ValueError(f"its segment {number} fits the patterns of labels {_listed(sorted(labels))}")
            if labels:
                found[number] = labels.pop()
        return found

    def check(self, objects: Iterable[Mapping[int, str]], *, names_shown: bool) -> None:
        """Refuse what would mean different things in different objects, and patterns that fit nothing.

        Raises:
            UsageError: see above; with `names_shown` it quotes names.
        """
        objects = list(objects)
        names = sorted({name for each in objects for name in each.values()})
        there = f"; there are {', '.join(map(repr, names[:20]))}" if names_shown and names else ""
        for label, pattern in self.wanted:
            if not any(_fits(name, pattern) for name in names):
                raise UsageError(f"labels: no segment and no ROI is called like {label}={pattern}{there}")
        if self.wanted:
            return
        by_number: dict[int, set[str]] = {}
        by_name: dict[str, set[int]] = {}
        for each in objects:
            for number, name in each.items():
                by_number.setdefault(number, set()).add(_plain(name))
                by_name.setdefault(_plain(name), set()).add(number)
        mixed = sorted(number for number, called in by_number.items() if len(called) > 1)
        moved = [name for name, numbers in by_name.items() if len(objects) > 1 and len(numbers) > 1]
        if mixed or moved:
            what = f"segment {mixed[0]} has several names" if mixed else "one name has several numbers"
            raise UsageError(
                f"the label objects number their segments differently: {what}; say which name becomes which label, "
                f'such as --labels "1=liver,2=*tumour*"{there}'
            )


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(_plain(name), _plain(pattern))


def _listed(labels: list[int]) -> str:
    return " and ".join(map(str, labels))
