"""The three tables of a patch set: their columns, writing a part's rows, reading them back strictly.

`patch_manifest.csv` has a row for each kept patch, `rejected_patches.csv` for each dropped window,
`slice_manifest.csv` for each source slice. `docs/format-1.md` describes every column.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ctpatch.errors import FormatError
from ctpatch.files.atomic import read_regular

PATCH_MANIFEST = "patch_manifest.csv"
SLICE_MANIFEST = "slice_manifest.csv"
REJECTED_PATCHES = "rejected_patches.csv"
TABLES = (PATCH_MANIFEST, SLICE_MANIFEST, REJECTED_PATCHES)

STATUS_OK = "ok"
STATUS_SKIPPED = "skipped"

_PATCH_COLUMNS: dict[str, type[pl.DataType]] = {
    "patch_id": pl.String,
    "slice_index": pl.Int64,
    "src_path": pl.String,
    "row": pl.Int32,
    "col": pl.Int32,
    "patch_path": pl.String,
    "min": pl.Float64,
    "max": pl.Float64,
    "mean": pl.Float64,
    "std": pl.Float64,
    "dtype": pl.String,
    "air_fraction": pl.Float64,
    "patch_index": pl.Int64,
    "digest": pl.String,
}
_SLICE_COLUMNS: dict[str, type[pl.DataType]] = {
    "slice_index": pl.Int64,
    "src_path": pl.String,
    "height": pl.Int32,
    "width": pl.Int32,
    "src_dtype": pl.String,
    "min": pl.Float64,
    "max": pl.Float64,
    "digest": pl.String,
    "num_windows": pl.Int64,
    "num_patches": pl.Int64,
    "status": pl.String,
    "reason": pl.String,
    "patient_id": pl.String,
}

Schema = dict[str, type[pl.DataType]]


def further_arrays(arrays: Sequence[str]) -> list[str]:
    """The arrays beside `image`, in their order."""
    return [name for name in arrays if name != "image"]


def patch_schema(arrays: Sequence[str]) -> Schema:
    """Columns of `patch_manifest.csv`, in order, for a set of these arrays."""
    more = further_arrays(arrays)
    return (
        _PATCH_COLUMNS
        | {f"{name}_patch_path": pl.String for name in more}
        | {f"{name}_digest": pl.String for name in more}
    )


def rejected_schema(arrays: Sequence[str]) -> Schema:
    """Columns of `rejected_patches.csv`: those of the manifest, then the rule that dropped the window."""
    return patch_schema(arrays) | {"rule": pl.String}


def slice_schema(arrays: Sequence[str]) -> Schema:
    """Columns of `slice_manifest.csv`, in order, for a set of these arrays."""
    more = further_arrays(arrays)
    return (
        _SLICE_COLUMNS | {f"{name}_path": pl.String for name in more} | {f"{name}_digest": pl.String for name in more}
    )


def schema_of(table: str, arrays: Sequence[str]) -> Schema:
    """Columns of one of the three tables."""
    return {PATCH_MANIFEST: patch_schema, REJECTED_PATCHES: rejected_schema, SLICE_MANIFEST: slice_schema}[table](
        arrays
    )


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

    Raises:
        FormatError: the file is missing, its columns are others, or a cell does not fit its column.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError:
        raise FormatError(f"{path.name} is missing from the patch set; build it again") from None
    except OSError as error:
        raise FormatError(f"{path.name} cannot be read: {error.strerror}") from None
    return parse_table(content, schema, path.name, has_header=has_header)


def parse_table(content: bytes, schema: Schema, name: str, *, has_header: bool = True) -> pl.DataFrame:
    """Read a table from its bytes; see `read_table`."""
    if has_header:
        wanted = header_line(schema)
        if not content.startswith(wanted):
            seen = content.split(b"\n", 1)[0][:300].decode("utf-8", "replace")
            raise FormatError(f"{name} has the columns {seen!r}, wanted {wanted.decode().strip()!r}; is it damaged?")
        content = content[len(wanted) :]
    if not content:
        return pl.DataFrame(schema=schema)
    if not content.endswith(b"\n"):
        raise FormatError(f"{name} is cut short: its last row does not end; build the set again")
    try:
        return pl.read_csv(io.BytesIO(content), has_header=False, schema=schema)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise FormatError(f"{name} has a row that does not fit its columns ({reason}); is it damaged?") from None


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
    return f"{split}_{slice_index:06d}_{row:03d}_{col:03d}"
