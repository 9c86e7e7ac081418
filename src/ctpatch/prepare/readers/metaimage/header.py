"""What a MetaImage header says, checked before a voxel is read.

Format: MetaIO (Insight Software Consortium), as ITK reads it. Its world is DICOM's.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.volume.detached import beside, each_bytes, listed, numbered
from ctpatch.prepare.readers.volume.grid import MAX_SLICES, TO_DICOM, check_affine, check_shape
from ctpatch.prepare.readers.volume.stream import AT_THE_END, Packing, Stored
from ctpatch.prepare.readers.volume.text import above_zero, finite, shown, sizes, whole
from ctpatch.prepare.readers.volume.volume import Volume, voxel_bytes

HEADER_BYTES = 2**16
"""Most bytes of a header; usual ones have less than a thousand."""

LIST_BYTES = 2**24
"""Most bytes of a list of files."""

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_SAME = {
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
}
"""Names that MetaIO takes for another one."""

_KNOWN = {
    "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize", "DimSize", "ElementDataFile",
    "ElementNumberOfChannels", "ElementSize", "ElementSpacing", "ElementToIntensityFunctionOffset",
    "ElementToIntensityFunctionSlope", "ElementType", "HeaderSize", "NDims", "ObjectType", "Offset", "TransformMatrix",
}  # fmt: skip
"""What is read. Other fields can hold names of people, so they are neither kept nor quoted."""

_STARTS = (b"ObjectType", b"NDims", b"Comment")
_ROTATION_TOLERANCE = 1e-3
"""Lengths of axes with four digits still pass."""

Fields = dict[str, str]


def is_metaimage(start: bytes) -> bool:
    """Whether a file begins as such headers do: with one of the usual first names, and `=`."""
    line = start.partition(b"\n")[0]
    return line.startswith(_STARTS) and line.partition(b"=")[0].strip() in _STARTS


def parse_header(start: bytes, name: str, size: int, rest: Callable[[int], bytes]) -> Volume:
    """Read and check a header.

    Args:
        start: the first bytes of the file, `HEADER_BYTES` at most.
        name: what messages call the file; paths in it are relative to its folder.
        size: of the file, in bytes.
        rest: gives the bytes of the file from one on, for a list of files.

    Raises:
        SliceError: a field makes no sense, or asks for what ctpatch does not read.
    """
    fields, end = _fields(start, name)
    shape, volumes, dims = _shape(fields, name)
    dtype = _dtype(fields, name)
    affine, notes = _affine(fields, name, dims)
    total = voxel_bytes(shape, volumes, dtype)
    stored = _stored(fields, name, total, (end, size), rest)
    return Volume(shape, volumes, dtype, affine, placed=dims > 2, notes=notes, stored=stored)  # noqa: PLR2004


def _fields(start: bytes, name: str) -> tuple[Fields, int]:
    """The fields by name, and where the header ends: after `ElementDataFile`, the last one."""
    fields: Fields = {}
    at = 0
    while True:
        end = start.find(b"\n", at)
        if end < 0 and len(start) == HEADER_BYTES:
            raise SliceError(f"{name} has a header of more than {HEADER_BYTES} bytes; copy it again")
        line = start[at : len(start) if end < 0 else end].decode("utf-8", "surrogateescape")
        key, equals, value = (each.strip() for each in line.partition("="))
        if not equals and line.strip():
            raise SliceError(f"{name} has a line in its header that is not 'name = value'; copy it again")
        key = _SAME.get(key, key)
        if key in _KNOWN and fields.setdefault(key, value) != value:
            raise SliceError(f"{name} says its {key} twice, and differently; write its header again")
        at = len(start) if end < 0 else end + 1
        if key == "ElementDataFile":
            return fields, at
        if end < 0:
            raise SliceError(f"{name} ends within its header, before ElementDataFile; copy it again")


def _flag(fields: Fields, key: str, name: str, *, usual: bool) -> bool:
    said = fields.get(key, str(usual))
    if said[:1].upper() not in {"T", "F", "1", "0"}:
        raise SliceError(f"{name}: its {key} is {shown(said)}, wanted True or False; write its header again")
    return said[:1].upper() in {"T", "1"}


def _shape(fields: Fields, name: str) -> tuple[tuple[int, int, int], int, int]:
    """Voxels along the axes, the number of volumes, and the number of dimensions."""
    kind = fields.get("ObjectType", "Image")
    if kind != "Image":
        raise SliceError(f"{name} holds an object of type {shown(kind)}, wanted Image")
    (dims,) = whole(name, "NDims", fields.get("NDims", ""), 1)
    if not 2 <= dims <= 4:  # noqa: PLR2004
        raise SliceError(f"{name} has {dims} dimensions, wanted 2 to 4")
    sides = sizes(name, "DimSize", fields.get("DimSize", ""), dims)
    i, j, k, volumes = [*sides, 1, 1][:4]
    check_shape((i, j, k), volumes, " x ".join(map(str, sides)), name)
    return (i, j, k), volumes, dims


def _dtype(fields: Fields, name: str) -> np.dtype[np.generic]:
    kind = fields.get("ElementType", "")
    if kind not in _TYPES:
        raise SliceError(f"{name}: its ElementType is {shown(kind)}, wanted one of {', '.join(_TYPES)}")
    (channels,) = whole(name, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"), 1)
    if channels != 1:
        raise SliceError(f"{name} holds {channels} values a voxel (ElementNumberOfChannels), wanted 1")
    if not _flag(fields, "BinaryData", name, usual=True):
        raise SliceError(f"{name} holds its voxels as text (BinaryData = False); write it again as binary data")
    for key, usual in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if finite(name, key, fields.get(key, str(usual)), 1) != [usual]:
            raise SliceError(
                f"{name}: its {key} is {shown(fields[key])}, which some programs apply and others do not; write HU and "
                "leave it out"
            )
    order = ">" if _flag(fields, "BinaryDataByteOrderMSB", name, usual=False) else "<"
    return np.dtype(order + _TYPES[kind])


def _affine(fields: Fields, name: str, dims: int) -> tuple[NDArray[np.float64], tuple[tuple[str, str], ...]]:
    """From the file's axes to NIfTI's world, and what a user should know of it."""
    said = "ElementSpacing" if "ElementSpacing" in fields else "ElementSize"
    if said not in fields:
        raise SliceError(f"{name} does not say how far its voxels are apart; add ElementSpacing in mm to its header")
    spacing = above_zero(name, said, finite(name, said, fields[said], dims))
    used = min(dims, 3)
    turn, origin = np.eye(3), np.zeros(3)
    if "TransformMatrix" in fields:
        # A line of the matrix is the direction of an axis of the file.
        matrix = np.array(finite(name, "TransformMatrix", fields["TransformMatrix"], dims * dims)).reshape(dims, dims).T
        if dims > used and (matrix[used:, :used].any() or matrix[:used, used:].any()):
            raise SliceError(f"{name} has a TransformMatrix that mixes time with place; write its header again")
        turn[:used, :used] = matrix[:used, :used]
        lengths = np.linalg.norm(turn, axis=0)
        if np.abs(lengths - 1).max() > _ROTATION_TOLERANCE:
            stated = " x ".join(f"{each:g}" for each in lengths)
            raise SliceError(f"{name} has a TransformMatrix with axes of length {stated}, wanted 1; write it again")
    if "Offset" in fields:
        origin[:used] = finite(name, "Offset", fields["Offset"], dims)[:used]
    affine = np.eye(4)
    affine[:3, :3] = turn * [*spacing, 1.0][:3] * TO_DICOM[:, None]
    affine[:3, 3] = origin * TO_DICOM
    check_affine(affine, name)
    if "TransformMatrix" in fields:
        return affine, ()
    message = "its header does not say how it lies; voxels are taken to run to the left, the back and the head"
    return affine, (("no-orientation", message),)


def _stored(fields: Fields, name: str, total: int, place: tuple[int, int], rest: Callable[[int], bytes]) -> Stored:
    """Where the voxels are; `place` is where the header ends, and the file."""
    end, size = place
    said = fields["ElementDataFile"]
    (skipped,) = whole(name, "HeaderSize", fields.get("HeaderSize", "0"), 1)
    packing: Packing = "zlib" if _flag(fields, "CompressedData", name, usual=False) else "raw"
    if skipped < AT_THE_END or (packing != "raw" and skipped):
        raise SliceError(
            f"{name}: its HeaderSize is {skipped}, wanted 0 or more, or -1 for data at the end of the file"
        )
    if said.upper() == "LOCAL":
        if skipped:
            raise SliceError(f"{name} has a HeaderSize for voxels that follow the header; leave it out")
        packed = fields.get("CompressedDataSize")
        if packing == "zlib" and packed and whole_bytes(name, packed) not in {0, size - end}:
            raise SliceError(f"{name} has {size - end} compressed bytes, its header promises {packed}; copy it again")
        return Stored((name,), end, packing, total)
    if said.split()[:1] == ["LIST"]:
        lines = rest(end)
        if lines.count(b"\n") > MAX_SLICES:
            raise SliceError(f"{name} lists more than {MAX_SLICES} files of voxels")
        files = listed(name, lines.decode("utf-8", "surrogateescape").split("\n"))
    else:
        files = numbered(name, said) or [beside(name, said)]
    if len(files) > 1 and packing != "raw":
        raise SliceError(f"{name} names several compressed files, which no format says how to read; write one file")
    return Stored(tuple(files), skipped, packing, each_bytes(name, total, files))


def whole_bytes(name: str, said: str) -> int:
    """A number of bytes, which may be larger than any number of voxels along an axis."""
    if not said.isascii() or not said.isdigit() or len(said) > 18:  # noqa: PLR2004 - of digits in 64 bits
        raise SliceError(f"{name}: its CompressedDataSize is {shown(said)}, wanted a whole number; copy it again")
    return int(said)
