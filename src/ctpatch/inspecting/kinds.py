"""Each file of a tree by its first bytes: for which reader it is, or what else it is."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctpatch.errors import CtPatchError
from ctpatch.format.meta import PATCH_META, STATE_FOLDER
from ctpatch.format.prepared_meta import PREDICT_META, PREPARE_META
from ctpatch.prepare.archives import ENDINGS
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.dicom.start import begins_bare
from ctpatch.prepare.readers.lodopab.reader import is_lodopab
from ctpatch.prepare.readers.other import START_BYTES, other_kind
from ctpatch.prepare.readers.tree import APPLE_DOUBLE, is_apple_double
from ctpatch.prepare.readers.volume.stream import open_regular

_READER_OF = {"npy": "numpy", "npz": "numpy", "png": "images", "tiff": "images"}
_SAME_NAME = frozenset({"dicom", "nifti", "metaimage", "nrrd"})
_NAMED = (
    (re.compile(r".*\.nii(\.gz)?", re.IGNORECASE), "nifti"),
    (re.compile(r".*\.mh[ad]", re.IGNORECASE), "metaimage"),
    (re.compile(r".*\.(nrrd|nhdr)", re.IGNORECASE), "nrrd"),
)
"""Of volumes whose first bytes are packed, or damaged: their readers say what is wrong."""
_SETS = {PREPARE_META: "prepared", PREDICT_META: "predicted", PATCH_META: "patches"}
_PACKED = ("archive", "it is an archive by its name, which ctpatch does not look into; unpack it first")
_SUFFIX = re.compile(r".*(\.[a-z]{1,5}[0-9]?)", re.IGNORECASE)


@dataclass(slots=True)
class Sorted:
    """The files of a tree.

    Attributes:
        readers: files that a reader is for, by its name.
        others: files of other kinds that are known, and those that cannot be opened.
        unknown: the other files.
        sets: folders that ctpatch wrote, and what they are: `prepared`, `predicted`, `patches` or `unfinished`.
    """

    readers: dict[str, list[str]] = field(default_factory=dict)
    others: list[LeftOut] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    sets: dict[str, str] = field(default_factory=dict)


def sort_files(folder: Path, names: Sequence[str], advance: Callable[[int], None]) -> Sorted:
    """Tell what each file below a folder is; those in sets that ctpatch wrote are not looked at."""
    found = Sorted(sets=find_sets(folder, names))
    if "" in found.sets:
        return found
    places = tuple(f"{place}/" for place in found.sets)
    for name in names:
        if not name.startswith(places):
            _sort(found, folder, name)
        advance(1)
    return found


def find_sets(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The folders of sets that ctpatch wrote or began, by their names below the folder, which is ``""`` itself."""
    found: dict[str, str] = {}
    if any((folder.parent / mark).is_file() for mark in (PREPARE_META, PREDICT_META)):
        found[""] = "prepared"  # it is a split of such a set
    for name in names:
        place, _, base = f"/{name}".rpartition("/")
        if base in _SETS:
            found[place[1:]] = _SETS[base]
        elif f"/{STATE_FOLDER}/" in f"/{name}":
            found.setdefault(f"/{name}".partition(f"/{STATE_FOLDER}/")[0][1:], "unfinished")
    return found


def _sort(found: Sorted, folder: Path, name: str) -> None:
    if is_apple_double(name):
        found.others.append(LeftOut(name, *APPLE_DOUBLE))
        return
    try:
        with open_regular(folder / name, name) as raw:
            start = raw.read(START_BYTES)
    except (CtPatchError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix(name).lstrip(": ")
        found.others.append(LeftOut(name, "unreadable", f"it cannot be opened: {reason}", fault=True))
        return
    other = other_kind(name, start)
    reader = _reader_of(name, start, other)
    if reader is not None:
        found.readers.setdefault(reader, []).append(name)
    elif other is not None:
        found.others.append(other)
    elif name.lower().endswith(ENDINGS):
        found.others.append(LeftOut(name, *_PACKED))
    else:
        found.unknown.append(name)


def _reader_of(name: str, start: bytes, other: LeftOut | None) -> str | None:
    if is_lodopab(name):
        return "lodopab"
    if other is not None:
        return other.kind if other.kind in _SAME_NAME else _READER_OF.get(other.kind)
    by_name = next((reader for named, reader in _NAMED if named.fullmatch(name)), None)
    return by_name or ("dicom" if begins_bare(start) else None)


def suffix_of(name: str) -> str:
    """The ending of a file's name, where it is one that tells a kind; else nothing, as it may be part of an id."""
    found = _SUFFIX.fullmatch(name.rpartition("/")[2])
    return found[1].lower() if found else ""
