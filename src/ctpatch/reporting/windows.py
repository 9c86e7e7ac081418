"""Every window of every set, kept or dropped, as one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.findings import counted
from ctpatch.core.rules import compile_rules
from ctpatch.core.statistics.columns import PLACE_COLUMNS, by_rank
from ctpatch.errors import FormatError, UsageError
from ctpatch.format.columns import recorded_statistics, rule_values
from ctpatch.format.tables import PATCH_MANIFEST, REJECTED_PATCHES, STATUS_OK
from ctpatch.reading.patchset import AnySet

_LARGEST = 1e39
"""No statistic of float32 pixels is larger."""


@dataclass(frozen=True)
class SetWindows:
    """One set and its windows.

    Attributes:
        ps: the set.
        frame: a row for each window, in order of slice, row and col: the columns that rules see (float64), `at`
            (its row in the manifest; null where it was dropped), `hit` (number of the rule that dropped it, or -1).
        start: where its rows begin in the table of all sets.
    """

    ps: AnySet
    frame: pl.DataFrame
    start: int

    @property
    def name(self) -> str:
        """`dataset/split`."""
        return f"{self.ps.meta.dataset}/{self.ps.meta.split}"

    @cached_property
    def patients(self) -> frozenset[str]:
        """The patients of slices that were cut, by the ids in the source manifest."""
        cut = self.ps.slices.filter(pl.col("status") == STATUS_OK)
        return frozenset(cut["patient_id"].drop_nulls().unique().to_list())


@dataclass(frozen=True)
class AllWindows:
    """The windows of all sets, one set behind the other."""

    sets: tuple[SetWindows, ...]

    @cached_property
    def statistics(self) -> list[str]:
        """The statistics that all sets have, in the order of reports."""
        return [each.name for each in by_rank() if all(each.name in one.frame.columns for one in self.sets)]

    @cached_property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """What rules see, each `(N,)` float64."""
        names = (*PLACE_COLUMNS, *self.statistics)
        return {name: np.concatenate([each.frame[name].to_numpy() for each in self.sets]) for name in names}

    @cached_property
    def hits(self) -> NDArray[np.int16]:
        """For each window the number of the rule, of its own set, that dropped it, or -1."""
        return np.concatenate([each.frame["hit"].to_numpy() for each in self.sets])

    def set_of(self, row: int) -> SetWindows:
        """The set that a row of the table belongs to."""
        return next(each for each in reversed(self.sets) if each.start <= row)

    def record(self, row: int) -> dict[str, float | int | None]:
        """One row of the table, by column."""
        owner = self.set_of(row)
        return owner.frame.row(row - owner.start, named=True)


def gather(sets: Sequence[AnySet]) -> AllWindows:
    """The windows of sets; FormatError where a table is damaged, or does not follow from the rules on record."""
    found: list[SetWindows] = []
    start = 0
    for ps in sets:
        found.append(SetWindows(ps, _windows(ps), start))
        _check(found[-1])
        start += found[-1].frame.height
    if not start:
        raise UsageError("there are no windows in these sets, so there is nothing to show; build with smaller patches")
    return AllWindows(tuple(found))


def _windows(ps: AnySet) -> pl.DataFrame:
    numbers = {rule.name: number for number, rule in enumerate(ps.config.drop)}
    hit = pl.col("rule").replace_strict(numbers, default=None, return_dtype=pl.Int16)
    kept = ps.manifest.with_row_index("at").with_columns(pl.col("at").cast(pl.Int64), hit=pl.lit(-1, pl.Int16))
    windows = pl.concat([kept, ps.rejected.with_columns(hit=hit)], how="diagonal")
    values = pl.col(*PLACE_COLUMNS, *recorded_statistics(windows)).cast(pl.Float64)
    return windows.select(values, "at", "hit").sort("slice_index", "row", "col", maintain_order=True)


def _check(each: SetWindows) -> None:
    """Refuse tables that no build writes; the page decides windows anew, so decisions must be those of the rules."""
    frame, ps = each.frame, each.ps
    values = pl.all().exclude("at", "hit").is_between(-_LARGEST, _LARGEST)
    if not frame.select(pl.all_horizontal(values).all(ignore_nulls=False) & pl.col("hit").is_not_null().all()).item():
        raise FormatError(
            f"{each.name}: {PATCH_MANIFEST} or {REJECTED_PATCHES} has a row whose numbers or rule no build writes; "
            "run ctpatch verify"
        )
    cut = ps.slices.filter(pl.col("status") == STATUS_OK)
    sizes = cut.select(pl.col("slice_index").cast(pl.Float64), "height", "width")
    placed = frame.join(sizes, on="slice_index", how="left")
    inside = pl.col("row").is_between(0, pl.col("height") - 1) & pl.col("col").is_between(0, pl.col("width") - 1)
    lost = placed.filter(~inside.fill_null(value=False))
    if lost.height:
        index, row, col = lost.select(PLACE_COLUMNS).row(0)
        raise FormatError(
            f"{each.name}: {lost.height:,} windows begin outside every slice that was cut, the first in slice "
            f"{index:.0f} at ({row:.0f}, {col:.0f}); run ctpatch verify"
        )
    wrong = compile_rules(ps.config.drop).first_hits(rule_values(frame)) != frame["hit"].to_numpy()
    if wrong.any():
        index, row, col = frame.filter(pl.Series(wrong)).select(PLACE_COLUMNS).row(0)
        raise FormatError(
            f"{each.name}: {wrong.sum():,} windows are on record otherwise than their rules decide, the first at "
            f"slice {index:.0f}, ({row:.0f}, {col:.0f}); run ctpatch verify"
        )


def stored_note(each: SetWindows) -> str | None:
    """A sentence on pixel files that are missing or not as long as they were written; None where all is well."""
    ps = each.ps
    faulty, files, patches = [], 0, 0
    for file in ps.layout.pixel_files(ps.manifest, ps.slices, ps.meta.arrays, ps.patch_size):
        files += 1
        if file.damage(ps.resolve_patch(file.path or "")) is not None:
            faulty.append(str(file.path))
            patches += file.patches
    if not faulty:
        return None
    are, them = ("is", "it") if len(faulty) == 1 else ("are", "them")
    return (
        f"{each.name}: {len(faulty):,} of {files:,} pixel files {are} missing or damaged, with "
        f"{counted(patches, 'patch', 'patches')} in {them}; the first is {faulty[0][:200]}. Run ctpatch verify."
    )
