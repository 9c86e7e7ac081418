"""The columns of the three tables, from one list: their order, types, units and meanings.

The statistics among them come from `ctpatch.core.statistics.columns`. `docs/format-1.md` holds the same lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.statistics.columns import PLACE_COLUMNS, STATISTICS

TEXT, INT32, INT64, FLOAT64 = pl.String, pl.Int32, pl.Int64, pl.Float64
NEVER = "never"
_PACKED = "layouts `slices`, `index`"
_LEFT_OUT = "slice left out"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its name in the first line, what its cells are read as and say, and the unit of numbers.

    `empty` says when a cell is empty. One that is not required was added later: not each set of this format has it.
    """

    name: str
    dtype: type[pl.DataType]
    meaning: str
    unit: str = ""
    empty: str = NEVER
    required: bool = True


def path_column(array: str) -> str:
    """The column of a patch's file."""
    return "patch_path" if array == "image" else f"{array}_patch_path"


def digest_column(array: str) -> str:
    """The column of an array's digest, of patches and of slices."""
    return "digest" if array == "image" else f"{array}_digest"


def source_column(array: str) -> str:
    """The column of a slice's file."""
    return "src_path" if array == "image" else f"{array}_path"


def further_arrays(arrays: Sequence[str]) -> list[str]:
    """The arrays beside `image`, in their order."""
    return [name for name in arrays if name != "image"]


def patch_columns(arrays: Sequence[str], named: Sequence[str] = ()) -> list[Column]:
    """Columns of `patch_manifest.csv`, in order, for a set of these arrays.

    Of the statistics that a set has only where it names them, it has those `named`.
    """
    more = further_arrays(arrays)
    there = [each for each in STATISTICS.values() if not each.opt_in or each.name in named]
    statistics = [Column(s.name, FLOAT64, s.meaning, s.unit, required=s.since is None) for s in there]
    first = [each for each in statistics if each.required]
    return [
        Column("patch_id", TEXT, "see below; unique"),
        Column("slice_index", INT64, "number of the source slice"),
        Column("src_path", TEXT, "source slice of `image`"),
        Column("row", INT32, "first row of the window", "pixels"),
        Column("col", INT32, "first column of the window", "pixels"),
        Column("patch_path", TEXT, "file of the patch"),
        # The place of `dtype` is that of the first sets, which readers by position know.
        *first[:4],
        Column("dtype", TEXT, "dtype of the patch of `image`: `float32`"),
        *first[4:],
        Column("patch_index", INT64, "item in the file, from 0", empty="layouts `files`, `index`"),
        Column("digest", TEXT, "digest of the patch", empty=_PACKED),
        *(each for each in statistics if not each.required),
        *(
            Column(path_column(array), TEXT, "file of the array's patch; its item is `patch_index` too")
            for array in more
        ),
        *(Column(digest_column(array), TEXT, "digest of the array's patch", empty=_PACKED) for array in more),
    ]


def rejected_columns(arrays: Sequence[str], named: Sequence[str] = ()) -> list[Column]:
    """Columns of `rejected_patches.csv`: those of the manifest, and the rule; a dropped window has no address."""
    addresses = {"patch_index", *map(path_column, arrays), *map(digest_column, arrays)}
    first, *others = patch_columns(arrays, named)
    return [
        replace(first, meaning="the id the patch would have; not in `patch_manifest.csv`"),
        *(replace(each, meaning="", empty="always") if each.name in addresses else each for each in others),
        Column("rule", TEXT, "name of the first rule that holds"),
    ]


def slice_columns(arrays: Sequence[str]) -> list[Column]:
    """Columns of `slice_manifest.csv`, in order, for a set of these arrays."""
    more = further_arrays(arrays)
    index = "`index` of the source manifest, else the row's number from 0; unique, 0 or more"
    dtype = "dtype of the file of `image`: NumPy name (`float32`), or code where it is big-endian (`>f4`)"
    return [
        Column("slice_index", INT64, index),
        Column("src_path", TEXT, "source slice of `image`"),
        Column("height", INT32, "rows; 0 where the slice was left out because of its header", "pixels"),
        Column("width", INT32, "columns; likewise", "pixels"),
        Column("src_dtype", TEXT, f'{dtype}; `""` where unknown'),
        Column("min", FLOAT64, "smallest pixel of `image`", "slice's", _LEFT_OUT),
        Column("max", FLOAT64, "largest pixel of `image`", "slice's", _LEFT_OUT),
        Column("digest", TEXT, "digest of the slice of `image`", empty=_LEFT_OUT),
        Column("num_windows", INT64, "windows of its grid; 0 where it was left out"),
        Column("num_patches", INT64, "windows that were kept"),
        Column("status", TEXT, "`ok`, or `skipped` for a slice that was left out"),
        Column("reason", TEXT, "why it was left out", empty="status `ok`"),
        Column("patient_id", TEXT, "as in the source manifest", empty="none was given"),
        *(Column(source_column(array), TEXT, "source slice of the array") for array in more),
        *(Column(digest_column(array), TEXT, "digest of the array's slice", empty=_LEFT_OUT) for array in more),
    ]


def pixels_column(array: str) -> str:
    """The column of a mask's labelled pixels."""
    return f"{array}_pixels"


def labels_column(array: str) -> str:
    """The column of a mask's labels and how many pixels have each."""
    return f"{array}_labels"


def label_columns(masks: Sequence[str]) -> list[Column]:
    """Columns of `slice_manifest.csv` behind those of the arrays: what each mask holds."""
    return [
        column
        for mask in masks
        for column in (
            Column(pixels_column(mask), INT64, "pixels of the mask above 0", "pixels", _LEFT_OUT),
            Column(
                labels_column(mask),
                TEXT,
                '`label:pixels` of each label but 0, ascending, joined by `;`; `""` for none',
                "pixels",
                "slice left out, more than 32 labels, or a pixel that is no whole number",
            ),
        )
    ]


def recorded_statistics(windows: pl.DataFrame) -> list[str]:
    """The statistics that a table of windows has; a set from before one was added lacks it."""
    later = {name for name, each in STATISTICS.items() if each.since is not None}
    columns = set(windows.columns)
    return [name for name in STATISTICS if name not in later or (name in columns and not windows[name].has_nulls())]


def rule_values(windows: pl.DataFrame) -> dict[str, NDArray[np.float64]]:
    """What rules see of a table of windows, each `(N,)`."""
    names = (*PLACE_COLUMNS, *recorded_statistics(windows))
    return {name: windows[name].cast(FLOAT64).to_numpy() for name in names if name in windows.columns}
