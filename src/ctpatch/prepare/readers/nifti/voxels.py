"""Planes out of a NIfTI file, compressed or not, in memory that does not grow with the file."""

import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.files.atomic import explain_os_error
from ctpatch.prepare.readers.nifti.header import NiftiHeader

Stream = io.BufferedReader | gzip.GzipFile

BLOCK_BYTES = 128 * 2**20
"""Most bytes of planes that are kept at a time."""

_GZIP = b"\x1f\x8b"
_DEFLATE_RATIO = 1032  # no deflate stream grows by more (RFC 1951: 258 bytes from 2 bits)
_STEP = 2**20


@contextmanager
def open_nifti(path: str | os.PathLike[str], name: str) -> Iterator[Stream]:
    """Open a file, through gzip where it begins like that; SliceError where it cannot be read or is damaged."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(fd, "rb") as raw:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SliceError(f"{name} is not a regular file")
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            if not packed:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise SliceError(f"{name} is damaged: its compressed data end early or are wrong; copy it again") from None
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise explain_os_error(error, "reading", name) from None
        raise SliceError(f"{name} cannot be read: {error.strerror or 'the system refuses'}; check the file") from None


def check_size(path: Path, stream: Stream, header: NiftiHeader, name: str) -> None:
    """Raise SliceError for a file that does not hold just what its header promises, with nothing large read for it."""
    wanted, size = header.total_bytes, path.stat().st_size
    if not isinstance(stream, gzip.GzipFile):
        found = size
    elif wanted > size * _DEFLATE_RATIO:
        raise SliceError(
            f"{name} is {size} bytes, compressed; its header promises {wanted}, which cannot be in it; copy it again"
        )
    else:
        found = _unpacked_size(path, stream, wanted)
    if found != wanted:
        stated = f"more than {wanted}" if found > wanted else str(found)
        raise SliceError(f"{name} holds {stated} bytes, uncompressed; its header promises {wanted}; copy it again")


def _unpacked_size(path: Path, stream: Stream, wanted: int) -> int:
    """Size of what is compressed, counted no further than one byte more than is wanted."""
    with path.open("rb") as raw:
        raw.seek(-4, os.SEEK_END)
        stated = int.from_bytes(raw.read(4), "little")  # of the last member, modulo 2**32 (RFC 1952)
    if stated == wanted % 2**32:
        return wanted
    stream.seek(0)
    found = 0
    while found <= wanted and (step := len(stream.read(min(_STEP, wanted + 1 - found)))):
        found += step
    return found


def _read_exactly(stream: Stream, buffer: NDArray[Any], name: str) -> None:
    view = buffer.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        step = stream.readinto(view[done : done + _STEP])
        if not step:
            raise SliceError(f"{name} ends early: {len(view) - done} bytes of its voxels are missing; copy it again")
        done += step


def read_planes(
    stream: Stream, header: NiftiHeader, name: str, axis: int, wanted: Sequence[tuple[int, int]]
) -> Iterator[NDArray[Any]]:
    """Read planes across one of the file's axes.

    The file is gone through once for each `BLOCK_BYTES` of planes, in its own order, as a compressed file allows
    no other; SliceError where it ends early or is damaged.

    `axis` is 0, 1 or 2; `wanted` are `(volume, number along the axis)`, in the order to be given. A plane is as
    stored, the file's other axes in the order `(later, earlier)`: `(k, j)`, `(k, i)` or `(j, i)`.
    """
    k, j, i = header.shape[::-1]
    plane_shape = ((k, j), (k, i), (j, i))[axis]
    together = max(1, BLOCK_BYTES // (plane_shape[0] * plane_shape[1] * header.dtype.itemsize))
    for volume, places in groupby(wanted, key=lambda place: place[0]):
        while several := [number for _, number in islice(places, together)]:
            block = np.empty((len(several), *plane_shape), header.dtype)
            _fill(block, stream, header, name, (volume, axis), several)
            yield from block


def _fill(
    block: NDArray[Any], stream: Stream, header: NiftiHeader, name: str, where: tuple[int, int], numbers: list[int]
) -> None:
    """Go through one volume of the file, from its first plane that is wanted."""
    volume, axis = where
    k, j, i = header.shape[::-1]
    size = j * i * header.dtype.itemsize
    start = header.offset + volume * k * size
    if axis == 2:  # noqa: PLR2004
        for place in sorted(range(len(numbers)), key=numbers.__getitem__):
            stream.seek(start + numbers[place] * size)
            _read_exactly(stream, block[place], name)
        last = max(numbers)
    else:
        plane = np.empty((j, i), header.dtype)
        stream.seek(start)
        for number in range(k):
            _read_exactly(stream, plane, name)
            block[:, number] = plane[:, numbers].T if axis == 0 else plane[numbers]
        last = k - 1
    if volume == header.volumes - 1 and last == k - 1 and stream.read(1):
        # Having come to its end also compares the checksum of a compressed file.
        raise SliceError(f"{name} goes on after the last voxel that its header promises; copy it again")
