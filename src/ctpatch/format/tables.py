"""The three tables of a patch set: writing a part's rows, reading them back strictly, by the names of columns.

`patch_manifest.csv` has a row for each kept patch, `rejected_patches.csv` for each dropped window,
`slice_manifest.csv` for each source slice. `docs/format-1.md` describes every column.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ctpatch.config import MAX_PIXELS_PER_AXIS
from ctpatch.core.statistics.columns import STATISTICS
from ctpatch.errors import FormatError
from ctpatch.files.forks import require_polars
from ctpatch.format.columns import (
    NEVER,
    Column,
    digest_column,
    patch_columns,
    rejected_columns,
    slice_columns,
)
from ctpatch.format.meta import read_ours

PATCH_MANIFEST = "patch_manifest.csv"
SLICE_MANIFEST = "slice_manifest.csv"
REJECTED_PATCHES = "rejected_patches.csv"
TABLES = (PATCH_MANIFEST, SLICE_MANIFEST, REJECTED_PATCHES)

STATUS_OK = "ok"
STATUS_SKIPPED = "skipped"

Schema = dict[str, type[pl.DataType]]


def columns_of(
    table: str, arrays: Sequence[str], of_slices: Sequence[Column] = (), named: Sequence[str] = ()
) -> list[Column]:
    """Columns of one of the three tables, in order, for a set of these arrays.

    `of_slices` are further ones of the slice manifest: what masks hold, and what was kept of the source manifest.
    `named` are the statistics of windows that a set has only where it names them.
    """
    if table == SLICE_MANIFEST:
        return [*slice_columns(arrays), *of_slices]
    return (patch_columns if table == PATCH_MANIFEST else rejected_columns)(arrays, named)


def schema_of(table: str, arrays: Sequence[str], of_slices: Sequence[Column] = (), named: Sequence[str] = ()) -> Schema:
    """The same as names and dtypes."""
    return {column.name: column.dtype for column in columns_of(table, arrays, of_slices, named)}


def header_line(schema: Schema) -> bytes:
    """First line of a table."""
    return (",".join(schema) + "\n").encode()


def rows_to_csv(frame: pl.DataFrame) -> bytes:
    """Rows as CSV without a header; floats are written so that they read back to the same value."""
    stream = io.BytesIO()
    frame.write_csv(stream, include_header=False, line_terminator="\n")
    return stream.getvalue()


def read_table(path: Path, schema: Schema, *, has_header: bool = True) -> pl.DataFrame:
    """Read one of the tables, or a part's piece of one.

    Args:
        path: the file.
        schema: the columns wanted, in the order wanted. The table may have them in another order, and others beside
            them, which are left out; statistics that were added later may be missing.
        has_header: False for a piece, which has just these columns in this order.

    Raises:
        FormatError: the file or a column is missing, or a cell does not fit its column.
        UsageError: the process was forked from one that had used polars.
    """
    require_polars(path.name)
    try:
        content = read_ours(path)
    except FileNotFoundError:
        raise FormatError(f"{path.name} is missing from the patch set; build it again") from None
    return parse_table(content, schema, path.name, has_header=has_header)


def parse_table(content: bytes, schema: Schema, name: str, *, has_header: bool = True) -> pl.DataFrame:
    """Read a table from its bytes; see `read_table`."""
    seen = schema
    if has_header:
        expected = header_line(schema)
        if not content.startswith(expected):
            seen, expected = _seen_columns(content, schema, name)
        content = content[len(expected) :]
    wanted = [column for column in schema if column in seen]
    if not content:
        return pl.DataFrame(schema={column: schema[column] for column in wanted})
    if not content.endswith(b"\n"):
        raise FormatError(f"{name} is cut short: its last row does not end; build the set again")
    try:
        frame = pl.read_csv(io.BytesIO(content), has_header=False, schema=seen)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise FormatError(f"{name} has a row that does not fit its columns ({reason}); is it damaged?") from None
    return frame if seen is schema else frame.select(wanted)


def refuse_nonsense(slices: pl.DataFrame, arrays: Sequence[str]) -> pl.DataFrame:
    """The rows of a slice manifest, if those who use the set can rely on each: sizes, digests, each slice once.

    Whether the rows are true is what `verify` finds out.

    Raises:
        FormatError: a cell is empty that never is, a number is negative, a slice is on record twice or is larger than
            slices are; names row and column.
    """
    cut = slices["status"] == STATUS_OK
    wrong = {
        each.name: (slices[each.name].is_null(), "wanted a value")
        for each in slice_columns(arrays)
        if each.empty == NEVER and slices[each.name].has_nulls()
    }
    for side in ("height", "width"):
        inside = slices[side].is_between(cut.cast(slices[side].dtype), MAX_PIXELS_PER_AXIS)
        wrong.setdefault(side, (~inside, f"wanted 1 to {MAX_PIXELS_PER_AXIS} pixels, or 0 where it was left out"))
    for name in ("slice_index", "num_windows", "num_patches"):
        wrong.setdefault(name, (slices[name] < 0, "wanted 0 or more"))
    known = slices["status"].is_in([STATUS_OK, STATUS_SKIPPED])
    wrong.setdefault("status", (~known, f"wanted {STATUS_OK} or {STATUS_SKIPPED}"))
    wrong["reason"] = (~cut & slices["reason"].is_null(), "wanted why the slice was left out")
    for name in map(digest_column, arrays):
        wrong[name] = (cut & slices[name].is_null(), "wanted the digest of a slice that was cut")
    for name, (rows, wanted) in (
        *wrong.items(),
        ("slice_index", (slices["slice_index"].is_duplicated(), "wanted once")),
    ):
        if rows.any():
            at = int(rows.arg_true()[0])
            seen = "the cell is empty" if slices[name][at] is None else repr(slices[name][at])
            raise FormatError(
                f"{SLICE_MANIFEST} row {at + 2}, column {name}: {seen}, {wanted}; run ctpatch verify, or build the set "
                "again"
            )
    return slices


def _seen_columns(content: bytes, schema: Schema, name: str) -> tuple[Schema, bytes]:
    """The columns that a table has, in its order, and its first line; refuses one that lacks some or has some twice."""
    line, end, _ = content.partition(b"\n")
    text = line.decode("utf-8", "replace")
    try:
        cells = next(csv.reader([text]), [])
    except csv.Error:
        cells = []
    later = {each.name for each in STATISTICS.values() if each.since is not None}
    missing = [column for column in schema if column not in cells and column not in later]
    twice = [column for column in schema if cells.count(column) > 1]
    if missing or twice or not end or line.endswith(b"\r"):
        wanted = header_line(schema).decode().strip()
        fault = f"; it lacks {missing[0]!r}" if missing else f"; {twice[0]!r} is there twice" if twice else ""
        raise FormatError(f"{name} has the columns {text[:300]!r}, wanted {wanted!r}{fault}; is it damaged?")
    # A name that nobody can ask for keeps unknown columns apart.
    seen = {cell if cell in schema else f"\n{at}": schema.get(cell, pl.String) for at, cell in enumerate(cells)}
    return seen, line + end


def patch_ids(split: str, slice_index: pl.Expr, row: pl.Expr, col: pl.Expr) -> pl.Expr:
    """`{split}_{slice_index:06d}_{row:03d}_{col:03d}` for each row."""
    return pl.concat_str(
        [
            pl.lit(split),
            slice_index.cast(pl.String).str.zfill(6),
            row.cast(pl.String).str.zfill(3),
            col.cast(pl.String).str.zfill(3),
        ],
        separator="_",
    )


def patch_id(split: str, slice_index: int, row: int, col: int) -> str:
    """The id of one patch; numbers too large for their width take more digits."""
    return slice_id(split, slice_index) + window_id(row, col)


def slice_id(split: str, slice_index: int) -> str:
    """How the ids of a slice's patches begin."""
    return f"{split}_{slice_index:06d}"


def window_id(row: int, col: int) -> str:
    """How the ids of a window's patches end."""
    return f"_{row:03d}_{col:03d}"
