"""Batches: every patch once, the same whatever the threads, resumed where they stopped; NumPy and torch."""

import gc
import inspect
import itertools
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError, NpyError, RuleError
from ctpatch.loading.options import Batch
from ctpatch.loading.transforms import FlipsAndRotations, apply_symmetry
from helpers import LAYOUTS, SMALL, build_one, make_split


@pytest.fixture(params=LAYOUTS)
def ps(request: pytest.FixtureRequest, tmp_path: Path) -> ctpatch.PatchSet:
    """60 patches of 16x16 in three slices of three patients, as each layout."""
    prepared = make_split(tmp_path, columns={"patient_id": ["a", "a", "b"]})
    build_one(prepared, layout=request.param)
    return ctpatch.open(prepared.out)


@pytest.fixture
def pairs(tmp_path: Path) -> ctpatch.PatchSet:
    prepared = make_split(tmp_path, arrays={"target": "f4", "mask": "u1"})
    build_one(prepared, layout="shards")
    return ctpatch.open(prepared.out)


def numbers(loader: Any) -> list[list[int]]:
    return [batch.indices.tolist() for batch in loader]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_hold_the_patches_they_name(ps: ctpatch.PatchSet, prefetch: int) -> None:
    wanted = ps.read(range(len(ps)))
    seen = []
    for batch in ps.batches(7, shuffle=True, seed=3, prefetch=prefetch, columns=["std", "slice_index"]):
        assert batch.arrays["image"].shape[1:] == (1, 16, 16)
        assert batch.arrays["image"].dtype == np.float32
        assert batch.arrays["image"][:, 0].tobytes() == wanted[batch.indices].tobytes()
        assert batch.columns["std"].tolist() == ps.manifest["std"].gather(batch.indices).to_list()
        assert batch.columns["slice_index"].tolist() == ps.manifest["slice_index"].gather(batch.indices).to_list()
        seen += batch.indices.tolist()
    assert sorted(seen) == list(range(60))
    assert seen != sorted(seen)


def test_without_shuffle_the_order_is_the_manifests(ps: ctpatch.PatchSet) -> None:
    assert numbers(ps.batches(25)) == [list(range(25)), list(range(25, 50)), list(range(50, 60))]
    assert numbers(ps.batches(25, drop_last=True)) == [list(range(25)), list(range(25, 50))]


def test_epochs_differ_and_repeat_by_seed(pairs: ctpatch.PatchSet) -> None:
    loader = pairs.batches(8, shuffle=True, seed=1)
    first, second = numbers(loader), numbers(loader)
    assert first != second
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second)) == list(range(60))
    loader.set_epoch(0)
    assert numbers(loader) == first
    assert numbers(pairs.batches(8, shuffle=True, seed=1, epoch=1)) == second
    assert numbers(pairs.batches(8, shuffle=True, seed=2)) != first


def test_the_order_is_pinned_for_ever(pairs: ctpatch.PatchSet) -> None:
    """The order is a promise: Philox raw numbers keyed by (seed, epoch << 8 | 1), sorted."""
    keys = np.random.Philox(key=np.array([9, 4 << 8 | 1], np.uint64)).random_raw(60)
    assert (
        list(itertools.chain(*numbers(pairs.batches(60, shuffle=True, seed=9, epoch=4)))) == np.argsort(keys).tolist()
    )


def test_a_resumed_epoch_goes_on_with_the_next_batch(pairs: ctpatch.PatchSet) -> None:
    whole = numbers(pairs.batches(8, shuffle=True, seed=5, epoch=2))
    loader = pairs.batches(8, shuffle=True, seed=5, epoch=2)
    iterator: Any = iter(loader)
    begun = [next(iterator).indices.tolist() for _ in range(3)]
    state = loader.state_dict()
    iterator.close()
    again = pairs.batches(8, shuffle=True, seed=5)
    again.load_state_dict(state)
    assert begun + numbers(again) == whole
    assert again.epoch == 3
    with pytest.raises(ConfigError, match="seed was 5, this loader has 6"):
        pairs.batches(8, shuffle=True, seed=6).load_state_dict(state)
    with pytest.raises(ConfigError, match="batch_size was 8, this loader has 4"):
        pairs.batches(4, shuffle=True, seed=5).load_state_dict(state)


