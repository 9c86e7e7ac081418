"""One DICOM file: what it is, and what its header says, read by an allow-list of tags and within bounds.

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
from dataclasses import dataclass
from typing import Any, Literal

from ctpatch.extras import library
from ctpatch.files.paths import Root
from ctpatch.prepare.geometry import MAX_RAW_PIXELS
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.dicom.bits import ALLOCATED, Bits, BitsError
from ctpatch.prepare.readers.dicom.kinds import is_derived, made_from_slices, refuse_no_slice
from ctpatch.prepare.readers.dicom.orientation import Remark, orientation_of
from ctpatch.prepare.readers.dicom.remarks import remarks_of
from ctpatch.prepare.readers.dicom.rescale import Rescale, settle_rescale, why_no_hu
from ctpatch.prepare.readers.dicom.start import begins_bare
from ctpatch.prepare.readers.dicom.tags import HeaderError, Tags
from ctpatch.prepare.readers.other import START_BYTES, other_kind

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Largest file of one CT slice; those of scanners have less than a tenth."""

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_DICOMDIR = "1.2.840.10008.1.3.10"
_MULTI_FRAME_CT = frozenset({f"{CT_STORAGE}.1", f"{CT_STORAGE}.2"})
_TO_SINGLE_FRAMES = "convert it to a file for each slice, for example with emf2sf of dcm4che"
_NOT_DICOM = ("not-dicom", "it is no DICOM file")
DEFLATED = "1.2.840.10008.1.2.1.99"
_IMPLICIT = "1.2.840.10008.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE_SYNTAXES = frozenset({_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, DEFLATED})

_PREAMBLE = 128
_MAX_META_BYTES = 65536
_SMALL_READ = 65536
_LONG_LENGTHS = frozenset({b"OB", b"OW", b"UN", b"SQ", b"UT", b"OF", b"OD", b"UC", b"UR", b"OL", b"OV"})

