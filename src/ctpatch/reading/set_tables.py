"""The tables of a finished set, and what follows from them."""

from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.statistics.columns import PLACE_COLUMNS, named_statistics
from ctpatch.core.weights import coverage_weights
from ctpatch.errors import ConfigError, FormatError
from ctpatch.format.meta import PATCH_META, PatchMeta
from ctpatch.format.tables import (
    PATCH_MANIFEST,
    REJECTED_PATCHES,
    SLICE_MANIFEST,
    read_table,
    refuse_nonsense,
    schema_of,
)
from ctpatch.loading.columns import slice_kinds, texts_of
from ctpatch.reading.label_frame import label_frame
from ctpatch.reading.opened import OpenedSet


class SetTables:
    """What a set's meta and tables say.

    Attributes:
        folder: the set's folder, absolute.
        meta: what the set is.
        any_rows: whether `slices` has rows that make no sense as well, for a check of them; FormatError else.
    """

    any_rows = False

    def __init__(self, folder: Path, meta: PatchMeta) -> None:
        self.folder, self.meta = folder, meta
        self._opened = OpenedSet(folder, meta)

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays: `image`, and those beside it."""
        return tuple(self.meta.arrays)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch in pixels."""
        return self.config.patch_size

    @cached_property
    def config(self) -> PatchConfig:
        """The options the patches were cut with."""
        return self.meta.patch_config()

    @cached_property
    def manifest(self) -> pl.DataFrame:
        """A row for each patch; `docs/format-1.md` describes the columns."""
        frame = self._table(PATCH_MANIFEST)
        if frame.height != self.meta.num_patches:
            raise FormatError(
                f"{PATCH_MANIFEST} has {frame.height} rows, {PATCH_META} says {self.meta.num_patches} patches; "
                "run ctpatch verify"
            )
        return frame

    @cached_property
    def slices(self) -> pl.DataFrame:
        """A row for each source slice."""
        frame = self._table(SLICE_MANIFEST)
        return frame if self.any_rows else refuse_nonsense(frame, self.arrays)

    @cached_property
    def rejected(self) -> pl.DataFrame:
        """A row for each window that a rule dropped, with the rule's name."""
        return self._table(REJECTED_PATCHES)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """How much each patch counts where patches overlap, `(N,)`; `columns=["weight"]` brings it with each batch.

        The mean over its pixels of 1 / (how many kept patches of its slice hold the pixel); pixels that were added
        beyond the slice count 0. A mean of patches that is weighted like this counts no pixel of a slice twice.
        """
        shapes = {
            index: (height, width) for index, height, width in self.slices["slice_index", "height", "width"].rows()
        }
        slices, rows, cols = (self.manifest[name].to_numpy() for name in PLACE_COLUMNS)
        return coverage_weights(slices, rows, cols, self.patch_size, shapes)

    def _table(self, name: str) -> pl.DataFrame:
        try:
            named = named_statistics(self.config)
            return read_table(self.folder / name, schema_of(name, self.arrays, self.meta.slice_columns, named))
        finally:
            self.refuse_other_set()

    def refuse_other_set(self) -> None:
        """Raise SetChangedError where the folder holds another set by now than the one that was opened, or none."""
        self._opened.refuse_other_set()

    def codes(self, name: str) -> list[str]:
        """The texts of a column that the set keeps of its slices, sorted; a loader gives a text as its place here.

        Two sets of different slices may have other texts, and so other codes.

        Raises:
            ConfigError: the set keeps no such column of texts.
        """
        texts = [each for each, kind in slice_kinds(self.meta.carried or {}).items() if kind == "text"]
        if name not in texts:
            raise ConfigError(f"codes: the set keeps no column {name!r} of texts; it has {', '.join(texts)}")
        return texts_of(self.slices, name)

    def label_counts(self, array: str = "mask") -> pl.DataFrame:
        """The labels of each slice: a row for each label but 0, with its `pixels`; all int64.

        Slices whose labels were not counted, since they have more than 32 or are no whole numbers, are missing; in
        `slices` their cell of `<array>_labels` is empty.

        Returns:
            Columns `slice_index`, `label`, `pixels`, in the order of the slices, labels ascending.

        Raises:
            ConfigError: the array holds no labels, or an earlier version built the set and counted none.
        """
        return label_frame(self.slices, self.meta, array)