def test_a_pass_that_was_left_early_is_begun_anew(pairs: ctpatch.PatchSet) -> None:
    loader = pairs.batches(8, shuffle=True, seed=5)
    first = next(iter(loader)).indices.tolist()
    again = numbers(loader)
    assert again[0] == first
    assert sorted(itertools.chain(*again)) == list(range(60))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_an_epoch(pairs: ctpatch.PatchSet, world: int, shuffle: bool) -> None:
    ranks = [
        list(itertools.chain(*numbers(pairs.batches(4, shuffle=shuffle, seed=1, rank=rank, world_size=world))))
        for rank in range(world)
    ]
    assert len({len(rank) for rank in ranks}) == 1
    seen = Counter(itertools.chain(*ranks))
    assert sorted(seen) == list(range(60))
    assert sum(count - 1 for count in seen.values()) == -60 % world
    cut = [
        list(itertools.chain(*numbers(pairs.batches(1, rank=rank, world_size=world, drop_last=True))))
        for rank in range(world)
    ]
    assert len(set(itertools.chain(*cut))) == sum(len(rank) for rank in cut) == 60 // world * world


def test_subset_weight_and_balance(ps: ctpatch.PatchSet) -> None:
    kept = np.flatnonzero(ps.manifest["air_fraction"].to_numpy() < 0.3).tolist()
    assert 0 < len(kept) < 60
    assert sorted(itertools.chain(*numbers(ps.batches(8, shuffle=True, subset="air_fraction < 0.3")))) == kept
    draws: Counter[int] = Counter()
    loader = ps.batches(60, weight="std", seed=1)
    for _ in range(300):
        draws.update(itertools.chain(*numbers(loader)))
    std = ps.manifest["std"].to_numpy()
    share = np.array([draws[patch] for patch in range(60)]) / draws.total()
    np.testing.assert_allclose(share, std / std.sum(), atol=0.004)
    patients: Counter[str] = Counter()
    owner = ["a" if index < 2 else "b" for index in ps.manifest["slice_index"]]
    loader = ps.batches(60, balance="patient_id", seed=1)
    for _ in range(100):
        patients.update(owner[at] for at in itertools.chain(*numbers(loader)))
    assert abs(patients["a"] - patients["b"]) < 0.05 * patients.total()


