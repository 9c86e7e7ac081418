"""Which columns of a source manifest a set can keep, their types, and the round trip of their cells through CSV."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.errors import ConfigError, SourceManifestError
from ctpatch.format.carried import (
    DTYPES,
    Kind,
    asked_columns,
    carried_columns,
    carried_digest,
    further_columns,
    kept_columns,
    typed_columns,
)
from ctpatch.format.tables import header_line, parse_table, rows_to_csv

TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)


def typed(cells: list[str | None], kind: Kind | None = None) -> tuple[Kind, list[Any]]:
    frame, kinds = typed_columns(pl.DataFrame({"c": cells}, {"c": pl.String}), {"c": kind}, "m.csv")
    return kinds["c"], frame["c"].to_list()


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-20", "0"], "int64", [1, -20, 0]),
        (["1", None, "3"], "int64", [1, None, 3]),
        (["1", "nan", "N/A"], "int64", [1, None, None]),
        (["9223372036854775807"], "int64", [2**63 - 1]),
        (["9223372036854775808"], "text", ["9223372036854775808"]),
        (["1", "2.5"], "float64", [1.0, 2.5]),
        (["1e3", "-0.0"], "float64", [1000.0, 0.0]),
        (["-157.5", None], "float64", [-157.5, None]),
        (["1e999"], "text", ["1e999"]),
        (["0.12345678901234567890"], "text", ["0.12345678901234567890"]),
        (["007", "008"], "text", ["007", "008"]),
        (["1", "A"], "text", ["1", "A"]),
        (["none", "1"], "text", ["none", "1"]),
        (["1,5"], "text", ["1,5"]),
        (["+5"], "text", ["+5"]),
        (["0x10"], "text", ["0x10"]),
        (["1.2.840.1"], "text", ["1.2.840.1"]),
        (["True", "False"], "text", ["True", "False"]),
        ([None, None], "text", [None, None]),
    ],
)
def test_the_cells_decide_the_type(cells: list[str | None], kind: str, values: list[Any]) -> None:
    assert typed(cells) == (kind, values)


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "2"], "text", ["1", "2"]),
        (["1", "2"], "float64", [1.0, 2.0]),
        (["1.0", "2"], "int64", [1, 2]),
        (["0012e45"], "text", ["0012e45"]),
        (["nan", "5"], "float64", [None, 5.0]),
    ],
)
def test_a_type_that_is_given_holds(cells: list[str | None], kind: Kind, values: list[Any]) -> None:
    assert typed(cells, kind) == (kind, values)


@pytest.mark.parametrize(
    ("cells", "kind", "words"),
    [
        (["1", "x"], "int64", "m.csv row 3, column c: 'x' is no number of the type int64"),
        (["1.5"], "int64", "row 2, column c: '1.5' is no number"),
        (["1e999"], "float64", "'1e999' is no number of the type float64"),
        (["a", "/home/me/a.dcm"], None, "row 3, column c: '/home/me/a.dcm' is an absolute path"),
        (["C:\\data\\a"], None, "is an absolute path"),
        (["\\\\server\\a"], "text", "is an absolute path"),
        (["file:///a"], None, "is an absolute path"),
        (["a\x00b"], None, "holds a control character"),
        (["a\nb"], "text", "holds a control character"),
        (["a" * 1001], None, "has more than 1000 characters"),
    ],
)
def test_cells_that_no_set_keeps_are_refused(cells: list[str | None], kind: Kind | None, words: str) -> None:
    with pytest.raises(SourceManifestError) as caught:
        typed(cells, kind)
    assert words in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(
    whole=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3),
    numbers=st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    texts=st.lists(st.none() | TEXTS, min_size=3, max_size=3),
)
def test_values_of_each_type_come_back_from_a_table(
    whole: list[int | None], numbers: list[float | None], texts: list[str | None]
) -> None:
    kinds: dict[str, Kind] = {"whole": "int64", "number": "float64", "words": "text"}
    columns = {"whole": whole, "number": numbers, "words": texts}
    schema = {name: DTYPES[kind] for name, kind in kinds.items()}
    frame = pl.DataFrame(columns, schema)
    content = header_line(schema) + rows_to_csv(frame)
    assert parse_table(content, schema, "t.csv").to_dict(as_series=False) == columns
    # As a source manifest's cells, too, the numbers are what they were.
    said = {
        "whole": [None if number is None else str(number) for number in whole],
        "number": [None if number is None else repr(number) for number in numbers],
    }
    cells = pl.DataFrame(said, {"whole": pl.String, "number": pl.String})
    again, _ = typed_columns(cells, {"whole": "int64", "number": "float64"}, "m.csv")
    assert again.to_dict(as_series=False) == {"whole": whole, "number": numbers}
    free, found = typed_columns(cells, {"whole": None, "number": None}, "m.csv")
    if any(n is not None for n in whole):
        assert found["whole"] == "int64"
        assert free["whole"].to_list() == whole


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.none() | st.integers(-5, 5), st.none() | TEXTS), min_size=1, max_size=4))
def test_the_digest_tells_cells_apart(rows: list[tuple[int | None, str | None]]) -> None:
    kinds: dict[str, Kind] = {"n": "int64", "t": "text"}
    frame = pl.DataFrame(rows, {"n": pl.Int64, "t": pl.String}, orient="row")
    digest = carried_digest(frame, kinds)
    assert digest == carried_digest(frame.with_columns(other=1), kinds)
    changed = frame.with_columns(n=pl.col("n").fill_null(0) + 1)
    assert digest != carried_digest(changed, kinds)


def test_what_a_user_names() -> None:
    assert kept_columns(None) is None
    assert kept_columns("none") == kept_columns([]) == kept_columns(["none"]) == {}
    assert kept_columns(" series , dose:float64") == {"series": None, "dose": "float64"}
    assert kept_columns(["a", "b:text"]) == {"a": None, "b": "text"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "'' cannot be kept"),
        ("a b", "'a b' cannot be kept"),
        ("a,none", "'none' cannot be kept"),
        ("1a", "'1a' cannot be kept"),
        ("größe", "cannot be kept"),
        ("a:number", "the type of 'a' is 'number', wanted int64, float64 or text"),
        ("a,A", "'A' comes twice"),
        ([1], "wanted names of columns"),
        (5, "wanted names of columns"),
    ],
)
def test_what_cannot_be_named(given: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kept_columns(given)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        *("index", "path", "min", "Max", "patient_id", "target_path", "dicom_path", "row", "std", "slice_index"),
        *("digest", "status", "target", "mask_labels", "mask_pixels", "image", "at", "rule", "problem", "patch_index"),
    ],
)
def test_names_that_ctpatch_uses_itself_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be kept: ctpatch uses this name itself"):
        asked_columns([name, "series"], {name: None}, ("image", "target", "mask"), "m.csv")


def test_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"m\.csv has no column 'dose'; it has path, series"):
        asked_columns(["path", "series"], {"dose": None}, ("image",), "m.csv")


def test_what_prepare_writes_has_one_type_whatever_its_cells_are() -> None:
    names = ["series", "group", "source_digest", "mask_source_digest", "position_mm", "spacing_row_mm", "dose"]
    found = asked_columns(names, dict.fromkeys(names), ("image", "mask"), "m.csv")
    assert list(found.values()) == ["text", "text", "text", "text", "float64", "float64", None]


def test_all_further_columns_but_ours_and_those_that_cannot_be_kept() -> None:
    raw = pl.DataFrame(
        {
            "index": ["0"], "path": ["a.npy"], "min": ["0"], "max": ["1"], "patient_id": ["p"], "mask_path": ["m.npy"],
            "series": ["s"], "my label": ["x"], "std": ["3"], "where": ["/home/me"], "dose": ["3"], "DOSE": ["4"],
            "dicom_path": ["b.dcm"],
        }
    )  # fmt: skip
    found, notes = further_columns(raw, ("image", "mask"), ["path", "mask_path"], "m.csv")
    assert found == {"series": "text", "dose": None}
    told = ["'my label': a name has", "'std': the set has", "'where': it holds absolute", "'DOSE': the set has"]
    assert [words in note for words, note in zip(told, notes, strict=True)] == [True] * 4


def test_columns_are_described_as_the_others_are() -> None:
    (column,) = carried_columns({"dose": "float64"})
    assert (column.name, column.dtype, column.empty) == ("dose", pl.Float64, "blank there")
