"""NumPy arrays to axial slices, by the axes and the spacing that the user states."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ctpatch.errors import ConfigError, SliceError
from ctpatch.files.npy import NpyHeader, read_header
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.readers.numpy.archive import in_archive, open_member
from ctpatch.prepare.readers.other import START_BYTES, other_kind
from ctpatch.prepare.readers.volume.grid import TO_DICOM, check_affine, check_shape
from ctpatch.prepare.readers.volume.reader import VolumeReader
from ctpatch.prepare.readers.volume.stream import Stored, Stream, open_regular
from ctpatch.prepare.readers.volume.volume import Volume, voxel_bytes

_AXES = re.compile(r"(-?[xyz]){3}")
_AXIS = re.compile(r"(-?)([xyz])")
_NAMED_NUMPY = re.compile(r".*\.np[yz]", re.IGNORECASE)
_NPY = b"\x93NUMPY"
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class NumpyReader(VolumeReader):
    """Reads `.npy` and `.npz` of plain numbers; nothing pickled is ever loaded.

    Places count from the first voxel of each array, as the files do not say where it lies.

    Attributes:
        axes: see `ctpatch.prepare.readers.numpy.Numpy`.
        voxel_spacing: millimetres along each axis, in the order of `axes`.
        array_name: of the array in a `.npz`; None where it holds one.
        slope, inter: what makes HU of stored numbers, `stored * slope + inter`.
    """

    name: ClassVar = "numpy"

    axes: str | None = None
    voxel_spacing: tuple[float, float, float] | None = None
    array_name: str | None = None
    slope: float = 1.0
    inter: float = 0.0

    def __post_init__(self) -> None:
        VolumeReader.__post_init__(self)
        if self.axes is None or self.voxel_spacing is None:
            raise ConfigError(
                "axes, voxel_spacing: a NumPy array does not say how it lies; state both, such as --axes zyx "
                "--voxel-spacing 2.5 0.7 0.7, where z runs to the head, y to the back and x to the patient's left"
            )
        letters = [letter for _, letter in _AXIS.findall(self.axes)]
        if not _AXES.fullmatch(self.axes) or sorted(letters) != ["x", "y", "z"]:
            raise ConfigError(
                f"axes: {self.axes!r}, wanted x, y and z once each, in the order of the array, such as zyx"
            )
        if len(self.voxel_spacing) != len(letters) or not all(
            math.isfinite(mm) and mm > 0 for mm in self.voxel_spacing
        ):
            stated = " ".join(f"{mm:g}" for mm in self.voxel_spacing)
            raise ConfigError(f"voxel_spacing: {stated}, wanted {len(letters)} numbers of millimetres above 0")
        if not math.isfinite(self.slope) or self.slope == 0 or not math.isfinite(self.inter):
            raise ConfigError(
                f"hu_slope, hu_intercept: {self.slope:g} and {self.inter:g}, wanted finite, the slope not 0"
            )

    def describe(self, folder: Path, name: str, *, first: bool) -> Volume | LeftOut:  # noqa: ARG002 - the header says the size
        """Read the header of the array; its size is checked each time."""
        with open_regular(folder / name, name) as raw:
            start = raw.read(START_BYTES)
            raw.seek(0)
            if start.startswith(_NPY):
                os.lseek(raw.fileno(), 0, os.SEEK_SET)
                return self._volume(read_header(raw.fileno(), name), name, packed=False)
            if start.startswith(_ZIP) and name.lower().endswith(".npz"):
                header = in_archive(raw, name, self.array_name)
                return self._volume(header, name, packed=True)
        other = other_kind(name, start)
        if _NAMED_NUMPY.fullmatch(name):
            raise SliceError(
                f"{name} is named like a NumPy array and is none; {other.reason if other else 'copy it again'}"
            )
        return other or LeftOut(name, "not-numpy", "it is no NumPy array")

    def open(self, folder: Path, name: str, volume: Volume) -> AbstractContextManager[Stream]:
        """The array, from its first number on or, in a `.npz`, from its header on."""
        if volume.stored is not None:
            return VolumeReader.open(self, folder, name, volume)
        return self._open_member(folder, name)

    @contextmanager
    def _open_member(self, folder: Path, name: str) -> Iterator[Stream]:
        with open_regular(folder / name, name) as raw, open_member(raw, name, self.array_name) as stream:
            yield stream

    def _volume(self, header: NpyHeader, name: str, *, packed: bool) -> Volume:
        assert self.axes is not None
        assert self.voxel_spacing is not None
        along = list(zip(_AXIS.findall(self.axes), self.voxel_spacing, strict=True))
        stated = " x ".join(map(str, header.shape))
        if len(header.shape) != len(along):
            raise SliceError(
                f"{name} has {len(header.shape)} axes ({stated}), the axes stated are {len(along)}: {self.axes}"
            )
        if min(header.shape) < 1 or header.dtype.kind == "c":
            raise SliceError(f"{name} holds {stated} numbers of type {header.dtype}, wanted real numbers, one or more")
        sides = list(header.shape)
        if not header.fortran_order:  # the last axis lies closest together
            sides.reverse()
            along.reverse()
        i, j, k = sides
        check_shape((i, j, k), 1, stated, name)
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for axis, ((minus, letter), mm) in enumerate(along):
            affine["xyz".index(letter), axis] = -mm if minus else mm
        affine[:3] *= TO_DICOM[:, None]
        check_affine(affine, name)
        stored = None if packed else Stored((name,), header.offset, "raw", voxel_bytes((i, j, k), 1, header.dtype))
        return Volume(
            (i, j, k),
            1,
            header.dtype,
            affine,
            offset=header.offset if packed else 0,
            slope=self.slope,
            inter=self.inter,
            stored=stored,
        )
