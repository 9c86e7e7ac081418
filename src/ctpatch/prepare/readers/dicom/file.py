"""One file as DICOM: whether it holds CT slices, and its tags, read within bounds.

Files are known by their content. A header that lies about lengths costs no more memory than the file has bytes, and
what cannot be read is named, not raised.
"""

import io
import logging
import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ctpatch.extras import library
from ctpatch.files.paths import Root
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.dicom.start import begins_bare
from ctpatch.prepare.readers.other import START_BYTES, other_kind

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Largest file of one CT slice; those of scanners have less than a tenth."""

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_DICOMDIR = "1.2.840.10008.1.3.10"
MULTI_FRAME_CT = frozenset({f"{CT_STORAGE}.1", f"{CT_STORAGE}.2"})
"""Enhanced CT, and legacy converted enhanced CT."""

CT_STORAGES = frozenset({CT_STORAGE}) | MULTI_FRAME_CT
_NOT_DICOM = ("not-dicom", "it is no DICOM file")
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = frozenset({IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED})

_PREAMBLE = 128
_MAX_META_BYTES = 65536
_SMALL_READ = 65536
_LONG_LENGTHS = frozenset({b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"OD", b"UC", b"UR", b"OL", b"OV"})
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_MAX_ITEMS = 400_000
"""Items of sequences in a header: 24 for each of the most frames that a file can have."""

MAX_HEADER_BYTES = 32 * 1024 * 1024
"""Largest header of many frames: 2 kB for each of the most that a file can have."""

_SURELY_ONE_BYTES = 4 * 1024 * 1024
"""A file that is no larger has a header that takes little memory, whatever stands in it."""

PIXEL_TAGS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")


class FileProblemError(Exception):
    """A file that is not prepared: a kind, a reason, and whether it is a fault, as `LeftOut` has them."""

    def __init__(self, kind: str, reason: str, *, fault: bool = True) -> None:
        super().__init__(reason)
        self._left_out = kind, reason, fault

    def left_out(self, file: str) -> LeftOut:
        """The record of the file."""
        return LeftOut(file, *self._left_out)


class _BoundedFile(io.BufferedReader):
    """A file that is never asked for more bytes than it has, whatever a length in it says.

    Attributes:
        limit: nothing is read that ends behind this byte.
    """

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(io.FileIO(fd, "rb", closefd=True))
        self._size = self.limit = size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and 0 <= size <= _SMALL_READ and self.limit >= self._size:  # it ends by itself
            return super().read(size)
        left = max(self.limit - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def import_pydicom() -> Any:
    """The library, or a sentence that says how to get it."""
    pydicom = library("pydicom", "reading DICOM needs pydicom")
    # Its warnings quote values, which may be private: without a handler they would be printed.
    logger = logging.getLogger("pydicom")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return pydicom


@dataclass(slots=True)
class CtFile:
    """An open file that may hold CT slices.

    Attributes:
        source: the file, or what it inflates to.
        size: bytes of `source`.
        syntax: transfer syntax of the dataset; blank until `tags_of` has read a dataset that does not say it.
        storage: what the meta group says that the file is; blank where there is none.
        start: where the dataset begins; 0 where there is no meta group.
        inflated: whether `source` is what a deflated file inflates to: a dataset without a meta group.
    """

    source: Any
    size: int
    syntax: str
    storage: str
    start: int
    inflated: bool = False


@contextmanager
def open_ct(root: str, file: str, *, allow_deflated: bool, follow_links: bool = False) -> Iterator[CtFile]:
    """Open a file that may hold CT slices.

    Raises:
        FileProblemError: it holds something else, is deflated and may not be, or cannot be opened.
    """
    with open_bounded(root, file, follow_links=follow_links) as source:
        size = os.fstat(source.fileno()).st_size
        syntax, storage, start = what_it_is(source, size)
        if storage and storage not in CT_STORAGES:
            raise _other_storage(storage)
        if syntax != DEFLATED:
            yield CtFile(source, size, syntax, storage, start)
            return
        if size > MAX_FILE_BYTES:
            raise _too_large(size)
        if not allow_deflated:
            raise FileProblemError(
                "deflated", "it is deflated and could be a bomb; --allow-deflated reads such, within bounds"
            )
        source.seek(start)
        content = _inflate(source.read())
        yield CtFile(io.BytesIO(content), len(content), EXPLICIT, storage, start, inflated=True)


def tags_of(ct: CtFile, tags: tuple[str, ...]) -> Any:
    """The named tags of a file's dataset; `source` stands at the pixels then, unless `PixelData` is among the tags.

    The dataset has `ctpatch_syntax` and `ctpatch_storage`.

    Raises:
        FileProblemError: it holds no CT slices, cannot be read, or its header is larger than any scanner's.
    """
    pydicom = import_pydicom()
    many = ct.storage in MULTI_FRAME_CT or ct.size > _SURELY_ONE_BYTES
    limit = min(ct.size, MAX_HEADER_BYTES if many and "PixelData" not in tags else MAX_FILE_BYTES)
    if many:
        _refuse_many_items(ct, limit)
    if isinstance(ct.source, _BoundedFile):
        ct.source.limit = limit
    problem: FileProblemError | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values, which may be private
            dataset = _parse(pydicom, ct, tags)
            named = str(dataset.get("SOPClassUID", "") or ct.storage)
    except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on rubbish, quoting values
        problem = damaged(error)
    # What ends early is no error to pydicom everywhere.
    if many and limit < ct.size and ct.source.tell() >= limit:
        problem = FileProblemError("too-large", f"its header has more than {limit} bytes, or is damaged")
    if isinstance(ct.source, _BoundedFile):
        ct.source.limit = ct.size  # pixels lie behind the header
    if problem is not None:
        raise problem
    if not named and ct.start:
        raise FileProblemError("damaged", "it is DICOM and does not say of what: it is cut short or damaged")
    if named not in CT_STORAGES:
        raise _other_storage(named) if named else FileProblemError(*_NOT_DICOM, fault=False)
    dataset.ctpatch_storage = named
    return dataset


def has_frames(dataset: Any) -> bool:
    """Whether a dataset is of a file whose frames are slices, by its storage class or by what it says of frames."""
    try:
        several = int(dataset.get("NumberOfFrames") or 1) != 1
    except (TypeError, ValueError, OverflowError):
        several = True
    return several or dataset.ctpatch_storage in MULTI_FRAME_CT


def refuse_large_slice(ct: CtFile) -> None:
    """Raise FileProblemError where a file of one slice is larger than any scanner's."""
    if ct.size > MAX_FILE_BYTES:
        raise _too_large(ct.size)


