"""Source manifests: the slices of a split as a CSV lists them, checked, and what their headers say."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ctpatch.config import check_name
from ctpatch.errors import ConfigError, FormatError, NpyError, SourceManifestError
from ctpatch.files.npy import slice_header
from ctpatch.files.paths import PathError, Root, not_plain, plain_path
from ctpatch.format.splits import SplitSource

_ARRAY_SUFFIX = "_path"
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
    """

    frame: pl.DataFrame
    arrays: tuple[str, ...]


def read_source_manifest(
    source: SplitSource, look: Callable[[SourceTable], pl.DataFrame] = lambda table: table.frame
) -> SourceTable:
    """Read and check the manifest of a split, a piece at a time: rubbish is refused before all of it is in memory.

    `look` is done with each piece of the table as it is read, and gives the piece's frame, with more columns.

    Raises:
        SourceManifestError: it is empty, has no column `path`, or a cell breaks the rules; names file and row.
    """
    name = source.manifest_path
    pieces: list[pl.DataFrame] = []
    arrays: tuple[str, ...] = ()
    rows = 0
    blank = None
    for raw in _read_csv(source.manifest, name):
        filled = _without_blank_end(raw)
        if blank is not None and filled.height:
            raise _refused(name, blank, "path", "the path is empty, and rows follow it; remove the row")
        if blank is None and filled.height < raw.height:
            blank = rows + filled.height
        if filled.height:
            table = _checked(filled, source, rows)
            pieces.append(look(table))
            arrays = table.arrays
        rows += raw.height
    if not pieces:
        raise SourceManifestError(f"{name} lists no slices: it has a header and no rows; prepare the split first")
    frame = pl.concat(pieces)
    if len(pieces) > 1:
        _refuse_repeats(frame["slice_index"], "index", name, 0)
        _refuse_repeats(frame["src_path"], "path", name, 0)
    return SourceTable(frame, arrays)


def split_manifest_csv(
    rows: Iterable[Mapping[str, object]], arrays: Sequence[str] = (), *, origins: bool = False
) -> bytes:
    """The manifest of a split as it is written, for `build` to read.

    Args:
        rows: a cell for each column by its name, slice by slice; None leaves a cell blank.
        arrays: those beside `image`; each has a column `<array>_path`.
        origins: with the columns that say what a slice was prepared from, and `<array>_source_digest` for each array.

    Raises:
        FormatError: a cell does not fit its column; rows may come from the receipts of an earlier run.
    """
    schema = _COLUMNS | (_ORIGIN_COLUMNS if origins else {})
    for array in arrays:
        schema[f"{array}{_ARRAY_SUFFIX}"] = pl.String
        if origins:
            schema[f"{array}_source_digest"] = pl.String
    try:
        return pl.DataFrame(list(rows), schema=schema, orient="row").write_csv().encode()
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        raise FormatError(
            "a row on record does not fit the columns of a source manifest; is a receipt damaged? Start anew with "
            "--overwrite"
        ) from None


def _checked(raw: pl.DataFrame, source: SplitSource, first: int) -> SourceTable:
    """The rows of a manifest from the row `first` on."""
    name = source.manifest_path
    arrays = ("image", *_array_names(raw.columns, name))
    columns = {"slice_index": _slice_indices(raw, name, first), "src_path": _paths(raw["path"], source, first)}
    _refuse_repeats(columns["src_path"], "path", name, first)
    for array in arrays[1:]:
        columns[f"{array}_path"] = _paths(raw[f"{array}_path"], source, first)
    columns["patient_id"] = stripped_texts(raw, "patient_id")
    columns["stated_min"] = _numbers(raw, "min", name, first)
    columns["stated_max"] = _numbers(raw, "max", name, first)
    return SourceTable(pl.DataFrame(columns), arrays)


def _read_csv(path: Path, name: str) -> Iterator[pl.DataFrame]:
    """The rows of a CSV as texts, so many at a time that memory does not grow with the file."""
    empty = SourceManifestError(f"{name} is empty; wanted a header with 'path' and a row for each slice")
    try:
        with path.open("rb") as file:  # what the system says of a file it does not give is lost in polars
            if not file.read(1):
                raise empty
        table = pl.scan_csv(path, infer_schema=False, glob=False)
        columns = table.collect_schema().names()
        if not any(column.strip() for column in columns):
            raise empty
        _check_columns(columns, name)
        table = table.rename({column: column.strip() for column in columns})
        yield from table.collect_batches(chunk_size=PIECE_ROWS, maintain_order=True, lazy=True)
    except OSError as error:
        raise SourceManifestError(f"{name} cannot be read: {error.strerror}") from None
    except pl.exceptions.NoDataError:
        raise empty from None
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise SourceManifestError(f"{name} is not a CSV in UTF-8 with as many cells in each row: {reason}") from None


