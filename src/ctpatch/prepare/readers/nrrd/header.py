"""What a NRRD header says, checked before a voxel is read.

Format: NRRD0001 to NRRD0005 (G. Kindlmann, teem.sourceforge.net/nrrd/format.html).
"""

import re

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.nrrd.fields import NrrdFields
from ctpatch.prepare.readers.volume.detached import beside, each_bytes, listed, numbered
from ctpatch.prepare.readers.volume.grid import TO_DICOM, check_affine, check_shape
from ctpatch.prepare.readers.volume.stream import AT_THE_END, Packing, Stored
from ctpatch.prepare.readers.volume.text import above_zero, finite, shown, sizes, whole
from ctpatch.prepare.readers.volume.volume import Volume, voxel_bytes

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_CODES = {word: code for code, words in _TYPES.items() for word in words}
_PACKINGS: dict[str, Packing] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_WORLDS = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
"""From the spaces that say how a patient lies to NIfTI's world."""

_IN_SPACE = {"domain", "space", "none", "???"}
_MM = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "cm": 10.0, "m": 1000.0, "um": 1e-3, "µm": 1e-3}
_VECTOR = re.compile(r"\(([^()]*)\)|none", re.IGNORECASE)
_MOST_AXES = 16

Vectors = list[list[float] | None]


def parse_header(fields: NrrdFields, name: str) -> Volume:
    """Check a header, and find out how its axes lie.

    Raises:
        SliceError: a field makes no sense, or asks for what ctpatch does not read.
    """
    said = fields.values
    (dims,) = whole(name, "dimension", said.get("dimension", ""), 1)
    if not 2 <= dims <= _MOST_AXES:  # noqa: PLR2004
        raise SliceError(f"{name} has {dims} dimensions, wanted 2 to 4")
    sides = sizes(name, "sizes", said.get("sizes", ""), dims)
    directions = _vectors(name, said["space directions"], dims) if "space directions" in said else None
    axes = _axes_in_space(said, directions, sides, name)
    shape, volumes = _shape(sides, axes, name)
    check_shape(shape, volumes, " x ".join(map(str, sides)), name)
    dtype = _dtype(said, name)
    affine, notes = _affine(said, directions, axes, name)
    stored = _stored(fields, name, voxel_bytes(shape, volumes, dtype))
    return Volume(shape, volumes, dtype, affine, placed=len(axes) > 2, notes=notes, stored=stored)  # noqa: PLR2004


def _axes_in_space(said: dict[str, str], directions: Vectors | None, sides: list[int], name: str) -> list[int]:
    """The axes along which the body lies, in the order of the file."""
    kinds = said.get("kinds", "").lower().split()
    if kinds and len(kinds) != len(sides):
        raise SliceError(f"{name} has {len(kinds)} kinds for {len(sides)} axes; write its header again")
    if directions is not None:
        return [axis for axis, each in enumerate(directions) if each is not None]
    return [axis for axis in range(len(sides)) if not kinds or kinds[axis] in _IN_SPACE][:3]


def _shape(sides: list[int], axes: list[int], name: str) -> tuple[tuple[int, int, int], int]:
    """Voxels along the axes of the body, and the number of volumes: what follows these axes in the file."""
    others = [axis for axis in range(len(sides)) if axis not in axes and sides[axis] > 1]
    stated = " x ".join(map(str, sides))
    if not 2 <= len(axes) <= 3:  # noqa: PLR2004
        raise SliceError(f"{name} has {stated} values with {len(axes)} axes in space, wanted 2 or 3")
    if any(axis < axes[-1] for axis in others):
        raise SliceError(f"{name} has {stated} values, several for each voxel; wanted one, so split it into volumes")
    i, j, k = [*(sides[axis] for axis in axes), 1][:3]
    return (i, j, k), int(np.prod([sides[axis] for axis in others], dtype=object)) if others else 1


def _dtype(said: dict[str, str], name: str) -> np.dtype[np.generic]:
    kind = said.get("type", "")
    if kind.lower() not in _CODES:
        raise SliceError(f"{name}: its type is {shown(kind)}, wanted whole numbers, float or double")
    dtype = np.dtype(_CODES[kind.lower()])
    order = said.get("endian", "").lower()
    if dtype.itemsize > 1 and order not in {"little", "big"}:
        raise SliceError(f"{name}: its endian is {shown(order)}, wanted little or big; write its header again")
    return dtype.newbyteorder(">" if order == "big" else "<")


