"""Maps of values, held against plain float64 arithmetic, and for all values: in order, ends exact, and back again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.core.hu_windows import WINDOWS, window_bounds
from ctpatch.core.mapping import HuWindows, Normalization, ValueMap
from ctpatch.errors import ConfigError

STORED = (-1024.0, 3072.0)
UNIT = st.floats(0, 1, width=32)
WINDOW = st.tuples(st.integers(-1500, 3500), st.integers(1, 4000)).map(lambda pair: (float(pair[0]), float(sum(pair))))


def mapped(each: ValueMap, values: list[float]) -> NDArray[np.float32]:
    pixels = np.array(values, np.float32).reshape(1, 1, 1, -1)
    out = np.full((1, each.factor, 1, len(values)), np.nan, np.float32)
    each.apply(pixels, out)
    return out[0, :, 0]


def seen_by_hand(value: float, stored: tuple[float, float], window: tuple[float, float]) -> np.float32:
    hu = float(np.float32(value)) * (stored[1] - stored[0]) + stored[0]
    return np.float32(min(max((hu - window[0]) / (window[1] - window[0]), 0.0), 1.0))


@given(st.lists(UNIT, min_size=1, max_size=9), st.lists(WINDOW, min_size=1, max_size=3))
def test_windows_show_what_plain_arithmetic_gives(values: list[float], windows: list[tuple[float, float]]) -> None:
    found = mapped(HuWindows(STORED, windows), values)
    for channel, window in zip(found, windows, strict=True):
        assert channel.tolist() == [seen_by_hand(value, STORED, window) for value in values]


@given(st.lists(UNIT, min_size=2, max_size=20), WINDOW)
def test_a_window_keeps_the_order_and_stays_within_0_and_1(values: list[float], window: tuple[float, float]) -> None:
    (found,) = mapped(HuWindows(STORED, [window]), sorted(values))
    assert np.all(np.diff(found) >= 0)
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("stored", [STORED, (-160.0, 240.0), (-20 / 0.01998, 3071.0)])
def test_the_window_that_is_stored_shows_what_is_stored(stored: tuple[float, float]) -> None:
    values = np.linspace(0, 1, 4097, dtype=np.float32).tolist()
    (found,) = mapped(HuWindows(stored, [stored]), values)
    assert (found[0], found[-1]) == (0, 1)
    assert np.abs(found - np.array(values, np.float32)).max() <= np.spacing(np.float32(0.5))


def test_the_ends_of_a_window_are_exact() -> None:
    """-1024 + 4096 k / 4096: each whole HU is a value of float32."""
    (found,) = mapped(HuWindows(STORED, [(-160, 240)]), [(hu + 1024) / 4096 for hu in (-161, -160, 40, 240, 241)])
    assert found.tolist() == [0, 0, 0.5, 1, 1]


@given(st.lists(UNIT, min_size=1, max_size=9), WINDOW)
def test_what_one_window_shows_comes_back(values: list[float], window: tuple[float, float]) -> None:
    each = HuWindows(STORED, [window])
    back = each.back(mapped(each, values)[0])
    assert back.dtype == np.float32
    for value, found in zip(values, back.tolist(), strict=True):
        hu = min(max(value * 4096 - 1024, window[0]), window[1])
        assert abs(found * 4096 - 1024 - hu) <= (window[1] - window[0]) * 1e-6 + 1e-3


def test_several_windows_do_not_come_back() -> None:
    with pytest.raises(ConfigError, match="2 windows"):
        HuWindows(STORED, [(0, 1), (1, 2)]).back(np.zeros(3))


@given(st.lists(st.floats(-2000, 4000, width=32), min_size=1, max_size=9), st.floats(-1000, 1000), st.floats(1, 900))
def test_normalised_values_come_back(values: list[float], mean: float, std: float) -> None:
    each = Normalization(mean, std)
    (found,) = mapped(each, values)
    assert found.tolist() == [np.float32((float(np.float32(value)) - mean) / std) for value in values]
    assert np.abs(each.back(found) - np.array(values)).max() <= 1e-6 * (std + 6000)


def test_channels_of_windows_follow_one_another_and_maps_work_in_place() -> None:
    pixels = np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)
    windows = [(-160.0, 240.0), (-1350.0, 150.0)]
    out = np.empty((2, 6, 4, 5), np.float32)
    HuWindows(STORED, windows).apply(pixels, out)
    for channel in range(3):
        for place, window in enumerate(windows):
            alone = np.empty((2, 1, 4, 5), np.float32)
            HuWindows(STORED, [window]).apply(pixels[:, channel : channel + 1], alone)
            assert np.array_equal(out[:, 2 * channel + place], alone[:, 0])
    wanted = ((pixels.astype(np.float64) - 0.5) / 0.25).astype(np.float32)
    Normalization(0.5, 0.25).apply(pixels, pixels)
    assert np.array_equal(pixels, wanted)


def test_windows_with_names() -> None:
    assert {name: window_bounds(name) for name in WINDOWS} == {
        "lung": (-1350, 150),
        "mediastinum": (-125, 225),
        "abdomen": (-160, 240),
        "liver": (-150, 250),
        "bone": (-500, 1300),
        "brain": (0, 80),
        "stroke": (20, 60),
    }
