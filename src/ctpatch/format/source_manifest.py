"""Source manifests: the slices of a split as a CSV lists them, checked, and what their headers say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from ctpatch.errors import FormatError, SourceManifestError
from ctpatch.files.paths import PathError, Root, not_plain, plain_path
from ctpatch.format.carried import Kind, Wanted, asked_columns, further_columns, typed_columns
from ctpatch.format.csv_text import csv_rows
from ctpatch.format.manifest_columns import (
    ARRAY_SUFFIX,
    IMAGE_COLUMNS,
    Columns,
    choose_columns,
    folder_of_paths,
    image_column,
    own_folder,
)
from ctpatch.format.splits import SplitSource

_MAX_SLICE_INDEX = 10**12
_FIRST_LINE = 2  # of the file's lines the first that is a row, where no cell holds a line break: the header is line 1
PIECE_ROWS = 50_000
"""Rows of a manifest that are read at a time."""
_COLUMNS: dict[str, type[pl.DataType]] = {
    "index": pl.Int64,
    "path": pl.String,
    "min": pl.Float64,
    "max": pl.Float64,
    "patient_id": pl.String,
}
_ORIGIN_COLUMNS: dict[str, type[pl.DataType]] = {
    "series": pl.String,
    "position_mm": pl.Float64,
    "spacing_row_mm": pl.Float64,
    "spacing_col_mm": pl.Float64,
    "source_digest": pl.String,
}
"""Where a slice comes from: in manifests of slices that were prepared from raw files."""


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The slices of a split, as its manifest lists them.

    Attributes:
        frame: a row for each slice, in the manifest's order: `slice_index` (Int64), `src_path`, `<array>_path`
            (String, relative, with `/`), `patient_id` (String or null), `stated_min`, `stated_max` (Float64 or null).
        arrays: `image` and the arrays beside it, in the manifest's order.
        folder: what the manifest's paths are relative to, from the data root; empty for the data root itself.
        notes: what a user should know of its columns and paths.
        carried: the further columns that `frame` has, which a set keeps, with their types.
    """

    frame: pl.DataFrame
    arrays: tuple[str, ...]
    folder: str = ""
    notes: tuple[str, ...] = ()
    carried: Mapping[str, Kind] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """What decides how a manifest is read; None leaves it to the manifest.

    Attributes:
        arrays: names of the arrays that are meant, with or without `image`.
        beside: whether paths are relative to the manifest's own folder, not to the data root.
        carried: the columns that are kept, with their types where these are known. Left to the manifest, that is all
            further columns where `prepare` wrote it, else none.
    """

    arrays: tuple[str, ...] | None = None
    beside: bool | None = None
    carried: Wanted | None = None


AS_WRITTEN = Reading()
"""All is left to the manifest."""


def read_source_manifest(
    source: SplitSource,
    look: Callable[[SourceTable], pl.DataFrame] = lambda table: table.frame,
    reading: Reading = AS_WRITTEN,
) -> SourceTable:
    """Read and check the manifest of a split, a piece at a time: rubbish is refused before all of it is in memory.

    `look` is done with each piece of the table as it is read, and gives the piece's frame, with more columns. `reading`
    decides what the manifest leaves open.

    Raises:
        ConfigError: it has no column of an array that was asked for, or none that is to be kept.
        SourceManifestError: it is empty, has no column `path`, or a cell breaks the rules; names file and row.
    """
    name = source.manifest_path
    pieces: list[pl.DataFrame] = []
    table = SourceTable(pl.DataFrame(), ())
    chosen: _Chosen | None = None
    rows = 0
    blank = None
    for raw in csv_rows(source.manifest, name, IMAGE_COLUMNS, PIECE_ROWS):
        filled = _without_blank_end(raw)
        chosen = chosen or _choose(filled, source, reading)
        if blank is not None and filled.height:
            raise _refused(name, blank, chosen.columns.image, "the path is empty, and rows follow it; remove the row")
        if blank is None and filled.height < raw.height:
            blank = rows + filled.height
        if filled.height:
            table = _checked(filled, source, rows, chosen)
            pieces.append(look(table))
        rows += raw.height
    if not pieces or chosen is None:
        raise SourceManifestError(f"{name} lists no slices: it has a header and no rows; prepare the split first")
    frame = pl.concat(pieces)
    if len(pieces) > 1:
        _refuse_repeats(frame["slice_index"], "index", name, 0)
        _refuse_repeats(frame["src_path"], "path", name, 0)
    frame, carried = typed_columns(frame, chosen.carried, name)
    return replace(table, frame=frame, carried=carried)


