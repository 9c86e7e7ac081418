"""What is asked for, and what is there: sources scanned, slices chosen, partners found."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctpatch.errors import SliceError, UsageError
from ctpatch.events import Listener, Notice, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.prepare.options import SourcePath
from ctpatch.prepare.pairs import match, of_series
from ctpatch.prepare.part import ArraySource
from ctpatch.prepare.planning import Row
from ctpatch.prepare.readers.base import LeftOut, RawSlice, Reader, Scan, SeriesNote
from ctpatch.prepare.values import Mapping
from ctpatch.words import MatchBy, OnError

_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Input:
    """One array that is asked for.

    Attributes:
        array: its name.
        reader: what finds and reads its slices.
        source: the folder or file.
        pattern: which series are meant; None means all.
        mapping: from HU to [0, 1]; None for a mask.
    """

    array: str
    reader: Reader
    source: SourcePath
    pattern: str | None
    mapping: Mapping | None


@dataclass(slots=True)
class Found:
    """What scanning and matching gave."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, LeftOut]] = field(default_factory=list)
    notes: list[SeriesNote] = field(default_factory=list)
    empty: list[Input] = field(default_factory=list)
    """Arrays for which there is no slice at all."""
    unpaired_from: int = 0
    """Where in `left_out` those begin that were slices, and were asked for."""


def find(inputs: Sequence[Input], arrays: Sequence[ArraySource], match_by: MatchBy, listener: Listener) -> Found:
    """Scan each source once, then give every slice its partners.

    Raises:
        UsageError: a pattern fits nothing, or two arrays are the same slices.
    """
    scans: dict[tuple[Path, Reader], Scan] = {}
    found = Found()
    for each, source in zip(inputs, arrays, strict=True):
        where = (source.root, each.reader)
        if where in scans:
            continue
        scans[where] = scan = _scan(source, listener)
        found.left_out.extend((each.array, left) for left in scan.left_out)
        for note in scan.notes:
            if isinstance(note, SeriesNote):
                found.notes.append(note)
            else:
                listener(Notice("source", note))
    chosen = [
        of_series(scans[source.root, each.reader].slices, each.pattern)
        for each, source in zip(inputs, arrays, strict=True)
    ]
    for each, slices in zip(inputs, chosen, strict=True):
        if each.pattern is not None and not slices:
            raise UsageError(f"no slice of {each.array} fits {each.pattern!r}; patterns are those of a shell: '*B40f*'")
    _refuse_same(inputs, arrays)
    found.empty = [each for each, slices in zip(inputs, chosen, strict=True) if not slices]
    for (root, reader), scan in scans.items():
        taken = {
            raw
            for each, source, slices in zip(inputs, arrays, chosen, strict=True)
            if (source.root, each.reader) == (root, reader)
            for raw in slices
        }
        found.left_out.extend(
            ("image", LeftOut(raw.file, "other-series", "no pattern that was given fits its series"))
            for raw in scan.slices
            if raw not in taken
        )
    found.unpaired_from = len(found.left_out)
    _pair(inputs, chosen, match_by, found)
    return found


def _refuse_same(inputs: Sequence[Input], arrays: Sequence[ArraySource]) -> None:
    seen: dict[Any, str] = {}
    for each, source in zip(inputs, arrays, strict=True):
        what = (source.root, each.reader, each.pattern)
        if what in seen:
            raise UsageError(f"{seen[what]} and {each.array} are the same slices; name the series that are meant")
        seen[what] = each.array


def _pair(inputs: Sequence[Input], chosen: list[list[RawSlice]], match_by: MatchBy, found: Found) -> None:
    rows: list[Row] = [(image,) for image in chosen[0]]
    for each, others in zip(inputs[1:], chosen[1:], strict=True):
        matching = match([row[0] for row in rows], others, match_by)
        found.left_out.extend(("image", left) for left in matching.images_left)
        found.left_out.extend((each.array, left) for left in matching.others_left)
        rows = [(*row, matching.partners[row[0]]) for row in rows if row[0] in matching.partners]
    found.rows = rows


def _scan(source: ArraySource, listener: Listener) -> Scan:
    task = f"looking at {source.root.name}"
    listener(WorkStarted(task, None, "files"))
    advance: Callable[[int], None] = lambda count: listener(WorkAdvanced(task, count))  # noqa: E731 - one line says it
    try:
        return source.reader.scan(source.root, advance)
    finally:
        listener(WorkFinished(task))


def refuse_faults(found: Found, on_error: OnError) -> None:
    """Stop where a file cannot be used, unless such are to be skipped.

    Raises:
        SliceError: names the first of them.
    """
    faults = [each for _, each in found.left_out if each.fault]
    if faults and on_error == "stop":
        first = "; ".join(f"{each.where}: {each.reason}" for each in faults[:_NAMES_SHOWN])
        more = f" (and {len(faults) - _NAMES_SHOWN} more)" if len(faults) > _NAMES_SHOWN else ""
        raise SliceError(f"{first}{more}; mend or remove them, or leave them out with --on-error skip")


def nothing_found(inputs: Sequence[Input], found: Found) -> str:
    """What to say where there is nothing to prepare: of the array that has no slice, else of all."""
    meant = found.empty[:1] or list(inputs)
    arrays = [each.array for each in meant]
    left_out = [left for array, left in found.left_out if array in arrays]
    kinds = Counter(left.kind for left in left_out)
    seen = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no files"
    # What is no slice, or of another series, is no reason where there are slices; a partner left over is none either.
    causes = [left for array, left in found.left_out[0 if found.empty else found.unpaired_from :] if array == arrays[0]]
    cause = Counter(left.kind for left in causes).most_common(1)
    example = next((f" ({left.where}: {left.reason})" for left in causes if left.kind == cause[0][0]), "")
    ambiguous = "pair-ambiguous" in kinds and "series" not in example
    hint = "; --series and --target-series say which series are meant" if ambiguous else ""
    return f"no slices to prepare as {' and '.join(arrays)} in {Path(meant[0].source).name}: {seen}{example}{hint}"
