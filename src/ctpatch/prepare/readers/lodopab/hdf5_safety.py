"""One array in an HDF5 file that someone else made: opened only where reading it can touch nothing else.

HDF5 reads other files without being asked (external storage, external links, virtual data sets), loads code for
filters, allocates what a header promises, and inflates a chunk to whatever its stream holds. All of that is looked at
here before a pixel is read, and refused by name.
"""

import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.extras import library

MAX_CHUNK_BYTES = 256 * 2**20
"""Largest chunk, uncompressed: a whole LoDoPaB-CT file of observations is 251 MiB."""

MAX_CHUNKS = 100_000
"""LoDoPaB-CT's files have some thousands."""

_DEFLATE_RATIO = 1032
"""No deflate stream grows by more (RFC 1951: 258 bytes from 2 bits)."""

_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_FILTER_NAMES = {4: "szip", 5: "nbit", 6: "scale-offset", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32015: "zstd"}
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_INFLATE_STEP = 2**20
_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\\]\S*")


class HdfArray:
    """An array whose bytes all lie in its own file, which messages call `name`; its `shape` has rows first."""

    def __init__(self, name: str, data: Any, rows_together: int) -> None:
        self.name = name
        self.shape: tuple[int, ...] = tuple(data.shape)
        self._data = data
        self._rows_together = rows_together
        self._start, self._block = 0, np.empty((0,), np.float32)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read rows `start` to `stop - 1`, as float32; SliceError where the file is damaged there."""
        with _library_errors(self.name):
            block: NDArray[np.float32] = self._data[start:stop].astype(np.float32, copy=False)
        if block.shape[0] != stop - start:
            raise SliceError(f"{self.name} gives {block.shape[0]} rows for {start} to {stop - 1}; copy the file again")
        return block

    def row(self, number: int) -> NDArray[np.float32]:
        """Read a row, with those that lie in the same chunks: where rows come in order, each chunk is read once."""
        if not 0 <= number < self.shape[0]:
            raise SliceError(f"{self.name} has {self.shape[0]} rows, row {number} is wanted; it changed meanwhile")
        if not self._start <= number < self._start + len(self._block):
            self._start = number - number % self._rows_together
            self._block = self.rows(self._start, min(self._start + self._rows_together, self.shape[0]))
        row: NDArray[np.float32] = self._block[number - self._start]
        return row


@contextmanager
def _library_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        # What stands in quotes, or looks like a path, may name the user's folders.
        reason = _NAMES.sub("…", (str(error).splitlines() or [type(error).__name__])[0])[:200]
        raise SliceError(f"{name} cannot be read as HDF5 ({reason}); download or copy it again") from None


def looks_like_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file begins as HDF5 does."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        return stat.S_ISREG(os.fstat(fd).st_mode) and file.read(len(_SIGNATURE)) == _SIGNATURE


@contextmanager
def open_array(path: str | os.PathLike[str], name: str, key: str, wanted: Sequence[int | None]) -> Iterator[HdfArray]:
    """Open one array of a file for reading, after looking at all that could lead elsewhere or fill the memory.

    `name` is what messages call the file, `key` the array's name in its root group, and `wanted` its shape: None for
    an axis of any length up to 128 (LoDoPaB-CT's rows in a file).

    Raises:
        SliceError: the file is no HDF5 or damaged; the array is missing, behind a link, virtual, stored elsewhere,
            of another shape or no floats, compressed by a filter other than deflate, or its chunks are too large
            or inflate to more than they should.
        UsageError: h5py is not installed.
    """
    h5py = library("h5py", "LoDoPaB-CT files need h5py")
    if not looks_like_hdf5(path):
        raise SliceError(f"{name} is not an HDF5 file; download or copy it again")
    with _library_errors(name):
        # Without locks: a source may lie on a file system that has none, and nothing is written.
        file = h5py.File(path, "r", locking=False)
    with file:
        with _library_errors(name):
            data = _checked(h5py, file, name, key, wanted)
            chunks = data.chunks
        yield HdfArray(name, data, chunks[0] if chunks else 1)


def _checked(h5py: Any, file: Any, name: str, key: str, wanted: Sequence[int | None]) -> Any:
    """Return the data set where nothing is wrong with it."""
    what = f"{name}: {key!r}"
    link = file.get(key, getlink=True)
    if link is None:
        raise SliceError(f"{name} holds no {key!r}; wanted an HDF5 file of LoDoPaB-CT")
    if not isinstance(link, h5py.HardLink):
        raise SliceError(f"{what} is a link ({type(link).__name__}), which is not followed; copy the data itself")
    # By its creation list first: asking a virtual data set for its shape opens the files that it names.
    opened = h5py.h5o.open(file.id, key.encode())
    if not isinstance(opened, h5py.h5d.DatasetID):
        raise SliceError(f"{what} is no array; wanted an HDF5 file of LoDoPaB-CT")
    made = opened.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL:
        raise SliceError(f"{what} is a virtual data set, which reads other files; copy the data into one file")
    if made.get_external_count():
        raise SliceError(f"{what} keeps its data in another file, which is not read; copy the data into one file")
    data = h5py.Dataset(opened)
    _check_type(data, what, wanted)
    _check_chunks(data, made, name)
    return data


def _check_type(data: Any, what: str, wanted: Sequence[int | None]) -> None:
    if data.dtype.kind != "f" or data.dtype.itemsize not in {2, 4, 8}:
        raise SliceError(f"{what} has dtype {str(data.dtype)[:60]}, wanted float32")
    fits = data.shape is not None and len(data.shape) == len(wanted)
    if not fits or not all(1 <= a <= 128 if b is None else a == b for a, b in zip(data.shape, wanted, strict=True)):  # noqa: PLR2004
        stated = " x ".join("1 to 128" if side is None else str(side) for side in wanted)
        raise SliceError(f"{what} has shape {data.shape}, wanted {stated}; only LoDoPaB-CT's own shapes are read")


def _check_chunks(data: Any, made: Any, name: str) -> None:
    """Refuse filters that are not HDF5's own everyday ones, and chunks that could fill the memory."""
    filters = [made.get_filter(number)[0] for number in range(made.get_nfilters())]
    for code in filters:
        if code not in {_DEFLATE, _SHUFFLE, _FLETCHER32}:
            what = _FILTER_NAMES.get(code, "an unknown filter")
            raise SliceError(
                f"{name} is stored through filter {code} ({what}), which is not run; "
                "wanted deflate (gzip) or none: h5repack -f GZIP=1 IN OUT rewrites it"
            )
    if len(set(filters)) < len(filters):
        raise SliceError(f"{name} is stored through the same filter twice, which is not read")
    if data.chunks is None:
        return
    nominal = math.prod(data.chunks) * data.dtype.itemsize
    if nominal > MAX_CHUNK_BYTES:
        raise SliceError(f"{name} has chunks of {nominal} bytes, wanted at most {MAX_CHUNK_BYTES}")
    count = math.prod(-(-side // chunk) for side, chunk in zip(data.shape, data.chunks, strict=True))
    if count > MAX_CHUNKS:
        raise SliceError(f"{name} is cut into {count} chunks, wanted at most {MAX_CHUNKS}; h5repack rewrites it")
    if filters:
        _check_stored(data, filters, nominal, name)


def _check_stored(data: Any, filters: list[int], nominal: int, name: str) -> None:
    """Look at what each chunk takes on disk, and inflate on trial, in small steps, those that could become large."""
    found: list[Any] = []
    data.id.chunk_iter(found.append)
    for chunk in found:
        # Deflate adds at most a few bytes in a thousand to what cannot be compressed.
        if chunk.size > nominal + nominal // 500 + 1024:
            raise SliceError(f"{name} has a chunk of {chunk.size} bytes on disk that should hold {nominal}")
        if _DEFLATE not in filters or chunk.size * _DEFLATE_RATIO <= MAX_CHUNK_BYTES:
            continue
        skipped, stored = data.id.read_direct_chunk(chunk.chunk_offset)
        if not skipped & (1 << filters.index(_DEFLATE)):
            # A checksum behind the filter is 4 bytes more; one before it is part of what is inflated.
            _check_inflated(stored, nominal + 4, name)


def _check_inflated(stored: bytes, most: int, name: str) -> None:
    stream, size, rest = zlib.decompressobj(), 0, stored
    while rest and not stream.eof:
        try:
            size += len(stream.decompress(rest, _INFLATE_STEP))
        except zlib.error:
            raise SliceError(f"{name} has a damaged chunk; download or copy it again") from None
        if size > most:
            raise SliceError(f"{name} has a chunk that inflates to more than the {most} bytes it should hold")
        rest = stream.unconsumed_tail
