"""The whole slices of a patch set, as windows are chosen in them while training."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ctpatch.core.weights import WEIGHT
from ctpatch.errors import ConfigError
from ctpatch.format.columns import labels_column, source_column
from ctpatch.format.tables import STATUS_OK
from ctpatch.layouts import layout_of
from ctpatch.layouts.mapped import MappedFiles
from ctpatch.layouts.reader import ArrayAddresses, ArrayReader
from ctpatch.loading.columns import slice_kinds, with_slice_columns
from ctpatch.loading.drawing import DrawnPlaces
from ctpatch.loading.options import LoaderOptions
from ctpatch.loading.places import GridPlaces, Patches, PatchPlaces, Places
from ctpatch.loading.whole import JoinedReader, LabelCounts, SliceReader, WholeSlices
from ctpatch.reading.opened import OpenedSet
from ctpatch.reading.source import refuse_outside

if TYPE_CHECKING:
    from ctpatch.reading.patchset import PatchSet


def places_of(ps: "PatchSet[Any]", options: LoaderOptions[Any]) -> Places:
    """What a loader of a set draws from."""
    if options.windows is not None:
        return DrawnPlaces(whole_slices(ps), options.windows, options)
    kinds = slice_kinds(ps.meta.carried or {})
    manifest = _with_weights(ps, options)
    named = [*options.columns, *([] if options.group is None else [options.group])]
    patches = Patches(*with_slice_columns(manifest, lambda: ps.slices, kinds, options, named), ps.codes)
    if options.context:
        return GridPlaces(patches, whole_slices(ps), options, ps.patch_size)
    return PatchPlaces(patches, ps.reader, ps.patch_size)


def _with_weights(ps: "PatchSet[Any]", options: LoaderOptions[Any]) -> pl.DataFrame:
    """The rows of the manifest, with the weights of patches where a loader brings them."""
    if WEIGHT not in options.columns:
        return ps.manifest
    if WEIGHT in (ps.meta.carried or {}):
        raise ConfigError(
            f"columns: {WEIGHT!r} is a column that {ps.meta.dataset}/{ps.meta.split} keeps of its slices, and also how "
            "much a patch counts where patches overlap; take the latter from ps.weights, or rename the column in the "
            "source manifest and build again"
        )
    return ps.manifest.with_columns(pl.Series(WEIGHT, ps.weights))


def whole_slices(ps: "PatchSet[Any]") -> WholeSlices:
    """The slices of a set of a layout that holds whole slices, or reads them from the data root.

    Windows are drawn in the slices of which the set has a patch. The others are neighbours only; their pixels come from
    the data root.

    Raises:
        ConfigError: the layout has patches only.
    """
    if ps.layout.holds_patches:
        raise ConfigError(
            f"windows and context need whole slices, and layout {ps.meta.layout} of {ps.meta.dataset}/{ps.meta.split} "
            "holds patches only; convert the set with ctpatch convert --layout slices, or give the folder of the "
            "prepared split"
        )
    return slices_of(ps)


def slices_of(ps: "PatchSet[Any]") -> WholeSlices:
    """The slices of a set of any layout: which there are, and which are neighbours.

    Where the layout holds patches only, `reader` has no slices: `ps.slice` reads them from the data root.
    """
    table = ps.slices.filter(pl.col("status") == STATUS_OK)
    return WholeSlices(
        name=f"{ps.meta.dataset}/{ps.meta.split}",
        table=table,
        drawn=(table["num_patches"] > 0).to_numpy(),
        names=table["src_path"],
        labels=frozenset(name for name, info in ps.meta.arrays.items() if info.labels),
        config=ps.config,
        kinds=slice_kinds(ps.meta.carried or {}),
        texts=ps.codes,
        reader=_Readers(ps, table),
        known_counts=partial(_counts_on_record, ps, table),
    )


def _counts_on_record(ps: "PatchSet[Any]", table: pl.DataFrame, array: str) -> LabelCounts | None:
    """The label pixels of each slice; None where the set has none on record, or not of all slices."""
    if array not in (ps.meta.label_counts or {}) or table[labels_column(array)].has_nulls():
        return None
    numbered = table.select("slice_index").with_row_index("number")
    found = ps.label_counts(array).join(numbered, on="slice_index", how="inner", maintain_order="left")
    slices, labels, pixels = (found[name].cast(pl.Int64).to_numpy() for name in ("number", "label", "pixels"))
    return LabelCounts(slices, labels, pixels)


class _Readers:
    """A reader for each array, made when it is first asked for."""

    def __init__(self, ps: "PatchSet[Any]", table: pl.DataFrame) -> None:
        self._ps, self._table = ps, table
        self._made: dict[str, SliceReader] = {}

    def __call__(self, array: str) -> SliceReader:
        """Read this array."""
        if array not in self._made:
            self._made[array] = self._make(array)
        return self._made[array]

    def _make(self, array: str) -> SliceReader:
        table = self._table
        first = self._ps.manifest.unique("slice_index", keep="first", maintain_order=True)
        stored = self._ps.reader_for(first, array)
        numbered = first.select("slice_index").with_row_index("number")
        numbers = table.select("slice_index").join(numbered, on="slice_index", how="left", maintain_order="left")
        missing = numbers["number"].is_null()
        if not missing.any():
            return JoinedReader([stored], np.zeros(table.height, np.int64), numbers["number"].cast(pl.Int64).to_numpy())
        of = missing.cast(pl.Int64).to_numpy()
        elsewhere = missing.cum_sum().cast(pl.Int64).to_numpy() - 1
        number = np.where(of == 1, elsewhere, numbers["number"].cast(pl.Int64).fill_null(0).to_numpy())
        others = _WhenNeeded(lambda: self._from_sources(array, table.filter(missing)))
        return JoinedReader([stored, others], of, number)

    def _from_sources(self, array: str, rows: pl.DataFrame) -> ArrayReader:
        ps = self._ps
        paths = rows[source_column(array)]
        refuse_outside(ps.folder, ps.meta, paths, paths)
        clipped = ps.sources.clipped_range(array)
        opened = OpenedSet(ps.folder, ps.meta)
        opened.expect_sources(rows, {array: clipped})
        nowhere = np.zeros(rows.height, np.int32)
        dtype = np.dtype(ps.meta.arrays[array].dtype)
        addresses = ArrayAddresses(paths, np.full(rows.height, -1, np.int64), nowhere, nowhere, dtype)
        files: MappedFiles = layout_of("index").files(ps.sources.resolve, None, opened)
        reader = layout_of("index").reader(addresses, files, ps.patch_size, ps.config.pad_mode)
        reader.clip_to(clipped)
        return reader


class _WhenNeeded:
    """A reader that is made when it is first read from."""

    def __init__(self, make: Callable[[], SliceReader]) -> None:
        self._make = make
        self._made: SliceReader | None = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)
