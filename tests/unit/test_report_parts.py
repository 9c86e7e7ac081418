"""The pieces of a report against references that share no code with them."""

import base64
import io
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ctpatch.core.grid import axis_starts
from ctpatch.reporting.facts import by_chance, distance
from ctpatch.reporting.gallery import tiles
from ctpatch.reporting.payload import json_for_script
from ctpatch.reporting.pictures import display_windows, even_tones, make_tones, shrunk


@settings(deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 80), st.integers(1, 80), st.sampled_from(["none", "shift", "even", "reflect"])
)
def test_tiles_lie_in_their_windows_and_apart(length: int, size: int, stride: int, mode: str) -> None:
    starts = axis_starts(length, size, stride, mode)  # type: ignore[arg-type]
    found = [tiles(starts, size, length)[start] for start in starts]
    for start, (begin, end) in zip(starts, found, strict=True):
        assert max(start, 0) <= begin <= end <= min(start + size, length)
    for (_, end), (begin, _) in pairwise(found):
        assert end <= begin + 1e-9


def test_a_lone_tile_is_its_window() -> None:
    assert tiles([5], 10, 40) == {5: (5.0, 15.0)}


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.lists(st.integers(0, 8), min_size=1, max_size=30))
def test_distance_is_the_largest_gap_of_the_cumulative_shares(one: list[int], other: list[int]) -> None:
    wanted = max(
        abs(sum(value <= place for value in one) / len(one) - sum(value <= place for value in other) / len(other))
        for place in range(9)
    )
    assert distance(np.array(one, float), np.array(other, float)) == pytest.approx(wanted, abs=1e-12)


def test_distance_by_chance_is_exceeded_once_in_a_hundred_times() -> None:
    rng = np.random.default_rng(0)
    limit = by_chance(300, 500)
    beyond = sum((distance(rng.random(300), rng.random(500)) or 0) > limit for _ in range(1000))
    assert 2 <= beyond <= 25
    assert distance(np.empty(0), np.ones(3)) is None


def test_codes_lead_back_to_the_pixels() -> None:
    rng = np.random.default_rng(1)
    tissue, bone, air = rng.normal(0.25, 0.01, 9000), rng.uniform(0.4, 1.0, 900), np.zeros(9000)
    image = np.clip(np.concatenate([tissue, bone, air]), 0, 1).reshape(150, 126).astype(np.float32)
    tones = make_tones([image])
    assert (np.diff(tones.levels) >= 0).all()
    back = tones.levels[tones.codes(image)]
    error = np.abs(back - image)
    assert error.max() < 0.01
    # Where most pixels are the steps are several times finer than 1/255, which is what they are for.
    assert np.median(error[(image > 0.2) & (image < 0.3)]) < 0.25 / 255


def test_pictures_can_be_decoded_and_are_grey() -> None:
    codes = np.tile(np.arange(256, dtype=np.uint8), (40, 1))
    uri = even_tones(0, 255).picture(codes, 90)
    assert uri is not None
    assert uri.startswith("data:image/jpeg;base64,")
    found = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert (found.size, found.mode) == ((256, 40), "L")
    assert np.abs(np.asarray(found).astype(int) - codes).max() <= 8


def test_shrinking_averages() -> None:
    image = np.arange(64, dtype=np.float32).reshape(8, 8)
    assert shrunk(image, 8) is not None
    assert np.array_equal(shrunk(image, 8), image)
    assert np.allclose(shrunk(image, 4), image.reshape(4, 2, 4, 2).mean(axis=(1, 3)))


def test_display_windows_ascend_whatever_the_pixels() -> None:
    for image in (np.zeros((4, 4)), np.full((4, 4), 0.5), np.random.default_rng(0).random((30, 30)), np.empty((0, 0))):
        for each in display_windows(make_tones([image]), (0.0, 1.0), 0.02):
            assert each["low"] < each["high"]
    assert even_tones(1, 1).levels[-1] > 1


@settings(deadline=None)
@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_between_script_tags_cannot_end_them(value: object) -> None:
    text = json_for_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
