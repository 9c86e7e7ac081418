"""What each set is, as rows of a table, and how sets differ from the first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.statistics.columns import compared
from ctpatch.reporting.gather import AllWindows, SetWindows

SHIFT_SHOWN = 0.1
"""Smaller distances are not marked."""
_BY_CHANCE = 1.628
"""Times sqrt((n + m) / (n m)): the Kolmogorov-Smirnov distance that two samples of one distribution exceed in 1 %."""


@dataclass(frozen=True, slots=True)
class Shift:
    """How a statistic of the kept windows differs from that of the first set.

    Attributes:
        column: the statistic.
        mean: its mean over the kept windows.
        distance: the largest distance between the two cumulative shares (Kolmogorov-Smirnov), 0 alike to 1 apart;
            None for the first set itself, or where a set has no kept window.
        by_chance: see the function of that name.
    """

    column: str
    mean: float | None
    distance: float | None
    by_chance: float

    @property
    def stands_out(self) -> bool:
        """Whether the page marks it."""
        return self.distance is not None and self.distance >= max(SHIFT_SHOWN, self.by_chance)


@dataclass(frozen=True, slots=True)
class SetRow:
    """One set in the table of sets."""

    owner: SetWindows
    shifts: tuple[Shift, ...]
    shared_patients: tuple[str, ...]

    @property
    def windows(self) -> int:
        """All windows."""
        return self.owner.frame.height

    @property
    def kept(self) -> int:
        """Kept windows."""
        return self.owner.ps.meta.num_patches


def set_rows(windows: AllWindows) -> list[SetRow]:
    """A row for each set; patients that are in another set too are named."""
    kept = [_kept(each) for each in windows.sets]
    rows = []
    for number, owner in enumerate(windows.sets):
        others = frozenset[str]().union(*(each.patients for each in windows.sets if each is not owner))
        shifts = tuple(
            Shift(
                name,
                float(kept[number][name].mean()) if len(kept[number][name]) else None,
                None if number == 0 else distance(kept[0][name], kept[number][name]),
                by_chance(len(kept[0][name]), len(kept[number][name])),
            )
            for name in compared()
        )
        rows.append(SetRow(owner, shifts, tuple(sorted(owner.patients & others))))
    return rows


def distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """The Kolmogorov-Smirnov distance of two samples; None where one is empty."""
    if not len(first) or not len(second):
        return None
    places = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(each), places, side="right") / len(each) for each in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max())


def by_chance(first: int, second: int) -> float:
    """The distance that two samples of one distribution exceed once in a hundred times, if so many are independent."""
    return _BY_CHANCE * float(np.sqrt((first + second) / max(first * second, 1)))


def notes_on(windows: AllWindows) -> list[str]:
    """What a reader must know before comparing these sets."""
    metas = [each.ps.meta for each in windows.sets]
    named = [(each.name, meta) for each, meta in zip(windows.sets, metas, strict=True)]
    notes = []
    for what, values in (
        ("rules", [tuple((rule.name, rule.condition) for rule in meta.drop_rules) for meta in metas]),
        ("patch size or stride", [(str(meta.patch_size), str(meta.stride)) for meta in metas]),
        ("border", [meta.pad_mode for meta in metas]),
        ("air level", [meta.air_level for meta in metas]),
        ("value range", [meta.value_range for meta in metas]),
        ("array the rules judge", [meta.rules_on for meta in metas]),
    ):
        others = [name for (name, _), value in zip(named, values, strict=True) if value != values[0]]
        if others:
            notes.append(f"{_listed(others)}: other {what} than {named[0][0]}.")
            if what == "rules":
                notes.append(f"The sliders begin at the rules of {named[0][0]} and try them on all sets.")
    return notes


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _kept(each: SetWindows) -> dict[str, NDArray[np.float64]]:
    kept = each.frame.filter(pl.col("hit") < 0)
    return {name: kept[name].to_numpy() for name in compared()}
