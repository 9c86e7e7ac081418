"""What is there of what is asked for: sources scanned, slices chosen, partners found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctpatch.errors import SliceError, UsageError
from ctpatch.events import Listener, Notice, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.prepare.archives import ENDINGS, archive_kind
from ctpatch.prepare.pairs import match, say_which
from ctpatch.prepare.part import ArraySource
from ctpatch.prepare.patterns import none_fits, of_series
from ctpatch.prepare.planning import Row
from ctpatch.prepare.readers.base import LabelReader, LeftOut, RawSlice, Reader, Scan, SeriesNote
from ctpatch.words import MatchBy, OnError

_NAMES_SHOWN = 5


@dataclass(slots=True)
class Found:
    """What scanning and matching gave: rows of partners, what is odd about series, and what is left out, by array.

    `given` are names of single files that the user gave as a source. `empty` are arrays for which there is no slice at
    all. From `unpaired_from` on, `left_out` has slices that were asked for. `record` goes on record
    with the options.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, LeftOut]] = field(default_factory=list)
    notes: list[SeriesNote] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    empty: list[ArraySource] = field(default_factory=list)
    unpaired_from: int = 0
    record: dict[str, Any] = field(default_factory=dict)


def find(arrays: Sequence[ArraySource], match_by: MatchBy, listener: Listener, *, names_shown: bool = True) -> Found:
    """Scan each source once, then give every slice its partners.

    UsageError is raised where a pattern fits nothing, or two arrays are the same slices. With `names_shown`, it may
    name paths of the source.
    """
    scans: dict[tuple[Path, Reader], Scan] = {}
    found = Found(given={source.root.name for source in arrays if not source.root.is_dir()})
    for source in arrays:
        where = (source.root, source.reader)
        if where in scans:
            continue
        scans[where] = scan = _scan(source, listener)
        found.left_out.extend((source.array, left) for left in scan.left_out)
        for note in scan.notes:
            if isinstance(note, SeriesNote):
                found.notes.append(note)
            else:
                listener(Notice("source", note))
    if links := sum(left.kind == "outside-link" for _, left in found.left_out):
        what = "1 link leads" if links == 1 else f"{links} links lead"
        listener(Notice("links", f"{what} out of the source, and ctpatch does not follow them; --follow-links does"))
    chosen: list[list[RawSlice]] = []
    asked: dict[tuple[Path, Reader, str | None], str] = {}
    taken: dict[tuple[Path, Reader], set[RawSlice]] = {where: set() for where in scans}
    for source in arrays:
        where = (source.root, source.reader)
        slices = of_series(scans[where].slices, source.pattern)
        if source.pattern is not None and scans[where].slices and not slices:
            there = scans[where].slices
            raise UsageError(none_fits(source.array, source.pattern, there, paths_shown=names_shown))
        first = asked.setdefault((*where, source.pattern), source.array)
        if first != source.array:
            raise UsageError(f"{first} and {source.array} are the same slices; name the series that are meant")
        if not slices and not isinstance(source.reader, LabelReader):
            found.empty.append(source)
        taken[where].update(slices)
        chosen.append(slices)
    found.left_out.extend(
        ("image", LeftOut(raw.file, "other-series", "no pattern that was given fits its series"))
        for where, scan in scans.items()
        for raw in scan.slices
        if raw not in taken[where]
    )
    found.unpaired_from = len(found.left_out)
    found.rows = [(image,) for image in chosen[0]]
    for source, others in zip(arrays[1:], chosen[1:], strict=True):
        if isinstance(source.reader, LabelReader):
            same_tree = source.root == arrays[0].root
            _label(source, source.reader, found, listener, same_tree=same_tree, names_shown=names_shown)
            continue
        matching = match([row[0] for row in found.rows], others, match_by, source.array)
        found.left_out.extend(("image", left) for left in matching.images_left)
        found.left_out.extend((source.array, left) for left in matching.others_left)
        found.rows = [(*row, matching.partners[row[0]]) for row in found.rows if row[0] in matching.partners]
    return found


def _label(
    source: ArraySource, reader: LabelReader, found: Found, listener: Listener, *, same_tree: bool, names_shown: bool
) -> None:
    """Give slices the labels that objects have for them."""
    task = f"looking at {source.root.name}"
    listener(WorkStarted(task, None, "files"))
    try:
        images = [row[0] for row in found.rows]
        labelled = reader.label(
            source.root, images, lambda count: listener(WorkAdvanced(task, count)), names_shown=names_shown
        )
    finally:
        listener(WorkFinished(task))
    left_out = [(source.array, left) for left in labelled.left_out]
    if same_tree:  # then each file was looked at for both: what is used for one is not left out for the other
        used = {partner.file for partner in labelled.partners.values()}
        found.left_out = [(array, left) for array, left in found.left_out if left.where not in used]
        left_out = [(array, left) for array, left in left_out if left.kind != "no-labels"]
    found.left_out.extend(left_out)
    found.left_out.extend(("image", left) for left in labelled.images_left)
    found.notes.extend(labelled.notes)
    found.record.update(labelled.record)
    found.rows = [(*row, labelled.partners[row[0]]) for row in found.rows if row[0] in labelled.partners]


def _scan(source: ArraySource, listener: Listener) -> Scan:
    task = f"looking at {source.root.name}"
    listener(WorkStarted(task, None, "files"))
    try:
        return source.reader.scan(source.root, lambda count: listener(WorkAdvanced(task, count)))
    finally:
        listener(WorkFinished(task))


def refuse_faults(found: Found, on_error: OnError) -> None:
    """Raise SliceError with the first files that cannot be used, unless such are to be skipped."""
    faults = [each for _, each in found.left_out if each.fault]
    if faults and on_error == "stop":
        first = "; ".join(f"{each.where}: {each.reason}" for each in faults[:_NAMES_SHOWN])
        more = f" (and {len(faults) - _NAMES_SHOWN} more)" if len(faults) > _NAMES_SHOWN else ""
        raise SliceError(f"{first}{more}; mend or remove them, or leave them out with --on-error skip")


def nothing_found(arrays: Sequence[ArraySource], found: Found) -> str:
    """What to say where there is nothing to prepare: of the array that has no slice, else of all."""
    meant = found.empty[:1] or arrays
    names = [source.array for source in meant]
    kind = archive_kind(meant[0].root) if meant[0].root.is_file() else None
    if kind is not None:
        return f"{meant[0].root.name} is {kind}, which ctpatch does not look into; unpack it and give the folder"
    kinds = Counter(left.kind for array, left in found.left_out if array in names)
    seen = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no files"
    # What is no slice, or of another series, is no reason where there are slices; a partner left over is none either.
    causes = [left for array, left in found.left_out[0 if found.empty else found.unpaired_from :] if array == names[0]]
    # What a file is tells more than that it is no file of the kind asked for.
    cause = sorted(Counter(left.kind for left in causes).most_common(), key=lambda each: each[0].startswith("not-"))
    example = next((f" ({left.where}: {left.reason})" for left in causes if left.kind == cause[0][0]), "")
    which = say_which(names[-1])
    told = which in example or "series" in example
    hint = f"; {which}" if "pair-ambiguous" in kinds and not told else ""
    if "outside-link" in kinds:
        hint += "; --follow-links follows links that lead out of the source"
    if packed := sum(left.where.lower().endswith(ENDINGS) for left in causes):
        hint += f"; {packed} of the files are archives by their names: unpack them first"
    return f"no slices to prepare as {' and '.join(names)} in {meant[0].root.name}: {seen}{example}{hint}"
