"""What layouts with shards share: a .npy file of many items that is written as they come, its name and its size."""

import re
from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.files.atomic import system_errors
from ctpatch.files.npy import PAGE_BYTES, header_bytes
from ctpatch.layouts.base import Layout, PartLimits, Shape
from ctpatch.layouts.disk import Disk

_FOLDER = "shards"


def shard_name(split: str, number: int, array: str) -> str:
    """Path of a shard in the set's folder: `shards/train_00003.npy`, `shards/train_00003_target.npy`."""
    suffix = "" if array == "image" else f"_{array}"
    return f"{_FOLDER}/{split}_{number:05d}{suffix}.npy"


class PackedLayout(Layout, ABC):
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

    def pixel_bytes(
        self,
        counts: Iterable[tuple[int, Shape, int]],
        patch_size: Shape,
        dtypes: Sequence[np.dtype[Any]],
        shards: Callable[[], int],
    ) -> int:
        """Bytes of the items, and a page for the header of each shard."""
        return super().pixel_bytes(counts, patch_size, dtypes, shards) + shards() * len(dtypes) * PAGE_BYTES


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

    def append(self, items: NDArray[Any]) -> int:
        """Write items `(n, *item_shape)`; returns the number of the first."""
        if items.shape[1:] != self._item_shape:
            raise ValueError(f"items of shape {items.shape[1:]} do not fit a file of {self._item_shape}")
        first = self.items
        content = np.ascontiguousarray(items, dtype=self._dtype)
        with system_errors("writing", self.path.name):
            self.size += self._file.append(content)
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
