"""Columns of a source manifest that a set keeps: which ones, of which type, and which names they cannot have.

A set's meta has their names and types, its slice manifest their cells. A later reading of the source manifest is told
both, and does not choose again.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import polars as pl

from ctpatch.config import MAX_CARRIED_CHARACTERS
from ctpatch.core.statistics.columns import STATISTICS
from ctpatch.errors import ConfigError, SourceManifestError
from ctpatch.files.digest import text_digest
from ctpatch.format.columns import FLOAT64, INT64, TEXT, Column, label_columns, rejected_columns, slice_columns
from ctpatch.format.ids import BLANKS

Kind = Literal["int64", "float64", "text"]
Wanted: TypeAlias = Mapping[str, Kind | None]
"""Columns to keep, by name; None where their cells decide the type."""

DTYPES: dict[Kind, type[pl.DataType]] = {"int64": INT64, "float64": FLOAT64, "text": TEXT}
NOTHING = "none"
"""The word for no columns at all."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NAME_RULE = "a letter or '_', then letters, digits and '_', at most 64"
_OURS = frozenset(("index", "path", "image_path", "stated_min", "stated_max", "problem", "columns", NOTHING))
_IN_TABLES = frozenset(("at", "run", "found", "low", "high", "place", "listed_path", "hit"))
"""Names that ctpatch gives to columns of its own while it works on a table."""
_FIXED: dict[str, Kind] = {
    "series": "text",
    "group": "text",
    "source_digest": "text",
    "position_mm": "float64",
    "spacing_row_mm": "float64",
    "spacing_col_mm": "float64",
}
"""What `prepare` writes has one type in every set, even where a digest looks like a number."""
_ABSOLUTE = r"^(/|\\\\|~/|[A-Za-z]:[\\/]|file:)"
_WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
_NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?$"
_NO_NUMBER = BLANKS - {NOTHING}
_MOST_DIGITS = 17
"""Significant digits of a float64; a text of more digits would lose some."""


def kept_columns(given: str | Sequence[str] | None) -> dict[str, Kind | None] | None:
    """The columns that a user named, as a list or as one text with commas; None where nothing was said.

    A name may have its type behind a colon. `none` names no column.

    Raises:
        ConfigError: a name cannot be one, comes twice, or its type is unknown.

    >>> kept_columns("series, dose:float64")
    {'series': None, 'dose': 'float64'}
    """
    if given is None:
        return None
    if not isinstance(given, str | list | tuple) or not all(isinstance(each, str) for each in given):
        raise ConfigError(f"keep_columns: {given!r}, wanted names of columns as series,position_mm, or {NOTHING}")
    texts = given.split(",") if isinstance(given, str) else list(given)
    if [each.strip() for each in texts] in ([NOTHING], []):
        return {}
    found: dict[str, Kind | None] = {}
    for text in texts:
        name, colon, kind = (part.strip() for part in text.partition(":"))
        if colon and kind not in get_args(Kind):
            raise ConfigError(f"keep_columns: the type of {name[:60]!r} is {kind[:60]!r}, wanted {_kinds()}")
        if not _NAME.fullmatch(name) or name == NOTHING:
            raise ConfigError(
                f"keep_columns: {name[:60]!r} cannot be kept: a name has {_NAME_RULE}; rename the column in the "
                "manifest"
            )
        if name.lower() in {each.lower() for each in found}:
            raise ConfigError(f"keep_columns: {name!r} comes twice (letter case does not count); name it once")
        found[name] = next((each for each in get_args(Kind) if each == kind), None)
    return found


def _kinds() -> str:
    *others, last = get_args(Kind)
    return f"{', '.join(others)} or {last}"


def taken_names(arrays: Sequence[str]) -> set[str]:
    """Names, in small letters, that no kept column can have in a set of these arrays."""
    columns = [*slice_columns(arrays), *label_columns(arrays), *rejected_columns(arrays)]
    return {each.lower() for each in (*arrays, *(column.name for column in columns), *STATISTICS, *_OURS, *_IN_TABLES)}


def asked_columns(columns: Sequence[str], wanted: Wanted, arrays: Sequence[str], name: str) -> dict[str, Kind | None]:
    """The columns of a manifest that a user named, or that are on record; `name` is what messages call the manifest.

    Raises:
        ConfigError: the manifest has no such column, or it is one that ctpatch uses itself.
    """
    taken = taken_names(arrays)
    for column in wanted:
        if column not in columns:
            raise ConfigError(f"keep_columns: {name} has no column {column!r}; it has {', '.join(columns)[:200]}")
        if column.lower() in taken or column.lower().endswith("_path"):
            raise ConfigError(
                f"keep_columns: {column!r} cannot be kept: ctpatch uses this name itself, or the column names files; "
                "rename the column, or leave it out"
            )
    return {column: kind or _fixed_kind(column) for column, kind in wanted.items()}


