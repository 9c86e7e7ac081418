"""The lines of a NRRD header: fields, and the list of files that may follow them."""

import io
import re
from dataclasses import dataclass

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.volume.grid import MAX_SLICES

HEADER_BYTES = 2**24
"""Most bytes of a header, with keys of programs and lists of files in it; usual ones have less than a thousand."""

_SAME = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip", "centerings": "centers"}
"""Names that NRRD takes for another one."""

_KNOWN = {
    "byte skip", "data file", "dimension", "encoding", "endian", "kinds", "line skip", "sizes", "space",
    "space directions", "space origin", "space units", "spacings", "type", "units",
}  # fmt: skip
"""What is read. Other fields can hold names of people, so they are neither kept nor quoted."""

_FIRST_LINE = re.compile(r"NRRD000[1-5]")
_LONGEST_FIELD = 2**14
_STEP = 2**16


@dataclass(frozen=True, slots=True)
class NrrdFields:
    """A header as it stands.

    Attributes:
        values: of the fields, by name.
        listed: the lines after `data file: LIST`.
        end: where the header ends; voxels follow there unless a field names other files.
    """

    values: dict[str, str]
    listed: tuple[str, ...]
    end: int


def header_bytes(raw: io.BufferedReader) -> bytes:
    """The first bytes of a file, up to a blank line, and some more; all of a file that has no such line."""
    start = bytearray()
    while len(start) < HEADER_BYTES:
        found = raw.read(_STEP)
        before = max(len(start) - 2, 0)
        start += found
        if not found or start.find(b"\n\n", before) >= 0 or start.find(b"\n\r\n", before) >= 0:
            break
    return bytes(start)


def read_fields(start: bytes, name: str) -> NrrdFields:
    """Take a header apart.

    Args:
        start: what `header_bytes` gives.
        name: what messages call the file.

    Raises:
        SliceError: the header does not end, or a line of it is none.
    """
    line, at = _line(start, 0)
    if not _FIRST_LINE.fullmatch(line):
        raise SliceError(f"{name} is NRRD of a version that is not known, wanted NRRD0001 to NRRD0005")
    values: dict[str, str] = {}
    listed: list[str] = []
    while at < len(start):
        line, at = _line(start, at)
        if not line:
            return NrrdFields(values, tuple(listed), at)
        if "data file" in values and values["data file"].split()[:1] == ["LIST"]:
            if len(listed) > MAX_SLICES:
                raise SliceError(f"{name} lists more than {MAX_SLICES} files of voxels")
            listed.append(line)
        elif not line.startswith("#"):
            _add_field(values, line, name)
    if len(start) >= HEADER_BYTES:
        raise SliceError(f"{name} has a header of {HEADER_BYTES} bytes or more; copy it again")
    if "data file" not in values:
        raise SliceError(f"{name} ends within its header; copy it again")
    return NrrdFields(values, tuple(listed), at)


def _add_field(values: dict[str, str], line: str, name: str) -> None:
    key, colon, value = line.partition(":")
    if not colon:
        raise SliceError(f"{name} has a line in its header without a colon, wanted 'field: value'; copy it again")
    if value.startswith("="):
        return  # a key of some program, with a value of its own
    key = _SAME.get(key.strip().lower(), key.strip().lower())
    if key not in _KNOWN:
        return
    if len(line) > _LONGEST_FIELD:
        raise SliceError(f"{name} has {len(line)} signs in its {key}, wanted at most {_LONGEST_FIELD}; copy it again")
    if values.setdefault(key, value.strip()) != value.strip():
        raise SliceError(f"{name} says its {key} twice, and differently; write its header again")


def _line(start: bytes, at: int) -> tuple[str, int]:
    """The line that begins at a byte, without its end, and where the next one begins."""
    end = start.find(b"\n", at)
    end = len(start) if end < 0 else end
    return start[at:end].decode("utf-8", "surrogateescape").rstrip(), end + 1
