"""Means, spreads and percentiles that parts add up to, held against NumPy over all values at once."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpatch.core.spread import NUMBER_OF_BINS, PERCENTS, Bins, Moments, pack_counts, unpack_counts

VALUES = st.lists(st.floats(-1000, 3000, width=32), min_size=1, max_size=60)
WEIGHTED = st.lists(st.tuples(st.floats(-1000, 3000, width=32), st.integers(1, 9)), min_size=1, max_size=40)


def close(found: float, wanted: float) -> None:
    assert math.isclose(found, wanted, rel_tol=1e-10, abs_tol=1e-7), (found, wanted)


@given(VALUES, st.lists(st.integers(0, 60), max_size=4))
def test_moments_of_parts_are_those_of_all(values: list[float], cuts: list[int]) -> None:
    whole = np.array(values)
    places = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    total: Moments | None = None
    for start, stop in pairwise(places):
        part = Moments.of(whole[start:stop])
        total = part if total is None else total if part is None else total.plus(part)
    assert total is not None
    assert (total.count, total.low, total.high) == (len(values), min(values), max(values))
    close(total.mean, math.fsum(values) / len(values))
    close(total.std, float(np.std(whole)))


@given(WEIGHTED)
def test_a_weight_counts_a_value_so_often(pairs: list[tuple[float, int]]) -> None:
    values, weights = (np.array(each, np.float64) for each in zip(*pairs, strict=True))
    found = Moments.of(values, weights)
    repeated = np.repeat(values, weights.astype(int))
    assert found is not None
    assert found.count == len(repeated)
    close(found.mean, float(repeated.mean()))
    close(found.std, float(repeated.std()))


def test_moments_of_groups_are_those_of_their_values() -> None:
    groups = np.random.default_rng(0).normal(40, 3, (17, 25))
    groups[3] = 7.0
    found = Moments.of_groups(groups.mean(1), groups.std(1), groups.min(1), groups.max(1), size=25)
    assert found is not None
    assert (found.count, found.low, found.high) == (groups.size, groups.min(), groups.max())
    close(found.mean, float(groups.mean()))
    close(found.std, float(groups.std()))


def test_there_are_no_moments_of_nothing() -> None:
    none = np.empty(0)
    assert Moments.of(none) is None
    assert Moments.of_groups(none, none, none, none, size=4) is None


@pytest.mark.parametrize("value", [0.1, 1e-30, 3e38])
def test_values_that_are_all_the_same_have_no_spread(value: float) -> None:
    """Exactly: a loader divides by it, and must be able to tell."""
    found = Moments.of(np.full(1000, float(np.float32(value))))
    assert found is not None
    assert found.plus(found).std == 0
    assert found.mean == float(np.float32(value))


@given(st.lists(st.floats(-3, 5), min_size=1, max_size=80))
def test_percentiles_are_within_a_bin(values: list[float]) -> None:
    bins = Bins(-3.0, 5.0, 64)
    counts = bins.counts(bins.places(np.array(values)))
    assert counts.sum() == len(values)
    found = bins.percentiles(counts, min(values), max(values))
    assert found == sorted(found)
    for percent, value in zip(PERCENTS, found, strict=True):
        wanted = float(np.percentile(values, percent, method="inverted_cdf"))
        assert abs(value - wanted) <= bins.width * (1 + 1e-9)


def test_bins_count_pixel_by_pixel() -> None:
    bins = Bins(0.0, 1.0, 4)
    values = np.array([0.0, 0.1, 0.25, 0.5, 0.74, 0.75, 1.0, 1.5, -0.5])
    assert bins.places(values).tolist() == [0, 0, 1, 2, 2, 3, 3, 3, 0]
    assert bins.counts(bins.places(values)).tolist() == [3, 1, 2, 3]
    assert bins.counts(bins.places(values), np.arange(9.0)).tolist() == [0 + 1 + 8, 2, 3 + 4, 5 + 6 + 7]


@given(st.dictionaries(st.integers(0, NUMBER_OF_BINS - 1), st.integers(1, 2**52), max_size=5))
def test_counts_come_back_from_a_receipt(filled: dict[int, int]) -> None:
    counts = np.zeros(NUMBER_OF_BINS, np.int64)
    for place, count in filled.items():
        counts[place] = count
    text = pack_counts(counts)
    assert text.isascii()
    assert np.array_equal(unpack_counts(text, NUMBER_OF_BINS), counts)


@pytest.mark.parametrize("text", ["x", "3<u1?", "-1<u1AAA=", "2047<u1AQE=", "0<f8AAAAAAAA8D8=", "0<u2AA=="])
def test_damaged_counts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack_counts(text, NUMBER_OF_BINS)
