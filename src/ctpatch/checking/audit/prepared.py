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
from ctpatch.format.csv_text import column_names, open_csv
from ctpatch.format.ids import without_blanks
from ctpatch.format.manifest_columns import IMAGE_COLUMNS, choose_columns, folder_of_paths, image_column
from ctpatch.format.slice_headers import is_labels
from ctpatch.format.source_manifest import stripped_texts

_PATIENTS = {"patient_id", "patientid", "patient-id", "patient", "subject", "subject_id"}
_GUESSES = 4


def read_csv(path: Path) -> pl.DataFrame:
    """A CSV of texts, names of columns stripped, with a column `line`: where a row stands, the header being line 1."""
    name = f"{path.parent.name}/{path.name}"
    try:
        written = open_csv(path, name, (*IMAGE_COLUMNS, "patch_path"))
        content = written.place.read_bytes() if isinstance(written.place, Path) else written.place.getvalue()
        frame = (
            pl.read_csv(content, infer_schema=False, separator=written.separator) if content.strip() else pl.DataFrame()
        )
        frame = frame.rename(column_names(frame.columns, IMAGE_COLUMNS))
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


def no_patients(manifest: Path, raw: pl.DataFrame) -> str:
    """Why patients are not compared: the manifest does not name them, or not by the right column."""
    like = next((each for each in raw.columns if each.casefold().replace(" ", "_") in _PATIENTS), None)
    hint = f"; if {like!r} is meant, name it patient_id" if like else ""
    return f"{manifest.name} has no column patient_id{hint}"


def read_prepared(manifest: Path, raw: pl.DataFrame, name: str, folder: str, data_root: Path | None) -> AuditedSplit:
    """A split of prepared slices; SourceManifestError where their manifest does not say where they are."""
    shown = f"{manifest.parent.name}/{manifest.name}"
    image = image_column(raw.columns[1:], shown)
    root = data_root or guess_root(manifest.parent, "prepared", stripped_texts(raw, image))
    folder_in_root = folder_of_paths(raw[image], manifest, root)
    chosen = choose_columns(raw.drop("line"), shown, root, folder_in_root)
    columns = {"image": image} | dict(chosen.arrays)
    compared = {array: column for array, column in columns.items() if not is_labels(array)}
    index = stripped_texts(raw, "index")
    slices = raw.select("line").with_columns(
        pl.Series("id", [f"slice {at if own is None else own}" for at, own in enumerate(index)], dtype=pl.String),
        without_blanks(stripped_texts(raw, "patient_id")),
        stripped_texts(raw, "source_digest"),
        *(_below(stripped_texts(raw, column), folder_in_root) for column in compared.values()),
        *(pl.lit(None, pl.String).alias(known_digest(array)) for array in compared),
        pl.lit(None, pl.Boolean).alias("constant"),
    )
    if image != "path":
        slices = slices.drop("path", strict=False).rename({image: "path"})
        compared["image"] = "path"
    found = AuditedSplit(
        name=name,
        folder=folder,
        kind="prepared",
        arrays=tuple(compared),
        slice_table=manifest.name,
        slices=slices,
        pixels=partial(PreparedRun, root, compared),
        root=root,
    )
    _refuse_paths(found, Root(root), list(compared.values()))
    if "patient_id" not in raw.columns:
        found.add_not_checked("patients", no_patients(manifest, raw))
    return found


def _below(paths: pl.Series, folder: str) -> pl.Series:
    """Paths relative to the data root, of paths that are relative to a folder of it; others as they are."""
    if not folder:
        return paths
    absolute = paths.str.contains(r"^[/\\]|^[A-Za-z]:")
    return paths.zip_with(absolute.fill_null(value=True), pl.Series(folder + "/" + paths)).alias(paths.name)


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
