"""Patch sets of ours as an audit sees them, of any layout, with their source slices at hand or without."""

import copy
import posixpath
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.base import AuditedSplit, PatchSeen, Run, RunPixels, Seen, known_digest
from ctpatch.checking.audit.fingerprint import is_constant
from ctpatch.checking.audit.prepared import read_csv
from ctpatch.config import MAX_PIXELS_PER_AXIS
from ctpatch.core.patches import paste, window_of
from ctpatch.errors import CtPatchError, FormatError, SourceManifestError, SystemFailureError, UsageError
from ctpatch.files.digest import array_digest
from ctpatch.files.paths import PathError, plain_path
from ctpatch.format import columns
from ctpatch.format.ids import without_blanks
from ctpatch.format.manifest_columns import image_column
from ctpatch.format.meta import MANIFEST_DIR
from ctpatch.format.source_manifest import stripped_texts
from ctpatch.format.tables import PATCH_MANIFEST, SLICE_MANIFEST, STATUS_OK
from ctpatch.layouts.reader import ArrayReader
from ctpatch.reading.patchset import PatchSet, open_set

_LEAST_COVERED = 0.25


def from_patches(shape: tuple[int, int], rows: NDArray[Any], cols: NDArray[Any], patches: NDArray[Any]) -> Seen:
    """A slice from its patches, to the bit; what reaches beyond it was padding, and is cut off."""
    canvas = np.zeros(shape, patches.dtype)
    covered = np.zeros(shape, dtype=bool)
    paste(canvas, patches, rows, cols)
    paste(covered, np.broadcast_to(np.True_, patches.shape), rows, cols)
    whole = bool(covered.all())
    return Seen(canvas, None if whole else covered, whole)


class SetRun(RunPixels):
    """One run of a set's slices: those it holds, or its sources, or slices put together from patches."""

    def __init__(self, ps: PatchSet, has_root: bool, run: Run) -> None:
        self._ps, self._has_root, self._run = ps, has_root, run
        self._readers: dict[str, ArrayReader] = {}

    def _image(self, place: int, array: str) -> Seen:
        record = self._run.slices.row(place, named=True)
        layout = self._ps.layout
        if layout.holds_slices:
            row = self._run.patches.row(int(self._run.offsets[place]), named=True)
            return _checked(self._ps.stored_slice(row, array), record, array, row[columns.path_column(array)])
        if self._has_root:
            try:
                return Seen(self._ps.sources.read(record, array))
            except CtPatchError as error:
                # Patches of its own make up for a source that is gone, or no longer what was cut.
                if layout.reads_sources or isinstance(error, SystemFailureError):
                    raise
        elif layout.reads_sources:
            return Seen(why="where the source slices are cannot be told; give the data root (--data-root)")
        return self._from_patches(place, array, record)

    def patch(self, row: int) -> NDArray[Any]:
        """A patch, of any layout."""
        found: NDArray[Any] = self._read(np.array([row]), "image")[0]
        return found

    def patches(self, place: int, array: str, image: NDArray[Any] | None) -> list[PatchSeen]:
        """The digests of a slice's patches, where its layout has none on record: they are cut from the slice."""
        if image is None or self._ps.layout.holds_patches:
            return []
        rows = self._run.rows_of(place)
        windows = self._run.patches[int(rows[0]) : int(rows[-1]) + 1]
        judged = array == self._ps.meta.rules_on
        found: list[PatchSeen] = []
        places = windows.select("row", "col", "constant").iter_rows()
        for number, (row, col, constant) in zip(rows.tolist(), places, strict=True):
            known = row is not None and col is not None
            patch = window_of(image, row, col, self._ps.patch_size, self._ps.config.pad_mode) if known else None
            if patch is None:
                fault = f"no window of {image.shape[0]}x{image.shape[1]} pixels begins at ({row}, {col})"
                found.append((number, None, None, fault))
            else:
                flat = None if judged and constant is not None else is_constant(patch)
                found.append((number, array_digest(patch), flat, None))
        return found

    def _from_patches(self, place: int, array: str, record: dict[str, Any]) -> Seen:
        rows = self._run.rows_of(place)
        shape = (int(record["height"]), int(record["width"]))
        if min(shape) < 1 or max(shape) > MAX_PIXELS_PER_AXIS:
            raise FormatError(f"{SLICE_MANIFEST} says {shape[0]}x{shape[1]} pixels; run ctpatch verify")
        height, width = self._ps.patch_size
        if len(rows) * height * width < _LEAST_COVERED * shape[0] * shape[1]:
            return Seen(why="its source slice is not there, and its patches cover less than a quarter of it")
        windows = self._run.patches[rows]
        seen = from_patches(shape, windows["row"].to_numpy(), windows["col"].to_numpy(), self._read(rows, array))
        assert seen.image is not None
        return _checked(seen.image, record, array, record["src_path"]) if seen.whole else seen

    def _read(self, rows: NDArray[np.int64], array: str) -> NDArray[Any]:
        if array not in self._readers:
            self._readers[array] = self._ps.reader_for(self._run.patches, array)
        patches = np.empty((len(rows), *self._ps.patch_size), np.dtype(self._ps.meta.arrays[array].dtype))
        self._readers[array].read_into(rows, patches)
        return patches


def _checked(image: NDArray[Any], record: dict[str, Any], array: str, path: str) -> Seen:
    recorded = record[columns.digest_column(array)]
    if array_digest(image) != recorded:
        raise FormatError(f"{path}: the pixels of {array} are not what their digest on record says; run ctpatch verify")
    return Seen(image)