def test_blocks_stay_near_each_other(tmp_path: Path) -> None:
    build_one(make_split(tmp_path, [(40, 50)] * 40), layout="slices")
    ps = ctpatch.open(tmp_path / "patches" / "phantoms" / "train")
    order = list(itertools.chain(*numbers(ps.batches(64, shuffle=True, seed=1, block_size=10))))
    assert sorted(order) == list(range(800))
    for start in range(0, 800, 160):
        blocks = {at // 10 for at in order[start : start + 160]}
        assert len(blocks) == 16
    assert order[:10] != sorted(order[:10])


def test_flips_and_rotations_are_the_same_for_all_arrays(pairs: ctpatch.PatchSet) -> None:
    whole = pairs.read(range(60))
    used: Counter[int] = Counter()
    first: dict[int, bytes] = {}
    for epoch in range(2):
        for batch in pairs.batches(7, shuffle=True, seed=4, epoch=epoch, transform=FlipsAndRotations()):
            for place, at in enumerate(batch.indices.tolist()):
                matches = [
                    which
                    for which in range(8)
                    if all(
                        batch.arrays[name][place, 0].tobytes() == apply_symmetry(whole[name][at], which).tobytes()
                        for name in pairs.arrays
                    )
                ]
                assert len(matches) == 1
                used[matches[0]] += 1
                if epoch == 0:
                    first[at] = batch.arrays["image"][place].tobytes()
    assert set(used) == set(range(8))
    again: dict[int, bytes] = {}
    for batch in pairs.batches(11, seed=4, transform=FlipsAndRotations()):
        again.update(zip(batch.indices.tolist(), (each.tobytes() for each in batch.arrays["image"]), strict=True))
    assert again == first  # by seed, epoch and patch alone: not by order or batch size


def test_the_eight_symmetries_are_eight() -> None:
    patch = np.arange(9).reshape(3, 3)
    assert len({apply_symmetry(patch, which).tobytes() for which in range(8)}) == 8


def test_an_error_in_the_thread_reaches_the_caller(tmp_path: Path) -> None:
    prepared = make_split(tmp_path)
    build_one(prepared)
    (prepared.out / "train_000001_000_000.npy").unlink()
    before = loading_threads()
    with pytest.raises(NpyError, match=r"train_000001_000_000\.npy is missing"):
        numbers(ctpatch.open(prepared.out).batches(8))
    assert loading_threads() <= before


def test_leaving_early_ends_the_thread(pairs: ctpatch.PatchSet) -> None:
    before = loading_threads()
    for _batch in pairs.batches(4, prefetch=3):
        assert len(loading_threads() - before) == 1  # it waits for the caller: there are more batches than slots
        break
    gc.collect()  # ends the iterator that nobody holds any more
    assert loading_threads() <= before
    iterator: Any = iter(pairs.batches(4, prefetch=3))
    next(iterator)
    iterator.close()
    assert loading_threads() <= before


def loading_threads() -> set[threading.Thread]:
    """Threads of loaders alone: those of the machine's libraries come and go as they like."""
    return {thread for thread in threading.enumerate() if thread.name == "ctpatch-loader"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"prefetch": -1}, "prefetch"),
        ({"seed": -1}, "seed"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"columns": ["patch_id"]}, "no numeric column 'patch_id'"),
        ({"arrays": ["nothing"]}, "arrays: there is no array 'nothing'; the set has image, target, mask"),
        ({"arrays": "nothing"}, "arrays: there is no array 'nothing'; the set has image, target, mask"),
        ({"subset": "std > 9"}, "no patch of 60 meets"),
        ({"weight": "std", "balance": "slice_index"}, "give one of them"),
        ({"weight": "0 - std"}, "negative"),
        ({"balance": "colour"}, "no column 'colour'"),
        ({"block_size": 8}, "together with shuffle"),
    ],
)
def test_options_that_make_no_sense(pairs: ctpatch.PatchSet, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        pairs.batches(**options)
    with pytest.raises(RuleError):
        pairs.batches(weight="std < 1")


def test_the_parameters_are_those_of_the_one_list(pairs: ctpatch.PatchSet) -> None:
    shown = inspect.signature(pairs.batches).parameters
    assert {name: each.default for name, each in shown.items()} == {
        "batch_size": 64,
        "group": None,
        "shuffle": False,
        "seed": 0,
        "epoch": 0,
        "drop_last": False,
        "prefetch": 2,
        "windows": None,
        "normalize": None,
        "hu": None,
        "context": 0,
        "context_edge": "repeat",
        "context_gap": "refuse",
        "context_arrays": None,
        "columns": (),
        "arrays": None,
        "transform": None,
        "subset": None,
        "weight": None,
        "balance": None,
        "block_size": None,
        "rank": 0,
        "world_size": 1,
        "copy": None,
    }
    kinds = {name: each.kind for name, each in shown.items()}
    assert kinds.pop("batch_size") is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}
    described = inspect.getdoc(pairs.batches) or ""
    assert all(re.search(rf"^    (\w+, )?{name}(, \w+)?: \w", described, re.MULTILINE) for name in shown)
    assert described.index("Args:") < described.index("Returns:") < described.index("Raises:")
    assert pairs.batches(7).options == pairs.batches(batch_size=7).options
    with pytest.raises(TypeError, match=r"PatchSet\.batches\(\): got an unexpected keyword argument 'shufle'"):
        pairs.batches(8, shufle=True)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="too many positional arguments"):
        pairs.batches(8, True)  # type: ignore[call-arg]


def test_one_array_by_its_name(pairs: ctpatch.PatchSet) -> None:
    (batch,) = pairs.batches(60, arrays="target")
    assert list(batch.arrays) == ["target"]
    assert batch.arrays["target"][:, 0].tobytes() == pairs.read(range(60), arrays="target").tobytes()
    (batch,) = pairs.batches(60, arrays=[])
    assert list(batch.arrays) == ["image", "target", "mask"]
    (batch,) = ctpatch.open(pairs.folder, arrays=["mask"]).batches(60)
    assert list(batch.arrays) == ["mask"]


