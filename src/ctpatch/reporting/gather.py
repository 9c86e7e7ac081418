"""Every window of every set, kept or dropped, as one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.rules import compile_rules
from ctpatch.core.statistics.columns import PLACE_COLUMNS, by_rank
from ctpatch.errors import FormatError, UsageError
from ctpatch.format.columns import recorded_statistics
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
    """The windows of sets.

    Raises:
        UsageError: there is no set, or not a single window.
        FormatError: a table is damaged, or does not follow from the rules on record.
    """
    found: list[SetWindows] = []
    start = 0
    for ps in sets:
        found.append(SetWindows(ps, _windows(ps), start))
        start += found[-1].frame.height
    if not start:
        raise UsageError("there are no windows in these sets, so there is nothing to show; build with smaller patches")
    return AllWindows(tuple(found))


def _windows(ps: AnySet) -> pl.DataFrame:
    seen = recorded_statistics(ps.rejected)
    names = [*PLACE_COLUMNS, *(name for name in recorded_statistics(ps.manifest) if name in seen)]
    columns = [pl.col(name).cast(pl.Float64) for name in names]
    numbers = {rule.name: number for number, rule in enumerate(ps.config.drop)}
    kept = ps.manifest.with_row_index("at").select(
        *columns, pl.col("at").cast(pl.Int64), pl.lit(-1, pl.Int16).alias("hit")
    )
    dropped = ps.rejected.select(
        *columns,
        pl.lit(None, pl.Int64).alias("at"),
        pl.col("rule").replace_strict(numbers, default=None, return_dtype=pl.Int16).alias("hit"),
    )
    name = f"{ps.meta.dataset}/{ps.meta.split}"
    frame = pl.concat([kept, dropped]).sort("slice_index", "row", "col", maintain_order=True)
    usable = frame.select(
        pl.all_horizontal(pl.col(names).is_between(-_LARGEST, _LARGEST)).all() & pl.col("hit").is_not_null().all()
    ).item()
    if not usable:
        raise FormatError(
            f"{name}: {PATCH_MANIFEST} or {REJECTED_PATCHES} has a row whose numbers or rule no build writes; "
            "run ctpatch verify"
        )
    _check_places(frame, ps, name)
    _check_decisions({column: frame[column].to_numpy() for column in names}, frame["hit"].to_numpy(), ps, name)
    return frame


def _check_places(frame: pl.DataFrame, ps: AnySet, name: str) -> None:
    """Each window begins in a slice that was cut."""
    slices = ps.slices.filter(pl.col("status") == STATUS_OK)
    sizes = slices.select(pl.col("slice_index").cast(pl.Float64), "height", "width")
    placed = frame.join(sizes, on="slice_index", how="left")
    inside = pl.col("row").is_between(0, pl.col("height") - 1) & pl.col("col").is_between(0, pl.col("width") - 1)
    lost = placed.filter(~inside.fill_null(value=False))
    if lost.height:
        index, row, col = lost.select("slice_index", "row", "col").row(0)
        raise FormatError(
            f"{name}: {lost.height:,} windows begin outside every slice that was cut, the first in slice {index:.0f} "
            f"at ({row:.0f}, {col:.0f}); run ctpatch verify"
        )


def _check_decisions(
    columns: Mapping[str, NDArray[np.float64]], hits: NDArray[np.int16], ps: AnySet, name: str
) -> None:
    """The page decides windows anew, so what is on record must be what the rules say."""
    if not len(hits):
        return
    wrong = np.flatnonzero(compile_rules(ps.config.drop).first_hits(columns) != hits)
    if len(wrong):
        at = int(wrong[0])
        place = f"slice {columns['slice_index'][at]:.0f}, ({columns['row'][at]:.0f}, {columns['col'][at]:.0f})"
        raise FormatError(
            f"{name}: {len(wrong):,} windows are on record otherwise than their rules decide, the first at {place}; "
            "run ctpatch verify"
        )