HEADER_TAGS = (
    *("ImageType", "SOPClassUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesDescription"),
    *("ConvolutionKernel", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"),
    *("GantryDetectorTilt", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType", "PatientPosition"),
    *("PatientOrientation", "BurnedInAnnotation", "ConversionType", "AcquisitionNumber", "AcquisitionTime"),
    *("TemporalPositionIdentifier", "SliceThickness"),
)
"""The only tags that are read. Ids serve to group and are never written; of the rest, spacing and position are."""

_NUMBERS_OF_PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope"),
)

PIXEL_TAGS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")

Vector = tuple[float, float, float]
Axes = tuple[float, float, float, float, float, float]


Permission = Literal["assume-hu", "keep-reformats", "labels"]
"""What lets a file be prepared that otherwise is not; `labels` are masks, whose values need be no HU."""


@dataclass(frozen=True, slots=True)
class CtHeader:
    """What the header of a CT slice says; ids as found, blank where there are none.

    Attributes:
        file: relative to the source folder.
        patient, study, series: ids.
        names: description and kernel of the series, where they are said.
        number: InstanceNumber, or None.
        shape: rows and columns as stored.
        spacing_mm: distance of rows and of columns; None where it is not said, or is no distance.
        origin_mm: centre of the first pixel; None where it is not said.
        axes: direction of the columns' and of the rows' numbers; None where they are not said, or are no directions.
        location_mm: SliceLocation.
        tilt_deg: GantryDetectorTilt, 0 where it is not said.
        acquired: which acquisition, time in a sequence, kernel and time of day it is of; blank where it is not said.
        derived: whether it was made from other images.
        unit_unknown: whether RescaleType leaves open what the values are.
        remarks: what is odd about the header.
        needs: why it is prepared only with a permission.
        thickness_mm: SliceThickness, None where it is not said.
    """

    file: str
    patient: str
    study: str
    series: str
    names: tuple[str, ...]
    number: int | None
    shape: tuple[int, int]
    spacing_mm: tuple[float, float] | None
    origin_mm: Vector | None
    axes: Axes | None
    location_mm: float | None
    tilt_deg: float
    acquired: tuple[str, str, str, str]
    derived: bool
    unit_unknown: bool
    remarks: tuple[Remark, ...]
    needs: tuple[tuple[Permission, LeftOut], ...]
    thickness_mm: float | None = None


class FileProblemError(Exception):
    """A file that is not prepared: a kind, a reason, and whether it is a fault, as `LeftOut` has them."""

    def __init__(self, kind: str, reason: str, *, fault: bool = True) -> None:
        super().__init__(reason)
        self._left_out = kind, reason, fault

    def left_out(self, file: str) -> LeftOut:
        """The record of the file."""
        return LeftOut(file, *self._left_out)


class _BoundedFile(io.BufferedReader):
    """A file that is never asked for more bytes than it has, whatever a length in it says."""

    def __init__(self, fd: int, size: int) -> None:
        super().__init__(io.FileIO(fd, "rb", closefd=True))
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and 0 <= size <= _SMALL_READ:
            return super().read(size)
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def import_pydicom() -> Any:
    """The library, or a sentence that says how to get it."""
    pydicom = library("pydicom", "reading DICOM needs pydicom")
    # Its warnings quote values, which may be private: without a handler they would be printed.
    logger = logging.getLogger("pydicom")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return pydicom


def look_at(
    root: str,
    file: str,
    *,
    allow_deflated: bool,
    follow_links: bool = False,
    permissions: frozenset[Permission] = frozenset(),
) -> CtHeader | LeftOut:
    """Read the header of a file, or say why it is not prepared."""
    try:
        dataset = read_dataset(root, file, HEADER_TAGS, allow_deflated=allow_deflated, follow_links=follow_links)
        header = header_of(file, dataset)
    except FileProblemError as problem:
        return problem.left_out(file)
    return next((left for permission, left in header.needs if permission not in permissions), header)


def read_dataset(
    root: str, file: str, tags: tuple[str, ...], *, allow_deflated: bool, follow_links: bool = False
) -> Any:
    """The named tags of a file that holds a CT slice.

    Raises:
        FileProblemError: it holds none, or cannot be read.
    """
    pydicom = import_pydicom()
    with _open(root, file, follow_links=follow_links) as source:
        size = os.fstat(source.fileno()).st_size
        syntax, storage, start = _what_it_is(source, size)
        if storage not in {"", CT_STORAGE}:
            raise _other_storage(storage)
        if size > MAX_FILE_BYTES:
            raise FileProblemError("too-large", f"it has {size} bytes, wanted at most {MAX_FILE_BYTES} for one slice")
        if syntax == DEFLATED and not allow_deflated:
            raise FileProblemError(
                "deflated", "it is deflated and could be a bomb; --allow-deflated reads such, within bounds"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they quote values, which may be private
                dataset = _parse(pydicom, source, syntax, start, tags)
                named = str(dataset.get("SOPClassUID", "") or storage)
        except FileProblemError:
            raise
        except Exception as error:  # noqa: BLE001 - pydicom raises many kinds on rubbish, quoting values
            raise _damaged(error) from None
    if not named and start:
        raise FileProblemError("damaged", "it is DICOM and does not say of what: it is cut short or damaged")
    if named != CT_STORAGE:
        raise _other_storage(named) if named else FileProblemError(*_NOT_DICOM, fault=False)
    return dataset


def _parse(pydicom: Any, source: _BoundedFile, syntax: str, start: int, tags: tuple[str, ...]) -> Any:
    whole = "PixelData" in tags
    if syntax == DEFLATED:
        source.seek(start)
        content = io.BytesIO(_inflate(source.read()))
        # The group of pixel data.
        stop = None if whole else lambda tag, _vr, _length: int(tag) >= 0x7FE00000  # noqa: PLR2004
        tag_numbers = [pydicom.tag.Tag(tag) for tag in tags]
        dataset = pydicom.filereader.read_dataset(
            content, is_implicit_VR=False, is_little_endian=True, stop_when=stop, specific_tags=tag_numbers
        )
        dataset.ctpatch_syntax = _EXPLICIT
        return dataset
    source.seek(0)
    dataset = pydicom.dcmread(source, stop_before_pixels=not whole, force=start == 0, specific_tags=list(tags))
    # A dataset without meta does not say its syntax: pydicom has guessed it.
    implicit, little = dataset.original_encoding
    guessed = _IMPLICIT if implicit else _EXPLICIT if little else _BIG_ENDIAN
    dataset.ctpatch_syntax = syntax or guessed
    return dataset


def _open(root: str, file: str, *, follow_links: bool) -> _BoundedFile:
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


def _what_it_is(source: _BoundedFile, size: int) -> tuple[str, str, int]:
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
    cure = f"; {_TO_SINGLE_FRAMES}" if uid in _MULTI_FRAME_CT else ""
    return FileProblemError(name.lower().replace(" ", "-"), f"it holds no CT slice but {name}{cure}", fault=False)


def _damaged(error: Exception) -> FileProblemError:
    return FileProblemError("damaged", f"it cannot be read as DICOM ({type(error).__name__})")


def header_of(file: str, dataset: Any) -> CtHeader:
    """The header in the tags of a file; of numbers that pixels are read by, one is left in the dataset.

    What a file may lack with a permission is not refused here: `look_at` decides on it.

    Raises:
        FileProblemError: it is no CT slice after all, or a value makes no sense.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _header(file, dataset, Tags(dataset))
        except FileProblemError:
            raise
        except HeaderError as error:
            raise FileProblemError(error.kind, error.reason, fault=error.fault) from None
        except Exception as error:  # noqa: BLE001 - values are converted where they are asked for
            raise _damaged(error) from None


def _header(file: str, dataset: Any, tags: Tags) -> CtHeader:
    tags.settle(*_NUMBERS_OF_PIXELS)
    oriented = orientation_of(tags)
    said = None if oriented.assumed else oriented.axes
    refuse_no_slice(tags, said)
    _refuse_other_pixels(dataset, tags)
    rescale = settle_rescale(dataset, tags)
    description, kernel = tags.text("SeriesDescription"), tags.text("ConvolutionKernel")
    origin = tags.numbers("ImagePositionPatient", 3)
    return CtHeader(
        file=file,
        patient=tags.text("PatientID"),
        study=tags.text("StudyInstanceUID"),
        series=tags.text("SeriesInstanceUID"),
        names=tuple(each for each in (description, kernel) if each),
        number=tags.whole("InstanceNumber"),
        shape=(int(dataset.Rows), int(dataset.Columns)),
        spacing_mm=_spacing(tags),
        origin_mm=None if origin is None else (origin[0], origin[1], origin[2]),
        axes=oriented.axes,
        location_mm=tags.number("SliceLocation"),
        tilt_deg=tags.number("GantryDetectorTilt") or 0.0,
        acquired=(
            tags.text("AcquisitionNumber"),
            tags.text("TemporalPositionIdentifier"),
            kernel,
            tags.text("AcquisitionTime"),
        ),
        derived=is_derived(tags),
        unit_unknown=rescale.unspecified,
        remarks=tuple(remarks_of(tags, oriented, rescale)),
        needs=tuple(_needs(file, rescale, made_from_slices(tags, said))),
        thickness_mm=tags.length("SliceThickness"),
    )


def _needs(file: str, rescale: Rescale, made: tuple[str, str] | None) -> Iterator[tuple[Permission, LeftOut]]:
    """Why a file is prepared only with a permission."""
    if made is not None:
        yield "keep-reformats", LeftOut(file, *made)
    if rescale.not_hu:
        yield "labels", LeftOut(file, "not-hu", rescale.not_hu)
    if rescale.missing:
        yield "assume-hu", LeftOut(file, "no-rescale", why_no_hu(rescale.missing), fault=True)


def _refuse_other_pixels(dataset: Any, tags: Tags) -> None:
    """Refuse pixels that are no slice's, and shapes that no scanner writes."""
    frames = tags.whole("NumberOfFrames")
    if frames is not None and frames != 1:
        raise FileProblemError("multi-frame", f"it says {frames} frames, a CT slice has one; {_TO_SINGLE_FRAMES}")
    photometric = tags.text("PhotometricInterpretation")
    if not photometric:
        reason = "it does not say what its pixels are (PhotometricInterpretation): it is cut short or damaged"
        raise FileProblemError("damaged", reason)
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        raise FileProblemError("no-grey-values", "its pixels are colours, no HU", fault=False)
    rows, cols = int(dataset.Rows), int(dataset.Columns)
    if not (1 <= rows <= MAX_RAW_PIXELS and 1 <= cols <= MAX_RAW_PIXELS):
        raise FileProblemError("too-large", f"it says {rows}x{cols} pixels, wanted 1 to {MAX_RAW_PIXELS} on a side")
    if int(dataset.BitsAllocated) not in ALLOCATED:
        raise FileProblemError("damaged", "its BitsAllocated is not 8, 16 or 32")
    try:
        Bits.of(dataset)
    except BitsError as error:
        raise FileProblemError("bits", str(error)) from None


def _spacing(tags: Tags) -> tuple[float, float] | None:
    numbers = tags.numbers("PixelSpacing", 2)
    return None if numbers is None or min(numbers) <= 0 else (numbers[0], numbers[1])
