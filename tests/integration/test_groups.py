"""Batches of whole groups, held against a plain walk over the manifest: order, ranks, resuming and drawn windows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError
from helpers import SMALL, build_one, make_split, refusal

RULE = SMALL.with_rules(ctpatch.Rule(name="some", condition="slice_index == 3 AND row > 8 OR slice_index == 5"))
SHAPES = [(40, 50), (24, 30), (32, 32), (40, 50), (16, 16), (20, 20), (24, 24), (32, 24)]
PATIENTS = ["a", "b", "a", "c", "b", "c", "d", "d"]


@pytest.fixture
def ps(tmp_path: Path) -> ctpatch.PatchSet:
    """Slices of which each has another number of patches, and slice 5 none."""
    columns = {"patient_id": PATIENTS, "site": ["x", "y", "x", "", "y", "x", "z", "z"]}
    split = make_split(tmp_path / "set", SHAPES, columns=columns)
    build_one(split, RULE, layout="slices", keep_columns="site")
    return ctpatch.open(split.out)


def groups_of(ps: ctpatch.PatchSet, patient: bool = False) -> list[list[int]]:
    """Numbers of patches that share a slice or a patient, by plain Python, in the order of their first patches."""
    found: dict[Any, list[int]] = {}
    for number, index in enumerate(ps.manifest["slice_index"].to_list()):
        found.setdefault(PATIENTS[index] if patient else index, []).append(number)
    return list(found.values())


def drawn(loader: Any) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader]


@pytest.mark.parametrize("column", ["slice_index", "patient_id"])
def test_a_batch_is_a_group(ps: ctpatch.PatchSet, column: str) -> None:
    wanted = groups_of(ps, column == "patient_id")
    loader = ps.batches(group=column, columns=["std"])
    assert len(loader) == len(wanted)
    assert drawn(loader) == wanted
    everything = ps.read(range(len(ps)))
    for batch in ps.batches(group=column, columns=["std"]):
        assert batch.arrays["image"].shape == (len(batch.indices), 1, 16, 16)
        np.testing.assert_array_equal(batch.arrays["image"][:, 0], everything[batch.indices])
        assert batch.columns["std"].tolist() == ps.manifest["std"].gather(batch.indices).to_list()


def test_groups_are_shuffled_whole(ps: ctpatch.PatchSet) -> None:
    wanted = groups_of(ps)
    epochs = [drawn(ps.batches(group="slice_index", shuffle=True, seed=3, epoch=epoch)) for epoch in range(4)]
    assert all(sorted(each) == sorted(wanted) for each in epochs)
    assert len({str(each) for each in epochs}) > 1
    assert epochs[1] == drawn(ps.batches(group="slice_index", shuffle=True, seed=3, epoch=1, prefetch=0))


def test_a_subset_of_the_patches_of_each_group(ps: ctpatch.PatchSet) -> None:
    right = ps.manifest["col"].to_list()
    wanted = [kept for group in groups_of(ps) if (kept := [number for number in group if right[number] >= 8])]
    assert drawn(ps.batches(group="slice_index", subset="col >= 8")) == wanted


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_groups(ps: ctpatch.PatchSet, world: int, drop_last: bool) -> None:
    options: dict[str, Any] = {"group": "slice_index", "shuffle": True, "seed": 5, "drop_last": drop_last}
    whole = drawn(ps.batches(group="slice_index", shuffle=True, seed=5))
    assert len(whole) == 7
    shares = [drawn(ps.batches(**options, rank=rank, world_size=world)) for rank in range(world)]
    each = 7 // world if drop_last else -(-7 // world)
    assert [len(share) for share in shares] == [each] * world
    order = (whole + whole)[: each * world]
    assert [shares[at % world][at // world] for at in range(each * world)] == order


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("windows", [None, ctpatch.RandomWindows(8, 5)])
def test_resumed_at_every_batch(ps: ctpatch.PatchSet, world: int, windows: Any) -> None:
    options: dict[str, Any] = {"group": "patient_id", "shuffle": True, "seed": 2, "windows": windows}
    for rank in range(world):
        given = {**options, "rank": rank, "world_size": world}
        whole = [batch.arrays["image"] for batch in ps.batches(**given)]
        for stop in range(1, len(whole) + 1):
            loader = ps.batches(**given)
            passed = iter(loader)
            for _ in range(stop):
                next(passed)
            again = ps.batches(**given)
            again.load_state_dict(loader.state_dict())
            rest = [batch.arrays["image"] for batch in again]
            assert len(rest) == len(whole) - stop
            for one, other in zip(rest, whole[stop:], strict=True):
                np.testing.assert_array_equal(one, other)


def test_drawn_windows_of_each_slice(ps: ctpatch.PatchSet) -> None:
    options: dict[str, Any] = {
        "group": "slice_index", "windows": ctpatch.RandomWindows(8, 5), "shuffle": True, "seed": 4,
        "columns": ["slice_index", "row", "col"],
    }  # fmt: skip
    alone = list(ps.batches(**options))
    slices = [batch.columns["slice_index"].tolist() for batch in alone]
    assert all(len(set(each)) == 1 and len(each) == 5 for each in slices)
    assert sorted(each[0] for each in slices) == [0, 1, 2, 3, 4, 6, 7]
    assert len({(row, col) for batch in alone for row, col in zip(*map(batch.columns.get, ("row", "col")))}) > 5  # noqa: B905
    for batch in alone:
        image = ps.slice(int(batch.columns["slice_index"][0]))
        for patch, row, col in zip(batch.arrays["image"], batch.columns["row"], batch.columns["col"], strict=True):
            np.testing.assert_array_equal(patch[0], image[row : row + 8, col : col + 8])
    # Ranks draw the same windows, and a slice that is repeated at the end has others.
    shares = [list(ps.batches(**options, rank=rank, world_size=3)) for rank in range(3)]
    for at, batch in enumerate(alone):
        np.testing.assert_array_equal(shares[at % 3][at // 3].arrays["image"], batch.arrays["image"])
    assert not np.array_equal(shares[1][2].arrays["image"], alone[0].arrays["image"])
    numbers = [number for share in shares for batch in share for number in batch.indices.tolist()]
    assert sorted(numbers) == list(range(45))
    assert all(batch.set_size > max(numbers) for share in shares for batch in share)


def test_windows_of_a_prepared_split(ps: ctpatch.PatchSet) -> None:
    slices = ctpatch.open_slices(ps.data_root / "prepared/phantoms/train")
    found = [
        batch.columns["slice_index"].tolist()
        for batch in slices.batches(group="slice_index", windows=ctpatch.RandomWindows(8, 3), columns=["slice_index"])
    ]
    assert found == [[number] * 3 for number in range(8)]


def test_what_is_refused(ps: ctpatch.PatchSet) -> None:
    def refused(**options: Any) -> str:
        return refusal(ConfigError, lambda: ps.batches(**{"group": "slice_index", **options}))

    assert "batch_size: with group='slice_index' a batch is a group" in refused(batch_size=8)
    for name, value in {"weight": "std", "balance": "patient_id"}.items():
        assert f"{name}: it decides how single patches are drawn" in refused(**{name: value})
    assert "block_size: it decides how single patches" in refused(block_size=4, shuffle=True)
    assert "group: there is no column 'colour'" in refused(group="colour")
    empty = [number for number, index in enumerate(ps.manifest["slice_index"].to_list()) if index == 3]
    words = refused(group="site")
    assert f"group: {len(empty)} of {len(ps)} patches have no site, the first is patch {empty[0]}" in words
    ps.batches(group="site", subset="site IN ('x', 'y', 'z')")
    assert "7 groups cannot be shared by 8 ranks" in refused(drop_last=True, world_size=8)
    assert "LabelWindows" in refused(windows=ctpatch.LabelWindows(8, 2))


def test_a_state_belongs_to_its_groups(ps: ctpatch.PatchSet) -> None:
    plain, grouped = ps.batches(), ps.batches(group="slice_index")
    assert "group" not in plain.state_dict()
    assert "group" in refusal(ConfigError, lambda: plain.load_state_dict(grouped.state_dict()))
    assert "group" in refusal(ConfigError, lambda: grouped.load_state_dict(plain.state_dict()))


def test_tensors_come_in_groups_too(ps: ctpatch.PatchSet) -> None:
    pytest.importorskip("torch")
    from ctpatch.torch import PatchLoader

    loader: Any = PatchLoader(ps, group="slice_index")
    assert [len(batch) for batch in loader] == [len(group) for group in groups_of(ps)]
