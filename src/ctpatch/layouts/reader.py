"""One reader for all layouts: patches by their addresses, straight into a given buffer.

A file that holds many patches, or whole slices, is mapped into memory when it is first needed; at most
`MAX_MAPPED_FILES` are mapped at a time. A file's size is checked against its header before it is mapped, so that a
file that was cut short gives an error and not the end of the process. A set opened with `in_memory` is read instead,
each file once, and kept.
"""

import math
import mmap
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.patches import window_of
from ctpatch.core.rounding import clip_to, inner_bounds
from ctpatch.errors import FormatError, NpyError
from ctpatch.files.forks import OwnLock
from ctpatch.files.guard import NO_GUARD, Guard
from ctpatch.files.memory import Slabs, copies_slowly, copy_in_runs
from ctpatch.files.npy import READS_VECTORS, header_bytes, open_npy, read_exactly, read_header
from ctpatch.layouts.texts import Texts
from ctpatch.words import PadMode

_THREADS = 4
"""For files that are not in the page cache: a disk answers several at once in less than half the time (measured)."""
_FILES_FOR_THREADS = 12
_FIRST_FILES = 4
_SECONDS_FROM_DISK = 60e-6
"""A batch whose first files take longer each is taken to come from the disk: out of the page cache it is 15 us, and
threads would only get into each other's way."""

MAX_MAPPED_FILES = 2048
"""Mapped files cost addresses, not memory or open files; systems allow some 65,000 for a process."""


@dataclass(frozen=True, slots=True)
class ArrayAddresses:
    """Where the patches of one array are, a row for each patch.

    Attributes:
        paths: file of each patch, as in the manifest.
        items: item in the file, -1 where it holds one image; int64 `(N,)`.
        rows, cols: origin of the window in the item; int32 `(N,)`; None where the item is the patch.
        dtype: what the patches are read as.
    """

    paths: pl.Series
    items: NDArray[np.int64]
    rows: NDArray[np.int32] | None
    cols: NDArray[np.int32] | None
    dtype: np.dtype[Any]


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
                self._threads = os.getpid(), ThreadPoolExecutor(_THREADS, "ctpatch-files")
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


