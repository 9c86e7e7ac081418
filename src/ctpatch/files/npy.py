"""Plain .npy files, read strictly and written so that data begin where a page does.

`np.load` also accepts a zip in .npy clothes, trailing bytes, pickles and structured dtypes; here a file is its
header and exactly the data that the header promises, or it is refused.
"""

import ast
import errno
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from ctpatch.config import MAX_PIXELS_PER_AXIS
from ctpatch.errors import CtPatchError, NpyError
from ctpatch.files.atomic import explain_os_error

PAGE_BYTES = 4096
"""Data of packed files begin here, so that they can be mapped and read in whole pages."""

READS_VECTORS = hasattr(os, "readv")
"""Whether a call can read into several buffers; Windows has none such."""

_FIRST_READ = 256
_MAX_HEADER_BYTES = 10_000
_V1_PREFIX_BYTES = 10
_MAX_DIMENSIONS = 64
_MAX_BUFFERS = 8
_PLACE_IN_MEMORY = re.compile(r" at 0x[0-9a-fA-F]+")
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
# O_NONBLOCK: opening a pipe that someone named .npy must not wait for ever.


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """What a .npy file says of itself: shape, dtype, memory order, and where its data begin, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int

    @property
    def data_bytes(self) -> int:
        """Bytes of data that the header promises."""
        return prod(self.shape) * self.dtype.itemsize


@lru_cache(maxsize=64)
def _parse(prefix: bytes) -> NpyHeader:
    stream = io.BytesIO(prefix)
    version = npy_format.read_magic(stream)
    _refuse_slow_rubbish(prefix)
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is for structured arrays")
    shape, fortran_order, dtype = readers[version](stream, max_header_size=_MAX_HEADER_BYTES)
    return NpyHeader(shape, dtype, fortran_order, stream.tell())


def _refuse_slow_rubbish(prefix: bytes) -> None:
    """Refuse a long header that is no literal: numpy's second try, for files of Python 2, takes seconds on blanks."""
    text = prefix[_V1_PREFIX_BYTES if prefix[6] == 1 else _V1_PREFIX_BYTES + 2 :].strip()
    try:
        ast.literal_eval(text.decode("latin1"))
    except SyntaxError:
        if len(text) > _FIRST_READ:
            raise ValueError("it is no dictionary") from None


def header_prefix(read: Callable[[int], bytes]) -> bytes:
    """The bytes up to the first byte of data; `read` gives the next bytes of a file, from its first on."""
    start = read(_FIRST_READ)
    if len(start) < _V1_PREFIX_BYTES or start[:6] != npy_format.MAGIC_PREFIX:
        return start
    text_at = _V1_PREFIX_BYTES if start[6] == 1 else _V1_PREFIX_BYTES + 2
    length = text_at + int.from_bytes(start[8:text_at], "little")
    if length <= len(start):
        return start[:length]
    return start + read(min(length, _MAX_HEADER_BYTES + 12) - len(start))


def parse_header(prefix: bytes, name: str) -> NpyHeader:
    """Take a header from the first bytes of a file, its size unseen; NpyError where it is none of plain numbers."""
    if prefix[:6] != npy_format.MAGIC_PREFIX:
        raise NpyError(f"{name} is not a .npy file: it {_looks_like(prefix)}; write it with numpy.save")
    try:
        header = _parse(prefix)
    except Exception as error:  # noqa: BLE001 - numpy's parser raises many kinds on rubbish
        reason = _PLACE_IN_MEMORY.sub("", str(error).splitlines()[0])[:120] if str(error) else type(error).__name__
        raise NpyError(f"{name} has a damaged .npy header ({reason}); write it with numpy.save") from None
    if header.dtype.hasobject or header.dtype.fields is not None or header.dtype.subdtype is not None:
        kind = "pickled objects" if header.dtype.hasobject else "a structured array"
        raise NpyError(f"{name} holds {kind}; wanted a plain array of numbers; nothing in it was loaded")
    if header.dtype.kind not in "buifc" or not header.dtype.itemsize:
        raise NpyError(f"{name} has dtype {header.dtype}, wanted numbers; write it with numpy.save")
    if len(header.shape) > _MAX_DIMENSIONS or any(type(side) is not int or side < 0 for side in header.shape):
        raise NpyError(f"{name} has a damaged .npy header (shape {header.shape}); write it with numpy.save")
    return header


