"""Layout `files`: one .npy for each patch, named after its id."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.files.atomic import explain_os_error
from ctpatch.files.digest import array_digests
from ctpatch.files.npy import header_bytes
from ctpatch.format.columns import path_column
from ctpatch.format.meta import ArrayInfo
from ctpatch.format.tables import patch_id
from ctpatch.layouts.base import Addresses, Layout, PartWriter, Shape, SliceToWrite, WriterOptions, patch_blocks
from ctpatch.layouts.whole import PixelFile


def _folder(array: str) -> str:
    return "" if array == "image" else f"{array}/"


class FilesWriter(PartWriter):
    """Writes each patch to a file of its own, which is whole when it is written."""

    bytes_written = 0

    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        self._written: list[str] = []

    def write(self, piece: SliceToWrite) -> Addresses:
        """Write the kept patches of a slice."""
        options = self._options
        ids = [
            patch_id(options.split, piece.slice_index, row, col)
            for row, col in zip(piece.rows.tolist(), piece.cols.tolist(), strict=True)
        ]
        paths = [[f"{_folder(array)}{each}.npy" for each in ids] for array in options.arrays]
        digests: list[list[str]] = [[] for _ in options.arrays]
        for which, blocks in patch_blocks(piece, options.patch_size):
            for names, block, found in zip(paths, blocks, digests, strict=True):
                found.extend(array_digests(block))
                self._write_block(names[which], block)
        return Addresses([[options.path_prefix + path for path in names] for names in paths], None, digests)

    def _write_block(self, names: list[str], block: NDArray[Any]) -> None:
        block = np.ascontiguousarray(block, block.dtype.newbyteorder("<"))
        header = header_bytes(block.shape[1:], block.dtype)
        folder = str(self._options.folder) + os.sep
        name = ""
        try:
            for name, patch in zip(names, block, strict=True):
                path = folder + name
                self.bytes_written += self._options.disk.write(path, [header, patch.data.cast("B")])
                self._written.append(path)
        except OSError as error:
            raise explain_os_error(error, "writing", name) from error

    def finish(self) -> list[str]:
        """The files written."""
        return self._written


class FilesLayout(Layout):
    """A .npy for each patch of each array; those of `image` in the set's folder, others in a folder of their own."""

    name = "files"
    holds_patches = True

    def names(self, split: str, arrays: Sequence[str]) -> dict[str, re.Pattern[str]]:
        """Ids of patches, in a folder for each array."""
        patch = re.compile(rf"{re.escape(split)}_\d{{6,}}_\d{{3,}}_\d{{3,}}\.npy")
        return {_folder(array).rstrip("/"): patch for array in arrays}

    def slice_bytes(self, shape: Shape, windows: int, patch_size: Shape, dtype: np.dtype[Any]) -> int:
        """A header and a patch for each window."""
        del shape
        return windows * (len(header_bytes(patch_size, dtype)) + patch_size[0] * patch_size[1] * dtype.itemsize)

    def writer(self, options: WriterOptions) -> FilesWriter:
        """A new writer for one part."""
        return FilesWriter(options)

    def wanted_paths(self, rows: pl.DataFrame, slices: pl.DataFrame, array: str, prefix: str) -> pl.Series:
        """The file named after the id."""
        del slices
        named = pl.lit(prefix + _folder(array)) + pl.col("patch_id") + pl.lit(".npy")
        return rows.select(named).to_series()

    def pixel_files(
        self, rows: pl.DataFrame, slices: pl.DataFrame, arrays: Mapping[str, ArrayInfo], patch_size: Shape
    ) -> Iterator[PixelFile]:
        """A file for each row."""
        del slices
        for array, info in arrays.items():
            one = self.pixel_file(None, array, 1, patch_size, np.dtype(info.dtype))
            for path in rows[path_column(array)]:
                yield one._replace(path=path)


LAYOUT = FilesLayout()
