"""The list of statistics: rules, tables, checks, reports and help texts are derived from it.

It imports nothing that takes time, so that help texts can name the statistics.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ctpatch.core.statistics.body import body_map

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctpatch.config import PatchConfig
    from ctpatch.core.statistics.cells import Image

    Compute = Callable[[Image, tuple[int, ...], tuple[int, ...], tuple[int, int], float], NDArray[np.float64]]
    SliceMap = Callable[[Image, "Levels"], NDArray[np.bool_]]

_LAST_COMPARED = 3
PLACE_COLUMNS = ("slice_index", "row", "col")


class Limits(NamedTuple):
    """The values that a window's pixels can have: the value range, with 0 where the border is padded with it.

    Both are infinite for labels. `slack` is what rounding may add.
    """

    low: float
    high: float
    slack: float


class Levels(NamedTuple):
    """What values mean: pixels at or below `air` are air; `body` lies between air and tissue, NaN where unknown."""

    air: float
    body: float


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number that describes the pixels of a window.

    Attributes:
        name: its column in the tables, and its name in rules.
        title: its name in reports.
        meaning: what it is, for the page of the format.
        unit: that of the slice, or a share from 0 to 1.
        within: which values are possible, for the table's statistics (by name) and `Limits`.
        wanted: the same in words; `{low}` and `{high}` stand for the limits.
        exact: whether recomputing gives the same number to the bit; else it may differ by rounding.
        rank: place in reports. Those up to 3 are compared between sets.
        compute: gives the statistic of each window from the slice `(H, W)`, the rows and columns where windows begin,
            the window's size and the air level: `(rows * columns,)`, row-major. It is only called for finite slices.
            None for the statistics that both engines give, and for those of a map.
        slice_map: says which pixels of a slice `(H, W)` count; the statistic is their share in a window. For what the
            window alone does not tell. It gets the slice before padding, and its map is padded as the slice is.
        needs_body_level: whether the map needs `Levels.body`; a build refuses a set of which it does not know it.
        opt_in: whether a set has it only where a rule or the option `statistics` names it.
        since: the version of ctpatch that added it; sets of earlier versions have no such column. None: all have it.
    """

    name: str
    title: str
    meaning: str
    unit: str = "slice's"
    within: Callable[[Mapping[str, Any], Limits], Any] | None = None
    wanted: str = ""
    exact: bool = False
    rank: int = 9
    compute: "Compute | None" = None
    slice_map: "SliceMap | None" = None
    needs_body_level: bool = False
    opt_in: bool = False
    since: str | None = None


_ALL = (
    Statistic(
        "min",
        "Lowest pixel",
        "smallest pixel, exact",
        within=lambda values, limits: values["min"] >= limits.low,
        wanted="{low:g} or more",
        exact=True,
        rank=4,
    ),
    Statistic(
        "max",
        "Highest pixel",
        "largest pixel, exact",
        within=lambda values, limits: values["max"] <= limits.high,
        wanted="{high:g} or less",
        exact=True,
        rank=5,
    ),
    Statistic(
        "mean",
        "Mean",
        "mean",
        within=lambda values, limits: (
            (values["mean"] >= values["min"] - limits.slack) & (values["mean"] <= values["max"] + limits.slack)
        ),
        wanted="a value between min and max",
        rank=3,
    ),
    Statistic(
        "std",
        "Standard deviation",
        "population standard deviation",
        within=lambda values, _: values["std"] >= 0,
        wanted="0 or more",
        rank=1,
    ),
    Statistic(
        "air_fraction",
        "Share of air",
        "share of pixels at or below `air_level`",
        unit="share",
        within=lambda values, _: (values["air_fraction"] >= 0) & (values["air_fraction"] <= 1),
        wanted="a share from 0 to 1",
        exact=True,
        rank=2,
    ),
    Statistic(
        "body_fraction",
        "Share of body",
        "share of pixels inside the patient; only in sets that name it",
        unit="share",
        within=lambda values, _: (values["body_fraction"] >= 0) & (values["body_fraction"] <= 1),
        wanted="a share from 0 to 1",
        exact=True,
        rank=6,
        slice_map=body_map,
        needs_body_level=True,
        opt_in=True,
        since="0.2.0",
    ),
)

STATISTICS = {each.name: each for each in _ALL}
"""All statistics by name, in the order of rules and tables."""


def rule_columns() -> tuple[str, ...]:
    """The columns of the patch manifest that a rule may name."""
    return (*PLACE_COLUMNS, *STATISTICS)


def opt_in_statistics() -> tuple[str, ...]:
    """The statistics that a set has only where it names them."""
    return tuple(name for name, each in STATISTICS.items() if each.opt_in)


def of_windows() -> tuple[str, ...]:
    """The statistics that a window's own pixels give; the others are shares of a map of the whole slice."""
    return tuple(name for name, each in STATISTICS.items() if each.slice_map is None)


def named_statistics(config: "PatchConfig") -> tuple[str, ...]:
    """Those of them that a set of these options has: its rules name them, or `statistics` does."""
    texts = (*config.statistics, *(rule.condition for rule in config.drop))
    return _named_in(texts, opt_in_statistics()) if texts else ()


@lru_cache(maxsize=16)
def _named_in(texts: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    words = {word for text in texts for word in re.findall(r"\w+", text.lower())}
    return tuple(name for name in names if name in words)


def levels_of(config: "PatchConfig") -> Levels:
    """What values mean in a set of these options."""
    return Levels(config.air_level, math.nan if config.body_level is None else config.body_level)


def by_rank() -> list[Statistic]:
    """The statistics in the order of reports."""
    return sorted(STATISTICS.values(), key=lambda each: each.rank)


def compared() -> list[str]:
    """The statistics that are compared between sets, in the order of reports."""
    return [each.name for each in by_rank() if each.rank <= _LAST_COMPARED]
