"""What a loader promises by value: whole epochs after a resumed one, whose state it takes, and every flip."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError
from ctpatch.loading.transforms import FlipsAndRotations
from helpers import Prepared, build_one, make_split


@pytest.fixture
def ps(prepared: Prepared) -> ctpatch.PatchSet:
    """60 patches of 16x16."""
    build_one(prepared, layout="shards")
    return ctpatch.open(prepared.out)


def numbers(loader: Any) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader]


def stopped_after(loader: Any, batches: int) -> dict[str, Any]:
    """The state of a loader that gave out some batches of an epoch."""
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    state: dict[str, Any] = loader.state_dict()
    iterator.close()
    return state


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_epochs_after_a_resumed_one_are_whole(ps: ctpatch.PatchSet, prefetch: int) -> None:
    through = ps.batches(8, shuffle=True, seed=5, prefetch=prefetch)
    epochs = [numbers(through) for _ in range(4)]
    state = stopped_after(ps.batches(8, shuffle=True, seed=5, epoch=1, prefetch=prefetch), 3)
    resumed = ps.batches(8, shuffle=True, seed=5, prefetch=prefetch)
    resumed.load_state_dict(state)
    assert numbers(resumed) == epochs[1][3:]
    for wanted in epochs[2:]:
        found = numbers(resumed)
        assert found == wanted
        assert sorted(itertools.chain(*found)) == list(range(60))


def test_a_resumed_epoch_that_is_left_early_begins_anew(ps: ctpatch.PatchSet) -> None:
    whole = numbers(ps.batches(8, shuffle=True, seed=5))
    resumed = ps.batches(8, shuffle=True, seed=5)
    resumed.load_state_dict(stopped_after(ps.batches(8, shuffle=True, seed=5), 3))
    assert stopped_after(resumed, 2)["next_batch"] == 5
    assert numbers(resumed) == whole


def test_set_epoch_forgets_where_a_state_would_go_on(ps: ctpatch.PatchSet) -> None:
    whole = numbers(ps.batches(8, shuffle=True, seed=5))
    resumed = ps.batches(8, shuffle=True, seed=5)
    resumed.load_state_dict(stopped_after(ps.batches(8, shuffle=True, seed=5), 3))
    resumed.set_epoch(0)
    assert numbers(resumed) == whole


def test_a_state_belongs_to_its_number_of_ranks_and_to_any_of_them(ps: ctpatch.PatchSet) -> None:
    state = stopped_after(ps.batches(4, shuffle=True, seed=1, rank=0, world_size=2), 2)
    with pytest.raises(ConfigError, match="world_size was 2, this loader has 3"):
        ps.batches(4, shuffle=True, seed=1, rank=0, world_size=3).load_state_dict(state)
    with pytest.raises(ConfigError, match="world_size was 2, this loader has 1"):
        ps.batches(4, shuffle=True, seed=1).load_state_dict(state)
    other = ps.batches(4, shuffle=True, seed=1, rank=1, world_size=2)
    other.load_state_dict(state)
    assert numbers(other) == numbers(ps.batches(4, shuffle=True, seed=1, rank=1, world_size=2))[2:]


def flipped(patch: NDArray[Any], number: int) -> NDArray[Any]:
    """One of the four flips: 1 turns the rows round, 2 the columns, 3 both."""
    return [patch, np.flipud(patch), np.fliplr(patch), np.rot90(patch, 2)][number]


def test_patches_that_are_not_square_are_flipped_in_all_four_ways(tmp_path: Path) -> None:
    """The flip of a patch is the two lowest of the three highest bits of its number in the stream of flips."""
    rng = np.random.default_rng(3)
    prepared = make_split(tmp_path, images=[rng.random((40, 50), dtype=np.float32) for _ in range(2)])
    build_one(prepared, ctpatch.PatchConfig(patch_size=(8, 16), stride=8))
    ps = ctpatch.open(prepared.out)
    whole = ps.read(range(len(ps)))
    raw = np.random.Philox(key=np.array([4, 2 << 8 | 3], np.uint64)).random_raw(len(ps))
    wanted = [int(number) >> 61 & 3 for number in raw]
    seen = set()
    for batch in ps.batches(7, seed=4, epoch=2, transform=FlipsAndRotations()):
        for at, patch in zip(batch.indices.tolist(), batch.arrays["image"][:, 0], strict=True):
            same = [number for number in range(4) if patch.tobytes() == flipped(whole[at], number).tobytes()]
            assert same == [wanted[at]]
            seen.add(same[0])
    assert seen == {0, 1, 2, 3}
