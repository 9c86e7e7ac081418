"""Means and intervals against plain loops and scipy."""

import math
from typing import Any

import numpy as np
import pytest

from ctpatch.evaluating.averages import Summary, interval, mean_of, summarise
from ctpatch.evaluating.patients import patients_of

VALUES = np.array([31.2, 29.8, 33.1, 30.5, 28.7, 34.0, 30.1])


def loop_interval(values: list[float], seed: int, draws: int) -> tuple[float, float]:
    """Draw by draw from the raw numbers of a generator of its own for every 256 draws."""
    means = []
    for draw in range(draws):
        if draw % 256 == 0:
            raw = np.random.Philox(key=np.array([seed, (draw // 256) << 8 | 18], np.uint64))
        drawn = [values[int((int(raw.random_raw()) >> 11) / 2**53 * len(values))] for _ in values]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    found = []
    for share in (0.025, 0.975):
        place = share * (draws - 1)
        below = math.floor(place)
        found.append(means[below] + (place - below) * (means[below + 1] - means[below]))
    return found[0], found[1]


@pytest.mark.parametrize("draws", [100, 300, 1000])
def test_interval_draw_by_draw(draws: int) -> None:
    assert interval(VALUES, 5, draws) == pytest.approx(loop_interval(VALUES.tolist(), 5, draws), abs=1e-12)


def test_interval_is_what_scipy_finds() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    options: dict[str, Any] = {"n_resamples": 40_000, "method": "percentile"}
    try:
        found = stats.bootstrap((VALUES,), np.mean, rng=np.random.default_rng(1), **options)
    except TypeError:  # before SciPy 1.15
        found = stats.bootstrap((VALUES,), np.mean, random_state=np.random.default_rng(1), **options)
    wanted = found.confidence_interval
    assert interval(VALUES, 0, 40_000) == pytest.approx((wanted.low, wanted.high), abs=0.03)


def test_interval_depends_on_the_seed_and_on_nothing_else() -> None:
    first = interval(VALUES, 0, 1000)
    assert interval(VALUES, 0, 1000) == first
    assert interval(VALUES, 1, 1000) != first
    assert interval(np.full(6, 2.5), 3, 100) == (2.5, 2.5)


def test_means_leave_out_what_is_not_finite() -> None:
    assert mean_of([1.0, math.inf, None, 4.0]) == 2.5
    assert mean_of([math.inf, None]) is None
    by_slice = [30.0, math.inf, 31.0, None]
    found = summarise("psnr", None, by_slice, [30.0, 31.0], seed=0, draws=100)
    wanted = Summary("psnr", None, 30.5, None, None, math.sqrt(0.5), 2, 30.5, 2, 2)
    assert found == wanted


def test_fewer_than_five_patients_have_no_interval() -> None:
    four = summarise("ssim", None, [0.9] * 4, [0.9, 0.8, 0.7, 0.6], seed=0, draws=100)
    assert (four.low, four.high, four.patients) == (None, None, 4)
    assert four.mean == pytest.approx(0.75)
    five = summarise("ssim", None, [0.9] * 5, [0.9, 0.8, 0.7, 0.6, 0.5], seed=0, draws=100)
    assert five.low is not None
    assert five.high is not None
    assert 0.5 <= five.low < 0.7 < five.high <= 0.9


def test_without_patients_there_is_only_the_mean_over_slices() -> None:
    found = summarise("rmse", None, [1.0, 3.0], [], seed=0, draws=100)
    assert (found.mean, found.std, found.patients, found.mean_over_slices) == (None, None, 0, 2.0)


def test_ids_stay_out_of_the_output_unless_ctpatch_made_them() -> None:
    real = patients_of(["Miller", "Smith", "Miller"])
    assert (real.names, real.groups) == (
        ["patient 1", "patient 2", "patient 1"],
        {"patient 1": [0, 2], "patient 2": [1]},
    )
    assert real.numbered
    made = ["P0123456789abcdef", "P00000000000000aa"]
    assert patients_of(made).names == made
    assert not patients_of(made).numbered
    assert patients_of([*made, "Miller"]).names == ["patient 1", "patient 2", "patient 3"]


def test_a_slice_without_a_patient_leaves_no_means_over_patients() -> None:
    found = patients_of(["a", None, "a"])
    assert (found.names, found.unknown, found.groups) == (["patient 1", None, "patient 1"], 1, {})