def read_header(fd: int, name: str) -> NpyHeader:
    """Read the header of an open file, from its start; NpyError where that is no plain .npy, or has another size."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise NpyError(f"{name} is not a regular file; a slice is a .npy file")
    header = parse_header(header_prefix(lambda size: os.read(fd, size)), name)
    if prod(max(side, 1) for side in header.shape) * header.dtype.itemsize > sys.maxsize:
        raise NpyError(
            f"{name} is cut short: its header promises shape {_shape_text(header.shape)} of {header.dtype}, which no "
            f"file holds, the file has {status.st_size} bytes; copy or write it again"
        )
    expected = header.offset + header.data_bytes
    if status.st_size != expected:
        fault = "is cut short" if status.st_size < expected else "has trailing bytes"
        raise NpyError(
            f"{name} {fault}: its header promises shape {_shape_text(header.shape)} of {header.dtype}, "
            f"{expected} bytes in all, the file has {status.st_size}; copy or write it again"
        )
    return header


def _looks_like(prefix: bytes) -> str:
    if not prefix:
        return "is empty"
    if prefix[:2] == b"PK":
        return "is a zip archive (an .npz in .npy clothes?)"
    if prefix[:1] == b"\x80":
        return "begins like a pickle, which is never loaded"
    return f"begins with {prefix[:6]!r}"


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) if len(shape) > 1 else str(shape)


def is_npy(path: str) -> bool:
    """Whether a path leads to a regular file that begins as a .npy does."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(npy_format.MAGIC_PREFIX)) == npy_format.MAGIC_PREFIX
    except OSError:
        return False


def open_npy(path: str, *, follow: bool = True) -> int:
    """Open a file for reading, through links or not; returns the descriptor."""
    return os.open(path, _OPEN_FLAGS if follow else _OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))


@contextmanager
def _open_slice(path: str, name: str, *, integers_allowed: bool) -> Iterator[tuple[int, NpyHeader]]:
    """A source slice's descriptor and its header, checked."""
    try:
        fd = open_npy(path)
    except FileNotFoundError:
        raise NpyError(f"{name} does not exist; the manifest lists it, so prepare it or remove its row") from None
    except OSError as error:
        raise _not_readable(error, name, "opened", "check its permissions") from None
    try:
        yield fd, check_slice_header(read_header(fd, name), name, integers_allowed=integers_allowed)
    except OSError as error:
        raise _not_readable(error, name, "read", "check the disk, or restore the file") from None
    finally:
        os.close(fd)


def _not_readable(error: OSError, name: str, done: str, cure: str) -> CtPatchError:
    """The error for a file that the system does not give: a fault of this file, or of the machine at this moment.

    Only the first is a reason to leave a slice out of a set.
    """
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        return explain_os_error(error, "reading", name)
    return NpyError(f"{name} cannot be {done}: {error.strerror}; {cure}")


def slice_header(path: str, name: str, *, integers_allowed: bool = False) -> NpyHeader:
    """Open, read and check the header of a source slice, which messages call `name`."""
    with _open_slice(path, name, integers_allowed=integers_allowed) as (_, header):
        return header


def check_slice_header(header: NpyHeader, name: str, *, integers_allowed: bool = False) -> NpyHeader:
    """Return the header of a 2-D slice of numbers, or raise NpyError; masks have whole numbers or booleans."""
    if len(header.shape) != 2:  # noqa: PLR2004
        raise NpyError(
            f"{name} has {len(header.shape)} dimensions {header.shape}, wanted 2 (row, col); save each slice on its own"
        )
    if min(header.shape) < 1 or max(header.shape) > MAX_PIXELS_PER_AXIS:
        raise NpyError(f"{name} has {_shape_text(header.shape)} pixels, wanted 1 to {MAX_PIXELS_PER_AXIS} on each side")
    floating = header.dtype.kind == "f" and header.dtype.itemsize <= 8  # noqa: PLR2004
    if not floating and not (integers_allowed and header.dtype.kind in "bui"):
        wanted = "float16, float32 or float64" + (", whole numbers or booleans" if integers_allowed else "")
        raise NpyError(f"{name} has dtype {header.dtype}, wanted {wanted}; normalise the slice first")
    return header


