"""Which slices and which patches are shown: extremes, and a spread by seed."""

from itertools import islice
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.loading.sampling import random_bits
from ctpatch.reporting.windows import AllWindows, SetWindows

_SLICES, _PATCHES = 16, 17
"""Purposes of random numbers, apart from those of `ctpatch.loading.sampling`."""
_LEAST_FOR_A_SET = 3
KEPT_SHOWN, DROPPED_SHOWN, EXTREMES_SHOWN, PAIRS_SHOWN = 16, 8, 6, 4


class ChosenSlice(NamedTuple):
    """A slice to show: its set, its number, its rows in the table of all windows, and what it was chosen for."""

    owner: SetWindows
    slice_index: int
    start: int
    windows: int
    dropped: int
    why: str

    @property
    def where(self) -> slice:
        """Its rows in the table of all windows."""
        return slice(self.start, self.start + self.windows)


class ChosenPatches(NamedTuple):
    """Patches to show together: rows in the table of all windows."""

    title: str
    note: str
    rows: tuple[int, ...]


def choose_slices(windows: AllWindows, count: int, seed: int) -> list[ChosenSlice]:
    """The slices to show, shared evenly among the sets, each set's in the order of their numbers.

    A quarter are those of which most is dropped, a quarter those of which least is, the others chance; ties are
    decided by chance too. The same tables and seed give the same slices.
    """
    sets = [each for each in windows.sets if each.frame.height]
    share = max(count // max(len(sets), 1), min(_LEAST_FOR_A_SET, count))
    return [chosen for each in sets for chosen in _slices_of(each, share, seed)]


def _slices_of(owner: SetWindows, count: int, seed: int) -> list[ChosenSlice]:
    table = (
        owner.frame.with_row_index("start")
        .group_by("slice_index", maintain_order=True)
        .agg(pl.col("start").first(), pl.len().alias("windows"), (pl.col("hit") >= 0).sum().alias("dropped"))
    )
    chance = random_bits(seed, 0, _SLICES, table.height)
    share = (table["dropped"] / table["windows"]).to_numpy()
    reasons: dict[int, str] = {}
    if share.max() > share.min():
        for order, why in ((-share, "most dropped"), (share, "least dropped")):
            others = (at for at in np.lexsort((chance, order)).tolist() if at not in reasons)
            reasons |= dict.fromkeys(list(islice(others, count // 4)), why)
    for at in np.argsort(chance, kind="stable").tolist():
        if len(reasons) < count:
            reasons.setdefault(at, "by chance")
    found = ((*table.row(at), why) for at, why in sorted(reasons.items()))
    return [ChosenSlice(owner, int(index), owner.start + start, *more) for index, start, *more in found]


def choose_patches(windows: AllWindows, seed: int) -> list[ChosenPatches]:
    """Kept patches by chance, dropped ones by chance for each rule, and the extremes of the kept ones."""
    hits = windows.hits
    chance = random_bits(seed, 0, _PATCHES, len(hits))
    kept = np.flatnonzero(hits < 0)
    groups = [ChosenPatches("Kept", f"by chance, {len(kept):,} in all", _first(kept, chance, KEPT_SHOWN))]
    for name, rows in _rows_by_rule(windows).items():
        note = f"by chance, {len(rows):,} in all"
        groups.append(ChosenPatches(f"Dropped by {name}", note, _first(rows, chance, DROPPED_SHOWN)))
    std, air, mean = (windows.columns[name][kept] for name in ("std", "air_fraction", "mean"))
    for title, note, values in (
        ("Flattest of the kept", "lowest std", std),
        ("Most air of the kept", "largest air_fraction", -air),
        ("Brightest of the kept", "highest mean", -mean),
        ("Liveliest of the kept", "highest std", -std),
    ):
        order = kept[np.lexsort((chance[kept], values))[:EXTREMES_SHOWN]]
        groups.append(ChosenPatches(title, note, tuple(order.tolist())))
    return [group for group in groups if group.rows]


def choose_pairs(windows: AllWindows, owner: SetWindows, seed: int) -> tuple[int, ...]:
    """Kept patches of a set with several arrays: those with much to see, by chance among the livelier half."""
    rows = np.arange(owner.start, owner.start + owner.frame.height)
    kept = rows[windows.hits[rows] < 0]
    std = windows.columns["std"][kept]
    lively = kept[std >= np.median(std)] if len(kept) else kept
    return _first(lively, random_bits(seed, 0, _PATCHES, len(windows.hits)), PAIRS_SHOWN)


def _rows_by_rule(windows: AllWindows) -> dict[str, NDArray[np.int64]]:
    """The rows that each rule dropped, by its name; sets whose rules differ share a name where they can."""
    found: dict[str, list[NDArray[np.int64]]] = {}
    for each in windows.sets:
        hits = each.frame["hit"].to_numpy()
        for number, rule in enumerate(each.ps.config.drop):
            found.setdefault(rule.name, []).append(np.flatnonzero(hits == number) + each.start)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def _first(rows: NDArray[np.int64], chance: NDArray[np.uint64], count: int) -> tuple[int, ...]:
    """So many of the rows by chance, in the order of the table."""
    return tuple(np.sort(rows[np.argsort(chance[rows], kind="stable")[:count]]).tolist())
