"""A comparison with a slider's stop comes out from two bytes as it does from the float64 itself."""

import base64
import gzip
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.reporting.payload import Blob
from ctpatch.reporting.rules import MOST_STOPS, make_stops

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None)
@given(st.lists(FINITE, min_size=1, max_size=60), st.lists(FINITE, max_size=4), st.integers(5, 400))
def test_every_comparison_at_every_stop_is_exact(values: list[float], extra: list[float], most: int) -> None:
    stops = make_stops(min(values), max(values), extra, most=most)
    found = stops.values
    # On a stop and a hair beside it, where rounding would show.
    sharp = [*values, *found[:40], *np.nextafter(found[:40], np.inf), *np.nextafter(found[:40], -np.inf)]
    codes = stops.codes(np.array(sharp))
    assert codes.dtype == np.uint16
    value, code, place = np.array(sharp)[:, None], codes[:, None].astype(int), 2 * np.arange(len(found)) + 1
    assert np.array_equal(code < place, value < found)
    assert np.array_equal(code <= place, value <= found)
    assert np.array_equal(code > place, value > found)
    assert np.array_equal(code >= place, value >= found)


@settings(deadline=None)
@given(FINITE, FINITE, st.lists(FINITE, max_size=3))
@example(0.0, 5e-324, [])
@example(-3e-310, 2e-308, [1e-309])
def test_stops_reach_from_end_to_end_and_are_few(one: float, other: float, extra: list[float]) -> None:
    low, high = sorted((one, other))
    stops = make_stops(low, high, extra)
    assert stops.regular[0] <= low
    assert stops.regular[-1] >= high
    assert len(stops.values) <= MOST_STOPS + len(extra) + 3
    assert 2 * len(stops.values) < 2**16
    assert (np.diff(stops.values) > 0).all()
    assert set(extra) <= set(stops.values.tolist())
    assert all(stops.values[stops.number_of(value)] == value for value in extra)


def test_stops_are_round_numbers() -> None:
    stops = make_stops(0.0, 1.0, [0.6])
    assert stops.regular.tolist() == [round(k * 0.0005, 4) for k in range(2001)]
    assert 0.6 in stops.values
    assert len(stops.values) == 2001
    whole = make_stops(0, 7, [], whole=True)
    assert whole.values.tolist() == list(range(8))


def test_a_single_value_still_has_stops_around_it() -> None:
    for value in (0.0, 0.3, -5.0, 1e38):
        stops = make_stops(value, value, [])
        assert stops.values[0] <= value <= stops.values[-1]
        assert len(stops.values) >= 2
        assert all(math.isfinite(each) for each in stops.values)


def test_a_number_that_is_no_stop_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.12345678 is no stop"):
        make_stops(0, 1, []).number_of(0.12345678)


def test_the_block_gives_back_every_array() -> None:
    blob = Blob()
    arrays: list[NDArray[Any]] = [
        np.array([0, 1, 255], np.uint8),
        np.arange(700, dtype=np.uint16),
        np.array([[-1, 2], [3, 2**31 - 1]], np.int32),
        np.array([0.1, -2.5e30], np.float32),
        np.array([], np.uint32),
    ]
    places = [blob.add(array) for array in arrays]
    data = gzip.decompress(base64.b64decode(blob.text()))
    for array, place in zip(arrays, places, strict=True):
        width = np.dtype(place["type"]).itemsize
        planes = np.frombuffer(data, np.uint8, place["count"] * width, place["offset"]).reshape(width, -1)
        found = np.ascontiguousarray(planes.T).reshape(-1).view(np.dtype(place["type"]).newbyteorder("<"))
        assert found.tolist() == array.ravel().tolist()
    assert blob.text() == blob.text()
