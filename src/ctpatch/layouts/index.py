"""Layout `index`: no pixels at all; an address is a window in the source slice."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ctpatch.format.columns import source_column
from ctpatch.layouts.base import Addresses, Layout, PartWriter, Shape, SliceToWrite, WriterOptions


class IndexWriter(PartWriter):
    """Writes nothing but addresses."""

    def write(self, piece: SliceToWrite) -> Addresses:
        """The addresses of a slice's kept patches: the slice itself."""
        return Addresses([[path] * len(piece.rows) for path in piece.src_paths], None)


class IndexLayout(Layout):
    """Windows in source slices."""

    name = "index"

    def names(self, split: str, arrays: Sequence[str]) -> dict[str, re.Pattern[str]]:
        """There is no file."""
        del split, arrays
        return {}

    def slice_bytes(self, shape: Shape, windows: int, patch_size: Shape, dtype: np.dtype[Any]) -> int:
        """Nothing."""
        del shape, windows, patch_size, dtype
        return 0

    def writer(self, options: WriterOptions) -> IndexWriter:
        """A new writer for one part."""
        del options
        return IndexWriter()

    def wanted_paths(self, rows: pl.DataFrame, slices: pl.DataFrame, array: str, prefix: str) -> pl.Series:
        """The source slice."""
        del prefix
        known = slices.unique("slice_index").select("slice_index", wanted=source_column(array))
        return rows.join(known, on="slice_index", how="left", maintain_order="left")["wanted"]


LAYOUT = IndexLayout()