class SliceBuffer:
    """Reads slices into memory that is used again: an array is valid until the next one is read."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[tuple[int, ...], str], NDArray[Any]] = {}
        self._usual: tuple[bytes, NpyHeader] | None = None
        self._head, self._beyond = bytearray(), bytearray(1)

    def read(
        self, path: str, name: str, *, integers_allowed: bool = False, out: NDArray[Any] | None = None
    ) -> tuple[NDArray[Any], np.dtype[Any]]:
        """Read one source slice, checked as `slice_header` does, and the dtype it has on disk.

        It is `(H, W)`, C order, native byte order, float32 (or its own dtype where it holds whole numbers). It is read
        to `out` where that is such an array of its shape.
        """
        if out is not None and self._usual is not None and self._read_as_usual(path, out, *self._usual):
            check_slice_header(self._usual[1], name, integers_allowed=integers_allowed)
            return out, self._usual[1].dtype
        with _open_slice(path, name, integers_allowed=integers_allowed) as (fd, header):
            keeps_dtype = integers_allowed and header.dtype.kind != "f"
            wanted = header.dtype.newbyteorder("=") if keeps_dtype else np.dtype(np.float32)
            if out is None or out.shape != header.shape or out.dtype != wanted:
                out = self.memory(header.shape, wanted, "given")
            plain = header.dtype == wanted and not header.fortran_order
            if plain and READS_VECTORS:
                self._usual, self._head = (os.pread(fd, header.offset, 0), header), bytearray(header.offset)
            on_disk = header.shape[::-1] if header.fortran_order else header.shape
            raw = out if plain else self.memory(on_disk, header.dtype, "raw")
            read_exactly(fd, memoryview(raw.data).cast("B"), header.offset, name)
        if not plain:
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(out, raw.T if header.fortran_order else raw, casting="same_kind")
        return out, header.dtype

    def _read_as_usual(self, path: str, out: NDArray[Any], prefix: bytes, header: NpyHeader) -> bool:
        """Read a file that is as the one before, but for its pixels, in a single call; False where it is not."""
        if out.shape != header.shape or out.dtype != header.dtype:
            return False
        try:
            fd = open_npy(path)
            try:
                there = os.readv(fd, [self._head, out.data, self._beyond])
            finally:
                os.close(fd)
        except OSError:
            return False  # what is wrong shows when it is read step by step
        return there == len(prefix) + out.nbytes and self._head == prefix

    def memory(self, shape: tuple[int, ...], dtype: np.dtype[Any], use: str) -> NDArray[Any]:
        """An array that is given again to who asks for the same."""
        key = (shape, dtype.str + use)
        if key not in self._buffers:
            if len(self._buffers) >= _MAX_BUFFERS:
                self._buffers.clear()
            self._buffers[key] = np.empty(shape, dtype)
        return self._buffers[key]


def read_exactly(fd: int, view: memoryview, offset: int, name: str) -> None:
    """Fill a buffer from a place in a file; an NpyError where that ends before the buffer is full."""
    os.lseek(fd, offset, os.SEEK_SET)
    done = 0
    while done < view.nbytes:
        rest = view[done:]
        more = os.readv(fd, [rest]) if READS_VECTORS else io.FileIO(fd, closefd=False).readinto(rest)
        if not more:
            raise NpyError(f"{name} ends after {offset + done} bytes, while it was being read; is it being written?")
        done += more


@lru_cache(maxsize=64)
def header_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], total: int | None = None) -> bytes:
    """A .npy header, version 1.0, for a C-ordered little-endian array; padded with spaces to `total` bytes.

    `np.load` reads the padded header as any other.
    """
    descr = dtype.newbyteorder("<").str
    dims = f"({shape[0]},)" if len(shape) == 1 else "(" + ", ".join(str(side) for side in shape) + ")"
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {dims}, }}"
    unpadded = _V1_PREFIX_BYTES + len(text) + 1
    if total is None:
        total = -(-unpadded // npy_format.ARRAY_ALIGN) * npy_format.ARRAY_ALIGN
    if unpadded > total:
        raise ValueError(f"a header of {unpadded} bytes does not fit into {total}")
    text = text + " " * (total - unpadded) + "\n"
    return npy_format.MAGIC_PREFIX + bytes((1, 0)) + len(text).to_bytes(2, "little") + text.encode("latin1")