def _check_columns(columns: Sequence[str], name: str) -> None:
    twice = [column for column in columns if "_duplicated_" in column]
    if twice:
        raise SourceManifestError(
            f"{name} has two columns {twice[0].partition('_duplicated_')[0]!r}; each column is there once"
        )
    if "path" not in [column.strip() for column in columns]:
        hint = "; the columns are separated by ';', wanted ','" if any(";" in column for column in columns) else ""
        raise SourceManifestError(
            f"{name} has no column 'path' (it has {', '.join(columns)[:200] or 'none'}){hint}; "
            "each row needs the path of a slice, relative to the data root"
        )


def _without_blank_end(frame: pl.DataFrame) -> pl.DataFrame:
    filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series().arg_true()
    return frame.head(int(filled[-1]) + 1 if len(filled) else 0)


def _array_names(columns: Iterable[str], manifest: str) -> list[str]:
    names = []
    for column in columns:
        if not column.endswith(_ARRAY_SUFFIX) or column in {"src_path", "patch_path", "image_path"}:
            continue
        array = column.removesuffix(_ARRAY_SUFFIX)
        try:
            names.append(check_name(array, f"{manifest}: the array of the column"))
        except ConfigError as error:
            raise SourceManifestError(error.message) from None
        if array in {"src", "patch", "shards"}:
            raise SourceManifestError(f"{manifest}: an array cannot be named {array!r}; rename the column {column!r}")
    return names


def _refused(name: str, position: int, column: str, why: str) -> SourceManifestError:
    return SourceManifestError(f"{name} row {position + _FIRST_LINE}, column {column}: {why}")


def _slice_indices(raw: pl.DataFrame, name: str, first: int) -> pl.Series:
    if "index" not in raw.columns:
        return pl.Series("slice_index", range(first, first + raw.height), dtype=pl.Int64)
    texts = raw["index"].str.strip_chars()
    numbers = texts.str.to_integer(strict=False, dtype=pl.Int64)
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
    return raw[column].str.strip_chars().replace("", None)


def _numbers(raw: pl.DataFrame, column: str, name: str, first: int) -> pl.Series:
    texts = stripped_texts(raw, column)
    numbers = texts.cast(pl.Float64, strict=False)
    _refuse_wrong(numbers.is_null() & texts.is_not_null(), texts, " is not a number", name, first)
    return numbers.alias(f"stated_{column}")


def _paths(texts: pl.Series, source: SplitSource, first: int) -> pl.Series:
    name, column = source.manifest_path, texts.name
    paths = texts.str.strip_chars().fill_null("")
    unusual = not_plain(paths).arg_true().to_list()
    if unusual:
        values = paths.to_list()
        for at in unusual:
            try:
                values[at] = plain_path(values[at])
            except PathError as error:
                raise _refused(name, first + at, column, error.message) from None
        paths = pl.Series(values, dtype=pl.String)
    root = Root(source.data_root)
    for at, path in enumerate(paths):
        if not root.holds(path):
            why = f"{path[:200]!r} leaves the data root through a link; copy the file, or give a --data-root above both"
            raise _refused(name, first + at, column, why)
    return paths.alias("src_path" if column == "path" else column)


def is_labels(array: str, kind: str = "f") -> bool:
    """Whether an array beside `image` holds labels: by its name (`mask`, `lung_mask`), or whole numbers."""
    return array != "image" and (kind in "bui" or "mask" in array.lower().split("_"))


def scan_headers(table: SourceTable, data_root: Path, *, skip_faulty: bool) -> pl.DataFrame:
    """Look at the header of every slice, so that a fault shows before any work is done.

    Returns:
        The table's frame with `height`, `width` (Int32; 0 where faulty), `src_dtype`, `problem` (String or null)
        and `<array>_dtype` for the arrays beside `image`.

    Raises:
        NpyError: the first slice that cannot be used; with `skip_faulty` its `problem` is noted instead.
    """
    root = str(data_root) + os.sep
    columns = ["src_path", *(f"{array}_path" for array in table.arrays[1:])]
    rows = []
    for paths in zip(*(table.frame[column] for column in columns), strict=True):
        problem = None
        shape = (0, 0)
        found = [""] * len(columns)
        try:
            for place, (array, path) in enumerate(zip(table.arrays, paths, strict=True)):
                header = slice_header(root + path, path, integers_allowed=array != "image")
                if place == 0:
                    shape = (header.shape[0], header.shape[1])
                elif header.shape != shape:
                    raise NpyError(
                        f"{path} has shape {header.shape[0]}x{header.shape[1]}, its image {paths[0]} has "
                        f"{shape[0]}x{shape[1]}; arrays of a slice are cut at the same windows"
                    )
                # As numpy.dtype takes them: float32, and `>f4` for an image in big-endian order, converted as well.
                swapped = place == 0 and header.dtype.str.startswith(">")
                found[place] = header.dtype.str if swapped else header.dtype.name
        except NpyError as error:
            if not skip_faulty:
                raise
            problem, shape = error.message, (0, 0)
        rows.append((*shape, found[0], problem, *found[1:]))
    schema = {"height": pl.Int32, "width": pl.Int32, "src_dtype": pl.String, "problem": pl.String}
    schema |= {f"{array}_dtype": pl.String for array in table.arrays[1:]}
    return table.frame.hstack(pl.DataFrame(rows, schema, orient="row"))
