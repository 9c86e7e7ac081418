"""Statistics of patches that are computed together, against each patch alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpatch.core.statistics.api import use_compiled, window_statistics
from ctpatch.core.statistics.stacks import stack_statistics


def alone(patches: np.ndarray[Any, Any], air_level: float) -> dict[str, list[float]]:
    found = [window_statistics(each, (0,), (0,), each.shape, air_level).windows for each in patches]
    return {name: [float(each[name][0]) for each in found] for name in found[0]} if found else {}


def check(patches: np.ndarray[Any, Any]) -> None:
    found = stack_statistics(patches, 0.25)
    for name, values in alone(patches, 0.25).items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@given(
    count=st.integers(0, 19),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from([np.float32, np.float64, np.uint8, np.int16]),
    seed=st.integers(0, 99),
)
def test_each_patch_has_what_it_has_alone(count: int, size: tuple[int, int], dtype: Any, seed: int) -> None:
    pixels = np.random.default_rng(seed).normal(0.3, 0.2, (count, *size))
    pixels[::3] = pixels[::3].round(1)
    check((pixels if np.dtype(dtype).kind == "f" else pixels * 50).astype(dtype))


@pytest.mark.parametrize("size", [(300, 5), (7, 300), (260, 600), (1030, 128)])
def test_patches_that_are_cut_into_several_cells(size: tuple[int, int]) -> None:
    check(np.random.default_rng(1).random((9, *size), np.float32))


@pytest.mark.parametrize("wanted", [True, False])
def test_both_engines(wanted: bool) -> None:
    used = use_compiled(wanted)
    try:
        assert wanted or not used
        check(np.random.default_rng(2).random((17, 33, 20), np.float32))
    finally:
        use_compiled(None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_patch_that_is_not_finite_leaves_the_others_alone(value: float) -> None:
    patches = np.random.default_rng(3).random((10, 6, 5), np.float32)
    patches[4, 2, 3] = value
    found = stack_statistics(patches, 0.25)
    assert [at for at in range(10) if np.isnan(found["mean"][at])] == [4]
    check(patches)