def split_manifest_csv(
    rows: Iterable[Mapping[str, object]],
    arrays: Sequence[str] = (),
    *,
    origins: bool = False,
    groups: bool = False,
) -> bytes:
    """The manifest of a split as it is written, for `build` to read.

    Args:
        rows: a cell for each column by its name, slice by slice; None leaves a cell blank.
        arrays: those beside `image`; each has a column `<array>_path`.
        origins: with the columns that say what a slice was prepared from, and `<array>_source_digest` for each array.
        groups: with a column `group`: what no two splits share, where that is not the patient.

    Raises:
        FormatError: a cell does not fit its column; rows may come from the receipts of an earlier run.
    """
    schema = _COLUMNS | (_ORIGIN_COLUMNS if origins else {}) | ({"group": pl.String} if groups else {})
    for array in arrays:
        schema[f"{array}{ARRAY_SUFFIX}"] = pl.String
        if origins:
            schema[f"{array}_source_digest"] = pl.String
    try:
        return pl.DataFrame(list(rows), schema=schema, orient="row").write_csv().encode()
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        raise FormatError(
            "a row on record does not fit the columns of a source manifest; is a receipt damaged? Start anew with "
            "--overwrite"
        ) from None


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the first rows of a manifest have decided: its columns, and what its paths are relative to."""

    columns: Columns
    folder: str
    notes: tuple[str, ...]
    carried: Wanted


def _choose(raw: pl.DataFrame, source: SplitSource, reading: Reading) -> _Chosen:
    name, root = source.manifest_path, source.data_root
    image = image_column(raw.columns, name, reading.arrays)
    if reading.beside is None:
        folder = folder_of_paths(raw[image], source.manifest, root)
    else:
        folder = own_folder(source.manifest, root) if reading.beside else ""
    columns = choose_columns(raw, name, root, folder, reading.arrays)
    notes = list(columns.notes)
    if folder:
        notes.append(f"{name}: its paths are relative to its own folder {folder}, not to the data root")
    carried, more_notes = _choose_carried(raw, source, reading, columns)
    return _Chosen(columns, folder, (*notes, *more_notes), carried)


def _choose_carried(
    raw: pl.DataFrame, source: SplitSource, reading: Reading, columns: Columns
) -> tuple[Wanted, list[str]]:
    arrays = ["image", *(array for array, _ in columns.arrays)]
    if reading.carried is not None:
        return asked_columns(raw.columns, reading.carried, arrays, source.manifest_path), []
    if not source.is_prepared:
        return {}, []
    used = [columns.image, *(column for _, column in columns.arrays)]
    return further_columns(raw, arrays, used, source.manifest_path)


def _checked(raw: pl.DataFrame, source: SplitSource, first: int, chosen: _Chosen) -> SourceTable:
    """The rows of a manifest from the row `first` on."""
    name, image, folder = source.manifest_path, chosen.columns.image, chosen.folder
    columns = {"slice_index": _slice_indices(raw, name, first)}
    columns["src_path"] = _paths(raw[image], source, first, folder).alias("src_path")
    _refuse_repeats(columns["src_path"], image, name, first)
    for array, column in chosen.columns.arrays:
        paths = _paths(raw[column], source, first, folder, f"; if {column} is no array, --arrays image leaves it out")
        columns[f"{array}_path"] = paths.alias(f"{array}_path")
    columns["patient_id"] = stripped_texts(raw, "patient_id")
    columns["stated_min"] = _numbers(raw, "min", name, first)
    columns["stated_max"] = _numbers(raw, "max", name, first)
    columns |= {column: stripped_texts(raw, column) for column in chosen.carried}
    arrays = ("image", *(array for array, _ in chosen.columns.arrays))
    return SourceTable(pl.DataFrame(columns), arrays, folder, chosen.notes)


def _without_blank_end(frame: pl.DataFrame) -> pl.DataFrame:
    filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series().arg_true()
    return frame.head(int(filled[-1]) + 1 if len(filled) else 0)


def _refused(name: str, position: int, column: str, why: str) -> SourceManifestError:
    return SourceManifestError(f"{name} row {position + _FIRST_LINE}, column {column}: {why}")


def _slice_indices(raw: pl.DataFrame, name: str, first: int) -> pl.Series:
    if "index" not in raw.columns:
        return pl.Series("slice_index", range(first, first + raw.height), dtype=pl.Int64)
    # Beside a blank cell pandas makes all whole numbers 3.0.
    texts = raw["index"].str.strip_chars()
    numbers = texts.str.replace(r"^([0-9]+)[.,]0+$", "$1").str.to_integer(strict=False, dtype=pl.Int64)
    wrong = numbers.is_null() | (numbers < 0) | (numbers > _MAX_SLICE_INDEX)
    _refuse_wrong(wrong, texts, f", wanted a whole number from 0 to {_MAX_SLICE_INDEX}", name, first)
    _refuse_repeats(numbers, "index", name, first)
    return numbers.alias("slice_index")


def _refuse_wrong(wrong: pl.Series, texts: pl.Series, why: str, name: str, first: int) -> None:
    if wrong.any():
        at = int(wrong.arg_true()[0])
        raise _refused(name, first + at, texts.name, f"{texts[at]!r}{why}")


def _refuse_repeats(values: pl.Series, column: str, name: str, first: int) -> None:
    repeated = values.is_duplicated()
    if not repeated.any():
        return
    value = values[int(repeated.arg_true()[0])]
    rows = [first + at + _FIRST_LINE for at in (values == value).arg_true().to_list()[:2]]
    raise SourceManifestError(
        f"{name} rows {rows[0]} and {rows[1]}, column {column}: both have {str(value)[:200]!r}; "
        "each slice is listed once"
    )


def stripped_texts(raw: pl.DataFrame, column: str) -> pl.Series:
    """A column of texts without blanks around them, blank ones as null; all null where there is no such column."""
    if column not in raw.columns:
        return pl.Series(column, [None] * raw.height, dtype=pl.String)
    texts = raw[column].str.strip_chars()
    return texts.set(texts == "", None)  # `replace` takes thirty times as long


def _numbers(raw: pl.DataFrame, column: str, name: str, first: int) -> pl.Series:
    texts = stripped_texts(raw, column)
    numbers = texts.cast(pl.Float64, strict=False)
    wrong = numbers.is_null() & texts.is_not_null()
    hint = "; write it with a point" if texts.filter(wrong).head(1).str.contains(r"^[-+0-9]+,[0-9]+$").any() else ""
    _refuse_wrong(wrong, texts, f" is not a number{hint}", name, first)
    return numbers.alias(f"stated_{column}")


def _paths(texts: pl.Series, source: SplitSource, first: int, folder: str, cure: str = "") -> pl.Series:
    """Paths of slices as plain ones, relative to the data root; `folder` is what they are relative to as written."""
    name, column = source.manifest_path, texts.name
    paths = texts.str.strip_chars().fill_null("")
    unusual = not_plain(paths)
    if unusual.any():
        values = paths.to_list()
        for at in unusual.arg_true().to_list():
            try:
                values[at] = plain_path(values[at], folder)
            except PathError as error:
                raise _refused(name, first + at, column, error.message + cure) from None
        paths = pl.Series(values, dtype=pl.String)
    if folder:
        paths = paths.zip_with(unusual, folder + "/" + paths)
    root = Root(source.data_root)
    for at, path in enumerate(paths):
        if not root.holds(path):
            why = f"{path[:200]!r} leaves the data root through a link; copy the file, or give a --data-root above both"
            raise _refused(name, first + at, column, why)
    return paths
