"""What a run found, in few lines: one a kind, with a count and the first three where names may be shown.

A terminal is for the user's eyes. Anywhere else files and series have pseudonyms, which say nothing in a log: there a
line has the count alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ctpatch.prepare.readers.base import LeftOut, SeriesNote

NAMED = 3
"""How many of a kind are named."""


def first_three(texts: Sequence[str], between: str = ", ") -> str:
    """The first texts of a list, and how many more there are: `a, b, c and 17 more`."""
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return f"{between.join(texts[:NAMED])}{more}"


def left_out_lines(left: Iterable[LeftOut], *, names_shown: bool) -> list[str]:
    """A line for each kind of what was left out, the most frequent first.

    >>> found = [LeftOut(name, "not-dicom", "it is no DICOM file") for name in ("a", "b/a", "b/c", "d", "e")]
    >>> left_out_lines(found, names_shown=True)
    ['5 not-dicom: it is no DICOM file (a, b/a, b/c and 2 more)']
    >>> left_out_lines(found, names_shown=False)
    ['5 not-dicom: it is no DICOM file']
    """
    kinds: dict[str, list[LeftOut]] = {}
    for each in sorted(left, key=lambda each: each.where):
        kinds.setdefault(each.kind, []).append(each)
    ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return [f"{len(found):,} {kind}: {_reasons(found, names_shown=names_shown)}" for kind, found in ordered]


def _reasons(found: Sequence[LeftOut], *, names_shown: bool) -> str:
    reasons = Counter(each.reason for each in found)
    if len(reasons) == 1:
        names = f" ({first_three([each.where for each in found])})" if names_shown else ""
        return f"{found[0].reason}{names}"
    if names_shown:
        return first_three([f"{each.where}: {each.reason}" for each in found], "; ")
    return first_three([f"{reason} ({count:,})" for reason, count in reasons.most_common()], "; ")


def series_lines(notes: Sequence[SeriesNote], called: Mapping[str, str], *, names_shown: bool) -> dict[str, str]:
    """A line for each kind of note on series, by kind, in the order of the notes.

    Args:
        notes: in order.
        called: what a user calls each series: its description, and where it lies.
        names_shown: whether series may be named.
    """
    kinds: dict[str, list[SeriesNote]] = {}
    for note in notes:
        kinds.setdefault(note.kind, []).append(note)
    return {kind: _said(found, called, names_shown=names_shown) for kind, found in kinds.items()}


def _said(notes: Sequence[SeriesNote], called: Mapping[str, str], *, names_shown: bool) -> str:
    first, count = notes[0].message, len({note.series for note in notes})
    same = all(note.message == first for note in notes)
    recorded = "; prepare_meta.json has all" if len(notes) > (NAMED if names_shown else 1) else ""
    if names_shown:
        names = [called.get(note.series, note.series) for note in notes]
        if same:
            return f"{first} ({first_three(names)}{recorded})"
        each = [f"{name}: {note.message}" for name, note in zip(names, notes, strict=True)]
        return f"{count:,} series: {first_three(each, '; ')}{recorded}"
    if same:
        return f"{first} ({count:,} series{recorded})"
    return f"{count:,} series, the first: {first}{recorded}"
