"""Layout `shards`: the patches of a part in one .npy of shape `(n, h, w)` for each array."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctpatch.files.digest import array_digests
from ctpatch.layouts.base import Addresses, Shape, SliceToWrite, WriterOptions, patch_blocks
from ctpatch.layouts.packed import PackedFile, PackedLayout, shard_name


class ShardsWriter:
    """Writes the patches of a part one behind the other."""

    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        numbers = set(options.shards.values())
        self._names = [shard_name(options.split, min(numbers), array) for array in options.arrays] if numbers else []
        self._files: list[PackedFile] = []

    def write(self, piece: SliceToWrite) -> Addresses:
        """Write the kept patches of a slice."""
        options = self._options
        if not self._files and len(piece.rows):
            self._files = [
                PackedFile(options.disk, options.folder / name, options.patch_size, image.dtype)
                for name, image in zip(self._names, piece.padded, strict=True)
            ]
        first = self._files[0].items if self._files else 0
        digests: list[list[str]] = [[] for _ in options.arrays]
        for _which, blocks in patch_blocks(piece, options.patch_size):
            for file, block, found in zip(self._files, blocks, digests, strict=True):
                found.extend(array_digests(block))
                file.append(block)
        count = len(piece.rows)
        names = self._names or [""] * len(options.arrays)  # a part without windows has no shard, and no address
        paths = [[options.path_prefix + name] * count for name in names]
        return Addresses(paths, list(range(first, first + count)), digests)

    @property
    def bytes_written(self) -> int:
        """Bytes written so far."""
        return sum(file.size for file in self._files)

    def finish(self) -> list[str]:
        """End the part's files; there are none where no patch was kept."""
        for file in self._files:
            file.close()
        return [str(file.path) for file in self._files]

    def abandon(self) -> None:
        """Let go of open files after a fault."""
        for file in self._files:
            file.abandon()


class ShardsLayout(PackedLayout):
    """The patches of a part in one file, whatever the shapes of their slices."""

    name = "shards"
    holds_patches = True

    def slice_bytes(self, shape: Shape, windows: int, patch_size: Shape, dtype: np.dtype[Any]) -> int:
        """A patch for each window."""
        del shape
        return windows * patch_size[0] * patch_size[1] * dtype.itemsize

    def shards(self, shapes: Sequence[Shape], first: int) -> dict[Shape, int]:
        """One number for all."""
        return dict.fromkeys(shapes, first)

    def writer(self, options: WriterOptions) -> ShardsWriter:
        """A new writer for one part."""
        return ShardsWriter(options)


LAYOUT = ShardsLayout()
