"""Neighbours of slices in their series, against a plain search."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpatch.core.context import ContextEdge, find_fault, neighbours

EDGES: list[ContextEdge] = ["repeat", "zero", "drop"]


def searched(series: list[int], positions: list[float], reach: int, edge: str, gaps_end: bool) -> list[list[int]]:
    """Walk from each slice to the nearest one above or below it, step by step."""

    def usual(code: int) -> float:
        own = sorted(positions[at] for at, mine in enumerate(series) if mine == code)
        return float(np.median(np.diff(own))) if len(own) > 1 else 0.0

    def step(at: int, sign: int) -> int:
        if series[at] < 0:
            return -1
        beyond = [other for other, mine in enumerate(series)
                  if mine == series[at] and (positions[other] - positions[at]) * sign > 0]  # fmt: skip
        if not beyond:
            return -1
        nearest = min(beyond, key=lambda other: abs(positions[other] - positions[at]))
        far = abs(positions[nearest] - positions[at]) > 1.5 * usual(series[at])
        return -1 if gaps_end and far else nearest

    found = []
    for at in range(len(series)):
        row = {0: at}
        for sign in (-1, 1):
            here = at
            for distance in range(1, reach + 1):
                after = step(here, sign) if here >= 0 else -1
                if after < 0 and edge == "repeat":
                    after = here
                row[sign * distance] = here = after
        found.append([row[offset] for offset in range(-reach, reach + 1)])
    return found


@given(st.data())
def test_neighbours_are_those_of_a_search(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 14))
    series = data.draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count))
    positions = [float(each) for each in data.draw(
        st.lists(st.integers(-40, 40), min_size=count, max_size=count, unique=True))]  # fmt: skip
    reach, edge = data.draw(st.integers(0, 3)), data.draw(st.sampled_from(EDGES))
    gaps_end = data.draw(st.booleans())
    found = neighbours(np.array(series, np.int64), np.array(positions), reach, edge, gaps_end=gaps_end)
    assert found.tolist() == searched(series, positions, reach, edge, gaps_end)


def test_slices_without_positions_keep_their_order() -> None:
    series, positions = np.array([4, 7, 4, 4, 7]), np.full(5, np.nan)
    found = neighbours(series, positions, 1, "zero", gaps_end=False)
    assert found.tolist() == [[-1, 0, 2], [-1, 1, 4], [0, 2, 3], [2, 3, -1], [1, 4, -1]]
    alone = neighbours(series, positions, 1, "zero", gaps_end=True)
    assert alone.tolist() == [[-1, at, -1] for at in range(5)]


@pytest.mark.parametrize(
    ("series", "positions", "wanted"),
    [
        ([0, 0, 0], [0.0, 5, 10], None),
        ([0, 0, 0, 0], [0.0, 5, 10, 17.4], None),
        ([0, 0, 0, 0], [0.0, 5, 10, 17.6], (2, "lies 7.6 mm before the next slice of its series; usual are 5 mm", 1)),
        ([0, 0, 0, 0], [10.0, 0, 20, 5], (0, "lies 10 mm before", 1)),
        ([0, -1, 0], [0.0, 5, 10], (1, "has no position in a series", 1)),
        ([0, 0, 0], [0.0, np.nan, np.nan], (1, "has no position in a series", 2)),
        ([0, 0, 0, 0], [0.0, 5, 5, 10], (2, "has the position of another slice", 1)),
        ([0, 1, 0, 1], [0.0, 0, 3, 900], None),
        ([], [], None),
    ],
)
def test_where_neighbours_cannot_be_told(series: list[int], positions: list[float], wanted: Any) -> None:
    fault = find_fault(np.array(series, np.int64), np.array(positions, np.float64))
    if wanted is None:
        assert fault is None
        return
    assert fault is not None
    assert (fault.at, fault.count) == (wanted[0], wanted[2])
    assert fault.why.startswith(wanted[1])