def _vectors(name: str, text: str, count: int) -> Vectors:
    """Vectors in parentheses, and None for `none`."""
    found = list(_VECTOR.finditer(text))
    if len(found) != count or _VECTOR.sub("", text).strip():
        raise SliceError(
            f"{name}: its space directions are {shown(text)}, wanted {count} vectors; write its header again"
        )
    return [None if each[1] is None else finite(name, "space directions", each[1].replace(",", " ")) for each in found]


def _affine(
    said: dict[str, str], directions: Vectors | None, axes: list[int], name: str
) -> tuple[NDArray[np.float64], tuple[tuple[str, str], ...]]:
    """From the axes of the body to NIfTI's world, and what a user should know of it."""
    used = len(axes)
    space = said.get("space", "").lower()
    steps = np.eye(3)
    if directions is not None:
        for place, axis in enumerate(axes):
            vector = directions[axis]
            assert vector is not None
            if len(vector) not in {used, 3}:
                raise SliceError(f"{name} has a space direction of {len(vector)} numbers, wanted {used}")
            steps[: len(vector), place] = vector
            steps[len(vector) :, place] = 0
        if used == 2:  # noqa: PLR2004 - the slice's normal
            steps[:, 2] = np.cross(steps[:, 0], steps[:, 1])
            steps[:, 2] /= np.linalg.norm(steps[:, 2]) or 1.0
    elif "spacings" in said:
        words = said["spacings"].split()
        wanted = " ".join(words[axis] for axis in axes) if len(words) > max(axes) else said["spacings"]
        steps[range(used), range(used)] = above_zero(name, "spacings", finite(name, "spacings", wanted, used))
    else:
        raise SliceError(f"{name} does not say how far its voxels are apart; add spacings or space directions in mm")
    origin = np.zeros(3)
    if "space origin" in said:
        numbers = finite(name, "space origin", re.sub(r"[(),]", " ", said["space origin"]))
        if len(numbers) not in {used, 3}:
            raise SliceError(f"{name} has a space origin of {len(numbers)} numbers, wanted {used}")
        origin[: len(numbers)] = numbers
    to_world = np.array(_WORLDS.get(space, TO_DICOM))
    mm = _millimetres(said, name)
    affine = np.eye(4)
    affine[:3, :3] = steps * mm * to_world[:, None]
    affine[:3, 3] = origin * mm * to_world
    check_affine(affine, name)
    if space in _WORLDS and directions is not None:
        return affine, ()
    message = "its header does not say how it lies; voxels are taken to run to the left, the back and the head"
    if directions is not None:
        message = "its space does not say how the patient lies; it is taken to run to the left, the back and the head"
    return affine, (("no-orientation", message),)


def _millimetres(said: dict[str, str], name: str) -> float:
    """Of the unit that lengths are in; millimetres where the header names none."""
    units = set(re.findall(r'"([^"]*)"', said.get("space units", said.get("units", "")))) - {"", "none", "s", "ms"}
    if len(units) > 1 or not units <= set(_MM):
        raise SliceError(
            f"{name} gives lengths in {', '.join(map(shown, sorted(units)))}, wanted mm; write its header again"
        )
    return _MM[units.pop()] if units else 1.0


def _stored(fields: NrrdFields, name: str, total: int) -> Stored:
    said = fields.values
    encoding = said.get("encoding", "").lower()
    if encoding not in _PACKINGS:
        raise SliceError(f"{name}: its encoding is {shown(encoding)}, wanted raw, gzip or bzip2; write it again")
    packing = _PACKINGS[encoding]
    (lines,) = whole(name, "line skip", said.get("line skip", "0"), 1)
    (skipped,) = whole(name, "byte skip", said.get("byte skip", "0"), 1)
    if lines or skipped < AT_THE_END or (skipped and packing != "raw"):
        raise SliceError(f"{name} skips lines, or bytes of compressed data, before its voxels; write it again")
    if "data file" not in said:
        if skipped > 0:
            raise SliceError(f"{name} skips bytes between its header and its voxels; write it again")
        return Stored((name,), AT_THE_END if skipped else fields.end, packing, total)
    where = said["data file"]
    if where.split()[:1] == ["LIST"]:
        files = listed(name, fields.listed)
    else:
        files = numbered(name, where) or [beside(name, where)]
    if len(files) > 1 and packing != "raw":
        raise SliceError(f"{name} names several compressed files, which ctpatch does not read; write one file")
    return Stored(tuple(files), skipped, packing, each_bytes(name, total, files))
