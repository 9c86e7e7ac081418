"""Checks on pixels: digests, and statistics computed anew."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.findings import Finding
from ctpatch.core.statistics.api import patch_statistics
from ctpatch.core.statistics.columns import STATISTICS
from ctpatch.errors import CtPatchError, SetChangedError, SourceChangedError
from ctpatch.files.digest import array_digest
from ctpatch.format.columns import digest_column, path_column, recorded_statistics
from ctpatch.format.tables import PATCH_MANIFEST, SLICE_MANIFEST
from ctpatch.layouts.mapped import begins_with
from ctpatch.layouts.reader import ArrayReader
from ctpatch.reading.patchset import PatchSet

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class SlicesToCheck:
    """A run of slices, with their rows of the patch manifest (`at` is the row's number in its table)."""

    slices: pl.DataFrame
    patches: pl.DataFrame

    @property
    def first(self) -> str:
        """Path of its first slice."""
        return str(self.slices["src_path"][0])


def check_pixels(ps: PatchSet, item: SlicesToCheck) -> list[Finding]:
    """Everything wrong with the pixels of these slices."""
    findings: list[Finding] = []
    readers = {array: ps.reader_for(item.patches, array) for array in ps.arrays}
    starts = item.patches["slice_index"].to_numpy()
    for record in item.slices.iter_rows(named=True):
        which = np.flatnonzero(starts == record["slice_index"])
        if not ps.layout.holds_patches and len(which):
            findings += _check_stored_slice(ps, record, item.patches.row(int(which[0]), named=True))
        for start in range(0, len(which), _BLOCK):
            for array, reader in readers.items():
                findings += _check_patches(ps, item.patches, which[start : start + _BLOCK], array, reader)
    return findings


def _check_stored_slice(ps: PatchSet, record: dict[str, Any], first: dict[str, Any]) -> Iterator[Finding]:
    for array in ps.arrays:
        path, recorded = first[path_column(array)], record[digest_column(array)]
        try:
            digest = array_digest(ps.stored_slice(first, array))
        except SetChangedError:
            raise
        except SourceChangedError as error:
            yield Finding("digest", SLICE_MANIFEST, record["at"] + 2, error.message)
            continue
        except CtPatchError as error:
            yield Finding("file", path, None, error.message, patches=0)
            continue
        if digest != recorded:
            message = f"{array} in {path} has the digest {digest}, on record is {recorded}"
            yield Finding("digest", SLICE_MANIFEST, record["at"] + 2, message)


def _check_patches(
    ps: PatchSet, rows: pl.DataFrame, block: NDArray[np.int64], array: str, reader: ArrayReader
) -> Iterator[Finding]:
    patches = np.empty((len(block), *ps.patch_size), np.dtype(ps.meta.arrays[array].dtype))
    readable = np.ones(len(block), dtype=bool)
    for place, (at, path) in enumerate(zip(block, rows[path_column(array)][block], strict=True)):
        try:
            reader.read_into(np.array([at]), patches[place : place + 1])
            if ps.layout.has_file_for_each_patch:
                # A byte of the header that changed may still read as the same array.
                header = ps.layout.pixel_file(path, array, 1, ps.patch_size, patches.dtype).header
                if not begins_with(ps.resolve_patch(path), path, header):
                    yield Finding("header", path, None, "its .npy header was changed after it was written")
        except SetChangedError:
            raise
        except SourceChangedError:  # reported once, for its slice
            readable[place] = False
        except CtPatchError as error:
            readable[place] = False
            yield Finding("file", path, None, error.message, patches=1)
    rows, patches = rows[block[readable]], patches[readable]
    if ps.layout.holds_patches:
        for at, digest, patch in zip(rows["at"], rows[digest_column(array)], patches, strict=True):
            actual = array_digest(patch)
            if actual != digest:
                message = f"the pixels of {array} have the digest {actual}, on record is {digest}"
                yield Finding("digest", PATCH_MANIFEST, at + 2, message)
    if array == ps.meta.rules_on:
        statistics = patch_statistics(patches, ps.meta.air_level)
        for name in (each for each in recorded_statistics(rows) if each in statistics):
            for at in np.flatnonzero(wrong_statistic(name, rows, statistics[name], ps.patch_size)):
                message = f"{name} is {rows[name][int(at)]!r}, the pixels have {statistics[name][at]!r}"
                yield Finding("statistics", PATCH_MANIFEST, rows["at"][int(at)] + 2, message)


def wrong_statistic(
    name: str, rows: pl.DataFrame, computed: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Where a statistic on record is not what was computed, for each row.

    A mean or a std may differ by what two ways of adding may: the bounds are those of `window_statistics`, twice.
    `rows` have the smallest and the largest pixel of each window, `computed` is what the pixels give, `(N,)`.
    """
    recorded = rows[name].to_numpy()
    if STATISTICS[name].exact:
        return np.asarray(recorded != computed)
    additions = size[0] + size[1] + 3
    largest = np.maximum(np.abs(rows["min"].to_numpy()), np.abs(rows["max"].to_numpy()))
    slack = 2 * additions * 2.0**-53 * largest
    if name != "mean":
        slack = slack + 2 * 1.7e-11 * additions * np.abs(computed)
    with np.errstate(invalid="ignore"):
        return np.asarray(~(np.abs(recorded - computed) <= slack))