class ArrayReader:
    """Reads the patches of one array.

    All that it needs of the manifest it takes when it is made, as NumPy arrays: from then on it reads in processes that
    cannot use polars, and it can be pickled. Each process opens its own files.
    """

    def __init__(
        self, addresses: ArrayAddresses, files: MappedFiles, patch_size: tuple[int, int], pad_mode: PadMode
    ) -> None:
        self._dtype = addresses.dtype
        self._rows, self._cols = addresses.rows, addresses.cols
        self._files = files
        self._size = patch_size
        self._pad_mode = pad_mode
        self._single_images = bool((addresses.items < 0).all())
        self._one_file_each = addresses.rows is None and self._single_images
        self._header = header_bytes(patch_size, addresses.dtype)
        # The item of each patch; 0 where its file is one image.
        self._items = np.zeros_like(addresses.items) if self._single_images else addresses.items
        # Either the file of each patch, or the different files and for each patch the number of its own.
        self._own_paths = Texts(addresses.paths) if self._one_file_each else None
        self._paths, self._codes = ([], self._items) if self._one_file_each else _coded(addresses.paths)
        self._kept = self._room_to_keep()
        self._bounds: tuple[np.float32, np.float32] | None = None

    def clip_to(self, value_range: tuple[float, float] | None) -> None:
        """Clip what is read from source slices to a range, as the build did; None leaves it as it is."""
        self._bounds = None if value_range is None else inner_bounds(value_range)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._kept = self._room_to_keep()

    def _room_to_keep(self) -> tuple[NDArray[Any], NDArray[np.bool_]] | None:
        """Room for all patches, and which are in it, where patches that have a file each are to be kept."""
        if not self._one_file_each or self._files.slabs is None:
            return None
        count = len(self._items)
        return self._files.slabs.make((count, *self._size), self._dtype), np.zeros(count, bool)

    def read_into(self, which: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Fill `out`, `(len(which), h, w)` of the array's dtype, with the patches in the order asked.

        Raises:
            NpyError: a file is missing or damaged; names it.
            FormatError: an address points outside its file.
        """
        if self._rows is not None and self._cols is not None:
            self.read_windows(which, self._rows[which], self._cols[which], out)
        elif self._own_paths is None:
            self._read_items(which, out)
        elif self._kept is None or out.dtype != self._dtype:
            self._read_files(which, out, self._own_paths)
        else:
            self._read_kept(which, out, self._own_paths, *self._kept)

    def read_windows(
        self,
        which: NDArray[np.int64],
        rows: NDArray[np.integer],
        cols: NDArray[np.integer],
        out: NDArray[Any],
        pad_mode: PadMode | None = None,
    ) -> None:
        """Fill `out`, `(len(which), h, w)`, with windows that begin at other places of the slices that patches are in.

        The size of the windows is that of `out`; `pad_mode` takes the place of the reader's. See `read_into`.
        """
        paths, size, pad_mode = self._paths, (out.shape[1], out.shape[2]), pad_mode or self._pad_mode
        chosen, items, stacks = self._opened(which)
        code = item = 0
        try:
            for slot, code, item, row, col in zip(out, chosen, items, rows.tolist(), cols.tolist(), strict=True):
                window = window_of(stacks[code][item], row, col, size, pad_mode)
                if window is None:
                    raise FormatError(
                        f"{paths[code]} has items of shape {stacks[code].shape[1:]}, the manifest asks for the "
                        f"window at ({row}, {col})"
                    )
                slot[...] = window
        except IndexError:
            raise self._no_item(code, item, stacks) from None
        if self._bounds is not None and len(which):
            clip_to(out, self._bounds)

    def whole(self, number: int) -> NDArray[Any]:
        """The whole slice that a patch is in, `(H, W)` in the array's dtype; read-only, or a copy."""
        ((code,), (item,), stacks) = self._opened(np.array([number]))
        try:
            image: NDArray[Any] = stacks[code][item].astype(self._dtype, copy=False)
        except IndexError:
            raise self._no_item(code, item, stacks) from None
        if self._bounds is None:
            return image
        image = np.array(image)
        clip_to(image, self._bounds)
        return image

    def _read_items(self, which: NDArray[np.int64], out: NDArray[Any]) -> None:
        chosen, items, stacks = self._opened(which)
        copy_slowly = any(copies_slowly(out, stack) for stack in stacks.values())
        code = item = 0
        try:
            for slot, code, item in zip(out, chosen, items, strict=True):
                if copy_slowly:
                    copy_in_runs(slot, stacks[code][item])
                else:
                    slot[...] = stacks[code][item]
        except IndexError:
            raise self._no_item(code, item, stacks) from None

    def _opened(self, which: NDArray[np.int64]) -> tuple[list[int], list[int], dict[int, NDArray[Any]]]:
        """For each patch the number of its file and its item there, and the files by their numbers."""
        chosen, items = self._codes[which].tolist(), self._items[which].tolist()
        return chosen, items, {code: self._stack(self._paths[code]) for code in dict.fromkeys(chosen)}

    def _no_item(self, code: int, item: int, stacks: dict[int, NDArray[Any]]) -> FormatError:
        return FormatError(
            f"{self._paths[code]} has shape {stacks[code].shape}, the manifest asks for item {item} of it"
        )

    def _stack(self, path: str) -> NDArray[Any]:
        """The items of a file, `(n, H, W)`, of a dtype that can be read as the array's."""
        stored = self._files.get(path)
        array = stored[np.newaxis] if self._single_images else stored
        holds_patches = self._rows is None
        if (
            array.ndim != 3  # noqa: PLR2004
            or (holds_patches and array.shape[1:] != self._size)
            or not np.can_cast(array.dtype, self._dtype, "same_kind")
        ):
            raise self._misfit(path, stored.shape, stored.dtype)
        return array

    def _misfit(self, path: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FormatError:
        wanted = f"{self._size} of {self._dtype}"
        return FormatError(f"{path} has shape {shape} and dtype {dtype}, the set says {wanted}")

    def _read_kept(
        self,
        which: NDArray[np.int64],
        out: NDArray[Any],
        paths: Texts,
        pixels: NDArray[Any],
        there: NDArray[np.bool_],
    ) -> None:
        """Patches that have a file each, of which each is read once."""
        missing = np.unique(which[~there[which]])
        self._read_files(missing, pixels, paths, missing.tolist())
        there[missing] = True
        np.take(pixels, which, axis=0, out=out, mode="clip")

    def _read_files(
        self, which: NDArray[np.int64], out: NDArray[Any], paths: Texts, slots: Iterable[int] | None = None
    ) -> None:
        """Patches that have a file each: header, pixels and what should not follow them, in one call.

        They go into `out`, in the order asked or into the given slots of it.
        """
        if not len(which):
            return
        try:
            self._read_each(which, out, paths, slots)
        finally:
            # Once for all: what was opened before was the set's.
            self._files.guard.refuse_other_set()

    def _read_each(
        self, which: NDArray[np.int64], out: NDArray[Any], paths: Texts, slots: Iterable[int] | None
    ) -> None:
        places = list(range(len(which)) if slots is None else slots)
        todo = list(zip(places, paths.at(which), strict=True))
        started = time.perf_counter()
        self._read_some(todo[:_FIRST_FILES], out)
        cached = time.perf_counter() - started < _FIRST_FILES * _SECONDS_FROM_DISK
        todo = todo[_FIRST_FILES:]
        if cached or len(todo) < _FILES_FOR_THREADS:
            self._read_some(todo, out)
            return
        share = -(-len(todo) // _THREADS)
        runs = [todo[start : start + share] for start in range(0, len(todo), share)]
        # In order: the first that fails is the one a single thread would have met.
        for done in [self._files.threads().submit(self._read_some, run, out) for run in runs]:
            done.result()

    def _read_some(self, todo: list[tuple[int, str]], out: NDArray[Any]) -> None:
        whole = len(self._header) + out[:1].nbytes
        quick = READS_VECTORS and out.dtype == self._dtype and out.dtype.isnative
        head, behind = bytearray(len(self._header)), bytearray(1)
        for place, path in todo:
            slot = out[place]
            fd = open_patch_file(self._files.resolve(path), path, follow=False)
            try:
                if (
                    not quick
                    or not slot.flags.c_contiguous
                    or os.readv(fd, [head, slot.data.cast("B"), behind]) != whole
                    or head != self._header
                ):
                    os.lseek(fd, 0, os.SEEK_SET)
                    self._read_strictly(fd, path, slot)
            except OSError as error:
                raise NpyError(f"{path} cannot be read: {error.strerror}") from None
            finally:
                os.close(fd)

    def _read_strictly(self, fd: int, path: str, slot: NDArray[Any]) -> None:
        """A file that is not just as it was written: an error that says why, or the same pixels another way."""
        header = read_header(fd, path)
        if header.shape != self._size or not np.can_cast(header.dtype, self._dtype, "equiv"):
            raise self._misfit(path, header.shape, header.dtype)
        content = bytearray(header.data_bytes)
        read_exactly(fd, memoryview(content), header.offset, path)
        order: Any = "F" if header.fortran_order else "C"
        slot[...] = np.frombuffer(content, header.dtype).reshape(header.shape, order=order)


def _coded(paths: pl.Series) -> tuple[list[str], NDArray[np.int64]]:
    """The different texts of a column, and for each row the number of its own."""
    column = paths.alias("path").to_frame()
    different = column.unique(maintain_order=True).with_row_index("code")
    codes = column.join(different, on="path", how="left", maintain_order="left")["code"]
    return different["path"].to_list(), codes.cast(pl.Int64).to_numpy()
