"""A volume, or several, as a header describes it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.prepare.readers.volume.stream import Stored


@dataclass(frozen=True, slots=True)
class Volume:
    """What a reader of volumes finds in a header, checked before a voxel is read.

    Attributes:
        shape: voxels along the file's axes, `(i, j, k)`, the first lying closest together in the file.
        volumes: how many volumes stand one behind the other.
        dtype: of the voxels as stored.
        affine: `(4, 4)`, from `(i, j, k)` to NIfTI's world in mm.
        offset: first byte of the voxels in the stream that they are read from.
        slope, inter: what makes HU of stored numbers, `stored * slope + inter`.
        placed: whether the header says where the slices lie along their normal.
        notes: kind and message of what a user should know.
        stored: where the voxels are; None where the reader opens its files another way.
    """

    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    affine: NDArray[np.float64]
    offset: int = 0
    slope: float = 1.0
    inter: float = 0.0
    placed: bool = True
    notes: tuple[tuple[str, str], ...] = ()
    stored: Stored | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of the stream, from its first to the last voxel."""
        return self.offset + voxel_bytes(self.shape, self.volumes, self.dtype)


def voxel_bytes(shape: tuple[int, int, int], volumes: int, dtype: np.dtype[Any]) -> int:
    """Bytes of voxels, unpacked."""
    return math.prod(shape) * volumes * dtype.itemsize
