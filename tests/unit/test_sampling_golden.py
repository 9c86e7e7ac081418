"""Orders, draws and flips by value: the same for every version of ctpatch and of NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctpatch.core.statistics.columns import rule_columns
from ctpatch.loading.options import SamplerOptions
from ctpatch.loading.sampling import Sampler, symmetries

SEED, EPOCH = 11, 3


def sampler(
    owners: Sequence[int], patients: Sequence[str | None] = (), std: Sequence[float] | None = None, **options: Any
) -> Sampler:
    """A sampler of patches whose slices are `owners`; slice k is of patient `patients[k]`."""
    columns: dict[str, Any] = {name: np.zeros(len(owners)) for name in rule_columns()}
    columns |= {"slice_index": list(owners), "std": list(std or np.ones(len(owners)))}
    slices = pl.DataFrame(
        {"slice_index": range(len(patients)), "patient_id": list(patients)},
        schema={"slice_index": pl.Int64, "patient_id": pl.String},
    )
    return Sampler(pl.DataFrame(columns), slices, SamplerOptions(seed=SEED, **options))


def stream(purpose: int, count: int) -> list[int]:
    """The raw numbers of one of the streams: 1 orders, 2 draws, 3 flips."""
    raw = np.random.Philox(key=np.array([SEED, EPOCH * 256 + purpose], np.uint64)).random_raw(count)
    return [int(number) for number in raw]


def uniform(count: int) -> list[float]:
    return [(number >> 11) / 2**53 for number in stream(2, count)]


def test_golden_values() -> None:
    """Worked out with Philox written in plain Python; other numbers would change every training that is repeated."""
    assert sampler([0] * 12, shuffle=True).epoch(EPOCH).tolist() == [4, 10, 11, 6, 3, 0, 1, 7, 8, 2, 5, 9]
    drawn = sampler([0] * 12, std=range(12), weight="std").epoch(EPOCH).tolist()
    assert drawn == [10, 11, 10, 10, 8, 7, 9, 11, 9, 4, 8, 8]
    assert symmetries(SEED, EPOCH, 12).tolist() == [7, 6, 0, 3, 4, 2, 2, 0, 2, 6, 6, 0]


def test_the_three_streams_are_three() -> None:
    assert len({tuple(stream(purpose, 4)) for purpose in (1, 2, 3)}) == 3
    count = 50
    assert sampler([0] * count, shuffle=True).epoch(EPOCH).tolist() == sorted(
        range(count), key=stream(1, count).__getitem__
    )
    drawn = sampler([0] * count, weight="std").epoch(EPOCH).tolist()
    assert drawn == [int(number * count) for number in uniform(count)]
    assert symmetries(SEED, EPOCH, count).tolist() == [number >> 61 for number in stream(3, count)]


@pytest.mark.parametrize(("count", "block_size"), [(100, 2), (103, 3), (400, 5), (20, 2)])
def test_patches_of_sixteen_blocks_mix(count: int, block_size: int) -> None:
    """Blocks are sorted by the number of their first patch; of 16 blocks the patches are sorted by their own."""
    keys = stream(1, count)
    blocks = [list(range(start, min(start + block_size, count))) for start in range(0, count, block_size)]
    blocks.sort(key=lambda block: keys[block[0]])
    wanted = []
    for start in range(0, len(blocks), 16):
        together = [patch for block in blocks[start : start + 16] for patch in block]
        wanted += sorted(together, key=keys.__getitem__)
    found = sampler([0] * count, shuffle=True, block_size=block_size).epoch(EPOCH).tolist()
    assert found == wanted
    assert len({patch // block_size for patch in found[: 2 * block_size]}) > 2


def test_patches_of_no_patient_are_one_group() -> None:
    """Slices 1 and 2 name no patient: together they are drawn as often as each of the two patients."""
    owners = [number for number in range(4) for _ in range(20)]
    balanced = sampler(owners, ["a", None, None, "b"], balance="patient_id")
    wanted = []
    for number in uniform(80):
        group, within = divmod(number * 3, 1)
        wanted.append([int(within * 20), 20 + int(within * 40), 60 + int(within * 20)][int(group)])
    assert balanced.epoch(EPOCH).tolist() == wanted
    drawn = np.concatenate([balanced.epoch(epoch) for epoch in range(200)])
    shares = np.bincount(np.array([0, 1, 1, 2])[drawn // 20]) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.02)
