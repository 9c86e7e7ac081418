"""Planes out of a file of voxels, compressed or not, in memory that does not grow with the file."""

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.volume.stream import Stream
from ctpatch.prepare.readers.volume.volume import Volume

BLOCK_BYTES = 128 * 2**20
"""Most bytes of planes that are kept at a time."""

_STEP = 2**20


def _read_exactly(stream: Stream, buffer: NDArray[Any], name: str) -> None:
    view = buffer.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        step = stream.readinto(view[done : done + _STEP])
        if not step:
            raise SliceError(f"{name} ends early: {len(view) - done} bytes of its voxels are missing; copy it again")
        done += step


def read_planes(
    stream: Stream, volume: Volume, name: str, axis: int, wanted: Sequence[tuple[int, int]]
) -> Iterator[NDArray[Any]]:
    """Read planes across one of the file's axes.

    The file is gone through once for each `BLOCK_BYTES` of planes, in its own order, as a compressed file allows
    no other; SliceError where it ends early or is damaged.

    `axis` is 0, 1 or 2; `wanted` are `(volume, number along the axis)`, in the order to be given. A plane is as
    stored, the file's other axes in the order `(later, earlier)`: `(k, j)`, `(k, i)` or `(j, i)`.
    """
    k, j, i = volume.shape[::-1]
    plane_shape = ((k, j), (k, i), (j, i))[axis]
    together = max(1, BLOCK_BYTES // (plane_shape[0] * plane_shape[1] * volume.dtype.itemsize))
    for number_of_volume, places in groupby(wanted, key=lambda place: place[0]):
        while several := [number for _, number in islice(places, together)]:
            block = np.empty((len(several), *plane_shape), volume.dtype)
            _fill(block, stream, volume, name, (number_of_volume, axis), several)
            yield from block


def _fill(
    block: NDArray[Any], stream: Stream, volume: Volume, name: str, where: tuple[int, int], numbers: list[int]
) -> None:
    """Go through one volume of the file, from its first plane that is wanted."""
    number_of_volume, axis = where
    k, j, i = volume.shape[::-1]
    size = j * i * volume.dtype.itemsize
    start = volume.offset + number_of_volume * k * size
    if axis == 2:  # noqa: PLR2004
        for place in sorted(range(len(numbers)), key=numbers.__getitem__):
            stream.seek(start + numbers[place] * size)
            _read_exactly(stream, block[place], name)
        last = max(numbers)
    else:
        plane = np.empty((j, i), volume.dtype)
        stream.seek(start)
        for number in range(k):
            _read_exactly(stream, plane, name)
            block[:, number] = plane[:, numbers].T if axis == 0 else plane[numbers]
        last = k - 1
    if number_of_volume == volume.volumes - 1 and last == k - 1 and stream.read(1):
        # Having come to its end also compares the checksum of a compressed file.
        raise SliceError(f"{name} goes on after the last voxel that its header promises; copy it again")
