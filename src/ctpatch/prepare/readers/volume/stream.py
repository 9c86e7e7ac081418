"""The bytes of a volume: in one file behind a header, in a file of their own, or in many; compressed or not.

A compressed stream is unpacked a step at a time and no further than it is read, whatever it holds.
"""

import bz2
import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from ctpatch.errors import SliceError
from ctpatch.files.atomic import explain_os_error

Packing = Literal["raw", "gzip", "zlib", "bzip2"]

GZIP = b"\x1f\x8b"
DEFLATE_RATIO = 1032
"""No deflate stream grows by more (RFC 1951: 258 bytes from 2 bits)."""

AT_THE_END = -1
"""Where voxels begin that are the last bytes of their file."""

_STEP = 2**20


class Stream(Protocol):
    """What planes are read from: the bytes of the voxels, from the first."""

    def seek(self, offset: int, /) -> int:
        """Go to a byte."""
        ...

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a buffer, or as much of it as there is."""
        ...

    def read(self, size: int, /) -> bytes:
        """Read some bytes."""
        ...


@contextmanager
def open_regular(path: str | os.PathLike[str], name: str) -> Iterator[io.BufferedReader]:
    """Open a regular file; SliceError where it cannot be read, or what it holds turns out to be damaged."""
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(fd, "rb") as raw:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SliceError(f"{name} is not a regular file")
            yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise SliceError(f"{name} is damaged: its compressed data end early or are wrong; copy it again") from None
    except OSError as error:
        if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
            raise explain_os_error(error, "reading", name) from None
        if error.errno is None:  # bz2 says so of wrong data
            raise SliceError(f"{name} is damaged: its compressed data are wrong; copy it again") from None
        raise SliceError(f"{name} cannot be read: {error.strerror or 'the system refuses'}; check the file") from None


def stated_size(path: Path) -> int:
    """What the last member of a gzip file says of its size, modulo 2**32 (RFC 1952)."""
    with path.open("rb") as raw:
        raw.seek(-4, os.SEEK_END)
        return int.from_bytes(raw.read(4), "little")


class _Part(io.RawIOBase):
    """A file from one of its bytes on, as if it began there."""

    def __init__(self, raw: io.BufferedReader, start: int) -> None:
        self._raw, self._start = raw, start
        self._raw.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._raw.tell() - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        assert whence == os.SEEK_SET
        return self._raw.seek(self._start + offset) - self._start

    def readinto(self, buffer: "memoryview", /) -> int:  # type: ignore[override]
        return self._raw.readinto(buffer)


class _Inflated(io.RawIOBase):
    """What a zlib stream holds; going back begins anew."""

    def __init__(self, packed: _Part) -> None:
        self._packed = packed
        self._begin()

    def _begin(self) -> None:
        self._packed.seek(0)
        self._engine = zlib.decompressobj()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        assert whence == os.SEEK_SET
        if offset < self._at:
            self._begin()
        while self._at < offset and self._next(min(_STEP, offset - self._at)):
            pass
        return self._at

    def readinto(self, buffer: "memoryview", /) -> int:  # type: ignore[override]
        # For zlib, 0 bytes at most are all there are.
        found = self._next(min(len(buffer), _STEP)) if len(buffer) else b""
        buffer[: len(found)] = found
        return len(found)

    def _next(self, most: int) -> bytes:
        """Some bytes, at most as many; none at the end. EOFError where the stream breaks off."""
        while not self._engine.eof:
            fed = self._engine.unconsumed_tail or self._packed.read(_STEP)
            if not fed:
                raise EOFError
            found = self._engine.decompress(fed, most)
            self._at += len(found)
            if found:
                return found
        if self._engine.unused_data or self._packed.read(1):
            raise zlib.error("bytes follow the end of the stream")
        return b""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the bytes of voxels are.

    Attributes:
        files: relative to the source folder, with `/`; each holds as many bytes of voxels as any other.
        start: their first byte in each file, or `AT_THE_END`.
        packing: how they are compressed; several files are not.
        each_bytes: of voxels in a file, unpacked.
    """

    files: tuple[str, ...]
    start: int
    packing: Packing
    each_bytes: int

    def check(self, paths: tuple[Path, ...], name: str) -> None:
        """Raise SliceError where the files cannot hold just what the header promises; nothing is unpacked.

        What a compressed stream holds shows when it is read: it ends early or goes on, and is refused then.
        """
        for path in paths:
            with open_regular(path, name) as raw:
                size = os.fstat(raw.fileno()).st_size
            packed = size - max(self.start, 0)
            if self.packing == "raw":
                enough = size >= self.each_bytes if self.start == AT_THE_END else packed == self.each_bytes
                if not enough:
                    raise SliceError(
                        f"{name} has {packed} bytes for voxels, its header promises {self.each_bytes}; copy it again"
                    )
            elif packed <= 0 or (self.packing != "bzip2" and self.each_bytes > packed * DEFLATE_RATIO):
                raise SliceError(
                    f"{name} has {packed} bytes, compressed, for voxels; its header promises {self.each_bytes}, which "
                    "cannot be in them; copy it again"
                )


class StoredStream:
    """The bytes of voxels that lie in one file or in several, which messages call by one name."""

    def __init__(self, stored: Stored, paths: tuple[Path, ...], name: str) -> None:
        self._stored, self._paths, self._name = stored, paths, name
        self._at = 0
        self._open: tuple[int, Stream] | None = None
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        # Damage that shows while planes are read becomes an error of ours in `open_regular`.
        return self._closing.__exit__(kind, error, trace)

    def seek(self, offset: int, /) -> int:
        """Go to a byte of the voxels."""
        self._at = offset
        return offset

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a buffer, or as much of it as one file has."""
        each, last = self._stored.each_bytes, len(self._paths) - 1
        number = min(self._at // each, last)
        within = self._at - number * each
        stream = self._file(number)
        stream.seek(within)
        found = stream.readinto(buffer if number == last else buffer[: each - within]) or 0
        self._at += found
        return found

    def read(self, size: int, /) -> bytes:
        """Read at most as many bytes."""
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def _file(self, number: int) -> Stream:
        if self._open is None or self._open[0] != number:
            self._closing.close()
            raw = self._closing.enter_context(open_regular(self._paths[number], self._name))
            start = self._stored.start
            if start == AT_THE_END:
                start = os.fstat(raw.fileno()).st_size - self._stored.each_bytes
            self._open = number, self._unpacked(_Part(raw, max(start, 0)))
        return self._open[1]

    def _unpacked(self, part: _Part) -> Stream:
        packing = self._stored.packing
        if packing == "gzip":
            return gzip.GzipFile(fileobj=part, mode="rb")
        if packing == "bzip2":
            return bz2.BZ2File(part)
        return _Inflated(part) if packing == "zlib" else part
