"""Patch sets made elsewhere: a `patch_manifest.csv` with paths, and whatever else it has."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.base import AuditedSplit, PatchSeen, Run, RunPixels, Seen, known_digest
from ctpatch.checking.audit.fingerprint import is_constant
from ctpatch.checking.audit.patchset import from_patches
from ctpatch.checking.audit.prepared import guess_root, no_column, no_patients
from ctpatch.config import MAX_PIXELS_PER_AXIS
from ctpatch.errors import CtPatchError, FormatError, NpyError, SystemFailureError
from ctpatch.files.digest import array_digest
from ctpatch.files.npy import SliceBuffer
from ctpatch.files.paths import PathError, Root
from ctpatch.format.ids import without_blanks
from ctpatch.format.source_manifest import stripped_texts

_ORIGINS = (("row", "col"), ("y", "x"), ("top", "left"))
"""Columns that say where in its slice a patch begins, in pixels; the first pair that is there."""


class ForeignRun(RunPixels):
    """One run of patches that lie one in a file, and slices put together from them.

    The manifest is in `folder`, its paths are relative to `root`, as far as can be told; `placed` says whether `row`
    and `col` of each patch are known.
    """

    def __init__(self, folder: Path, root: Path, placed: bool, run: Run) -> None:
        self._folder, self._root, self._placed, self._run = Root(folder), Root(root), placed, run
        self._buffer = SliceBuffer()
        self._stacks: dict[int, list[NDArray[Any] | str]] = {}

    def _image(self, place: int, array: str) -> Seen:  # noqa: ARG002 - there is only `image`
        """A slice put together from its patches, as far as they reach; or its source, where that is at hand."""
        if not self._placed:
            return Seen(why="the manifest does not say where in which slice a patch lies")
        numbered = zip(self._run.rows_of(place).tolist(), self._patches(place), strict=True)
        found = {number: patch for number, patch in numbered if not isinstance(patch, str)}
        patches = list(found.values())
        if not patches:
            return Seen(why="none of its patches can be read")
        if len({(patch.shape, patch.dtype) for patch in patches}) > 1:
            return Seen(why="its patches are not of one shape and dtype")
        rows, cols = (self._run.patches[name][list(found)].to_numpy() for name in ("row", "col"))
        if rows.dtype.kind != "i" or cols.dtype.kind != "i":
            raise FormatError("row or col of one of its patches is no whole number")
        source = self._source(place, patches[0], int(rows[0]), int(cols[0]))
        if source is not None:
            return Seen(source)
        height, width = patches[0].shape
        shape = (int(rows.max()) + height, int(cols.max()) + width)
        if min(int(rows.min()), int(cols.min())) < 0 or max(shape) > MAX_PIXELS_PER_AXIS:
            begin = f"row {rows.min()}, col {cols.min()}"
            raise FormatError(f"its windows begin at {begin} and end at {shape}, which no slice does")
        if len(patches) * height * width * 4 < shape[0] * shape[1]:
            return Seen(why="its source slice is not there, and its patches cover less than a quarter of it")
        seen = from_patches(shape, rows, cols, np.stack(patches))
        # Where the source ends is not known, so its digest cannot be either.
        return Seen(seen.image, seen.covered, whole=False)

    def patch(self, row: int) -> NDArray[Any] | None:
        """A patch, where its file can be read."""
        found = self._read(self._run.patches["path"][row])
        return None if isinstance(found, str) else found

    def patches(self, place: int, array: str, image: object) -> list[PatchSeen]:  # noqa: ARG002 - files of their own
        """The digests of a slice's patches."""
        return [
            (row, None, None, patch) if isinstance(patch, str) else (row, array_digest(patch), is_constant(patch), None)
            for row, patch in zip(self._run.rows_of(place).tolist(), self._patches(place), strict=True)
        ]

    def _patches(self, place: int) -> list[NDArray[Any] | str]:
        """The patches of a slice, or why one cannot be read; of the last slice asked for only."""
        if place not in self._stacks:
            self._stacks.clear()
            paths = self._run.patches["path"]
            self._stacks[place] = [self._read(paths[row]) for row in self._run.rows_of(place).tolist()]
        return self._stacks[place]

    def _read(self, path: str | None) -> NDArray[Any] | str:
        try:
            return self._buffer.read(self._resolve(path), path or "", integers_allowed=True)[0].copy()
        except SystemFailureError:
            raise
        except CtPatchError as error:
            return error.message

    def _resolve(self, path: str | None) -> str:
        """Below the root, or by its bare name beside the manifest: notebooks write paths of their own machine."""
        with suppress(PathError):
            full = self._root.resolve(path)
            if os.path.isfile(full):
                return full
        return self._folder.resolve((path or "").replace("\\", "/").rpartition("/")[2])

    def _source(self, place: int, first: NDArray[Any], row: int, col: int) -> NDArray[Any] | None:
        """The source slice, where it is there and holds the first patch where it should."""
        path = self._run.slices["path"][place]
        try:
            image = self._buffer.read(self._root.resolve(path), path or "", integers_allowed=True)[0]
        except (NpyError, PathError):
            return None
        window = image[row : row + first.shape[0], col : col + first.shape[1]]
        same = window.dtype == first.dtype and row >= 0 and col >= 0 and np.array_equal(window, first)
        return image if same else None


