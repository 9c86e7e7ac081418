"""Checks on pixels: digests, statistics computed anew, and with `deep` each patch cut again from its source."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.findings import Finding
from ctpatch.core.grid import make_grid
from ctpatch.core.patches import cut, pad_slice
from ctpatch.core.statistics.windows import WindowStatistics, patch_statistics
from ctpatch.errors import CtPatchError
from ctpatch.files.digest import array_digest
from ctpatch.files.npy import header_bytes
from ctpatch.format.tables import PATCH_MANIFEST, REJECTED_PATCHES, SLICE_MANIFEST
from ctpatch.layouts.reading import ArrayReader, begins_with
from ctpatch.reading.patchset import PatchSet

STATISTICS_TOLERANCE = 1e-6
"""Relative difference allowed between a mean or std on record and one computed in another way."""

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class SlicesToCheck:
    """A run of slices, with their rows of the tables (`at` is the row's number)."""

    slices: pl.DataFrame
    patches: pl.DataFrame
    rejected: pl.DataFrame


@dataclass(frozen=True, slots=True)
class PixelTask:
    """What all runs share: the set (opened, nothing read), and whether to cut again."""

    ps: PatchSet
    deep: bool


def check_pixels(task: PixelTask, item: SlicesToCheck) -> list[Finding]:
    """Everything wrong with the pixels of these slices."""
    return list(_check(task, item))


def _check(task: PixelTask, item: SlicesToCheck) -> Iterator[Finding]:
    ps = task.ps
    readers = {array: ps.reader_for(item.patches, array) for array in ps.arrays}
    starts = item.patches["slice_index"].to_numpy()
    for record in item.slices.iter_rows(named=True):
        which = np.flatnonzero(starts == record["slice_index"])
        if ps.meta.layout in {"slices", "index"} and len(which):
            yield from _check_stored_slice(ps, record, item.patches.row(int(which[0]), named=True))
        sources: dict[str, NDArray[Any]] = {}
        if task.deep:
            for array in ps.arrays:
                try:
                    sources[array] = _source(ps, record, array)
                except CtPatchError as error:
                    path = record["src_path" if array == "image" else f"{array}_path"]
                    yield Finding("source", path, None, error.message, patches=len(which))
        yield from _check_patches(ps, item.patches, which, readers, sources)
        if ps.meta.rules_on in sources:
            dropped = item.rejected.filter(pl.col("slice_index") == record["slice_index"])
            yield from _check_rejected(ps, dropped, sources[ps.meta.rules_on])


def _check_stored_slice(ps: PatchSet, record: dict[str, Any], first: dict[str, Any]) -> Iterator[Finding]:
    for array in ps.arrays:
        prefix = "" if array == "image" else f"{array}_"
        path = first[f"{prefix}patch_path"]
        try:
            stored = ps.stored_slice(first, array)
        except CtPatchError as error:
            yield Finding("file", path, None, error.message, patches=0)
            continue
        digest = array_digest(stored)
        if digest != record[f"{prefix}digest"]:
            yield Finding(
                "digest",
                SLICE_MANIFEST,
                record["at"] + 2,
                f"{array} in {path} has the digest {digest}, on record is {record[f'{prefix}digest']}",
            )


def _source(ps: PatchSet, record: dict[str, Any], array: str) -> NDArray[Any]:
    """The source slice, padded as it is cut; its digest must be the one on record."""
    image = ps.sources.read(record, array)
    return pad_slice(image, make_grid(image.shape[0], image.shape[1], ps.config).padded_shape, ps.config.pad_mode)


def _check_patches(
    ps: PatchSet,
    rows: pl.DataFrame,
    which: NDArray[np.int64],
    readers: dict[str, ArrayReader],
    sources: dict[str, NDArray[Any]],
) -> Iterator[Finding]:
    for start in range(0, len(which), _BLOCK):
        block = which[start : start + _BLOCK]
        for array, reader in readers.items():
            patches = np.empty((len(block), *ps.patch_size), np.dtype(ps.meta.arrays[array].dtype))
            readable = np.ones(len(block), dtype=bool)
            for place, at in enumerate(block):
                try:
                    reader.read_into(np.array([at]), patches[place : place + 1])
                    if ps.meta.layout == "files":
                        yield from _check_header(ps, rows.row(int(at), named=True), array, patches[place])
                except CtPatchError as error:
                    readable[place] = False
                    yield Finding("file", rows[_path_column(array)][int(at)], None, error.message, patches=1)
            good = block[readable]
            patches = patches[readable]
            yield from _check_digests(ps, rows, good, array, patches)
            if array == ps.meta.rules_on:
                statistics = patch_statistics(patches, ps.meta.air_level)
                yield from _compare_statistics(PATCH_MANIFEST, rows[good], statistics)
            if array in sources:
                yield from _compare_with_source(rows[good], array, patches, sources[array])


def _check_header(ps: PatchSet, row: dict[str, Any], array: str, patch: NDArray[Any]) -> Iterator[Finding]:
    """The file's header is written as ctpatch does: a byte of it that changed may still read as the same array."""
    path = row[_path_column(array)]
    if not begins_with(ps.resolve_patch(path), path, header_bytes(patch.shape, patch.dtype)):
        yield Finding("header", path, None, "its .npy header was changed after it was written")


def _path_column(array: str) -> str:
    return "patch_path" if array == "image" else f"{array}_patch_path"


def _check_digests(
    ps: PatchSet, rows: pl.DataFrame, which: NDArray[np.int64], array: str, patches: NDArray[Any]
) -> Iterator[Finding]:
    if ps.meta.layout not in {"files", "shards"}:
        return
    column = "digest" if array == "image" else f"{array}_digest"
    for at, digest, patch in zip(rows["at"][which], rows[column][which], patches, strict=True):
        actual = array_digest(patch)
        if actual != digest:
            message = f"the pixels of {array} have the digest {actual}, on record is {digest}"
            yield Finding("digest", PATCH_MANIFEST, at + 2, message)


def _compare_statistics(table: str, rows: pl.DataFrame, actual: WindowStatistics) -> Iterator[Finding]:
    for name in ("min", "max", "air_fraction", "mean", "std"):
        recorded = rows[name].to_numpy()
        computed = getattr(actual, name)
        if name in {"mean", "std"}:
            wrong = ~np.isclose(recorded, computed, rtol=STATISTICS_TOLERANCE, atol=1e-12)
        else:
            wrong = recorded != computed
        for at in np.flatnonzero(wrong):
            message = f"{name} is {recorded[at]!r}, the pixels have {computed[at]!r}"
            yield Finding("statistics", table, rows["at"][int(at)] + 2, message)


def _compare_with_source(
    rows: pl.DataFrame, array: str, patches: NDArray[Any], source: NDArray[Any]
) -> Iterator[Finding]:
    for at, row, col, patch in zip(rows["at"], rows["row"], rows["col"], patches, strict=True):
        again = source[row : row + patch.shape[0], col : col + patch.shape[1]]
        if again.shape != patch.shape or again.tobytes() != patch.tobytes():
            message = f"the patch of {array} is not what its source has at ({row}, {col})"
            yield Finding("source", PATCH_MANIFEST, at + 2, message)


def _check_rejected(ps: PatchSet, rows: pl.DataFrame, source: NDArray[Any]) -> Iterator[Finding]:
    inside = rows.filter(
        (pl.col("row") + ps.patch_size[0] <= source.shape[0]) & (pl.col("col") + ps.patch_size[1] <= source.shape[1])
    )
    patches = cut(source, inside["row"].to_numpy(), inside["col"].to_numpy(), ps.patch_size)
    yield from _compare_statistics(REJECTED_PATCHES, inside, patch_statistics(patches, ps.meta.air_level))