def read_patch_set(path: Path, folder: str, data_root: Path | None) -> AuditedSplit:
    """A split that is a patch set of ours; IncompleteError or FormatError where it is not finished, or damaged."""
    ps = open_set(path, data_root)
    arrays = tuple(array for array, info in ps.meta.arrays.items() if not info.labels)
    packed = ps.layout.holds_patches
    line = pl.int_range(2, pl.len() + 2, dtype=pl.Int64).alias("line")  # the header is line 1
    windows = ps.manifest.with_columns(line, pl.col("patch_id").alias("id"), pl.col("patch_path").alias("path"))
    # A slice of which no patch was kept is in nobody's training.
    slices = (
        _without_carried(ps)
        .with_columns(line)
        .filter(pl.col("status") == STATUS_OK)
        .join(windows, on="slice_index", how="semi", maintain_order="left")
        .with_columns(
            ("slice " + pl.col("slice_index").cast(pl.String)).alias("id"),
            pl.col("src_path").alias("path"),
            pl.col("patient_id").map_batches(without_blanks, return_dtype=pl.String),
            (pl.col("min") == pl.col("max")).alias("constant"),
            *(_recorded(array).alias(known_digest(array)) for array in arrays),
        )
    )
    has_root = _has_root(ps)
    if "source_digest" in slices.columns:
        slices = slices.with_columns(_of_varied())
    elif has_root:
        slices = _with_source_digests(slices, ps)
    if slices["slice_index"].is_duplicated().any():
        raise FormatError(f"{ps.folder.name}/{SLICE_MANIFEST} has two rows of one slice_index; run ctpatch verify")
    numbers = slices.select("slice_index", pl.int_range(pl.len(), dtype=pl.Int64).alias("at"))
    patches = windows.join(numbers, on="slice_index", maintain_order="left").sort("at", maintain_order=True)
    if patches.height != windows.height:
        raise FormatError(
            f"{ps.folder.name}/{PATCH_MANIFEST} has {windows.height - patches.height} rows of slices that are not in "
            f"{SLICE_MANIFEST}; run ctpatch verify"
        )
    flat = pl.when(pl.lit(ps.meta.rules_on == "image")).then(pl.col("min") == pl.col("max"))
    patches = patches.with_columns(
        flat.alias("constant"),
        *((_recorded(array) if packed else pl.lit(None, pl.String)).alias(known_digest(array)) for array in arrays),
    )
    light = copy.copy(ps)  # without its tables, and still the set that was opened
    found = AuditedSplit(
        name=f"{ps.meta.dataset}/{ps.meta.split}",
        folder=folder,
        kind="patches",
        arrays=arrays,
        slice_table=SLICE_MANIFEST,
        patch_table=PATCH_MANIFEST,
        slices=slices,
        patches=patches,
        pixels=partial(SetRun, light, has_root),
        ps=light,
        root=ps.data_root if has_root else None,
    )
    if not slices.height:
        why = "kept no patch of any slice" if ps.slices.height else "has no slices"
        found.add_not_checked("everything", f"the set {why}, so there is nothing to compare")
    elif slices["patient_id"].null_count() == slices.height:
        found.add_not_checked("patients", f"{SLICE_MANIFEST} names no patients: the source manifest had no patient_id")
    return found


def _without_carried(ps: PatchSet) -> pl.DataFrame:
    """The rows of slices without what was kept of their source manifest, whose names may be those of columns here.

    The digest of what a slice was prepared from stays.
    """
    return ps.slices.drop(set(ps.meta.carried or {}) - {"source_digest"})


def _recorded(array: str) -> pl.Expr:
    return pl.col(columns.digest_column(array)).replace("", None)


def _with_source_digests(slices: pl.DataFrame, ps: PatchSet) -> pl.DataFrame:
    """The slices with what their source manifest says they were prepared from, where it is there and says so.

    A constant slice has no such digest: all slices of air come from the same pixels. A set that keeps the column needs
    no manifest.
    """
    try:
        manifest = Path(ps.sources.resolve(ps.meta.source_manifest))
        if not manifest.is_file():
            return slices
        rows = read_csv(manifest)
        image = image_column(rows.columns[1:], manifest.name)
    except (FormatError, SourceManifestError):
        return slices
    if "source_digest" not in rows.columns:
        return slices
    folder = posixpath.dirname(ps.meta.source_manifest) if ps.meta.source_paths == MANIFEST_DIR else ""
    paths = [_plain(path, folder) for path in rows[image]]
    known = pl.DataFrame(
        {"src_path": pl.Series(paths, dtype=pl.String), "source_digest": stripped_texts(rows, "source_digest")}
    )
    known = known.drop_nulls().unique("src_path", keep="first", maintain_order=True)
    return slices.join(known, on="src_path", how="left", maintain_order="left").with_columns(_of_varied())


def _of_varied() -> pl.Expr:
    """The digest of what a slice was prepared from, where it is not constant."""
    return pl.when(~pl.col("constant").fill_null(value=False)).then(pl.col("source_digest").cast(pl.String))


def _plain(path: str | None, folder: str) -> str | None:
    try:
        return plain_path(path and path.strip(), folder)
    except PathError:
        return None


def _has_root(ps: PatchSet) -> bool:
    try:
        return bool(ps.data_root)
    except UsageError:
        return False
