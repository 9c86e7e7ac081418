"""Weights of overlapping windows, against a plain loop over all pixels."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.core.weights import coverage_weights

Window = tuple[int, int, int]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Window], tuple[int, int], dict[int, tuple[int, int]]]:
    """Windows of a few slices in any order; some hang over the border, some are there twice."""
    shapes = draw(
        st.dictionaries(
            st.integers(0, 10**9), st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=1, max_size=3
        )
    )
    size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    place = st.sampled_from(sorted(shapes)).flatmap(
        lambda index: st.tuples(
            st.just(index), st.integers(0, shapes[index][0] - 1), st.integers(0, shapes[index][1] - 1)
        )
    )
    return draw(st.lists(place, max_size=12)), size, shapes


@given(cases())
@settings(max_examples=150, deadline=None)
def test_each_weight_is_that_of_a_loop_and_they_add_up_to_the_covered_pixels(
    case: tuple[list[Window], tuple[int, int], dict[int, tuple[int, int]]],
) -> None:
    windows, (height, width), shapes = case
    covers: Counter[Window] = Counter()
    pixels = []
    for index, row, col in windows:
        mine = [
            (index, r, c)
            for r in range(row, row + height)
            for c in range(col, col + width)
            if r < shapes[index][0] and c < shapes[index][1]
        ]
        covers.update(mine)
        pixels.append(mine)
    wanted = [sum(1 / covers[pixel] for pixel in mine) / (height * width) for mine in pixels]
    slices, rows, cols = np.array(windows, np.int64).reshape(-1, 3).T
    found = coverage_weights(slices, rows, cols, (height, width), shapes)
    assert found.dtype == np.float64
    assert found.shape == (len(windows),)
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    assert found.sum() * height * width == pytest.approx(len(covers), rel=1e-12)


def test_windows_that_do_not_overlap_count_whole() -> None:
    found = coverage_weights(np.array([0, 0]), np.array([0, 4]), np.array([0, 0]), (4, 4), {0: (8, 4)})
    assert found.tolist() == [1.0, 1.0]


def test_a_slice_without_a_shape_is_an_error() -> None:
    with pytest.raises(KeyError):
        coverage_weights(np.array([3]), np.array([0]), np.array([0]), (4, 4), {0: (8, 4)})
