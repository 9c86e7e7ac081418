"""What is compared: the slices of a prepared split, of a predicted one or of a patch set, as tables of one form."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, CtPatchError, UsageError
from ctpatch.evaluating.scale import scale_of_manifest
from ctpatch.files.atomic import given_path
from ctpatch.files.npy import SliceBuffer, slice_header
from ctpatch.files.paths import Root
from ctpatch.format.columns import source_column
from ctpatch.format.csv_text import column_names, open_csv
from ctpatch.format.hu_scale import HuScale
from ctpatch.format.ids import without_blanks
from ctpatch.format.manifest_columns import IMAGE_COLUMNS
from ctpatch.format.meta import MANIFEST_DIR, PATCH_META, STATE_FOLDER
from ctpatch.format.slice_headers import is_labels
from ctpatch.format.source_manifest import Reading, SourceTable, read_source_manifest
from ctpatch.format.splits import PATCHES, PREPARED, SplitSource, find_splits
from ctpatch.format.tables import STATUS_OK
from ctpatch.reading.patchset import AnySet, PatchSet, open_set
from ctpatch.reading.slice_set import SliceSet

SetPath = str | os.PathLike[str] | AnySet | SliceSet
ORIGINS: dict[str, type[pl.DataType]] = {
    "series": pl.String,
    "position_mm": pl.Float64,
    "spacing_row_mm": pl.Float64,
    "spacing_col_mm": pl.Float64,
}
"""What a table may have on record of where a slice comes from."""
_SET_MARKS = (PATCH_META, f"{STATE_FOLDER}/build.json")
"""What is in the folder of a patch set, finished or not."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things that are compared.

    Attributes:
        role: `predicted`, `target` or `input`.
        name: `dataset/split`.
        place: its folder or manifest and its array: two sides of one place are the same.
        array: the array that is compared.
        labels: whether the array holds labels by what is on record: its name, or the meta of a patch set.
        slices: a row for each slice: `slice_index` (Int64), `path` (that of its image), `array_path` (String),
            `patient_id` (String or null), and the columns `ORIGINS`, null where nothing is on record.
        manifest: its source manifest, where that is there.
        data_root: what paths are relative to, where that can be told.
        read: the pixels of a slice by its row, `(H, W)`, valid until the next is read.
        shape: height and width of a slice by its row.
    """

    role: str
    name: str
    place: tuple[Path, str]
    array: str
    labels: bool
    slices: pl.DataFrame
    manifest: Path | None
    data_root: Path | None
    read: Callable[[int], NDArray[Any]]
    shape: Callable[[int], tuple[int, int]]

    def scale(self, data_roots: Sequence[Path]) -> HuScale | None:
        """What its values stand for in HU; None where that is not on record."""
        if self.manifest is None or self.data_root is None:
            return None
        # What is on record of a folder says nothing of files elsewhere that a manifest in it may list.
        folders = self.slices["array_path"].str.replace(r"/?[^/]*$", "").unique().to_list()
        own = os.path.realpath(self.manifest.parent)
        if any(os.path.realpath(self.data_root / folder) != own for folder in folders):
            return None
        return scale_of_manifest(self.manifest, data_roots)

    def described(self) -> dict[str, str]:
        """As plain values, without a place on this machine."""
        return {"name": self.name, "array": self.array}


def open_side(role: str, given: SetPath, array: str | None, data_root: Path | None) -> Side:
    """Open one side.

    Args:
        role: what it is compared as.
        given: a prepared or predicted split's folder, a source manifest, a patch set, or an opened one of these.
        array: the array that is meant; None takes the only one there is.
        data_root: what paths are relative to, for what does not lie below a folder `prepared` or `patches`.

    Raises:
        UsageError: nothing is there, or several splits are.
        ConfigError: there is no such array, or there are several and none is named.
        SourceManifestError, FormatError, IncompleteError: a table cannot be read.
    """
    if isinstance(given, PatchSet):
        return _of_set(role, given, array)
    if isinstance(given, SliceSet):
        return _of_split(role, given.source, array)
    path = given_path(given)
    root = data_root if data_root is not None and _needs_root(path, data_root) else None
    folder = path.parent if path.is_file() and path.suffix.lower() != ".csv" else path
    if any((folder / mark).is_file() for mark in _SET_MARKS):
        return _of_set(role, open_set(folder, root), array)
    splits = find_splits([path], root)
    if len(splits) > 1:
        names = ", ".join(each.split for each in splits[:5])
        raise UsageError(f"{role}: {path.name} holds {len(splits)} splits ({names}); name the folder of one")
    return _of_split(role, splits[0], array)


def _needs_root(path: Path, data_root: Path) -> bool:
    """Whether a data root that was given counts for a path: unless it has one of its own elsewhere."""
    full = path.resolve()
    return full.is_relative_to(data_root) or not {PREPARED, PATCHES} & {each.name for each in full.parents}


def _chosen(role: str, array: str | None, known: Sequence[str], name: str) -> str:
    if array is None and len(known) > 1:
        raise ConfigError(
            f"{role}: {name} has the arrays {', '.join(known)}; say which one is compared ({_OPTIONS[role]})"
        )
    chosen = known[0] if array is None else array
    if chosen not in known:
        raise ConfigError(f"{role}: there is no array {chosen!r} in {name}; it has {', '.join(known)}")
    return chosen


_OPTIONS = {"predicted": "--predicted-array", "target": "--array", "input": "--input-array"}


def _of_set(role: str, ps: AnySet, array: str | None) -> Side:
    name = f"{ps.meta.dataset}/{ps.meta.split}"
    chosen = _chosen(role, array, ps.arrays, name)
    cut = ps.slices.filter(pl.col("status") == STATUS_OK)
    manifest, root = _manifest_of(ps)
    slices = cut.select(
        "slice_index",
        pl.col("src_path").alias("path"),
        pl.col(source_column(chosen)).alias("array_path"),
        without_blanks(cut["patient_id"]),
    )
    carried = [each for each in ORIGINS if each in cut.columns]
    if carried:
        slices = slices.with_columns(cut.select(carried))
    elif manifest is not None and root is not None:
        slices = slices.join(_origins_of_set(ps, manifest, root), on="path", how="left", maintain_order="left")
    numbers = cut["slice_index"].to_list()
    shapes = list(zip(cut["height"].to_list(), cut["width"].to_list(), strict=True))

    def read(row: int) -> NDArray[Any]:
        return ps.slice(numbers[row], arrays=chosen)

    return Side(
        role, name, (ps.folder, chosen), chosen, ps.meta.arrays[chosen].labels, _complete(slices), manifest, root,
        read, shapes.__getitem__,
    )  # fmt: skip


def _manifest_of(ps: AnySet) -> tuple[Path | None, Path | None]:
    """The source manifest of a set and its data root; None where they cannot be told or are not there."""
    try:
        root = ps.data_root
        manifest = Path(ps.sources.resolve(ps.meta.source_manifest))
    except CtPatchError:
        return None, None
    return (manifest if manifest.is_file() else None), root


def _origins_of_set(ps: AnySet, manifest: Path, root: Path) -> pl.DataFrame:
    """What the source manifest of a set has on record of its slices, by `path`; no rows where it cannot be read."""
    source = SplitSource(ps.meta.dataset, ps.meta.split, manifest, root)
    try:
        table = _read(source, Reading(arrays=tuple(ps.arrays), beside=ps.meta.source_paths == MANIFEST_DIR))
    except CtPatchError:
        return pl.DataFrame(schema={"path": pl.String})
    return table.frame.select(pl.col("src_path").alias("path"), *table.carried)


def _of_split(role: str, source: SplitSource, array: str | None) -> Side:
    table = _read(source, Reading())
    chosen = _chosen(role, array, table.arrays, source.name)
    slices = table.frame.select(
        "slice_index",
        pl.col("src_path").alias("path"),
        pl.col(source_column(chosen)).alias("array_path"),
        without_blanks(table.frame["patient_id"]),
        *table.carried,
    )
    root, buffer = Root(source.data_root), SliceBuffer()
    paths: list[str] = slices["array_path"].to_list()

    def read(row: int) -> NDArray[Any]:
        image, _dtype = buffer.read(root.resolve(paths[row]), paths[row], integers_allowed=True)
        return image

    def shape(row: int) -> tuple[int, int]:
        height, width = slice_header(root.resolve(paths[row]), paths[row], integers_allowed=True).shape
        return height, width

    return Side(
        role, source.name, (source.manifest, chosen), chosen, is_labels(chosen), _complete(slices), source.manifest,
        source.data_root, read, shape,
    )  # fmt: skip


def _read(source: SplitSource, reading: Reading) -> SourceTable:
    """A source manifest with those of the columns `ORIGINS` that it has."""
    try:
        written = open_csv(source.manifest, source.manifest_path, IMAGE_COLUMNS)
        names = pl.scan_csv(written.place, infer_schema=False, glob=False, separator=written.separator)
        there = set(column_names(names.collect_schema().names(), IMAGE_COLUMNS).values())
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError):
        there = set()  # what reads all of it says what is wrong
    carried = dict.fromkeys(each for each in ORIGINS if each in there)
    return read_source_manifest(source, reading=replace(reading, carried=carried))


def _complete(slices: pl.DataFrame) -> pl.DataFrame:
    """A table with all columns of `ORIGINS`; what is no finite number, or no length, is not on record."""
    columns = [
        pl.col(each).cast(kind, strict=False) if each in slices.columns else pl.lit(None, kind).alias(each)
        for each, kind in ORIGINS.items()
    ]
    slices = slices.with_columns(columns)
    position, lengths = pl.col("position_mm"), pl.col("spacing_row_mm", "spacing_col_mm")
    return slices.with_columns(
        pl.when(position.is_finite()).then(position), pl.when(lengths.is_finite() & (lengths > 0)).then(lengths)
    ).select("slice_index", "path", "array_path", "patient_id", *ORIGINS)
