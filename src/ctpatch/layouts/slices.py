"""Layout `slices`: whole slices in .npy files of shape `(n, H, W)`, each source pixel once.

A slice of which no window is kept is not stored: no pixel of it is in a patch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctpatch.layouts.base import Addresses, Shape, SliceToWrite, WriterOptions
from ctpatch.layouts.packed import PackedLayout, PackedWriter


class SlicesWriter(PackedWriter):
    """Writes the slices of a part; those of another shape into a file of their own."""

    def write(self, piece: SliceToWrite) -> Addresses:
        """Write a slice, where a window of it is kept."""
        count = len(piece.rows)
        if count == 0:
            return Addresses([[] for _ in self.options.arrays], [])
        shape = (piece.images[0].shape[0], piece.images[0].shape[1])
        number = self.options.shards[shape]
        item = 0
        for file, image in zip(self.shard(number, shape, piece.images), piece.images, strict=True):
            item = file.add_items(image[np.newaxis])
        return Addresses(self.paths(number, count), [item] * count)


class SlicesLayout(PackedLayout):
    """The slices of a part, a file for each shape."""

    name = "slices"
    holds_slices = True

    def slice_bytes(self, shape: Shape, windows: int, patch_size: Shape, dtype: np.dtype[Any]) -> int:
        """The slice, where a window of it is kept."""
        del patch_size
        return shape[0] * shape[1] * dtype.itemsize * min(windows, 1)

    def shards(self, shapes: Sequence[Shape], first: int) -> dict[Shape, int]:
        """A number for each shape."""
        return {shape: first + place for place, shape in enumerate(shapes)}

    def writer(self, options: WriterOptions) -> SlicesWriter:
        """A new writer for one part."""
        return SlicesWriter(options)


LAYOUT = SlicesLayout()
