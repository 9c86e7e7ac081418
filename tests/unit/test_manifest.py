"""The tables: what is written reads back to the same value, and what is damaged is refused."""

import csv
import io
import math
import struct
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.errors import FormatError
from ctpatch.format.columns import digest_column, further_arrays, path_column, source_column
from ctpatch.format.tables import (
    PATCH_MANIFEST,
    REJECTED_PATCHES,
    SLICE_MANIFEST,
    Schema,
    header_line,
    parse_table,
    patch_id,
    patch_ids,
    read_table,
    rows_to_csv,
    schema_of,
)
from helpers import refusal

SCHEMA: Schema = {"name": pl.String, "count": pl.Int64, "place": pl.Int32, "value": pl.Float64}

FIRST_COLUMNS = "patch_id,slice_index,src_path,row,col,patch_path,min,max,mean,std,dtype"


def test_the_columns_and_their_order_are_those_of_the_format() -> None:
    base = f"{FIRST_COLUMNS},air_fraction,patch_index,digest"
    assert ",".join(schema_of(PATCH_MANIFEST, ["image"])) == base
    assert ",".join(schema_of(REJECTED_PATCHES, ["image"])) == f"{base},rule"
    more = ["image", "target", "mask"]
    added = "target_patch_path,mask_patch_path,target_digest,mask_digest"
    assert ",".join(schema_of(PATCH_MANIFEST, more)) == f"{base},{added}"
    assert ",".join(schema_of(REJECTED_PATCHES, more)) == f"{base},{added},rule"
    slices = (
        "slice_index,src_path,height,width,src_dtype,min,max,digest,num_windows,num_patches,status,reason,patient_id"
    )
    assert ",".join(schema_of(SLICE_MANIFEST, ["image"])) == slices
    assert ",".join(schema_of(SLICE_MANIFEST, more)) == f"{slices},target_path,mask_path,target_digest,mask_digest"
    assert further_arrays(more) == ["target", "mask"]
    assert header_line(schema_of(PATCH_MANIFEST, ["image"])) == base.encode() + b"\n"


def test_numbers_have_the_type_a_reader_needs() -> None:
    schema = schema_of(PATCH_MANIFEST, ["image"])
    assert {name for name, kind in schema.items() if kind == pl.Float64} == {
        "min", "max", "mean", "std", "air_fraction"
    }  # fmt: skip
    assert {name for name, kind in schema.items() if kind.is_integer()} == {
        "slice_index", "row", "col", "patch_index"
    }  # fmt: skip


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("<d", value)


texts = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12))
rows = st.tuples(
    texts,
    st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
    st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(rows, min_size=1, max_size=6))
def test_what_is_written_reads_back_to_the_same_value(
    table: list[tuple[str | None, int | None, int | None, float | None]],
) -> None:
    frame = pl.DataFrame(table, schema=SCHEMA, orient="row")
    content = rows_to_csv(frame)
    assert content.endswith(b"\n")
    found = parse_table(content, SCHEMA, "x.csv", has_header=False)
    assert found.schema == pl.Schema(SCHEMA)
    assert found.drop("value").rows() == frame.drop("value").rows()
    assert [bits(value) for value in found["value"]] == [bits(row[3]) for row in table]  # -0.0 is not 0.0
    with_header = parse_table(header_line(SCHEMA) + content, SCHEMA, "x.csv")
    assert with_header.equals(found)


def test_another_reader_sees_the_same_cells() -> None:
    frame = pl.DataFrame(
        {"name": ['a,"b"', "two\nlines"], "count": [1, -1], "place": [2, None], "value": [0.1, 1e-300]}, schema=SCHEMA
    )
    cells = list(csv.reader(io.StringIO(rows_to_csv(frame).decode(), newline="")))
    assert [row[:3] for row in cells] == [['a,"b"', "1", "2"], ["two\nlines", "-1", ""]]
    assert [float(row[3]) for row in cells] == [0.1, 1e-300]


def test_a_table_without_rows() -> None:
    assert rows_to_csv(pl.DataFrame(schema=SCHEMA)) == b""
    for found in (
        parse_table(b"", SCHEMA, "x.csv", has_header=False),
        parse_table(header_line(SCHEMA), SCHEMA, "x.csv"),
    ):
        assert found.height == 0
        assert found.schema == pl.Schema(SCHEMA)


