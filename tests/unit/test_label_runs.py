"""Pixels of a mask by their number, against the list of all of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpatch.loading.label_runs import LabelRuns


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    labels=st.sets(st.integers(1, 20), min_size=1, max_size=20),
    dtype=st.sampled_from([np.uint8, np.int16, np.float32]),
    seed=st.integers(0, 99),
)
def test_each_pixel_by_its_number(shape: tuple[int, int], labels: set[int], dtype: Any, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 4, shape).astype(dtype)
    wanted = [at for at, value in enumerate(mask.ravel().tolist()) if value in labels]
    runs = LabelRuns(mask, tuple(labels))
    assert runs.pixels == len(wanted)
    assert [runs.pixel(number) for number in range(runs.pixels)] == wanted


@pytest.mark.parametrize(
    ("filled", "runs"), [(np.s_[2:5, :], 1), (np.s_[:, 3:6], 10), (np.s_[:, :], 1), (np.s_[::2, 0], 5)]
)
def test_it_keeps_a_begin_and_an_end_for_each_run(filled: Any, runs: int) -> None:
    mask = np.zeros((10, 8), bool)
    mask[filled] = True
    assert LabelRuns(mask, (1,)).nbytes == 8 * runs
