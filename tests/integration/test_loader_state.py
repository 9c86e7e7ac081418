"""Where a loader stands, by value: several passes, set_epoch in a pass, states of other sets, and senseless options."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError
from ctpatch.loading.options import Batch
from helpers import Prepared, build_one, make_split


@pytest.fixture
def ps(prepared: Prepared) -> ctpatch.PatchSet:
    """60 patches of 16x16."""
    build_one(prepared, layout="shards")
    return ctpatch.open(prepared.out)


def order(epoch: int, seed: int = 5) -> list[list[int]]:
    """The batches of an epoch, from the stream of random numbers alone."""
    keys = np.random.Philox(key=np.array([seed, epoch << 8 | 1], np.uint64)).random_raw(60)
    shuffled = np.argsort(keys).tolist()
    return [shuffled[start : start + 8] for start in range(0, 60, 8)]


def loader_of(ps: ctpatch.PatchSet, **options: Any) -> Any:
    return ps.batches(8, shuffle=True, seed=5, **options)


def numbers(batches: Any) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


def place(loader: Any) -> tuple[int, int]:
    state = loader.state_dict()
    return state["epoch"], state["next_batch"]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_two_passes_at_a_time(ps: ctpatch.PatchSet, prefetch: int) -> None:
    """Both are whole; the loader stands where the one stands that gave the last batch."""
    loader = loader_of(ps, prefetch=prefetch)
    one, other = iter(loader), iter(loader)
    assert numbers(itertools.islice(one, 3)) == order(0)[:3]
    assert place(loader) == (0, 3)
    assert numbers(itertools.islice(other, 2)) == order(0)[:2]
    assert place(loader) == (0, 2)
    assert numbers(itertools.islice(one, 1)) == order(0)[3:4]
    assert place(loader) == (0, 4)
    assert numbers(other) == order(0)[2:]
    assert place(loader) == (1, 0)
    assert numbers(one) == order(0)[4:]
    assert place(loader) == (1, 0)
    assert numbers(loader) == order(1)
    pairs = [(a.indices.tolist(), b.indices.tolist()) for a, b in zip(loader, loader, strict=False)]
    assert pairs == [(batch, batch) for batch in order(2)]
    assert numbers(loader) == order(3)


def test_a_pass_in_the_middle_of_another(ps: ctpatch.PatchSet) -> None:
    """As an evaluation does; the state that is saved afterwards is that of the training."""
    loader, found = loader_of(ps), []
    for step, batch in enumerate(loader):
        if step == 3:
            assert numbers(loader) == order(0)
        found.append(batch.indices.tolist())
        if step == 4:
            state = loader.state_dict()
    assert found == order(0)
    again = loader_of(ps)
    again.load_state_dict(state)
    assert numbers(again) == order(0)[5:]


def test_set_epoch_in_a_pass(ps: ctpatch.PatchSet) -> None:
    """The pass goes on as it was; the loader stands at the first batch of the new epoch, and stays there."""
    loader = loader_of(ps)
    running = iter(loader)
    assert numbers(itertools.islice(running, 2)) == order(0)[:2]
    loader.set_epoch(6)
    assert place(loader) == (6, 0)
    assert numbers(itertools.islice(running, 2)) == order(0)[2:4]
    state = loader.state_dict()
    assert (state["epoch"], state["next_batch"]) == (6, 0)
    assert numbers(running) == order(0)[4:]
    assert place(loader) == (6, 0)
    again = loader_of(ps)
    again.load_state_dict(state)
    for each in (loader, again):
        assert numbers(each) == order(6)
        assert each.epoch == 7


def test_load_state_dict_in_a_pass(ps: ctpatch.PatchSet) -> None:
    loader = loader_of(ps)
    running = iter(loader)
    next(running)
    state = loader.state_dict()
    loader.load_state_dict({**state, "epoch": 2, "next_batch": 5})
    assert numbers(running) == order(0)[1:]
    assert place(loader) == (2, 5)
    assert numbers(loader) == order(2)[5:]
    assert numbers(loader) == order(3)


def test_a_state_saved_after_the_last_batch(ps: ctpatch.PatchSet) -> None:
    """Nothing of the epoch is left: the pass that resumes it is empty, and the next one is the next epoch."""
    states = [loader.state_dict() for loader in [loader_of(ps)] for _ in loader]
    assert [state["next_batch"] for state in states] == list(range(1, 9))
    again = loader_of(ps)
    again.load_state_dict(states[-1])
    assert numbers(again) == []
    assert numbers(again) == order(1)


def test_a_state_of_another_set_of_as_many_patches(ps: ctpatch.PatchSet, tmp_path: Path) -> None:
    other = make_split(tmp_path / "other", seed=1)
    build_one(other, layout="shards")
    there = ctpatch.open(other.out)
    assert len(there) == len(ps)
    state = loader_of(ps).state_dict()
    assert state["fingerprint"] == ps.meta.fingerprint != there.meta.fingerprint
    with pytest.raises(ConfigError, match=f"state: fingerprint was '{ps.meta.fingerprint}', this loader has '"):
        loader_of(there).load_state_dict(state)
    ctpatch.convert(ps.folder, tmp_path / "converted", layout="files")
    loader_of(ctpatch.open(tmp_path / "converted")).load_state_dict(state)


def test_a_state_of_an_earlier_version_is_taken_with_a_warning(ps: ctpatch.PatchSet) -> None:
    loader = loader_of(ps)
    state = {**loader.state_dict(), "next_batch": 6}
    del state["fingerprint"]
    with pytest.warns(UserWarning, match="cannot tell whether it belongs to this set"):
        loader.load_state_dict(state)
    assert numbers(loader) == order(0)[6:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": -1}, r"epoch: wanted 0 to 2\*\*56 - 1, got -1"),
        ({"epoch": 2**56}, r"epoch: wanted 0 to 2\*\*56 - 1"),
        ({"epoch": None}, "epoch: wanted a whole number, got None"),
        ({"next_batch": -1}, "next_batch is -1, an epoch of this loader has 8 batches"),
        ({"next_batch": 9}, "next_batch is 9, an epoch of this loader has 8 batches"),
        ({"next_batch": 1.5}, "next_batch: wanted a whole number, got 1.5"),
        ({"seed": 6}, "seed was 6, this loader has 5"),
    ],
)
def test_states_that_make_no_sense(ps: ctpatch.PatchSet, change: dict[str, Any], words: str) -> None:
    loader = loader_of(ps)
    with pytest.raises(ConfigError, match=words):
        loader.load_state_dict({**loader.state_dict(), **change})
    with pytest.raises(ConfigError, match="state: shuffle was None"):
        loader.load_state_dict({})
    assert numbers(loader) == order(0)


@pytest.mark.parametrize("epoch", [-1, 2**56, 2**57, 2**70, 1.5, "3", None])
def test_epochs_that_there_are_not(ps: ctpatch.PatchSet, epoch: Any) -> None:
    loader = loader_of(ps, epoch=2)
    with pytest.raises(ConfigError, match="epoch: wanted"):
        loader.set_epoch(epoch)
    with pytest.raises(ConfigError, match="epoch: wanted"):
        loader_of(ps, epoch=epoch)
    assert numbers(loader) == order(2)


def test_the_last_epoch(ps: ctpatch.PatchSet) -> None:
    loader = loader_of(ps, epoch=np.int64(2**56 - 1))
    assert numbers(loader) == order(2**56 - 1)
    with pytest.raises(ConfigError, match=r"epoch: wanted 0 to 2\*\*56 - 1"):
        next(iter(loader))


@pytest.mark.parametrize("scale", ["1e308", "1e-320", "5e-324", "1"])
def test_weights_that_cannot_be_summed_as_they_are(ps: ctpatch.PatchSet, scale: str) -> None:
    """Each draw is worked out in fractions, from the weights as the computer has them."""
    weights = [Fraction(float(row + 1) / 17 * float(scale)) for row in ps.manifest["row"]]
    if scale == "5e-324":
        weights = [Fraction(float(row + 1) * float(scale)) for row in ps.manifest["row"]]
    expression = f"(row + 1) * {scale}" if scale == "5e-324" else f"(row + 1) / 17 * {scale}"
    if scale == "1e308":
        assert not np.isfinite(float(max(weights)) * 60)
    raw = np.random.Philox(key=np.array([5, 2], np.uint64)).random_raw(60)
    ends = list(itertools.accumulate(weights))
    wanted = []
    for number in raw.tolist():
        at = Fraction(number >> 11, 2**53) * ends[-1]
        wanted.append(next(patch for patch, end in enumerate(ends) if end > at))
    (batch,) = ps.batches(60, weight=expression, seed=5)
    assert batch.indices.tolist() == wanted
    assert len(set(wanted)) > 20


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"weight": "row * 1e308 * 10"},
            "weight: .* is inf for patch 5, and negative, infinite or no number for 45 of",
        ),
        ({"weight": "row - 8"}, "is -8.0 for patch 0, .* 15 of 60 patches"),
        ({"weight": "0 / (row - row)"}, "is nan for patch 0"),
        ({"weight": "row - row"}, "is 0 for each of 60 patches"),
        ({"drop_last": True, "batch_size": 61}, "drop_last: no batch is left: this process draws 60 patches"),
        ({"drop_last": True, "batch_size": 16, "world_size": 4}, "this process draws 15 patches .* batch_size 16"),
        ({"drop_last": True, "batch_size": 1, "world_size": 61}, "this process draws 0 patches .* world_size 61"),
        ({"seed": 1.5}, "seed: wanted a whole number, got 1.5"),
        ({"batch_size": 2.5}, "batch_size: wanted a whole number"),
        ({"prefetch": "2"}, "prefetch: wanted a whole number, got '2'"),
        ({"block_size": 1.5, "shuffle": True}, "block_size: wanted a whole number"),
        ({"rank": 0.5, "world_size": 2}, "rank: wanted a whole number"),
    ],
)
def test_options_that_make_no_sense(ps: ctpatch.PatchSet, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ps.batches(**options)


def test_a_share_without_patches_of_its_own_repeats_some(ps: ctpatch.PatchSet) -> None:
    """Without drop_last no rank is empty, so that none waits for another."""
    shares = [numbers(ps.batches(4, rank=rank, world_size=125)) for rank in range(125)]
    assert shares == [[[rank % 60]] for rank in range(125)]
    assert numbers(ps.batches(60, drop_last=True)) == [list(range(60))]


def test_a_set_without_patches(tmp_path: Path) -> None:
    made = make_split(tmp_path)
    build_one(made, ctpatch.PatchConfig(patch_size=16, stride=8, drop=["all: std > -1"]))
    with pytest.raises(ConfigError, match="the set has no patches"):
        ctpatch.open(made.out).batches(8)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(("given", "words"), [(None, "returned None"), ({"image": 1}, "returned a dict")])
def test_a_transform_that_returns_no_batch(ps: ctpatch.PatchSet, prefetch: int, given: Any, words: str) -> None:
    def transform(batch: Batch[Any]) -> Any:
        return batch if batch.indices[0] < 16 else given

    iterator = iter(ps.batches(8, prefetch=prefetch, transform=transform))
    assert numbers(itertools.islice(iterator, 2)) == [list(range(8)), list(range(8, 16))]
    with pytest.raises(ConfigError, match=f"transform: it {words}.*return batch"):
        next(iterator)


def test_the_loader_of_tensors_stands_as_that_of_arrays(ps: ctpatch.PatchSet) -> None:
    pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    from ctpatch.torch import PatchLoader

    wanted, loader = ps.read(range(60)), PatchLoader(ps, 8, shuffle=True, seed=5)
    running = iter(loader)
    next(running)
    loader.set_epoch(4)
    assert [batch[:, 0].numpy().tobytes() for batch in running] == [wanted[each].tobytes() for each in order(0)[1:]]
    assert place(loader) == (4, 0)
    assert [batch[:, 0].numpy().tobytes() for batch in loader] == [wanted[each].tobytes() for each in order(4)]
    with pytest.raises(ConfigError, match="epoch: wanted"):
        loader.set_epoch(2**57)
    with pytest.raises(ConfigError, match="no batch is left"):
        PatchLoader(ps, 64, drop_last=True)
