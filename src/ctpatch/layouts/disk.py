"""What a writer puts pixels into: files. Another one that compares, in place of this, makes a check of a build."""

import os
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.files.atomic import end_file, open_for_writing, write_buffers, write_file


class GrowingFile:
    """A file of many items that come one after the other; its header is written last."""

    def __init__(self, path: str, start: int) -> None:
        self._fd = open_for_writing(path)
        os.lseek(self._fd, start, os.SEEK_SET)

    def add_items(self, items: NDArray[Any]) -> int:
        """Write items, C-contiguous; returns their size in bytes."""
        return write_buffers(self._fd, [memoryview(items.data).cast("B")])

    def end(self, header: bytes, size: int) -> None:
        """Write the header, and end the file at its size."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        write_buffers(self._fd, [header])
        end_file(self._fd, size)

    def close(self) -> None:
        """Let go of the file as it is."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Disk:
    """Writes files, as they are asked for."""

    def write(self, path: str, buffers: Sequence[bytes | memoryview]) -> int:
        """Write a file in one go; returns its size in bytes."""
        return write_file(path, buffers)

    def grow(self, path: str, start: int) -> GrowingFile:
        """Begin a file whose items begin at a byte."""
        return GrowingFile(path, start)


class ComparedFile(GrowingFile):
    """Compares what would be written with what is there."""

    def __init__(self, path: str, start: int, found: "ComparingDisk") -> None:
        self._path, self._start, self._at, self._items, self._found = path, start, start, 0, found
        self._fd = -1
        try:
            self._fd = os.open(path, _READ_FLAGS)
        except OSError:
            found.missing.add(path)

    def add_items(self, items: NDArray[Any]) -> int:
        """Compare items with those in their place."""
        wanted = memoryview(items.data).cast("B")
        if self._fd >= 0 and _read(self._fd, len(wanted), self._at) != wanted:
            for number, item in enumerate(np.ascontiguousarray(items), self._items):
                place = self._start + number * item.nbytes
                if _read(self._fd, item.nbytes, place) != memoryview(item.data).cast("B"):
                    self._found.differing.append((self._path, number))
        self._items += len(items)
        self._at += len(wanted)
        return len(wanted)

    def end(self, header: bytes, size: int) -> None:
        """Compare the header, and the size."""
        if self._fd >= 0 and (_read(self._fd, len(header), 0) != header or os.fstat(self._fd).st_size != size):
            self._found.differing.append((self._path, None))


class ComparingDisk(Disk):
    """Writes nothing; keeps where what is there is something else.

    Attributes:
        differing: files, and the item that differs; None for the header, the size, or a file of one item.
        missing: files that cannot be opened.
    """

    def __init__(self) -> None:
        self.differing: list[tuple[str, int | None]] = []
        self.missing: set[str] = set()

    def write(self, path: str, buffers: Sequence[bytes | memoryview]) -> int:
        """Compare a file."""
        wanted = b"".join(buffers)
        with closing(ComparedFile(path, 0, self)) as there:
            there.end(wanted, len(wanted))
        return len(wanted)

    def grow(self, path: str, start: int) -> ComparedFile:
        """Compare a file as its items come."""
        return ComparedFile(path, start, self)


_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _read(fd: int, length: int, offset: int) -> bytes:
    """Bytes of a file from an offset on; fewer where it ends before."""
    os.lseek(fd, offset, os.SEEK_SET)
    content = b""
    while len(content) < length and (more := os.read(fd, length - len(content))):
        content += more
    return content
