"""Layout `slices`: whole slices in .npy files of shape `(n, H, W)`, each source pixel once.

A slice of which no window is kept is not stored: no pixel of it is in a patch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ctpatch.layouts.base import Addresses, Shape, SliceToWrite, WriterOptions
from ctpatch.layouts.packed import PackedFile, PackedLayout, shard_name


class SlicesWriter:
    """Writes the slices of a part; those of another shape into a file of their own."""

    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        self._files: dict[tuple[int, int], list[PackedFile]] = {}

    def write(self, piece: SliceToWrite) -> Addresses:
        """Write a slice, where a window of it is kept."""
        count = len(piece.rows)
        if count == 0:
            return Addresses([[] for _ in self._options.arrays], [])
        shape = (piece.images[0].shape[0], piece.images[0].shape[1])
        if shape not in self._files:
            self._files[shape] = self._open(shape, piece)
        item = 0
        for file, image in zip(self._files[shape], piece.images, strict=True):
            item = file.append(image[np.newaxis])
        names = self._names(shape)
        return Addresses([[self._options.path_prefix + name] * count for name in names], [item] * count)

    def _names(self, shape: tuple[int, int]) -> list[str]:
        return [shard_name(self._options.split, self._options.shards[shape], array) for array in self._options.arrays]

    def _open(self, shape: tuple[int, int], piece: SliceToWrite) -> list[PackedFile]:
        return [
            PackedFile(self._options.disk, self._options.folder / name, shape, image.dtype)
            for name, image in zip(self._names(shape), piece.images, strict=True)
        ]

    @property
    def bytes_written(self) -> int:
        """Bytes written so far."""
        return sum(file.size for files in self._files.values() for file in files)

    def finish(self) -> list[str]:
        """End the part's files."""
        written = [file for files in self._files.values() for file in files]
        for file in written:
            file.close()
        return [str(file.path) for file in written]

    def abandon(self) -> None:
        """Let go of open files after a fault."""
        for files in self._files.values():
            for file in files:
                file.abandon()


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
