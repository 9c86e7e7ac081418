"""Which slices belong together: one to one, by what is on record, or refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import polars as pl

from ctpatch.errors import SliceError, UsageError
from ctpatch.evaluating.sides import Side

_NAMES_SHOWN = 5
_NEAR_MM = 0.01
"""Positions and spacings that differ by less are the same: files round them in different ways."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A slice of all sides.

    Attributes:
        slice_index: its number.
        patient: what stands for the patient; None where no side names one.
        spacing: millimetres between rows and between columns; None where no side has them on record.
        rows: its row in each side's table, by role.
    """

    slice_index: int
    patient: str | None
    spacing: tuple[float, float] | None
    rows: dict[str, int]


def match(sides: Sequence[Side]) -> list[Pair]:
    """The slices of all sides, one to one by `slice_index`, in ascending order.

    What else is on record must agree: the patient, the path of the slice where two sides list the same files, the
    position, and which series goes with which.

    Raises:
        UsageError: a slice is missing on a side, or two that have one number are not the same slice; names it.
        SliceError: two slices that belong together have different shapes.
    """
    table = sides[0].slices.select("slice_index").sort("slice_index")
    for one, other in combinations(sides, 2):
        _refuse_lone(one, other)
    columns = {each.role: _by_number(each, table) for each in sides}
    for one, other in combinations(sides, 2):
        _refuse_others(one, other, columns)
    numbers = table["slice_index"].to_list()
    roles = [each.role for each in sides]
    rows = {role: columns[role]["row"].to_list() for role in roles}
    patients = _first_known(columns, roles, "patient_id")
    spacings = list(
        zip(*(_first_known(columns, roles, each) for each in ("spacing_row_mm", "spacing_col_mm")), strict=True)
    )
    pairs = []
    for at, number in enumerate(numbers):
        spacing = None if None in spacings[at] else spacings[at]
        own = {role: rows[role][at] for role in roles}
        _refuse_shapes(sides, own, number)
        pairs.append(Pair(number, patients[at], spacing, own))
    return pairs


def _by_number(side: Side, numbers: pl.DataFrame) -> pl.DataFrame:
    return numbers.join(side.slices.with_row_index("row"), on="slice_index", how="left", maintain_order="left")


def _refuse_lone(one: Side, other: Side) -> None:
    for here, there in ((one, other), (other, one)):
        twice = here.slices.filter(pl.col("slice_index").is_duplicated())
        if twice.height:
            raise UsageError(f"{here.role}: {here.name} lists slice {twice['slice_index'][0]} twice")
        lone = here.slices.join(there.slices, on="slice_index", how="anti").sort("slice_index")
        if lone.height:
            names = ", ".join(
                f"{number} ({path})"
                for number, path in lone.select("slice_index", "path").head(_NAMES_SHOWN).iter_rows()
            )
            more = f" and {lone.height - _NAMES_SHOWN:,} more" if lone.height > _NAMES_SHOWN else ""
            raise UsageError(
                f"the slices do not match one to one: {lone.height:,} of {here.slices.height:,} slices of "
                f"{here.role} ({here.name}) are not in {there.role} ({there.name}): slice {names}{more}; give a "
                "manifest that lists only the slices that both have"
            )


def _refuse_others(one: Side, other: Side, columns: dict[str, pl.DataFrame]) -> None:
    """Refuse two sides of which a slice with one number is not the same slice."""
    here, there = columns[one.role], columns[other.role]
    _refuse_where(here["patient_id"] != there["patient_id"], "patient_id", one, other, columns)
    # A prediction has files of its own; two tables of the same files must give them the same numbers.
    if here["path"].is_in(there["path"].implode()).any():
        _refuse_where(here["path"] != there["path"], "path", one, other, columns)
    _refuse_where((here["position_mm"] - there["position_mm"]).abs() > _NEAR_MM, "position_mm", one, other, columns)
    for name in ("spacing_row_mm", "spacing_col_mm"):
        _refuse_where((here[name] - there[name]).abs() > _NEAR_MM, name, one, other, columns)
    pairs = pl.DataFrame({"one": here["series"], "other": there["series"]}).drop_nulls().unique()
    for mine, yours, side in (("one", "other", one), ("other", "one", other)):
        split = pairs.filter(pl.col(mine).is_duplicated())
        if split.height:
            series = split[mine].sort()[0]
            number = columns[side.role].filter(pl.col("series") == series)["slice_index"][0]
            raise UsageError(
                f"the slices do not match: a series of {side.role} ({side.name}), that of slice {number}, goes with "
                f"{split.filter(pl.col(mine) == series)[yours].len()} series of the other side; are the slices of "
                "both numbered the same way?"
            )


def _refuse_where(differs: pl.Series, name: str, one: Side, other: Side, columns: dict[str, pl.DataFrame]) -> None:
    found = differs.fill_null(value=False).arg_true()
    if not len(found):
        return
    at = int(found[0])
    seen = [
        f"{value[:100]!r}" if isinstance(value, str) else f"{value:g}"
        for value in (columns[side.role][name][at] for side in (one, other))
    ]
    raise UsageError(
        f"the slices do not match: {name} differs in {len(found):,} of {len(differs):,} slices; slice "
        f"{columns[one.role]['slice_index'][at]} has {seen[0]} in {one.role} ({one.name}) and {seen[1]} in "
        f"{other.role} ({other.name}); are the slices of both numbered the same way?"
    )


def _first_known(columns: dict[str, pl.DataFrame], roles: Sequence[str], name: str) -> list[Any]:
    """The values of a column, of each slice that of the first side that has one."""
    found: list[Any] = (
        pl.DataFrame({role: columns[role][name] for role in roles}).select(pl.coalesce(pl.all()))[roles[0]].to_list()
    )
    return found


def _refuse_shapes(sides: Sequence[Side], rows: dict[str, int], number: int) -> None:
    shapes = {side.role: side.shape(rows[side.role]) for side in sides}
    if len(set(shapes.values())) > 1:
        seen = ", ".join(f"{role} {height}x{width}" for role, (height, width) in shapes.items())
        raise SliceError(f"slice {number} has different shapes: {seen} pixels; compare slices of one size")
