"""Whether the pixels on disk still have the digests on record."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ctpatch.config import PatchConfig
from ctpatch.errors import CtPatchError
from ctpatch.files.digest import array_digest
from ctpatch.format.columns import digest_column, path_column
from ctpatch.format.meta import ArrayInfo
from ctpatch.layouts.reading import ArrayReader, MappedFiles, addresses_of
from ctpatch.words import LayoutName


@dataclass(frozen=True, slots=True)
class WrongPixels:
    """Something that is not what its digest says: the row of the manifest, the array, and the fault."""

    row: int
    array: str
    fault: str


def wrong_patches(
    rows: pl.DataFrame,
    layout: LayoutName,
    arrays: Mapping[str, ArrayInfo],
    resolve: Callable[[str], str],
    config: PatchConfig,
) -> list[WrongPixels]:
    """Patches of the layouts `files` and `shards` that are missing, damaged, or not what their digests say."""
    return list(_wrong_patches(rows, layout, arrays, resolve, config))


def _wrong_patches(
    rows: pl.DataFrame,
    layout: LayoutName,
    arrays: Mapping[str, ArrayInfo],
    resolve: Callable[[str], str],
    config: PatchConfig,
) -> Iterator[WrongPixels]:
    files = MappedFiles(resolve, follow_links=False)
    for array, info in arrays.items():
        addresses = addresses_of(rows, layout, array, info.dtype)
        reader = ArrayReader(addresses, files, resolve, config.patch_size, config.pad_mode)
        patch = np.empty((1, *config.patch_size), np.dtype(info.dtype))
        digests = rows[digest_column(array)]
        for row, digest in enumerate(digests):
            try:
                reader.read_into(np.array([row]), patch)
            except CtPatchError as error:
                yield WrongPixels(row, array, error.message)
                continue
            actual = array_digest(patch[0])
            if actual != digest:
                yield WrongPixels(row, array, f"its pixels have the digest {actual}, on record is {digest}")


def wrong_stored_slices(
    rows: pl.DataFrame,
    slices: pl.DataFrame,
    arrays: Mapping[str, ArrayInfo],
    resolve: Callable[[str], str],
) -> list[WrongPixels]:
    """Slices of the layout `slices` that are missing, damaged, or not what their digests say."""
    files = MappedFiles(resolve, follow_links=False)
    wrong = []
    recorded = {row["slice_index"]: row for row in slices.iter_rows(named=True)}
    firsts = rows.with_row_index("at").unique("slice_index", keep="first", maintain_order=True)
    for row in firsts.iter_rows(named=True):
        for array in arrays:
            try:
                stored = files.get(row[path_column(array)])
                if stored.ndim != 3 or not 0 <= row["patch_index"] < len(stored):  # noqa: PLR2004
                    wrong.append(WrongPixels(row["at"], array, f"its shard has shape {stored.shape}"))
                    continue
                actual = array_digest(stored[row["patch_index"]])
            except CtPatchError as error:
                wrong.append(WrongPixels(row["at"], array, error.message))
                continue
            digest = recorded.get(row["slice_index"], {}).get(digest_column(array))
            if actual != digest:
                fault = f"its slice has the digest {actual}, on record is {digest}"
                wrong.append(WrongPixels(row["at"], array, fault))
    return wrong
