"""Files of a set as arrays in memory.

A file that holds many patches, or whole slices, is mapped into memory when it is first needed; at most
`MAX_MAPPED_FILES` are mapped at a time. A file's size is checked against its header before it is mapped, so that a
file that was cut short gives an error and not the end of the process. A set opened with `in_memory` is read instead,
each file once, and kept.
"""

import math
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import FormatError, NpyError
from ctpatch.files.forks import OwnLock
from ctpatch.files.guard import NO_GUARD, Guard
from ctpatch.files.memory import Slabs
from ctpatch.files.npy import open_npy, read_exactly, read_header

THREADS = 4
"""For files that are not in the page cache: a disk answers several at once in less than half the time (measured)."""

MAX_MAPPED_FILES = 2048
"""Mapped files cost addresses, not memory or open files; systems allow some 65,000 for a process."""


class MappedFiles:
    """Opens .npy files as arrays in memory and keeps the last ones, or with `slabs` all; safe between threads.

    Each file is opened first, and then `guard` is asked whether the set is still the same.
    """

    def __init__(
        self,
        resolve: Callable[[str], str],
        *,
        follow_links: bool,
        slabs: Slabs | None = None,
        guard: Guard = NO_GUARD,
    ) -> None:
        self.slabs = slabs
        self.resolve = resolve
        self.guard = guard
        self._follow = follow_links
        self._open: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._lock = OwnLock()
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        slabs = None if self.slabs is None else Slabs()
        return self.__dict__ | {"_open": OrderedDict(), "_threads": None, "_lock": None, "slabs": slabs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_lock": OwnLock()})

    def threads(self) -> ThreadPoolExecutor:
        """Threads that read files side by side; a process that was forked has its own."""
        with self._lock:
            if self._threads is None or self._threads[0] != os.getpid():
                self._threads = os.getpid(), ThreadPoolExecutor(THREADS, "ctpatch-files")
            return self._threads[1]

    def get(self, path: str) -> NDArray[Any]:
        """The array in a file of the set, read-only; NpyError where that is missing, damaged, or no plain .npy."""
        with self._lock:
            array = self._open.get(path)
            if array is not None:
                self._open.move_to_end(path)
                return array
        try:
            array = self._map(path)
        finally:
            # An error, too, may have this reason.
            self.guard.refuse_other_set()
        with self._lock:
            self._open[path] = array
            while self.slabs is None and len(self._open) > MAX_MAPPED_FILES:
                self._open.popitem(last=False)
        return array

    def item(self, path: str, item: int | None) -> NDArray[Any]:
        """An item of a file of many (FormatError where there is none), or with None the file's one array; read-only."""
        stored = self.get(path)
        if item is None:
            return stored
        if stored.ndim != 3 or not 0 <= item < len(stored):  # noqa: PLR2004
            raise FormatError(f"{path} has shape {stored.shape}, the manifest asks for item {item} of it")
        return cast("NDArray[Any]", stored[item])

    def _map(self, path: str) -> NDArray[Any]:
        fd = open_patch_file(self.resolve(path), path, follow=self._follow)
        try:
            header = read_header(fd, path)
            if header.data_bytes == 0:
                flat = np.empty(0, header.dtype)
            elif self.slabs is not None:
                flat = self.slabs.make((math.prod(header.shape),), header.dtype)
                read_exactly(fd, flat.view(np.uint8).data, header.offset, path)
            else:
                mapped = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
                flat = np.frombuffer(mapped, header.dtype, offset=header.offset)
            array = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
            self.guard.refuse_other_pixels(path, os.fstat(fd), array)
        except OSError as error:
            raise NpyError(f"{path} cannot be read into memory: {error.strerror}") from None
        finally:
            os.close(fd)
        return array

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._open.clear()
            if self._threads is not None and self._threads[0] == os.getpid():
                self._threads[1].shutdown(wait=False)
            self._threads = None


def open_patch_file(full: str, name: str, *, follow: bool) -> int:
    """Open a file of a set; NpyError where it is missing, may not be read, or is a link and none is followed."""
    try:
        return open_npy(full, follow=follow)
    except FileNotFoundError:
        raise NpyError(f"{name} is missing; restore the file, or build the set again with --overwrite") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise NpyError(f"{name} cannot be opened: {reason}") from None


def begins_with(full: str, name: str, header: bytes) -> bool:
    """Whether a file of a set, no link, begins with just these bytes."""
    fd = open_patch_file(full, name, follow=False)
    try:
        return os.read(fd, len(header)) == header
    finally:
        os.close(fd)
