"""What users call: a look at a folder of raw CT."""

from collections import Counter
from typing import Any

from ctpatch.errors import ConfigError, UsageError
from ctpatch.events import Listener, WorkAdvanced, ignore, working
from ctpatch.files.atomic import given_path
from ctpatch.inspecting.commands import set_line
from ctpatch.inspecting.kinds import Sorted, sort_files, suffix_of
from ctpatch.inspecting.result import Inspection, Said, Section, SetSeen
from ctpatch.inspecting.scanned import Asked, look_at_format, said_of
from ctpatch.prepare.options import SourcePath
from ctpatch.prepare.readers import READERS
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.tree import find_files, source_folder

_MOST_SUFFIXES = 4


def inspect(
    source: SourcePath,
    *,
    slices: int = 3,
    follow_links: bool = False,
    names_shown: bool = True,
    workers: int = 1,
    listener: Listener = ignore,
) -> Inspection:
    """Say what is in a folder of raw CT, and how to prepare it; nothing is written.

    Headers are read as `prepare` reads them, and the pixels of a few slices. Patients are numbered; no id or name of a
    patient is in the result. Descriptions and kernels are, as the headers have them.

    Args:
        source: a folder, or one file.
        slices: how many slices of each series to read for the range of HU; 0 reads none.
        follow_links: follow symbolic links that leave the source, and links to folders.
        names_shown: whether the result names files, whose paths can hold ids of patients.
        workers: processes that read headers of DICOM files.
        listener: is told what happens.

    Returns:
        What is there; it prints as a table.

    Raises:
        UsageError: there is no such folder or file.
        ConfigError: `slices` or `workers` makes no sense.
        SystemFailureError: a folder cannot be listed.
    """
    _refuse_nonsense(slices, workers)
    given = given_path(source)
    if not given.exists():
        raise UsageError(f"{str(source)!r} does not exist; give a folder, or a file, of raw CT")
    root = given.resolve()
    names, passed = find_files(root, follow_links=follow_links)
    task = f"looking at {root.name}"

    with working(listener, task, len(names), "files"):
        found = sort_files(source_folder(root), names, lambda count: listener(WorkAdvanced(task, count)))
    asked = Asked(str(source), root, slices, names_shown, follow_links, workers)
    sections, left_out = _sections(found, names, asked, listener)
    others = [*said_of([*passed, *left_out], names_shown=names_shown), *_unknown(found.unknown)]
    return Inspection(asked.source, len(names), tuple(sections), tuple(others), tuple(_sets(found, asked)), slices)


def _refuse_nonsense(slices: Any, workers: Any) -> None:
    for name, value, least in (("slices", slices, 0), ("workers", workers, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: {value!r}, wanted a whole number of {least} or more")


def _sections(found: Sorted, names: list[str], asked: Asked, listener: Listener) -> tuple[list[Section], list[LeftOut]]:
    """The section of each format that has slices, and what is of no section; `found.unknown` loses what is claimed."""
    places = tuple(f"{place}/" for place in found.sets)
    in_sets = {name for name in names if name.startswith(places)}
    sections: list[Section] = []
    left_out: list[LeftOut] = []
    claimed: set[str] = set()
    for reader in (each for each in READERS if each in found.readers):
        files = found.readers[reader]
        elsewhere = in_sets.union(*(others for name, others in found.readers.items() if name != reader))
        task = f"looking at {reader} files"
        with working(listener, task, len(names), "files"):
            outcome = look_at_format(
                reader,
                files,
                frozenset(elsewhere),
                asked,
                lambda count, task=task: listener(WorkAdvanced(task, count)),  # type: ignore[misc]
            )
        claimed |= outcome.claimed
        if outcome.section is None:
            left_out += outcome.left_out
        else:
            sections.append(outcome.section)
    left_out += [each for each in found.others if each.where not in claimed]
    found.unknown = [name for name in found.unknown if name not in claimed]
    return sections, left_out


def _unknown(names: list[str]) -> list[Said]:
    """Files of no kind that ctpatch knows, counted by their endings; what else is in a name can be private."""
    if not names:
        return []
    counts = Counter(suffix_of(name) for name in names)
    shown = [f"{count:,} {suffix or 'without an ending'}" for suffix, count in counts.most_common(_MOST_SUFFIXES)]
    more = " and others" if len(counts) > _MOST_SUFFIXES else ""
    return [Said("unknown", f"of no kind that ctpatch knows: {', '.join(shown)}{more}", len(names))]


def _sets(found: Sorted, asked: Asked) -> list[SetSeen]:
    kinds: dict[str, list[str]] = {}
    for place, kind in sorted(found.sets.items()):
        kinds.setdefault(kind, []).append(place)
    folder = given_path(asked.source)
    return [
        SetSeen(kind, len(places), set_line(kind, str(folder / places[0]) if places[0] else asked.source))
        for kind, places in kinds.items()
    ]
