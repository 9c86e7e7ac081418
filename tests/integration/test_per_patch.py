"""Transforms of single patches: the same numbers in whatever batch a patch comes, and nothing converted quietly."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError
from ctpatch.loading.options import Batch
from ctpatch.loading.transforms import keyed_generator
from helpers import build_one, make_split

Sample = dict[str, NDArray[Any]]


@pytest.fixture
def ps(tmp_path: Path) -> ctpatch.PatchSet:
    """Sixty patches of 16x16 with an image and labels."""
    prepared = make_split(tmp_path, arrays={"mask": np.uint8})
    build_one(prepared)
    return ctpatch.open(prepared.out)


def noise(sample: Sample, rng: np.random.Generator) -> Sample:
    """Noise on the image, and labels that say which draw they were part of."""
    return {"image": sample["image"] + rng.normal(size=sample["image"].shape), "mask": sample["mask"]}


def noisy(ps: ctpatch.PatchSet, **options: Any) -> dict[int, bytes]:
    """Each patch that a loader gives, by its number."""
    found: dict[int, bytes] = {}
    for batch in ps.batches(**{"seed": 4, "transform": ctpatch.per_patch(noise), **options}):
        found.update(zip(batch.indices.tolist(), (each.tobytes() for each in batch.arrays["image"]), strict=True))
    return found


def generator(seed: int, epoch: int, index: int, purpose: int = 0) -> np.random.Generator:
    """The numbers of a patch, as the documentation of Philox says how a key and a counter are given as one number."""
    key = seed | ((epoch << 8) | 32) << 64
    return np.random.Generator(np.random.Philox(key=key, counter=(index << 128) | (purpose << 192)))


def test_a_patch_is_treated_by_seed_epoch_and_number_alone(ps: ctpatch.PatchSet) -> None:
    whole = ps.read(range(60), arrays="image")
    wanted = {
        at: (whole[at][None] + generator(4, 0, at).normal(size=(1, 16, 16))).astype(np.float32).tobytes()
        for at in range(60)
    }
    assert noisy(ps, batch_size=7) == wanted
    assert noisy(ps, batch_size=60, shuffle=True, prefetch=0) == wanted
    shares = [noisy(ps, batch_size=4, shuffle=True, rank=rank, world_size=3, drop_last=True) for rank in range(3)]
    assert {at: each for share in shares for at, each in share.items()}.items() <= wanted.items()
    assert sum(map(len, shares)) == 60
    late = ctpatch.in_callers_thread(ctpatch.per_patch(noise))
    assert noisy(ps, batch_size=7, transform=late) == wanted
    assert noisy(ps, batch_size=7, epoch=1)[0] != wanted[0]
    assert noisy(ps, batch_size=7, seed=5)[0] != wanted[0]
    assert noisy(ps, batch_size=7, transform=ctpatch.per_patch(noise, purpose=1))[0] != wanted[0]


def test_a_resumed_epoch_goes_on_with_the_same_numbers(ps: ctpatch.PatchSet) -> None:
    def loader() -> Any:
        return ps.batches(7, shuffle=True, seed=1, transform=ctpatch.per_patch(noise))

    whole = [batch.arrays["image"].copy() for batch in loader()]
    for stop in range(len(whole)):
        first = loader()
        passing = iter(first)
        for _ in range(stop):
            next(passing)
        second = loader()
        second.load_state_dict(first.state_dict())
        rest = [batch.arrays["image"] for batch in second]
        assert [each.tobytes() for each in rest] == [each.tobytes() for each in whole[stop:]]


def test_windows_that_are_drawn_have_numbers_of_their_draws(tmp_path: Path) -> None:
    """With neighbouring slices as channels, and the same whatever the batch size."""
    prepared = make_split(tmp_path)
    build_one(prepared, layout="slices")
    ps = ctpatch.open(prepared.out)
    windows = ctpatch.RandomWindows(patch_size=12, per_slice=7)
    options: dict[str, Any] = {"windows": windows, "context": 1, "context_gap": "ignore", "seed": 6}

    def drawn(**more: Any) -> dict[int, NDArray[Any]]:
        batches = list(ps.batches(**options, **more))
        return {
            at: patch
            for batch in batches
            for at, patch in zip(batch.indices.tolist(), batch.arrays["image"], strict=True)
        }

    def shift(sample: Sample, rng: np.random.Generator) -> Sample:
        return {"image": sample["image"] + np.float32(rng.random())}

    plain = drawn(batch_size=21)
    for batch_size in (21, 4):
        found = drawn(batch_size=batch_size, transform=ctpatch.per_patch(shift))
        assert found.keys() == plain.keys() == set(range(21))
        for at, patch in found.items():
            assert patch.shape == (3, 12, 12)
            assert np.array_equal(patch, plain[at] + np.float32(generator(6, 0, at).random()))


@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 2**56 - 1),
    index=st.integers(0, 2**63 - 1),
    purpose=st.integers(0, 2**63 - 1),
)
def test_numbers_of_any_patch(seed: int, epoch: int, index: int, purpose: int) -> None:
    batch: Batch[Any] = Batch(
        arrays={}, columns={}, indices=np.array([index]), epoch=epoch, seed=seed, set_size=index + 1
    )
    drawn = keyed_generator(batch, index, purpose).integers(2**63, size=5)
    assert drawn.tolist() == generator(seed, epoch, index, purpose).integers(2**63, size=5).tolist()


def treated(ps: ctpatch.PatchSet, fn: Callable[[Sample, np.random.Generator], Any]) -> Batch[NDArray[Any]]:
    return next(iter(ps.batches(6, transform=ctpatch.per_patch(fn))))


def test_a_crop_changes_the_shape_of_all_patches(ps: ctpatch.PatchSet) -> None:
    def crop(sample: Sample, rng: np.random.Generator) -> Sample:
        row, col = rng.integers(0, 9, 2)
        return {name: each[:, row : row + 8, col : col + 8] for name, each in sample.items()}

    batch = treated(ps, crop)
    whole = ps.read(range(6))
    for at in range(6):
        row, col = generator(0, 0, at).integers(0, 9, 2)
        for name, patches in batch.arrays.items():
            assert patches.shape == (6, 1, 8, 8)
            assert patches.dtype == whole[name].dtype
            assert np.array_equal(patches[at, 0], whole[name][at, row : row + 8, col : col + 8])


def test_a_function_may_swap_and_change_what_it_gets(ps: ctpatch.PatchSet) -> None:
    def swap(sample: Sample, _: np.random.Generator) -> Mapping[str, Any]:
        image = sample["image"]
        labels = sample["mask"]
        image[:] = np.round(image)
        return {"mask": image[:, ::-1], "image": labels}

    batch, whole = treated(ps, swap), ps.read(range(6))
    assert np.array_equal(batch.arrays["image"][:, 0], whole["mask"])
    assert np.array_equal(batch.arrays["mask"][:, 0], np.round(whole["image"])[:, ::-1])


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (
            lambda _s, _r: None,
            r"for patch 0 the function of per_patch returned NoneType, wanted a dict with the .*mask",
        ),
        (lambda s, _r: {"image": s["image"]}, r"returned arrays image, wanted a dict with the arrays image, mask"),
        (lambda s, _r: s | {"heat": s["image"]}, r"returned arrays image, mask, heat, wanted"),
        (lambda s, _r: s | {"image": s["image"][0]}, r"image of patch 0 has shape \(16, 16\), wanted \(C, H, W\)"),
        (lambda s, _r: s | {"image": s["image"][:, :0]}, r"image of patch 0 has shape \(1, 0, 16\), wanted"),
        (
            lambda s, r: s | {"image": s["image"][:, : r.integers(1, 16)]},
            r"image of patch \d has shape \(1, \d+, 16\), that of patch 0 in the same batch has \(1, \d+, 16\)",
        ),
        (
            lambda s, _r: s | {"mask": s["mask"] * 0.5 + 0.1},
            r"mask of patch 0 came back as float64 .* nearest-neighbour",
        ),
        (lambda s, _r: s | {"mask": s["mask"] * np.nan}, r"values that uint8 does not hold"),
        (lambda s, _r: s | {"mask": s["mask"].astype(np.int64) + 300}, r"came back as int64 with values that uint8"),
        (lambda s, _r: s | {"image": s["image"] * 1j}, r"image of patch 0 came back as complex64"),
        (lambda s, _r: s | {"image": s["mask"].astype(np.int64) + 2**24 + 1}, r"values that float32 does not hold"),
    ],
)
def test_what_a_function_must_not_return(
    ps: ctpatch.PatchSet, fn: Callable[[Sample, np.random.Generator], Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        treated(ps, fn)


def test_values_that_the_dtype_holds_are_taken(ps: ctpatch.PatchSet) -> None:
    batch = treated(ps, lambda s, _r: {"image": s["image"].astype(np.float64) / 3, "mask": s["mask"].astype(np.int64)})
    whole = ps.read(range(6))
    assert np.array_equal(batch.arrays["image"][:, 0], (whole["image"].astype(np.float64) / 3).astype(np.float32))
    assert np.array_equal(batch.arrays["mask"][:, 0], whole["mask"])
    assert batch.arrays["mask"].dtype == np.uint8


def test_an_error_of_the_function_says_which_patch_it_was(ps: ctpatch.PatchSet) -> None:
    def fail(_: Sample, __: np.random.Generator) -> Sample:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        treated(ps, fail)
    assert caught.value.__notes__ == ["raised in a per_patch transform, for patch 0 in epoch 0"]


@pytest.mark.parametrize("purpose", [-1, 2**63, 0.5, "noise"])
def test_a_purpose_is_a_whole_number(purpose: Any) -> None:
    with pytest.raises(ConfigError, match="purpose: wanted"):
        ctpatch.per_patch(noise, purpose=purpose)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(ConfigError, match="per_patch: wanted a function of a patch and its generator, got int"):
        ctpatch.per_patch(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_thread_of_a_transform(ps: ctpatch.PatchSet, prefetch: int) -> None:
    ran: list[threading.Thread] = []

    def note(batch: Batch[NDArray[Any]]) -> Batch[NDArray[Any]]:
        ran.append(threading.current_thread())
        return batch

    passing = iter(ps.batches(20, prefetch=prefetch, transform=ctpatch.in_callers_thread(note)))
    for number in range(3):
        assert len(ran) == number  # not before the batch is asked for
        next(passing)
    assert set(ran) == {threading.main_thread()}
    assert list(passing) == []
    ran.clear()
    list(ps.batches(20, prefetch=prefetch, transform=note))
    assert (threading.main_thread() in ran) is (prefetch == 0)


def test_an_error_in_the_callers_thread_ends_the_pass(ps: ctpatch.PatchSet) -> None:
    def fail(_: Batch[NDArray[Any]]) -> Batch[NDArray[Any]]:
        raise ZeroDivisionError

    loader = ps.batches(20, transform=ctpatch.in_callers_thread(fail))
    passing = iter(loader)
    with pytest.raises(ZeroDivisionError):
        next(passing)
    assert list(passing) == []
    assert loader.state_dict()["next_batch"] == 0
    nothing: Any = lambda _: None  # noqa: E731
    with pytest.raises(ConfigError, match="it returned None"):
        next(iter(ps.batches(20, transform=ctpatch.in_callers_thread(nothing))))


def test_tensors_are_treated_as_arrays_are(ps: ctpatch.PatchSet) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from ctpatch.torch import PatchLoader

    def turn(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        assert all(isinstance(each, torch.Tensor) for each in sample.values())
        times = int(rng.integers(4))
        return {name: torch.rot90(each, times, (1, 2))[:, :12] for name, each in sample.items()}

    def turn_array(sample: Sample, rng: np.random.Generator) -> Sample:
        times = int(rng.integers(4))
        return {name: np.rot90(each, times, (1, 2))[:, :12] for name, each in sample.items()}

    both = ["image", "mask"]
    tensors = list(PatchLoader(ps, 7, arrays=both, shuffle=True, seed=2, transform=ctpatch.per_patch(turn)))
    arrays = list(ps.batches(7, shuffle=True, seed=2, transform=ctpatch.per_patch(turn_array)))
    assert len(tensors) == len(arrays) == 9
    for one, other in zip(tensors, arrays, strict=True):
        for name, wanted in other.arrays.items():
            assert one[name].dtype == (torch.float32 if name == "image" else torch.uint8)
            assert np.array_equal(one[name].numpy(), wanted)
    in_place = next(
        iter(PatchLoader(ps, 7, arrays=both, transform=ctpatch.per_patch(lambda s, _r: {n: -t for n, t in s.items()})))
    )
    assert np.array_equal(in_place["image"][:, 0].numpy(), -ps.read(range(7), arrays="image"))