def _too_large(size: int) -> "FileProblemError":
    return FileProblemError("too-large", f"it has {size} bytes, wanted at most {MAX_FILE_BYTES} for one slice")


def _refuse_many_items(ct: CtFile, limit: int) -> None:
    """Refuse a header whose sequences have so many items that reading them would take the memory of many slices."""
    ct.source.seek(0)
    start = ct.source.read(limit)
    if sum(start.count(item) for item in _ITEM_TAGS) > _MAX_ITEMS:
        raise FileProblemError("too-large", f"its sequences have more than {_MAX_ITEMS} items")


def _parse(pydicom: Any, ct: CtFile, tags: tuple[str, ...]) -> Any:
    whole = "PixelData" in tags
    ct.source.seek(0)
    if ct.inflated:
        # The pixels of floating-point and of whole numbers.
        stop = None if whole else lambda tag, _vr, _length: int(tag) in {0x7FE00008, 0x7FE00009, 0x7FE00010}
        tag_numbers = [pydicom.tag.Tag(tag) for tag in tags]
        dataset = pydicom.filereader.read_dataset(
            ct.source, is_implicit_VR=False, is_little_endian=True, stop_when=stop, specific_tags=tag_numbers
        )
    else:
        dataset = pydicom.dcmread(
            ct.source, stop_before_pixels=not whole, force=ct.start == 0, specific_tags=list(tags)
        )
        # A dataset without meta does not say its syntax: pydicom has guessed it.
        implicit, little = dataset.original_encoding
        ct.syntax = ct.syntax or (IMPLICIT if implicit else EXPLICIT if little else BIG_ENDIAN)
    dataset.ctpatch_syntax = ct.syntax
    return dataset


