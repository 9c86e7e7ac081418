"""What the masks of a set hold, slice by slice, from its slice manifest."""

import polars as pl

from ctpatch.core.label_counts import read_labels
from ctpatch.errors import ConfigError, FormatError
from ctpatch.format.columns import labels_column
from ctpatch.format.meta import PatchMeta
from ctpatch.format.tables import SLICE_MANIFEST

_SCHEMA = {"slice_index": pl.Int64, "label": pl.Int64, "pixels": pl.Int64}


def label_frame(slices: pl.DataFrame, meta: PatchMeta, array: str) -> pl.DataFrame:
    """A row for each slice and each label in it; see `PatchSet.label_counts`."""
    if array not in (meta.label_counts or {}):
        masks = [name for name, info in meta.arrays.items() if info.labels]
        if array in masks:
            raise ConfigError(
                f"label_counts: the set has no counts of {array!r}, since ctpatch {meta.ctpatch_version} built it or "
                "the set it was converted from; build it again (--overwrite)"
            )
        raise ConfigError(
            f"label_counts: {array!r} is no array of labels; the set has {', '.join(masks) or 'no such array'}"
        )
    rows: list[tuple[int, int, int]] = []
    for at, (index, text) in enumerate(slices.select("slice_index", labels_column(array)).iter_rows()):
        try:
            rows.extend((index, *each) for each in read_labels(text or "").items())
        except ValueError as error:
            raise FormatError(
                f"{SLICE_MANIFEST} row {at + 2}, column {labels_column(array)}: {error}; run ctpatch verify"
            ) from None
    return pl.DataFrame(rows, _SCHEMA, orient="row")
