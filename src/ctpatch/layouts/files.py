"""Layout `files`: one .npy for each patch, named after its id."""

import os
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.files.atomic import explain_os_error, write_file
from ctpatch.files.npy import header_bytes
from ctpatch.format.tables import patch_id
from ctpatch.layouts.base import Addresses, SliceToWrite, WriterOptions, digests_of, patch_blocks, patch_name


@lru_cache(maxsize=64)
def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    return header_bytes(shape, dtype)


class FilesWriter:
    """Writes each patch to a file of its own."""

    def __init__(self, options: WriterOptions) -> None:
        self._options = options
        self._written: list[str] = []
        self.bytes_written = 0

    def write(self, piece: SliceToWrite) -> Addresses:
        """Write the kept patches of a slice."""
        options = self._options
        ids = [
            patch_id(options.split, piece.slice_index, row, col)
            for row, col in zip(piece.rows.tolist(), piece.cols.tolist(), strict=True)
        ]
        paths = [[patch_name(each, array) for each in ids] for array in options.arrays]
        digests: list[list[str]] = [[] for _ in options.arrays]
        for which, blocks in patch_blocks(piece, options.patch_size):
            for names, block, found in zip(paths, blocks, digests, strict=True):
                found.extend(digests_of(block))
                self._write_block(names[which], block)
        return Addresses([[options.path_prefix + path for path in names] for names in paths], None, digests)

    def _write_block(self, names: list[str], block: NDArray[Any]) -> None:
        block = np.ascontiguousarray(block, block.dtype.newbyteorder("<"))
        header = _header(block.shape[1:], block.dtype)
        folder = str(self._options.folder) + os.sep
        name = ""
        try:
            for name, patch in zip(names, block, strict=True):
                path = folder + name
                self.bytes_written += write_file(path, [header, patch.data.cast("B")])
                self._written.append(path)
        except OSError as error:
            raise explain_os_error(error, "writing", name) from error

    def finish(self) -> list[str]:
        """The files written; each is whole already."""
        return self._written

    def abandon(self) -> None:
        """Nothing is open between two patches."""