def read_foreign(manifest: Path, raw: pl.DataFrame, name: str, folder: str, data_root: Path | None) -> AuditedSplit:
    """A split that is a patch set made elsewhere; SourceManifestError where its manifest names no files."""
    paths = next((column for column in ("patch_path", "path") if column in raw.columns), None)
    if paths is None:
        raise no_column(manifest, raw, "patch_path", "its file")
    group = next((column for column in ("src_path", "slice_index") if column in raw.columns), None)
    origin = next((pair for pair in _ORIGINS if set(pair) <= set(raw.columns)), None)
    origins = (
        stripped_texts(raw, column).cast(pl.Float64, strict=False).alias(name)
        for column, name in zip(origin or _ORIGINS[0], _ORIGINS[0], strict=True)
    )
    placed = group is not None and origin is not None
    keys = stripped_texts(raw, group) if group is not None else pl.Series([None] * raw.height, dtype=pl.String)
    # A row that names no slice stands for one of its own.
    keys = pl.Series([f"?{number}" if key is None else f"={key}" for number, key in enumerate(keys)], dtype=pl.String)
    names = [f"patch {at}" if own is None else own for at, own in enumerate(stripped_texts(raw, "patch_id"))]
    table = raw.select("line").with_columns(
        keys.alias("key"),
        pl.Series("id", names, dtype=pl.String),
        stripped_texts(raw, paths).alias("path"),
        *(stripped_texts(raw, column) for column in ("src_path", "slice_index")),
        without_blanks(stripped_texts(raw, "patient_id")),
        *(series.cast(pl.Int64, strict=False) for series in origins),
        pl.lit(None, pl.Boolean).alias("constant"),
        pl.lit(None, pl.String).alias(known_digest("image")),
    )
    slices = table.unique("key", keep="first", maintain_order=True)
    numbers = slices.select("key", pl.int_range(pl.len(), dtype=pl.Int64).alias("at"))
    patches = table.join(numbers, on="key", how="left", maintain_order="left").sort("at", maintain_order=True)
    shown = pl.when(pl.col("slice_index").is_not_null()).then("slice " + pl.col("slice_index")).otherwise("id")
    root = data_root or guess_root(manifest.parent, "patches", table["path"])
    found = AuditedSplit(
        name=name,
        folder=folder,
        kind="foreign patches",
        arrays=("image",),
        slice_table=manifest.name,
        patch_table=manifest.name,
        slices=slices.with_columns(shown.alias("id"), pl.col("src_path").alias("path")),
        patches=patches,
        pixels=partial(ForeignRun, manifest.parent, root, placed),
        root=root,
        slice_level=group is not None,
    )
    if "patient_id" not in raw.columns:
        found.add_not_checked("patients", no_patients(manifest, raw))
    others = [column for column in raw.columns if column.endswith("_patch_path")]
    if others:
        found.add_not_checked("further arrays", f"of a set made elsewhere only patch_path is read, not {others[0]}")
    return found
