"""The value of a column for each patch: of the patch's own row, or of its slice, as numbers or as codes of texts."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.rules import Further
from ctpatch.errors import ConfigError
from ctpatch.format.carried import Kind
from ctpatch.format.columns import FLOAT64, rule_values
from ctpatch.loading.options import SamplerOptions

PATIENT = "patient_id"
"""The column that each set has of its source manifest, whatever else it keeps; a text."""


def slice_kinds(carried: Mapping[str, Kind]) -> dict[str, Kind]:
    """The columns that a set has of its slices' source manifest, with their types."""
    return {PATIENT: "text", **carried}


def with_slice_columns(
    manifest: pl.DataFrame,
    slices: Callable[[], pl.DataFrame],
    kinds: Mapping[str, Kind],
    options: SamplerOptions,
    columns: Sequence[str] = (),
) -> tuple[pl.DataFrame, dict[str, Kind]]:
    """The manifest with those columns of its slices that options name, and the types of these columns.

    Args:
        manifest: a row for each patch.
        slices: gives the slice manifest; it is only read where a column is named.
        kinds: the columns that can be named, see `slice_kinds`.
        options: `subset` and `weight` name columns in SQL, in any letter case, `balance` as it is.
        columns: further names.
    """
    words, named = named_in(options), {*columns, options.balance}
    found = {name: kind for name, kind in kinds.items() if name in named or name.lower() in words}
    if not found:
        return manifest, found
    mine = slices().select("slice_index", *found)
    return manifest.join(mine, on="slice_index", how="left", maintain_order="left"), found


def named_in(options: SamplerOptions) -> set[str]:
    """The words of the conditions and weights of options, in small letters: columns that they name are among them."""
    return {each.lower() for each in re.findall(r"\w+", f"{options.subset} {options.weight} {options.balance}")}


def texts_of(slices: pl.DataFrame, name: str) -> list[str]:
    """The texts of a column of slices, each once, sorted; a text's code is its place in the list."""
    texts: list[str] = slices[name].drop_nulls().unique().sort().to_list()
    return texts


def column_values(manifest: pl.DataFrame, name: str, codes: Mapping[str, Sequence[str]]) -> NDArray[Any]:
    """A column for each row, `(N,)`: numbers as they are, texts as int64 codes, -1 where there is none.

    A column of whole numbers with empty cells is float64, with NaN there.

    Raises:
        ConfigError: there is no such column.
    """
    if name in codes:
        known = pl.Enum(codes[name])
        coded = manifest[name].cast(known).to_physical().cast(pl.Int64).fill_null(-1)
        return np.asarray(coded.to_numpy(), np.int64)
    numeric = [column for column, kind in manifest.schema.items() if kind.is_numeric()]
    if name not in numeric:
        raise ConfigError(
            f"columns: there is no numeric column {name!r} in the manifest; it has {', '.join(numeric)}; "
            f"of slices there are {PATIENT} and the columns that the set keeps (--keep-columns)"
        )
    values: NDArray[Any] = manifest[name].to_numpy()
    return values


def row_values(manifest: pl.DataFrame, kinds: Mapping[str, Kind]) -> dict[str, NDArray[Any]]:
    """What SQL sees of each row, each `(N,)`: numbers as float64, NaN where there is none, and texts; small names."""
    found: dict[str, NDArray[Any]] = dict(rule_values(manifest))
    for name, kind in kinds.items():
        if name not in manifest.columns:  # no condition names it
            continue
        column = manifest[name] if kind == "text" else manifest[name].cast(FLOAT64).fill_null(float("nan"))
        found[name.lower()] = column.to_numpy()
    return found


def further_names(kinds: Mapping[str, Kind]) -> Further:
    """The names of these columns, for SQL."""
    texts = tuple(name.lower() for name, kind in kinds.items() if kind == "text")
    return Further(tuple(name.lower() for name, kind in kinds.items() if kind != "text"), texts)
