"""What is doubted of a series: notes of the prepared set, messages, and the error of `strict`."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ctpatch.errors import DoubtfulValuesError
from ctpatch.format.hu_values import BIN_HU, LOW_HU, SeriesValues
from ctpatch.format.prepared_meta import NoteInfo
from ctpatch.prepare.plausibility import PADDING_CHECKS, SCALE_CHECKS, seen_values
from ctpatch.prepare.tally import Tally

Tallies = dict[tuple[str, str], Tally]
"""Of each series, by its pseudonym, and array."""

_SERIES_SHOWN = 20
_KIND_PREFIX = "hu-"
_BITS_KINDS = frozenset({"unused-bits", "left-justified", "high-bit", "stream-sign"})


def doubts(tally: Tally) -> list[tuple[str, str]]:
    """Kind and sentence of each reason to doubt a series, by its values and by what its reader says of its slices."""
    found = []
    for checks, there in ((SCALE_CHECKS, tally.pixels), (PADDING_CHECKS, tally.padding)):
        first = next((check for check in checks if there and check.found(tally)), None)
        if first is not None:
            found.append((first.kind, first.message.format(**seen_values(tally))))
    for kind in sorted({remark.kind for remark in tally.remarks}):
        said = {remark.message: slices for remark, slices in tally.remarks.items() if remark.kind == kind}
        commonest = max(said, key=lambda message: (said[message], message))
        found.append((kind, f"{commonest} ({sum(said.values())} of {tally.slices} slices)"))
    return found


def doubtful_notes(tallies: Tallies) -> list[NoteInfo]:
    """The doubts of all series as notes, in order of series and array."""
    return [
        NoteInfo(kind=kind, series=series, message=message if array == "image" else f"{array}: {message}")
        for (series, array), tally in sorted(tallies.items())
        for kind, message in doubts(tally)
    ]


def series_values(tallies: Tallies) -> list[SeriesValues]:
    """The rows of `hu_values.csv`, in order of series and array; none for slices that are not in HU."""
    return [_series_values(*where, tally) for where, tally in sorted(tallies.items()) if tally.pixels + tally.padding]


def _series_values(series: str, array: str, tally: Tally) -> SeriesValues:
    inside = tally.counts[1:-1]
    filled = np.flatnonzero(inside)
    start, end = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
    return SeriesValues(
        series=series,
        array=array,
        slices=tally.slices,
        pixels=tally.pixels,
        padding=tally.padding,
        min_hu=tally.low if tally.pixels else None,
        max_hu=tally.high if tally.pixels else None,
        below=int(tally.counts[0]),
        above=int(tally.counts[-1]),
        first_hu=LOW_HU + start * BIN_HU,
        counts=tuple(inside[start:end].tolist()),
    )


def is_doubt(note: NoteInfo) -> bool:
    """Whether a note of a prepared set is a reason to doubt its values."""
    return note.kind.startswith(_KIND_PREFIX) or note.kind in _BITS_KINDS


def doubt_messages(notes: Iterable[NoteInfo], called: Mapping[str, str] | None = None) -> list[str]:
    """One message for each series that is doubted, the first of them, and how many more there are.

    `called` is what series are called, by their pseudonyms; others are called by these.
    """
    by_series: dict[str, list[str]] = {}
    for note in notes:
        if is_doubt(note):
            by_series.setdefault(note.series, []).append(note.message)
    names = called or {}
    messages = [f"series {names.get(series, series)}: {'; also: '.join(each)}" for series, each in by_series.items()]
    more = len(messages) - _SERIES_SHOWN
    return (
        messages if more <= 0 else [*messages[:_SERIES_SHOWN], f"{more} more series are doubted, see prepare_meta.json"]
    )


def refuse_doubts(notes: Sequence[NoteInfo], *, finished: bool = False) -> None:
    """Refuse a set of which a series is doubted.

    Args:
        notes: of the set.
        finished: whether an earlier run has published it.

    Raises:
        DoubtfulValuesError: names the series.
    """
    messages = doubt_messages(notes)
    if messages:
        outcome = "the set was made without --strict and stays as it is" if finished else "ctpatch published nothing"
        raise DoubtfulValuesError(
            f"{' | '.join(messages)}. Under --strict that is an error: {outcome}. Correct the files, or give the same "
            "command without --strict (in Python strict=False)"
        )
