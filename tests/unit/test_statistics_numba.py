"""Machine code against numpy: the same results to the bit."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.core.statistics import api, cells
from ctpatch.core.statistics.api import SliceStatistics, slices_statistics, use_compiled, window_statistics

FIELDS = ("min", "max", "mean", "std", "air_fraction")
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="numba (ctpatch[fast]) is not installed")


@pytest.fixture(autouse=True)
def _engine_as_it_was() -> Iterator[None]:
    yield
    use_compiled(None)


def as_bytes(result: SliceStatistics) -> dict[str, bytes]:
    arrays = {name: result.windows[name] for name in FIELDS}
    arrays["slice"] = np.array([result.slice_min, result.slice_max])
    return {name: array.tobytes() for name, array in arrays.items()}


def check(image: NDArray[Any], rows: list[int], cols: list[int], size: tuple[int, int], air_level: float) -> None:
    assert use_compiled(True)
    before = image.tobytes()
    compiled = window_statistics(image, rows, cols, size, air_level)
    assert image.tobytes() == before
    use_compiled(False)
    assert as_bytes(compiled) == as_bytes(window_statistics(image, rows, cols, size, air_level))


@st.composite
def axes(draw: st.DrawFn, longest: int) -> tuple[int, int, list[int]]:
    """A length, a window size in it, and window starts: regular, shifted at the end, even, or at any distance."""
    length = draw(st.integers(1, longest))
    size = draw(st.integers(1, length))
    stride = draw(st.integers(1, 2 * size))
    regular = list(range(0, length - size + 1, stride))
    shifted = sorted({*regular, length - size})
    even = sorted({i * (length - size) // 4 for i in range(5)})
    irregular = sorted(draw(st.sets(st.integers(0, length - size), max_size=7)))
    return length, size, draw(st.sampled_from([regular, shifted, even, irregular]))


def nearly_constant(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    return np.nextafter(np.full(shape, 0.5, np.float32), rng.integers(0, 2, shape).astype(np.float32))


def with_pixels(value: float) -> Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]:
    def content(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
        image = rng.normal(size=shape)
        image[rng.random(shape) < 1 / image.size] = value
        return image

    return content


CONTENTS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[Any]]] = {
    "uniform": lambda rng, shape: rng.random(shape),
    "signed": lambda rng, shape: rng.normal(size=shape),
    "levels": lambda rng, shape: rng.integers(0, 3, shape) / 2,
    "nearly constant": nearly_constant,
    "huge offset": lambda rng, shape: 1e6 + rng.random(shape),
    "constant": lambda rng, shape: np.full(shape, rng.random()),
    "denormal": lambda rng, shape: rng.integers(-9, 9, shape) * 2.0**-149,
    "large": lambda rng, shape: rng.normal(size=shape) * 1e37,
    "largest": lambda rng, shape: rng.choice([-1, 1], shape) * np.float64(np.finfo(np.float32).max),
    "zeros of both signs": lambda rng, shape: rng.choice([0.0, -0.0], shape),
    "negative zeros": lambda _, shape: np.full(shape, -0.0),
    "all scales": lambda rng, shape: rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-44, 38, shape),
    "nan": with_pixels(math.nan),
    "inf": with_pixels(math.inf),
    "-inf": with_pixels(-math.inf),
}
AIR_LEVELS = st.sampled_from(["pixel", 0.3, 0.1, 0.0, -1.0, 1e300, -1e300, math.inf, math.nan, 2.0**-149])


def draw_and_check(
    row: tuple[int, int, list[int]], col: tuple[int, int, list[int]], content: str, seed: int, level: float | str
) -> None:
    rng = np.random.default_rng(seed)
    image = CONTENTS[content](rng, (row[0], col[0])).astype(np.float32)
    air_level = float(rng.choice(image.ravel())) if level == "pixel" else float(level)
    check(image, row[2], col[2], (row[1], col[1]), air_level)


@needs_numba
@settings(max_examples=600, deadline=None)
@given(axes(24), axes(24), st.sampled_from(sorted(CONTENTS)), st.integers(0, 2**32), AIR_LEVELS)
def test_small(
    row: tuple[int, int, list[int]], col: tuple[int, int, list[int]], content: str, seed: int, level: float | str
) -> None:
    draw_and_check(row, col, content, seed, level)


@needs_numba
@settings(max_examples=150, deadline=None)
@given(axes(700), axes(700), st.sampled_from(sorted(CONTENTS)), st.integers(0, 2**32), AIR_LEVELS)
def test_large(
    row: tuple[int, int, list[int]], col: tuple[int, int, list[int]], content: str, seed: int, level: float | str
) -> None:
    # strides of a few pixels make hundreds of thousands of windows, which is no other case
    row, col = ((length, size, starts[:: 1 + len(starts) // 20]) for length, size, starts in (row, col))
    draw_and_check(row, col, content, seed, level)


@needs_numba
@pytest.mark.parametrize("shape", [(40, 1100), (3, 140000), (140000, 3), (600, 1), (1, 600), (1000, 1000)])
@pytest.mark.parametrize("block", [1, 5000, None])
def test_blocks_and_shapes_at_their_limits(
    shape: tuple[int, int], block: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows too wide to fold or for a block, single columns, cells of more than 255 rows or 129 columns."""
    if block:
        monkeypatch.setattr(cells, "_BLOCK_PIXELS", block)
    cells.plan_cells.cache_clear()
    image = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    size = min(520, shape[0]), min(520, shape[1])
    rows, cols = (sorted({0, (long - side) // 3, long - side}) for long, side in zip(shape, size, strict=True))
    check(image, rows, cols, size, 0.2)
    cells.plan_cells.cache_clear()


@needs_numba
@pytest.mark.parametrize("size", [5, 129, 130, 200])
def test_stride_of_one_pixel(size: int) -> None:
    """Windows of more cells than numpy adds in one go."""
    image = np.random.default_rng(2).normal(size=(size + 5, 240)).astype(np.float32)
    check(image, list(range(6)), list(range(240 - size + 1)), (size, size), 0.2)
    check(image, [0], list(range(240 - size + 1)), (3, size), 0.2)


@needs_numba
@pytest.mark.parametrize("place", [(0, 0), (5, 5), (11, 11), (5, 11), (11, 5), (7, 0)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_not_finite_in_and_beside_windows(place: tuple[int, int], bad: float) -> None:
    image = np.ones((12, 12), np.float32)
    image[place] = bad
    for rows in ([], [1], [0, 2], [0, 8]):
        check(image, rows, [1, 3], (4, 4), 0.5)
    image[2, 2] = -bad
    check(image, [0], [0], (4, 4), 0.5)
    use_compiled(True)
    assert np.isnan(window_statistics(image, [0], [0], (4, 4), 0.5).windows["mean"]).all()


@needs_numba
def test_other_arrays_are_left_to_numpy(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(size=(50, 60))
    single = values.astype(np.float32)
    np.save(tmp_path / "slice.npy", single)
    read_only = single.copy()
    read_only.flags.writeable = False
    unaligned = np.frombuffer(b"x" + single.tobytes(), np.float32, offset=1).reshape(single.shape)
    assert not unaligned.flags.aligned
    mapped = np.load(tmp_path / "slice.npy", mmap_mode="r")
    others = [values, single.astype(">f4"), single.T, single[::2], single[:, ::-1], unaligned, read_only, mapped]
    for image in others:
        check(image, [0, 7], [1, 20], (15, 20), 0.1)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)])
def test_a_stack_is_its_slices_one_by_one(compiled: bool) -> None:
    images = np.random.default_rng(6).normal(size=(6, 30, 40)).astype(np.float32)
    images[1] = 0.3  # windows of one value, and of nearly one value
    images[2, :20] = 1 + 1e-7 * np.arange(40)
    images[3, 29, 39], images[4, 0, 0] = np.nan, -np.inf
    for rows, cols in (([0, 5, 15], [0, 1, 25]), ([], []), ([3], [2])):
        assert use_compiled(compiled) is compiled
        alone = [as_bytes(window_statistics(image, rows, cols, (15, 15), 0.1)) for image in images]
        assert [as_bytes(each) for each in slices_statistics(images, rows, cols, (15, 15), 0.1)] == alone


@needs_numba
def test_threads() -> None:
    images = np.random.default_rng(4).random((4, 200, 200), dtype=np.float32)
    starts = [0, 32, 64]
    use_compiled(False)
    expected = [as_bytes(window_statistics(image, starts, starts, (64, 64), 0.5)) for image in images]
    use_compiled(True)
    wrong: list[int] = []

    def run(k: int) -> None:
        results = (window_statistics(images[k], starts, starts, (64, 64), 0.5) for _ in range(200))
        wrong.extend(k for result in results if as_bytes(result) != expected[k])

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_numba
def test_begins_by_itself_when_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    from ctpatch.core.statistics import numba_engine

    code = numba_engine.load()
    calls: list[tuple[Any, ...]] = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return code(*arguments)

    monkeypatch.setattr(numba_engine, "load", lambda: counted)
    monkeypatch.setattr(api, "_compiled", api._Compiled())
    monkeypatch.setattr(api, "_SLICES_IN_NUMPY", 3)
    image = np.random.default_rng(5).random((20, 20), dtype=np.float32)
    results = [as_bytes(window_statistics(image, [0, 5], [0, 5], (10, 10), 0.5)) for _ in range(5)]
    assert len(calls) == 2
    assert all(result == results[0] for result in results)


@needs_numba
def test_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from ctpatch.core.statistics import numba_engine

    compile_it = numba_engine._numba.njit

    def njit(*arguments: Any, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_it(*arguments, **options)

    monkeypatch.setattr(numba_engine._numba, "njit", njit)
    monkeypatch.setattr(api, "_compiled", api._Compiled())
    check(np.ones((9, 9), np.float32), [0, 3], [0, 2], (5, 5), 0.5)


@pytest.mark.parametrize("fault", ["import", "load"])
def test_without_numba_numpy_does(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def load() -> None:
            raise OSError("broken")

    monkeypatch.delattr("ctpatch.core.statistics.numba_engine", raising=False)
    monkeypatch.setitem(sys.modules, "ctpatch.core.statistics.numba_engine", Broken if fault == "load" else None)
    monkeypatch.setattr(api, "_compiled", api._Compiled())
    assert not use_compiled(True)
    image = np.arange(100, dtype=np.float32).reshape(10, 10)
    assert window_statistics(image, [0], [0], (10, 10), 9.0).windows["air_fraction"].tolist() == [0.1]


def test_numba_is_not_imported_before_it_pays() -> None:
    code = (
        "import sys, numpy, ctpatch, ctpatch.core.statistics.api as s; a = numpy.ones((9, 9), 'f4');"
        "[s.window_statistics(a, [0], [0], (9, 9), 0.5) for _ in range(300)]; sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
