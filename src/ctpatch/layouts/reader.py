"""One reader for all layouts: patches by their addresses, straight into a given buffer."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.patches import window_of
from ctpatch.core.rounding import clip_to, inner_bounds
from ctpatch.errors import FormatError, NpyError
from ctpatch.files.memory import copies_slowly, copy_in_runs
from ctpatch.files.npy import READS_VECTORS, header_bytes, read_exactly, read_header
from ctpatch.layouts.mapped import THREADS, MappedFiles, open_patch_file
from ctpatch.layouts.texts import Texts
from ctpatch.words import PadMode

_FILES_FOR_THREADS = 12
_FIRST_FILES = 4
_SECONDS_FROM_DISK = 60e-6
"""A batch whose first files take longer each is taken to come from the disk: out of the page cache it is 15 us, and
threads would only get into each other's way."""


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
        share = -(-len(todo) // THREADS)
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