HEADER = b"name,count,place,value\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ["has the columns ''", "wanted 'name,count,place,value'", "is it damaged?"]),
        (b"name,count,value\na,1,2\n", ["has the columns 'name,count,value'", "it lacks 'place'"]),
        (b"name,count,place,value,count\na,1,2,3,4\n", ["'count' is there twice"]),
        (b"more,name,count,place,value\na,b,1,half,3\n", ["does not fit its columns", "half"]),
        (b"name,count,place,value\r\na,1,2,3\r\n", ["has the columns"]),
        (b"\xff\xfe\n", ["has the columns"]),
        (b"name," + b"x" * 200_000 + b"\n", ["has the columns 'name,xxx", "it lacks 'name'"]),
        (HEADER[:-1], ["has the columns"]),
        (HEADER + b"a,1,2,0.5\nb,2,3,0.", ["is cut short: its last row does not end", "build the set again"]),
        (HEADER + b"a,1.5,2,0.5\n", ["does not fit its columns", "1.5"]),
        (HEADER + b"a,1,99999999999,0.5\n", ["does not fit its columns", "99999999999"]),
        (HEADER + b"a,1,2,half\n", ["does not fit its columns", "half"]),
        (HEADER + b"a,1,2\n", ["does not fit its columns"]),
        (HEADER + b"a,1,2,0.5,6\n", ["does not fit its columns"]),
        (HEADER + b"\xff,1,2,0.5\n", ["does not fit its columns", "utf-8"]),
        (HEADER + b'"a,1,2,0.5\n', ["does not fit its columns"]),
    ],
)
def test_damage_is_refused_by_the_tables_name(content: bytes, said: list[str]) -> None:
    message = refusal(FormatError, lambda: parse_table(content, SCHEMA, "patch_manifest.csv"))
    assert message.startswith("patch_manifest.csv ")
    for each in said:
        assert each in message


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"value,place,name,count\n0.25,2,a,1\n0.5,4,b,3\n", [("a", 1, 2, 0.25), ("b", 3, 4, 0.5)]),
        (b"name,count,place,value,more\na,1,2,0.25,nobody\n", [("a", 1, 2, 0.25)]),
        (b'"x, y",name,,count,place,\xff,,value\n"1, 2",a,,1,2,w,v,0.25\n', [("a", 1, 2, 0.25)]),
        (b"more,value,place,name,count\n", []),
    ],
)
def test_columns_are_taken_by_name_and_unknown_ones_left_out(content: bytes, rows: list[tuple[object, ...]]) -> None:
    found = parse_table(content, SCHEMA, "x.csv")
    assert found.schema == pl.Schema(SCHEMA)
    assert found.rows() == rows


def test_columns_of_arrays_are_named_in_one_way() -> None:
    names = [(path_column(each), digest_column(each), source_column(each)) for each in ("image", "mask")]
    assert names == [("patch_path", "digest", "src_path"), ("mask_patch_path", "mask_digest", "mask_path")]


def test_read_table_reads_a_file_or_says_that_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / PATCH_MANIFEST
    message = refusal(FormatError, lambda: read_table(path, SCHEMA))
    assert message == "patch_manifest.csv is missing from the patch set; build it again"
    path.write_bytes(HEADER + b"a,1,2,0.25\n")
    assert read_table(path, SCHEMA).rows() == [("a", 1, 2, 0.25)]
    path.write_bytes(b"a,1,2,0.25\n")
    assert read_table(path, SCHEMA, has_header=False).rows() == [("a", 1, 2, 0.25)]
    assert "has the columns 'a,1,2,0.25'" in refusal(FormatError, lambda: read_table(path, SCHEMA))
    folder = tmp_path / SLICE_MANIFEST
    folder.mkdir()
    assert refusal(FormatError, lambda: read_table(folder, SCHEMA)).startswith("slice_manifest.csv cannot be read: ")


@pytest.mark.parametrize(
    ("number", "row", "col", "wanted"),
    [
        (0, 0, 0, "train_000000_000_000"),
        (42, 64, 192, "train_000042_064_192"),
        (1234567, 1000, 16256, "train_1234567_1000_16256"),
    ],
)
def test_ids_of_the_notebook(number: int, row: int, col: int, wanted: str) -> None:
    assert patch_id("train", number, row, col) == wanted


def digits(number: int, width: int) -> str:
    text = str(number)
    return "0" * (width - len(text)) + text


@settings(deadline=None)
@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,9}", fullmatch=True),
    st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 16383), st.integers(0, 16383)), min_size=1, max_size=9),
)
def test_ids_of_many_rows_are_those_of_each(split: str, places: list[tuple[int, int, int]]) -> None:
    wanted = [f"{split}_{digits(n, 6)}_{digits(r, 3)}_{digits(c, 3)}" for n, r, c in places]
    frame = pl.DataFrame(places, schema={"n": pl.Int64, "row": pl.Int32, "col": pl.Int32}, orient="row")
    made = frame.select(patch_ids(split, pl.col("n"), pl.col("row"), pl.col("col"))).to_series()
    assert made.to_list() == wanted
    assert [patch_id(split, *place) for place in places] == wanted


def test_floats_are_not_rounded() -> None:
    values = [0.1 + 0.2, math.nextafter(1.0, 2.0), 5e-324, 1.7976931348623157e308, 2.0**53 + 2]
    frame = pl.DataFrame({"value": values}, schema={"value": pl.Float64})
    assert [float(line) for line in rows_to_csv(frame).decode().split()] == values