def test_reassembly_from_the_manifest(ps: ctpatch.PatchSet) -> None:
    whole = ps.slice(1)
    found = ps.reassemble(1, window="uniform")
    covered = np.isfinite(found)
    assert found[covered].tobytes() == whole[covered].tobytes()
    assert covered.sum() == 40 * 48
    rows = np.flatnonzero(ps.manifest["slice_index"].to_numpy() == 1)
    doubled = ps.reassemble(1, ps.read(rows) * np.float32(2), fill=0)
    np.testing.assert_allclose(doubled[covered], 2 * whole[covered], rtol=1e-6)
    with pytest.raises(KeyError):
        ps.reassemble(9)


def test_predict_a_slice_and_a_set(ps: ctpatch.PatchSet, tmp_path: Path) -> None:
    calls: list[int] = []

    def darker(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        assert batch.shape[1:] == (1, 16, 16)
        calls.append(len(batch))
        return batch * np.float32(0.5)

    whole = ps.slice(2)
    cfg = ctpatch.PatchConfig(patch_size=16, stride=12, pad_mode="even")
    np.testing.assert_allclose(ctpatch.predict(darker, whole, cfg, batch_size=5), whole * 0.5, atol=1e-6)
    assert set(calls[:-1]) == {5}
    folder = ctpatch.predict(darker, ps, batch_size=9, out=tmp_path / "results")
    assert folder == tmp_path / "results" / "prepared" / "phantoms_predicted" / "train"
    build_one_result = ctpatch.build(folder, config=SMALL)[0]
    assert ctpatch.verify(build_one_result.folder, deep=True).ok
    again = ctpatch.open(build_one_result.folder)
    for index in range(3):
        np.testing.assert_allclose(again.slice(index), ps.slice(index) * 0.5, atol=1e-6)
    assert again.slices["patient_id"].to_list() == ["a", "a", "b"]


def test_predict_refuses_a_model_of_another_shape(ps: ctpatch.PatchSet) -> None:
    with pytest.raises(ctpatch.CtPatchError, match=r"gave shape \(1, 1, 15, 16\) for a batch"):
        ctpatch.predict(lambda batch: batch[:, :, 1:], np.zeros((40, 50)), ctpatch.PatchConfig(patch_size=16))
    with pytest.raises(ctpatch.CtPatchError, match="holds nan"):
        ctpatch.predict(lambda batch: batch * np.nan, np.zeros((40, 50)), ctpatch.PatchConfig(patch_size=16))
    with pytest.raises(ctpatch.CtPatchError, match="out:"):
        ctpatch.predict(lambda batch: batch, ps)


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch", reason="torch is not installed: pip install torch")

    def test_the_dataset_gives_samples_and_batches(self, ps: ctpatch.PatchSet) -> None:
        import torch

        from ctpatch.torch import PatchDataset

        data = PatchDataset(ps)
        sample = data[5]
        assert (sample.shape, sample.dtype) == ((1, 16, 16), torch.float32)
        assert sample[0].numpy().tobytes() == ps.read([5]).tobytes()
        batches: list[Any] = list(torch.utils.data.DataLoader(data, batch_size=7, shuffle=False))
        assert torch.cat(batches)[:, 0].numpy().tobytes() == ps.read(range(60)).tobytes()
        workers: list[Any] = list(torch.utils.data.DataLoader(data, batch_size=7, num_workers=1))
        assert torch.cat(workers).equal(torch.cat(batches))

    def test_the_loader_gives_what_numpy_gives(self, pairs: ctpatch.PatchSet) -> None:
        import torch

        from ctpatch.torch import PatchLoader

        loader = PatchLoader(pairs, 8, shuffle=True, seed=2, columns=["std"], transform=FlipsAndRotations())
        plain = pairs.batches(8, shuffle=True, seed=2, columns=["std"], transform=FlipsAndRotations())
        assert len(loader) == 8
        for ours, theirs in zip(loader, plain, strict=True):
            assert set(ours) == {"image", "target", "mask", "std"}
            assert ours["mask"].dtype == torch.uint8
            for name in pairs.arrays:
                assert ours[name].numpy().tobytes() == theirs.arrays[name].tobytes()
            assert ours["std"].tolist() == theirs.columns["std"].tolist()

    def test_the_options_are_those_of_batches(self, pairs: ctpatch.PatchSet) -> None:
        from ctpatch.torch import PatchLoader

        shown = inspect.signature(PatchLoader).parameters
        plain = inspect.signature(pairs.batches).parameters
        assert list(shown)[:2] == ["source", "batch_size"]
        assert set(shown) == {"source", *plain} - {"epoch"}
        assert (shown["rank"].default, shown["world_size"].default) == (None, None)
        alike = set(shown) - {"source", "rank", "world_size"}
        assert {name: shown[name].default for name in alike} == {name: plain[name].default for name in alike}
        with pytest.raises(TypeError, match=r"PatchLoader\.__init__\(\): got an unexpected keyword argument 'epoch'"):
            PatchLoader(pairs, epoch=1)  # type: ignore[call-overload]

    def test_a_list_of_one_array_is_a_tensor_unless_the_set_was_opened_with_it(self, pairs: ctpatch.PatchSet) -> None:
        import torch

        from ctpatch.torch import PatchDataset, PatchLoader

        listed = ctpatch.open(pairs.folder, arrays=["target"])
        for arrays in ("target", ["target"]):
            both: list[Any] = [*PatchLoader(pairs, 60, arrays=arrays), *PatchLoader(listed, 60, arrays=arrays)]
            assert all(isinstance(each, torch.Tensor) for each in [*both, PatchDataset(pairs, arrays)[0]])
        assert [list(batch) for batch in PatchLoader(listed, 60)] == [["target"]]
        assert list(PatchDataset(listed)[0]) == ["target"]
        with pytest.raises(ValueError, match="there is no array 'lung'; the set has image, target, mask"):
            PatchDataset(pairs, "lung")

    def test_one_array_comes_as_a_tensor_and_epochs_resume(self, ps: ctpatch.PatchSet) -> None:
        import torch

        from ctpatch.torch import PatchLoader

        loader = PatchLoader(ps, 16, shuffle=True)
        first: list[Any] = list(loader)
        assert all(isinstance(batch, torch.Tensor) for batch in first)
        assert [tuple(batch.shape) for batch in first if isinstance(batch, torch.Tensor)] == [(16, 1, 16, 16)] * 3 + [
            (12, 1, 16, 16)
        ]
        loader.load_state_dict({**loader.state_dict(), "epoch": 0, "next_batch": 2})
        rest: list[Any] = list(loader)
        assert all(torch.equal(a, b) for a, b in zip(rest, first[2:], strict=True))
        state = loader.state_dict()
        assert (state["epoch"], state["next_batch"], state["seed"], state["patches"]) == (1, 0, 0, 60)

    def test_a_transform_works_on_tensors(self, ps: ctpatch.PatchSet) -> None:
        from ctpatch.torch import PatchLoader

        def negative(batch: Batch[Any]) -> Batch[Any]:
            batch.arrays["image"] = -batch.arrays["image"]
            return batch

        got: Any = next(iter(PatchLoader(ps, 60, transform=negative)))
        assert got[:, 0].numpy().tobytes() == (-ps.read(range(60))).tobytes()

    def test_ranks_come_from_torch_distributed(self, ps: ctpatch.PatchSet, tmp_path: Path) -> None:
        import torch.distributed as dist

        from ctpatch.torch import PatchLoader

        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
        try:
            assert len(PatchLoader(ps, 1)) == 60
        finally:
            dist.destroy_process_group()
        assert len(PatchLoader(ps, 1, rank=1, world_size=4)) == 15
        with pytest.raises(ConfigError, match="go together"):
            PatchLoader(ps, 1, rank=1)

    def test_predict_with_a_module_restores_its_mode(self, ps: ctpatch.PatchSet) -> None:
        import torch

        model: Any = torch.nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            model.weight.zero_()
            model.weight[0, 0, 1, 1] = 0.25
            model.bias.zero_()
        model.train()
        whole = ps.slice(0)
        cfg = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
        np.testing.assert_allclose(ctpatch.predict(model, whole, cfg), whole * 0.25, atol=1e-6)
        assert model.training