def open_bounded(root: str, file: str, *, follow_links: bool) -> _BoundedFile:
    """Open a regular file below the root; links lead nowhere else, unless they are followed."""
    try:
        if not follow_links and not Root(root).holds(file):
            raise FileProblemError(
                "link", "it is a link that leaves the source folder, which is not followed", fault=False
            )
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(os.path.join(root, file), flags)
    except OSError as error:
        raise FileProblemError("unreadable", f"it cannot be opened: {error.strerror}") from None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise FileProblemError("no-file", "it is no regular file", fault=False)
    return _BoundedFile(fd, status.st_size)


def what_it_is(source: _BoundedFile, size: int) -> tuple[str, str, int]:
    """Transfer syntax, storage class and where the dataset begins; 0 and blanks for a dataset without a meta group."""
    head = source.read(min(size, _MAX_META_BYTES))
    if head[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        values, end = _meta_group(head, _PREAMBLE + 4)
        return values.get(0x0010, ""), values.get(0x0002, ""), end
    # Old archives hold datasets without preamble: they begin with group 2 or 8, and the length of the first element.
    if not begins_bare(head):
        other = other_kind("", head[:START_BYTES])
        raise FileProblemError(*(other.kind, other.reason) if other else _NOT_DICOM, fault=False)
    if head[:2] == b"\x02\x00":
        values, _ = _meta_group(head, 0)
        return values.get(0x0010, ""), values.get(0x0002, ""), 0
    return "", "", 0


def _meta_group(head: bytes, at: int) -> tuple[dict[int, str], int]:
    """UIDs of the meta group, which is always explicit and little-endian, and where it ends."""
    values: dict[int, str] = {}
    while head[at : at + 2] == b"\x02\x00" and at + 8 <= len(head):
        element = int.from_bytes(head[at + 2 : at + 4], "little")
        vr = head[at + 4 : at + 6]
        if vr in _LONG_LENGTHS:
            length, at = int.from_bytes(head[at + 8 : at + 12], "little"), at + 12
        else:
            length, at = int.from_bytes(head[at + 6 : at + 8], "little"), at + 8
        if vr == b"UI":
            values[element] = head[at : at + length].decode("ascii", "replace").rstrip("\0 ")
        at += length
    return values, at


def _inflate(packed: bytes) -> bytes:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = machine.decompress(packed, MAX_FILE_BYTES)
    except zlib.error:
        raise FileProblemError("damaged", "it says that it is deflated and cannot be inflated") from None
    if machine.unconsumed_tail:
        raise FileProblemError("too-large", f"inflated it has more than {MAX_FILE_BYTES} bytes, which no slice has")
    return content


def _other_storage(uid: str) -> FileProblemError:
    """Something else than a CT slice, by the name that the standard gives it; an unknown UID is not repeated."""
    if uid == _DICOMDIR:
        return FileProblemError("dicomdir", "it is the index of a medium", fault=False)
    pydicom = import_pydicom()
    known = str(pydicom.uid.UID(uid, validation_mode=pydicom.config.IGNORE).name)
    name = "unknown storage" if known == uid else known
    return FileProblemError(name.lower().replace(" ", "-"), f"it holds no CT slice but {name}", fault=False)


def damaged(error: Exception) -> FileProblemError:
    """What to say of a file on which the library failed; its own words may quote values."""
    return FileProblemError("damaged", f"it cannot be read as DICOM ({type(error).__name__})")
