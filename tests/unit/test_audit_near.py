"""Fingerprints and the search for near-duplicates, against loops that share no code with them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ctpatch.checking.audit import near
from ctpatch.checking.audit.fingerprint import (
    COARSE,
    FINE,
    SYMMETRIES,
    Vectors,
    block_means,
    is_constant,
    permutation,
    pixel_key,
    symmetry_between,
    turned,
    vectors_of,
)
from ctpatch.checking.audit.near import near_matches

Array = np.ndarray[Any, Any]

TURNS: dict[str, Callable[[Array, int, int, int, int], Any]] = {
    "the same": lambda m, _h, _w, r, c: m[r][c],
    "turned by 90 degrees": lambda m, _h, w, r, c: m[c][w - 1 - r],
    "turned by 180 degrees": lambda m, h, w, r, c: m[h - 1 - r][w - 1 - c],
    "turned by 270 degrees": lambda m, h, _w, r, c: m[h - 1 - c][r],
    "mirrored left to right": lambda m, _h, w, r, c: m[r][w - 1 - c],
    "transposed": lambda m, _h, _w, r, c: m[c][r],
    "mirrored top to bottom": lambda m, h, _w, r, c: m[h - 1 - r][c],
    "transposed along the other diagonal": lambda m, h, w, r, c: m[h - 1 - c][w - 1 - r],
}


def picture(rng: np.random.Generator, shape: tuple[int, int] = (48, 56)) -> Array:
    """Smooth random shapes: low frequencies that differ from picture to picture."""
    rows, cols = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = np.zeros(shape)
    for _ in range(12):
        row, col, size = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 9)
        image += rng.uniform(0.2, 1) * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * size**2))
    result: Array = (image / image.max()).astype(np.float32)
    return result


def reference_means(image: Array, side: int) -> Array:
    """Every pixel handed out to the blocks it lies in, by its share, in float64."""
    return _means(image.tobytes(), image.shape[0], image.shape[1], side)


@lru_cache(maxsize=512)
def _means(content: bytes, height: int, width: int, side: int) -> Array:
    image = np.frombuffer(content, np.float32).reshape(height, width)
    sums = np.zeros((side, side))
    for row in range(height):
        for col in range(width):
            for block_row in range(side):
                tall = min(row + 1, (block_row + 1) * height / side) - max(row, block_row * height / side)
                if tall <= 0:
                    continue
                for block_col in range(side):
                    wide = min(col + 1, (block_col + 1) * width / side) - max(col, block_col * width / side)
                    if wide > 0:
                        sums[block_row, block_col] += tall * wide * float(image[row, col])
    return sums * side * side / (height * width)


def reference_detail(means: Array) -> Array:
    side = len(means)
    found = np.zeros_like(means)
    for row in range(side):
        for col in range(side):
            rows = range(max(row - 1, 0), min(row + 2, side))
            cols = range(max(col - 1, 0), min(col + 2, side))
            around = [means[r, c] for r in rows for c in cols]
            found[row, col] = means[row, col] - sum(around) / len(around)
    return found


def correlation(one: Array, other: Array) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def vectors(images: list[Array]) -> Vectors:
    return vectors_of(np.stack([block_means(image) for image in images]), partly=np.zeros(len(images), dtype=bool))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (31, 33), (32, 32), (37, 20), (16, 64)])
def test_block_means_are_those_of_a_double_loop(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    found = block_means(image)
    assert (found.shape, found.dtype) == ((FINE, FINE), np.dtype(np.float32))
    np.testing.assert_allclose(found, reference_means(image, FINE), rtol=0, atol=1e-5)


def test_block_means_of_known_pixels_leave_the_others_out() -> None:
    image = np.random.default_rng(2).random((64, 64), dtype=np.float32)
    covered = np.ones((64, 64), dtype=bool)
    covered[40:] = False
    covered[0, 0] = False
    spoilt = np.where(covered, image, np.float32(np.nan))
    found = block_means(spoilt, covered)
    assert np.isnan(found[20:]).all()
    assert np.isfinite(found[:20]).all()
    assert found[0, 0] == pytest.approx(float((image[0, 1] + image[1, 0] + image[1, 1]) / 3), abs=1e-6)
    np.testing.assert_allclose(found[1:20], reference_means(image, FINE)[1:20], atol=1e-6)


def test_products_of_vectors_are_the_correlations() -> None:
    rng = np.random.default_rng(3)
    images = [picture(rng), picture(rng, (40, 44)), picture(rng)]
    found = vectors(images)
    for one in range(3):
        for other in range(3):
            coarse = [reference_means(images[at], COARSE) for at in (one, other)]
            detail = [reference_detail(reference_means(images[at], FINE)) for at in (one, other)]
            assert float(found.coarse[one] @ found.coarse[other]) == pytest.approx(correlation(*coarse), abs=1e-5)
            product = float(found.detail[one].astype(np.float64) @ found.detail[other].astype(np.float64))
            assert product == pytest.approx(correlation(*detail), abs=2e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1e-30, 3000.0])
def test_a_constant_slice_has_no_vector(value: float) -> None:
    flat = np.full((362, 362), value, np.float32)
    broken = picture(np.random.default_rng(4))
    broken[3, 4] = np.nan
    found = vectors([flat, broken, picture(np.random.default_rng(5))])
    assert found.usable.tolist() == [False, False, True]
    assert not found.coarse[:2].any()
    assert not found.detail[:2].any()


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 1, width=32)),
    st.sampled_from(range(8)),
)
def test_turning_is_what_its_name_says_and_changes_no_key(image: Array, symmetry: int) -> None:
    found = turned(image, symmetry)
    height, width = image.shape
    rule = TURNS[SYMMETRIES[symmetry]]
    wanted = [[rule(image, height, width, r, c) for c in range(found.shape[1])] for r in range(found.shape[0])]
    assert found.tolist() == np.array(wanted).tolist()
    assert pixel_key(found) == pixel_key(image)
    back = symmetry_between(found, image)
    assert back is not None
    assert back <= symmetry
    assert turned(image, back).tobytes() == found.tobytes()


@settings(deadline=None)
@given(
    arrays.arrays(np.float32, (6, 6), elements=st.floats(0, 1, width=32)),
    st.integers(0, 35),
    st.floats(0.25, 1, width=32),
)
def test_another_pixel_is_another_slice(image: Array, place: int, change: float) -> None:
    other = image.copy()
    other.flat[place] = np.float32(image.flat[place] + change)
    assert pixel_key(other) != pixel_key(image)
    assert symmetry_between(other, image) is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(range(8)))
def test_turning_a_slice_permutes_its_blocks(seed: int, symmetry: int) -> None:
    image = picture(np.random.default_rng(seed), (45, 38))
    plain, other = vectors([image, turned(image, symmetry)]).coarse
    np.testing.assert_allclose(plain[permutation(symmetry, COARSE)], other, atol=1e-5)


def reference_matches(
    first: list[Array], second: list[Array], threshold: float, detail_threshold: float
) -> tuple[dict[int, tuple[int, int, float, int]], int]:
    """All pairs under all symmetries, one by one."""
    found: dict[int, tuple[int, int, float, int]] = {}
    alike = 0
    for at, image in enumerate(second):
        best = (-1, -1, -np.inf)
        count = 0
        for other, candidate in enumerate(first):
            same = close = False
            for symmetry in range(8):
                pair = image, turned(candidate, symmetry)
                value = correlation(*(reference_means(each, COARSE) for each in pair))
                if value < threshold:
                    continue
                close = True
                if correlation(*(reference_detail(reference_means(each, FINE)) for each in pair)) >= detail_threshold:
                    same = True
                    if value > best[2] + 1e-6:
                        best = (other, symmetry, value)
            count += same
            alike += close and not same
        if count:
            found[at] = (*best, count)
    return found, alike


def test_matches_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    first = [picture(rng, (24, 27)) for _ in range(5)]
    first.append((first[0] + rng.normal(0, 0.003, (24, 27))).astype(np.float32))
    second = [
        (first[2] + rng.normal(0, 0.002, (24, 27))).astype(np.float32),
        picture(rng, (24, 27)),
        np.ascontiguousarray(turned((first[0] * 0.5 + 0.1).astype(np.float32), 6)),
        np.roll(first[4], 1, axis=1),
        np.zeros((24, 27), np.float32),
    ]
    for threshold, detail in ((0.98, 0.85), (0.8, 0.3), (0.8, 0.9), (0.5, -1.0)):
        wanted, alike = reference_matches(first, second[:4], threshold, detail)
        for sizes in ((1024, 4096), (2, 3), (1, 1)):
            monkeypatch.setattr(near, "_SECOND_BLOCK", sizes[0])
            monkeypatch.setattr(near, "_FIRST_BLOCK", sizes[1])
            done: list[int] = []
            matches, pairs = near_matches(
                vectors(first), vectors(second), threshold=threshold, detail_threshold=detail, advance=done.append
            )
            found = {each.second: (each.first, each.symmetry, each.correlation, each.others + 1) for each in matches}
            assert found.keys() == wanted.keys()
            for at, (other, symmetry, value, count) in wanted.items():
                assert found[at][:2] == (other, symmetry)
                assert found[at][2] == pytest.approx(value, abs=1e-5)
                assert found[at][3] == count
            assert pairs == alike
            assert sum(done) == 4
    assert {0, 2} <= set(reference_matches(first, second[:4], 0.98, 0.85)[0])


def test_slices_that_are_left_out_are_not_compared() -> None:
    image = picture(np.random.default_rng(7))
    same = vectors([image, image])
    left = np.array([True, False])
    matches, _ = near_matches(same, same, threshold=0.98, detail_threshold=0.85, leave_out=left)
    assert [(each.second, each.first, each.others) for each in matches] == [(1, 0, 1)]


@pytest.mark.parametrize(
    ("values", "constant"),
    [([[0.5, 0.5]], True), ([[0.5, 0.25]], False), ([[np.nan, np.nan]], True), ([[np.nan, 0.0]], False)],
)
def test_constant_means_all_pixels_equal(values: list[list[float]], constant: bool) -> None:
    assert is_constant(np.array(values, np.float32)) is constant
