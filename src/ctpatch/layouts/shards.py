"""Layout `shards`: the patches of a part in one .npy of shape `(n, h, w)` for each array."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctpatch.files.digest import array_digests
from ctpatch.layouts.base import Addresses, Shape, SliceToWrite, WriterOptions, patch_blocks
from ctpatch.layouts.packed import PackedLayout, PackedWriter


class ShardsWriter(PackedWriter):
    """Writes the patches of a part one behind the other."""

    def write(self, piece: SliceToWrite) -> Addresses:
        """Write the kept patches of a slice."""
        count, options = len(piece.rows), self.options
        digests: list[list[str]] = [[] for _ in options.arrays]
        if count == 0:  # a part without windows has no shard, and no address
            return Addresses([[] for _ in options.arrays], [], digests)
        number = min(options.shards.values())
        files = self.shard(number, options.patch_size, piece.padded)
        first = files[0].items
        for _which, blocks in patch_blocks(piece, options.patch_size):
            for file, block, found in zip(files, blocks, digests, strict=True):
                found.extend(array_digests(block))
                file.add_items(block)
        return Addresses(self.paths(number, count), list(range(first, first + count)), digests)


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