def further_columns(
    raw: pl.DataFrame, arrays: Sequence[str], used: Sequence[str], name: str
) -> tuple[dict[str, Kind | None], list[str]]:
    """All columns of a prepared split that can be kept, and notes on those that cannot.

    Args:
        raw: the manifest's first rows as texts.
        arrays: the set's arrays.
        used: columns that name arrays.
        name: what messages call the manifest.
    """
    taken, found, notes = taken_names(arrays), dict[str, Kind | None](), list[str]()
    for column in raw.columns:
        small = column.lower()
        if column in used or small in {"index", "path", "min", "max", "patient_id"} or small.endswith("_path"):
            continue
        why = None
        if not _NAME.fullmatch(column):
            why = f"a name has {_NAME_RULE}"
        elif small in taken or small in {each.lower() for each in found}:
            why = "the set has a column of this name already"
        elif raw[column].str.strip_chars().str.contains(_ABSOLUTE).any():
            why = "it holds absolute paths"
        if why is None:
            found[column] = _fixed_kind(column)
        else:
            notes.append(f"{name}: the set does not keep the column {column[:60]!r}: {why}")
    return found, notes


def _fixed_kind(column: str) -> Kind | None:
    return "text" if column.endswith("_source_digest") else _FIXED.get(column)


def typed_columns(frame: pl.DataFrame, wanted: Wanted, name: str) -> tuple[pl.DataFrame, dict[str, Kind]]:
    """The rows of a whole manifest with kept columns in their types, and these types.

    Cells that are blank are null. Where no type is given, a column of whole numbers is `int64`, one of numbers
    `float64`, and any other `text`. Leading zeros, and digits that a number would lose, make a text.

    Raises:
        SourceManifestError: a cell does not fit the type, or holds an absolute path or a control character; names the
            row.
    """
    kinds: dict[str, Kind] = {}
    for column, kind in wanted.items():
        texts = frame[column]
        _refuse(texts, texts.str.contains(_ABSOLUTE), "is an absolute path, which a set does not keep", name)
        _refuse(texts, texts.str.contains(r"[\x00-\x1f\x7f]"), "holds a control character", name)
        long = texts.str.len_chars() > MAX_CARRIED_CHARACTERS
        _refuse(texts, long, f"has more than {MAX_CARRIED_CHARACTERS} characters", name)
        bare = texts.set(texts.str.to_lowercase().is_in(list(_NO_NUMBER)), None)
        kinds[column] = kind or _kind_of(bare)
        if kinds[column] != "text":
            frame = frame.with_columns(_numbers(texts, bare, kinds[column], name))
    return frame, kinds


def _kind_of(bare: pl.Series) -> Kind:
    filled = bare.drop_nulls()
    if filled.is_empty():
        return "text"
    if filled.str.contains(_WHOLE).all() and filled.str.to_integer(strict=False, dtype=INT64).is_not_null().all():
        return "int64"
    digits = filled.str.replace(r"[eE].*$", "").str.replace_all(r"[-.]", "").str.strip_chars_start("0").str.len_chars()
    numbers = filled.str.contains(_NUMBER).all() and (digits <= _MOST_DIGITS).all()
    return "float64" if numbers and filled.cast(FLOAT64, strict=False).is_finite().all() else "text"


def _numbers(texts: pl.Series, bare: pl.Series, kind: Kind, name: str) -> pl.Series:
    if kind == "int64":
        numbers = bare.str.replace(r"^(-?[0-9]+)\.0+$", "$1").str.to_integer(strict=False, dtype=INT64)
    else:
        numbers = bare.cast(FLOAT64, strict=False)
        numbers = numbers.set(~numbers.is_finite(), None) + 0.0  # -0.0 and 0.0 are one number
    _refuse(texts, bare.is_not_null() & numbers.is_null(), f"is no number of the type {kind}", name)
    return numbers.alias(texts.name)


def _refuse(texts: pl.Series, wrong: pl.Series, why: str, name: str) -> None:
    for at in wrong.fill_null(value=False).arg_true()[:1]:
        raise SourceManifestError(
            f"{name} row {at + 2}, column {texts.name}: {texts[at][:60]!r} {why}; correct the cell, or name the "
            "columns to keep without this one (--keep-columns)"
        )


def carried_columns(carried: Mapping[str, Kind]) -> list[Column]:
    """The kept columns as columns of `slice_manifest.csv`, in order."""
    return [
        Column(name, DTYPES[kind], "as in the source manifest", "", "blank there") for name, kind in carried.items()
    ]


def refuse_bad_names(carried: Mapping[str, Kind], arrays: Sequence[str]) -> None:
    """Raise ConfigError where kept columns that are on record have names that no build gives them."""
    names = [name.lower() for name in carried]
    taken = taken_names(arrays)
    for name in carried:
        if not _NAME.fullmatch(name) or name.lower() in taken or names.count(name.lower()) > 1:
            raise ConfigError(f"carried: no kept column can be named {name[:60]!r}")


def carried_digest(slices: pl.DataFrame, carried: Mapping[str, Kind]) -> str:
    """Digest of the cells of kept columns, as lines of CSV in the order of the slices, without a header."""
    return text_digest(slices.select(list(carried)).write_csv(include_header=False, line_terminator="\n"))
