"""Contours to pixels, against a plain loop in fractions, scikit-image and matplotlib."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.core.polygons import fill_even_odd

Contour = list[tuple[float, float]]
SHAPE = (9, 11)
quarters = st.tuples(*[st.integers(-8, 52).map(lambda each: each / 4)] * 2)


def by_loop(contours: list[Contour], shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    """Crossings of a ray to lower columns, counted exactly, one pixel after the other."""
    out = np.zeros(shape, bool)
    for row, col in np.ndindex(shape):
        for contour in contours:
            for (r0, c0), (r1, c1) in zip(contour, contour[1:] + contour[:1], strict=True):
                if (r0 <= row) != (r1 <= row):
                    share = (Fraction(row) - Fraction(r0)) / (Fraction(r1) - Fraction(r0))
                    out[row, col] ^= Fraction(c0) + share * (Fraction(c1) - Fraction(c0)) <= col
    return out


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(quarters, min_size=3, max_size=7), min_size=1, max_size=3))
def test_the_same_as_a_loop(contours: list[Contour]) -> None:
    filled = fill_even_odd([np.array(each) for each in contours], SHAPE)
    np.testing.assert_array_equal(filled, by_loop(contours))


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_libraries_off_the_outline(seed: int) -> None:
    draw = pytest.importorskip("skimage.draw")
    path = pytest.importorskip("matplotlib.path")
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
    radius = rng.uniform(6, 14, 40)
    contour = np.stack([16 + radius * np.sin(angles), 15 + radius * np.cos(angles)], axis=1)
    filled = fill_even_odd([contour], (32, 30))
    np.testing.assert_array_equal(filled, draw.polygon2mask((32, 30), contour))
    rows, cols = np.indices((32, 30)).reshape(2, -1)
    inside = path.Path(np.vstack([contour, contour[:1]])).contains_points(np.stack([rows, cols], axis=1))
    np.testing.assert_array_equal(filled, inside.reshape(32, 30))
    assert 0 < filled.sum() < filled.size


def square(low: float, high: float) -> NDArray[np.float64]:
    return np.array([(low, low), (low, high), (high, high), (high, low)])


def test_outlines_are_half_open() -> None:
    expected = np.zeros((8, 8), bool)
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(fill_even_odd([square(2, 5)], (8, 8)), expected)
    np.testing.assert_array_equal(fill_even_odd([square(2 + 1e-9, 5 + 1e-9)], (8, 8)), expected)


def test_holes_and_keyholes_are_the_same() -> None:
    outer, inner = square(1, 8), square(3, 6)
    keyhole = np.vstack([outer, outer[:1], inner[::-1], inner[-1:]])
    hole = fill_even_odd([outer, inner], (10, 10))
    assert hole.sum() == 49 - 9
    np.testing.assert_array_equal(fill_even_odd([keyhole], (10, 10)), hole)


def test_outside_of_the_image_and_without_area() -> None:
    np.testing.assert_array_equal(fill_even_odd([square(-1e6, 1e6)], (4, 5)), np.ones((4, 5), bool))
    assert not fill_even_odd([square(20, 30), np.array([(1.0, 1.0), (3.0, 3.0)])], (4, 5)).any()


def test_many_crossings_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    contour = rng.uniform(-3, 14, (60, 2)).round(2)
    whole = fill_even_odd([contour], SHAPE)
    monkeypatch.setattr("ctpatch.core.polygons._CROSSINGS_AT_ONCE", 3)
    np.testing.assert_array_equal(fill_even_odd([contour], SHAPE), whole)
