"""What layouts with shards share: a .npy file of many items that is written as they come, its name and its size."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.files.atomic import system_errors
from ctpatch.files.npy import PAGE_BYTES, header_bytes
from ctpatch.layouts.base import Layout, PartLimits, PartWriter, Shape, WriterOptions
from ctpatch.layouts.disk import Disk

_FOLDER = "shards"


def shard_name(split: str, number: int, array: str) -> str:
    """Path of a shard in the set's folder: `shards/train_00003.npy`, `shards/train_00003_target.npy`."""
    suffix = "" if array == "image" else f"_{array}"
    return f"{_FOLDER}/{split}_{number:05d}{suffix}.npy"


def shard_number(path: str) -> int | None:
    """The number in the path of a shard; None where it has none."""
    found = re.search(r"_(\d{5,})(_[^/]*)?\.npy$", path)
    return None if found is None else int(found[1])


class PackedLayout(Layout):
    """Many items in numbered files, whose data begin at a page."""

    packed = True
    data_offset = PAGE_BYTES

    def names(self, split: str, arrays: Sequence[str]) -> dict[str, re.Pattern[str]]:
        """Numbered shards, all in one folder."""
        others = "|".join(re.escape(array) for array in arrays)
        return {_FOLDER: re.compile(rf"{re.escape(split)}_\d{{5,}}(_({others}))?\.npy")}

    def is_full(self, slices: int, windows: int, size: int, limits: PartLimits) -> bool:
        """Whether a shard would become too large."""
        del slices
        return size > limits.shard_bytes or windows > limits.packed_windows


class PackedFile:
    """A growing .npy array of shape `(n, *item_shape)`; data begin at byte 4096."""

    def __init__(self, disk: Disk, path: Path, item_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path = path
        self.items = 0
        self._item_shape = item_shape
        self._dtype = dtype.newbyteorder("<")
        with system_errors("writing", path.name):
            self._file = disk.grow(str(path), PAGE_BYTES)
        self.size = PAGE_BYTES

    def add_items(self, items: NDArray[Any]) -> int:
        """Write items `(n, *item_shape)`; returns the number of the first."""
        if items.shape[1:] != self._item_shape:
            raise ValueError(f"items of shape {items.shape[1:]} do not fit a file of {self._item_shape}")
        first = self.items
        content = np.ascontiguousarray(items, dtype=self._dtype)
        with system_errors("writing", self.path.name):
            self.size += self._file.add_items(content)
        self.items += len(items)
        return first

    def close(self) -> None:
        """Write the header and end the file."""
        with system_errors("writing", self.path.name):
            try:
                self._file.end(header_bytes((self.items, *self._item_shape), self._dtype, PAGE_BYTES), self.size)
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is."""
        self._file.close()


class PackedWriter(PartWriter):
    """What writers of shards share: the files they have begun, by the number of the shard, one for each array."""

    def __init__(self, options: WriterOptions) -> None:
        self.options = options
        self._files: dict[int, list[PackedFile]] = {}

    def shard(self, number: int, item_shape: Shape, images: Sequence[NDArray[Any]]) -> list[PackedFile]:
        """The files of a shard, begun when it is first asked for."""
        if number not in self._files:
            disk, folder, split = self.options.disk, self.options.folder, self.options.split
            self._files[number] = [
                PackedFile(disk, folder / shard_name(split, number, array), item_shape, image.dtype)
                for array, image in zip(self.options.arrays, images, strict=True)
            ]
        return self._files[number]

    def paths(self, number: int, count: int) -> list[list[str]]:
        """For each array the shard's path in the manifest, so many times."""
        options = self.options
        return [[options.path_prefix + shard_name(options.split, number, array)] * count for array in options.arrays]

    def _begun(self) -> list[PackedFile]:
        return [file for files in self._files.values() for file in files]

    @property
    def bytes_written(self) -> int:
        """Bytes written so far."""
        return sum(file.size for file in self._begun())

    def finish(self) -> list[str]:
        """End the part's files; there are none where no patch was kept."""
        for file in self._begun():
            file.close()
        return [str(file.path) for file in self._begun()]

    def abandon(self) -> None:
        """Let go of open files after a fault."""
        for file in self._begun():
            file.abandon()
