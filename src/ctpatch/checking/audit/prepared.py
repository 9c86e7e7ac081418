"""Prepared slices as an audit sees them: any CSV with a column `path`, read leniently.

A build refuses a manifest with a bad row. An audit names the row, never opens what it points to, and goes on.
"""

import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from ctpatch.checking.audit.base import AuditedSplit, Run, RunPixels, Seen, known_digest
from ctpatch.checking.audit.report import Fault
from ctpatch.errors import SourceManifestError
from ctpatch.files.npy import SliceBuffer
from ctpatch.files.paths import PathError, Root
from ctpatch.format.ids import without_blanks
from ctpatch.format.source_manifest import is_labels, stripped_texts

_ARRAY_SUFFIX = "_path"
_NO_ARRAY = {"src", "patch", "image", "source"}
_GUESSES = 4


def read_csv(path: Path) -> pl.DataFrame:
    """A CSV of texts, names of columns stripped, with a column `line`: where a row stands, the header being line 1."""
    name = f"{path.parent.name}/{path.name}"
    try:
        content = path.read_bytes()
        frame = pl.read_csv(content, infer_schema=False) if content.strip() else pl.DataFrame()
        frame = frame.rename({column: column.strip() for column in frame.columns})
    except OSError as error:
        raise SourceManifestError(f"{name} cannot be read: {error.strerror}") from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SourceManifestError(f"{name} is not a CSV in UTF-8 with as many cells in each row: {reason}") from None
    if frame.height == 0:
        raise SourceManifestError(f"{name} has no rows; wanted a header and a row for each slice or patch")
    return frame.drop("line", strict=False).with_row_index("line", 2).with_columns(pl.col("line").cast(pl.Int64))


def guess_root(folder: Path, name: str, paths: pl.Series) -> Path:
    """What paths are relative to: the folder above `name` (`prepared`, `patches`), or one in which the first lies."""
    for above in (folder, *folder.parents):
        if above.name == name:
            return above.parent
    first = next(iter(paths.drop_nulls()), None)
    for above in (folder, *folder.parents)[:_GUESSES]:
        with suppress(PathError):
            if os.path.isfile(Root(above).resolve(first)):
                return above
    return folder


class PreparedRun(RunPixels):
    """One run of prepared slices, one in a file; `columns` has the column of each array's paths."""

    def __init__(self, root: Path, columns: dict[str, str], run: Run) -> None:
        self._root, self._columns, self._run = Root(root), columns, run
        self._buffer = SliceBuffer()

    def _image(self, place: int, array: str) -> Seen:
        path = self._run.slices[self._columns[array]][place]
        image, _dtype = self._buffer.read(self._root.resolve(path), path, integers_allowed=True)
        if array != "image" and image.dtype.kind != "f":
            return Seen(why="whole numbers are labels, which are not compared")
        return Seen(image)


def no_column(manifest: Path, raw: pl.DataFrame, column: str, needed: str) -> SourceManifestError:
    """The error of a manifest without a column, of which each row needs what is `needed`."""
    return SourceManifestError(
        f"{manifest.parent.name}/{manifest.name} has no column '{column}' (it has "
        f"{', '.join(raw.columns[1:])[:200]}); each row needs {needed}"
    )


def read_prepared(manifest: Path, raw: pl.DataFrame, name: str, folder: str, data_root: Path | None) -> AuditedSplit:
    """A split of prepared slices; SourceManifestError where their manifest has no column `path`."""
    if "path" not in raw.columns:
        raise no_column(manifest, raw, "path", "the path of a slice, relative to the data root")
    columns = {"image": "path"} | {
        column.removesuffix(_ARRAY_SUFFIX): column
        for column in raw.columns
        if column.endswith(_ARRAY_SUFFIX) and column.removesuffix(_ARRAY_SUFFIX) not in _NO_ARRAY
    }
    compared = {array: column for array, column in columns.items() if array and not is_labels(array)}
    index = stripped_texts(raw, "index")
    slices = raw.select("line").with_columns(
        pl.Series("id", [f"slice {at if own is None else own}" for at, own in enumerate(index)], dtype=pl.String),
        without_blanks(stripped_texts(raw, "patient_id")),
        *(stripped_texts(raw, column) for column in ("source_digest", *compared.values())),
        *(pl.lit(None, pl.String).alias(known_digest(array)) for array in compared),
        pl.lit(None, pl.Boolean).alias("constant"),
    )
    root = data_root or guess_root(manifest.parent, "prepared", slices["path"])
    found = AuditedSplit(
        name=name,
        folder=folder,
        kind="prepared",
        arrays=tuple(compared),
        slice_table=manifest.name,
        slices=slices,
        pixels=partial(PreparedRun, root, compared),
    )
    _refuse_paths(found, Root(root), list(compared.values()))
    if "patient_id" not in raw.columns:
        found.add_not_checked("patients", f"{manifest.name} has no column patient_id")
    return found


def _refuse_paths(split: AuditedSplit, root: Root, columns: list[str]) -> None:
    """Leave out rows whose paths are none; they are faults."""
    bad: dict[int, str] = {}
    for column in columns:
        for at, path in enumerate(split.slices[column]):
            try:
                root.resolve(path)
            except PathError as error:
                bad.setdefault(at, f"column {column}: {error}")
    split.faults += [Fault(replace(split.slice_ref(at), path=""), message) for at, message in bad.items()]
    split.slices = split.slices.filter(~pl.int_range(pl.len()).is_in(list(bad)))
