"""Window statistics against a plain double loop with exact sums."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.core.statistics import cells
from ctpatch.core.statistics.api import patch_statistics, window_statistics

FIELDS = ("min", "max", "mean", "std", "air_fraction")


def exact(window: NDArray[Any], air_level: float) -> tuple[float, float, float, float, float]:
    pixels = [Fraction(value) for value in window.astype(np.float64).ravel().tolist()]
    mean = sum(pixels) / len(pixels)
    variance = sum((pixel - mean) ** 2 for pixel in pixels) / len(pixels)
    # sqrt of a Fraction through float would underflow for denormals
    scale = Fraction(2) ** (-(math.frexp(max(abs(float(p - mean)) for p in pixels))[1])) if variance else Fraction(1)
    std = math.sqrt(variance * scale * scale) / float(scale) if scale < 2**1000 else 0.0
    air = int((window <= air_level).sum())
    return float(min(pixels)), float(max(pixels)), float(mean), std, air / len(pixels)


def check(image: NDArray[Any], rows: list[int], cols: list[int], size: tuple[int, int], air_level: float) -> None:
    before = image.copy()
    result = window_statistics(image, rows, cols, size, air_level)
    np.testing.assert_array_equal(image, before)
    assert result.slice_min == float(image.min())
    assert result.slice_max == float(image.max())
    windows = [image[row : row + size[0], col : col + size[1]] for row in rows for col in cols]
    patches = np.array(windows, dtype=image.dtype).reshape(-1, *size)
    plain = patch_statistics(patches, air_level)
    for name in FIELDS:
        for values in (result.windows[name], plain[name]):
            assert values.shape == (len(rows) * len(cols),)
            assert values.dtype == np.float64
    for k, window in enumerate(windows):
        low, high, mean, std, air = exact(window, air_level)
        size_of_pixels = float(np.abs(window.astype(np.float64)).mean())
        for found in (result.windows, plain):
            assert (found["min"][k], found["max"][k], found["air_fraction"][k]) == (low, high, air)
            assert found["mean"][k] == pytest.approx(mean, rel=1e-12, abs=1e-14 * size_of_pixels)
            assert found["std"][k] == pytest.approx(std, rel=1e-9, abs=0)
            if low == high:
                assert (found["mean"][k], found["std"][k]) == (low, 0.0)


@st.composite
def axes(draw: st.DrawFn, longest: int = 24) -> tuple[int, int, list[int]]:
    """A length, a window size in it, and window starts: regular, shifted at the end, or at any distance."""
    length = draw(st.integers(1, longest))
    size = draw(st.integers(1, length))
    stride = draw(st.integers(1, 2 * size))
    regular = list(range(0, length - size + 1, stride))
    shifted = sorted({*regular, length - size})
    irregular = sorted(draw(st.sets(st.integers(0, length - size), max_size=5)))
    return length, size, draw(st.sampled_from([regular, shifted, irregular]))


CONTENTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]] = {
    "uniform": lambda rng, shape: rng.random(shape),
    "signed": lambda rng, shape: rng.normal(size=shape),
    "levels": lambda rng, shape: rng.integers(0, 3, shape) / 2,
    "nearly constant": lambda rng, shape: np.nextafter(
        np.full(shape, 0.5, np.float32), rng.integers(0, 2, shape).astype(np.float32), dtype=np.float32
    ),
    "huge offset": lambda rng, shape: 1e6 + rng.random(shape),
    "constant": lambda rng, shape: np.full(shape, rng.random()),
    "one pixel": lambda rng, shape: (rng.random(shape) < 1 / np.prod(shape)) * 1e-3 + 1,
    "denormal": lambda rng, shape: rng.integers(0, 9, shape) * 2.0**-149,
    "large": lambda rng, shape: rng.normal(size=shape) * 1e37,
    "zeros of both signs": lambda rng, shape: rng.choice([0.0, -0.0], shape),
    "all scales": lambda rng, shape: 10.0 ** rng.uniform(-30, 30, shape),
}


@settings(max_examples=150, deadline=None)
@given(axes(), axes(), st.sampled_from(sorted(CONTENTS)), st.integers(0, 2**32), st.booleans())
def test_float32(
    row: tuple[int, int, list[int]], col: tuple[int, int, list[int]], content: str, seed: int, on_pixel: bool
) -> None:
    rng = np.random.default_rng(seed)
    image = CONTENTS[content](rng, (row[0], col[0])).astype(np.float32)
    air_level = float(rng.choice(image.ravel())) if on_pixel else 0.3
    check(image, row[2], col[2], (row[1], col[1]), air_level)


@settings(max_examples=60, deadline=None)
@given(
    axes(12),
    axes(12),
    st.sampled_from(["?", "u1", "i1", "u2", "i4", "<u8", "f2", "f8", ">f4", ">f8", ">i2"]),
    st.sampled_from(["plain", "transposed", "strided", "reversed"]),
    st.integers(0, 2**32),
)
def test_any_dtype_and_memory_order(
    row: tuple[int, int, list[int]], col: tuple[int, int, list[int]], dtype: str, order: str, seed: int
) -> None:
    values = np.random.default_rng(seed).integers(0, 100, (2 * row[0], 2 * col[0])).astype(dtype)
    image = {
        "plain": values[: row[0], : col[0]].copy(),
        "transposed": values[: row[0], : col[0]].T.copy().T,
        "strided": values[::2, ::2],
        "reversed": values[: row[0], : col[0]][::-1, ::-1],
    }[order]
    check(image, row[2], col[2], (row[1], col[1]), 41.5)


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e150, 1e300])
def test_float64_squares_that_leave_the_range(factor: float) -> None:
    check(np.random.default_rng(1).random((9, 9)) * factor, [0, 2], [1, 3], (6, 6), 0.5 * factor)


@pytest.mark.parametrize("size", [(128, 128), (600, 128), (128, 600), (1, 700), (700, 1), (700, 700)])
@pytest.mark.parametrize("stride", [37, 64])
@pytest.mark.parametrize("block", [1, 5000, None])
def test_large_slices_cut_into_blocks(
    size: tuple[int, int], stride: int, block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block:
        monkeypatch.setattr(cells, "_BLOCK_PIXELS", block)
    cells.plan_cells.cache_clear()
    image = np.random.default_rng(2).random((700, 701), dtype=np.float32)
    rows, cols = (list(range(0, length - side + 1, stride)) for length, side in zip(image.shape, size, strict=True))
    rows, cols = rows[:4], cols[:4]
    result = window_statistics(image, rows, cols, size, 0.25)
    cells.plan_cells.cache_clear()
    plain = patch_statistics(np.array([image[r : r + size[0], c : c + size[1]] for r in rows for c in cols]), 0.25)
    for name in FIELDS:
        rtol = 1e-11 if name in {"mean", "std"} else 0
        np.testing.assert_allclose(result.windows[name], plain[name], rtol=rtol, atol=0)
    assert (result.slice_min, result.slice_max) == (image.min(), image.max())


@pytest.mark.parametrize("place", [(0, 0), (5, 5), (11, 11), (5, 11)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_slice_extremes_tell_what_is_not_finite(place: tuple[int, int], dtype: type) -> None:
    for rows in ([], [1], [0, 2], [0, 8]):
        for bad in (np.nan, np.inf, -np.inf):
            image: NDArray[Any] = np.ones((12, 12), dtype)
            image[place] = bad
            result = window_statistics(image, rows, [1, 3], (4, 4), 0.5)
            if math.isnan(bad):
                assert math.isnan(result.slice_min)
                assert math.isnan(result.slice_max)
            else:
                assert (result.slice_min, result.slice_max) == (min(bad, 1.0), max(bad, 1.0))
            for name in FIELDS:
                assert np.isnan(result.windows[name]).all()
            patch_statistics(image[None], 0.5)
    both: NDArray[Any] = np.ones((12, 12), dtype)
    both[1, 1], both[2, 2] = np.inf, -np.inf
    result = window_statistics(both, [0], [0], (4, 4), 0.5)
    assert (result.slice_min, result.slice_max) == (-np.inf, np.inf)


def test_no_windows_still_gives_the_slice() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4)
    for rows, cols in (([], []), ([0], []), ([], [0])):
        result = window_statistics(image, rows, cols, (2, 2), 0.0)
        assert result.windows["mean"].shape == (0,)
        assert (result.slice_min, result.slice_max) == (0.0, 11.0)


def test_results_are_the_callers_own() -> None:
    """Buffers are used again: results of one call must not change with the next."""
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 40, 40), dtype=np.float32)
    for starts, size in (([0], (40, 40)), ([0, 8, 16], (16, 16)), ([0, 20], (20, 20))):
        result = window_statistics(first, starts, starts, size, 0.5)
        kept = [result.windows[name].copy() for name in FIELDS]
        window_statistics(second, starts, starts, size, 0.5)
        for name, values in zip(FIELDS, kept, strict=True):
            np.testing.assert_array_equal(result.windows[name], values)


def test_threads_do_not_share_buffers() -> None:
    images = np.random.default_rng(4).random((4, 200, 200), dtype=np.float32)
    starts = [0, 32, 64]
    expected = [window_statistics(image, starts, starts, (64, 64), 0.5).windows["std"] for image in images]
    wrong: list[int] = []

    def run(k: int) -> None:
        for _ in range(50):
            found = window_statistics(images[k], starts, starts, (64, 64), 0.5).windows["std"]
            if not np.array_equal(found, expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_errors_of_floating_point_are_not_raised() -> None:
    image = np.full((4, 4), 1e-40, np.float32)
    image[0, 0] = np.nan
    with np.errstate(all="raise"):
        window_statistics(image, [0], [0], (4, 4), 1e300)


def test_air_of_more_rows_than_a_byte_counts() -> None:
    image = np.zeros((700, 20), np.float32)
    for size in ((700, 20), (256, 3), (512, 20)):
        assert window_statistics(image, [0], [0], size, 0.0).windows["air_fraction"].tolist() == [1.0]


def test_zero_has_one_sign() -> None:
    for signs in ([0.0, -0.0], [-0.0, 0.0], [-0.0, -0.0]):
        image = np.resize(np.array(signs, np.float32), (8, 8))
        result = window_statistics(image, [0, 4], [0, 4], (4, 4), 0.0)
        plain = patch_statistics(image[None], 0.0)
        assert not np.signbit([result.slice_min, result.slice_max]).any()
        for name in ("min", "max", "mean"):
            assert not np.signbit(result.windows[name]).any()
            assert not np.signbit(plain[name]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, -0.3, 1e-3, 1e6 / 3])
def test_constant_windows_are_exact(dtype: type, value: float) -> None:
    image: NDArray[Any] = np.full((200, 150), value, dtype)
    result = window_statistics(image, [0, 50], [0, 20], (128, 128), 0.5)
    for found in (result.windows, patch_statistics(image[None], 0.5)):
        assert set(found["mean"].tolist()) == {float(image[0, 0])}
        assert set(found["std"].tolist()) == {0.0}


@pytest.mark.parametrize("ones", [1, 5, 60])
def test_float64_noise_in_the_last_bit(ones: int) -> None:
    """The rounding of the mean is as large as the deviations here."""
    image = np.full(121, 0.7)
    image[:ones] = np.nextafter(0.7, 1)
    check(image.reshape(11, 11), [0], [0], (11, 11), 0.7)
