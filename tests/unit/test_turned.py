"""The eight symmetries: turned and turned back, averaged or voted on, for arrays and for tensors."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctpatch.predicting.turned import OneAnswer, commonest, symmetries_of, turn, turn_back

BATCH = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)


def as_tensor(values: Any) -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch").from_numpy(values)


def test_there_are_eight_for_squares_and_four_else() -> None:
    turned = [turn(BATCH, symmetry).tobytes() for symmetry in symmetries_of((4, 4))]
    assert len(set(turned)) == len(turned) == 8
    wanted = {
        np.ascontiguousarray(np.rot90(flipped, k, (-2, -1))).tobytes()
        for flipped in (BATCH, BATCH[..., ::-1])
        for k in range(4)
    }
    assert set(turned) == wanted
    wide = np.ascontiguousarray(BATCH[..., :3])
    turned = [turn(wide, symmetry).tobytes() for symmetry in symmetries_of((4, 3))]
    assert set(turned) == {
        each.tobytes() for each in (wide, wide[..., ::-1], wide[..., ::-1, :], wide[..., ::-1, ::-1])
    }
    assert len(turned) == 4


@pytest.mark.parametrize("symmetry", range(8))
def test_turning_back_undoes_it_in_memory_of_its_own(symmetry: int) -> None:
    turned = turn(BATCH, symmetry)
    np.testing.assert_array_equal(turn_back(turned, symmetry), BATCH)
    assert not np.shares_memory(turned, BATCH)
    assert turned.flags.c_contiguous
    tensor = as_tensor(BATCH)
    other = turn(tensor, symmetry)
    np.testing.assert_array_equal(other.numpy(), turned)
    np.testing.assert_array_equal(turn_back(other, symmetry).numpy(), BATCH)
    assert other.is_contiguous()
    assert not np.shares_memory(other.numpy(), BATCH)


@settings(deadline=None, max_examples=60)
@given(arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=st.integers(0, 3)))
def test_the_commonest_label_wins_of_equal_ones_the_smallest(votes: Any) -> None:
    found = commonest(list(votes))
    assert found.dtype == np.uint8
    for place, label in enumerate(found.tolist()):
        counts = Counter(votes[:, place].tolist())
        assert label == min(counts, key=lambda each: (-counts[each], each))


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_floats_are_averaged(kind: str) -> None:
    values = [np.full((2, 2), each, np.float16) for each in (1.0, 2.0, 6.0)]
    answer = OneAnswer()
    for each in values:
        answer.add(each if kind == "array" else as_tensor(each), average=False)
    found = np.asarray(answer.result(np.dtype(np.float16)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((2, 2), 3.0))


def test_labels_that_are_scores_are_averaged() -> None:
    answer = OneAnswer()
    for each in (True, False, True, True):
        answer.add(np.full((1, 2), each), average=True)
    np.testing.assert_array_equal(answer.result(np.dtype(bool)), np.full((1, 2), 0.75, np.float32))
