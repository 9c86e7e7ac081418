"""Transforms of other libraries in loaders: by value, keyed by patch, labels kept whole, torch's numbers left alone.

The real libraries, each where it is installed. torchvision is not: its builds cost gigabytes. A stand-in with the same
calling convention takes its place.
"""

import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch import adapters
from ctpatch.errors import ConfigError, UsageError
from ctpatch.loading.options import Batch
from helpers import build_one, make_split

pytestmark = pytest.mark.filterwarnings("ignore")  # what these libraries warn of is theirs

Patches = dict[str, NDArray[Any]]
torch: Any = pytest.importorskip("torch", reason="torch is not installed")


def library(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the internet for its newest version
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed; `make torch` installs it")


@pytest.fixture
def ps(tmp_path: Path) -> ctpatch.PatchSet:
    """Sixty patches of 16x16: a pair in [0, 1], and labels 0 to 4."""
    prepared = make_split(tmp_path, arrays={"target": np.float32, "mask": np.uint8})
    build_one(prepared)
    return ctpatch.open(prepared.out)


def by_number(ps: ctpatch.PatchSet, transform: Any, **options: Any) -> dict[int, Patches]:
    found: dict[int, Patches] = {}
    for batch in ps.batches(**{"batch_size": 7, "seed": 4, "transform": transform, **options}):
        for place, at in enumerate(batch.indices.tolist()):
            found[at] = {name: patches[place] for name, patches in batch.arrays.items()}
    return found


def same(one: dict[int, Patches], other: dict[int, Patches]) -> bool:
    return one.keys() <= other.keys() and all(
        each[name].tobytes() == other[at][name].tobytes() for at, each in one.items() for name in each
    )


def keyed(ps: ctpatch.PatchSet, transform: Any) -> dict[int, Patches]:
    """What a transform makes of each patch, after it was seen that nothing but its key decides."""
    from ctpatch.torch import PatchLoader

    whole = by_number(ps, transform)
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002 - what a library may draw from
    assert same(by_number(ps, transform, batch_size=11, shuffle=True, prefetch=0), whole)
    assert same(by_number(ps, transform, batch_size=4, rank=2, world_size=3), whole)
    assert not same(by_number(ps, transform, epoch=1), whole)
    assert not same(by_number(ps, transform, seed=5), whole)
    tensors = PatchLoader(ps, 60, arrays=list(ps.arrays), seed=4, transform=transform)
    for together in tensors:
        for name, patches in together.items():
            assert patches.numpy().tobytes() == np.stack([whole[at][name] for at in range(60)]).tobytes()
    one, other = (iter(ps.batches(7, seed=4, transform=transform)) for _ in range(2))
    for first, second in zip(one, other, strict=True):  # two passes at a time
        assert first.arrays["image"].tobytes() == second.arrays["image"].tobytes()
    assert same(by_number(ps, pickle.loads(pickle.dumps(transform)), subset="std > 0.1"), whole)
    return whole


def symmetries_of(patch: NDArray[Any]) -> list[bytes]:
    turned = [np.rot90(patch, times, (1, 2)) for times in range(4)]
    return [each.tobytes() for each in turned + [each[..., ::-1] for each in turned]]


def is_turned(ps: ctpatch.PatchSet, found: dict[int, Patches], kinds: int) -> None:
    """Every patch is one of its symmetries, the same one for all arrays, and all kinds occur."""
    before, seen = ps.read(range(60)), set()
    for at, patches in found.items():
        ways = [
            {way for way, each in enumerate(symmetries_of(before[name][at][None])) if each == patch.tobytes()}
            for name, patch in patches.items()
        ]
        common = set.intersection(*ways)
        assert len(common) == 1
        seen |= common
    assert len(seen) == kinds


def moved_labels(ps: ctpatch.PatchSet, found: dict[int, Patches]) -> None:
    """Labels were moved, and are labels of before and the 0 beyond the border."""
    before = ps.read(range(60), arrays="mask")
    moved = np.stack([found[at]["mask"][0] for at in range(60)])
    assert moved.dtype == np.uint8
    assert np.mean(moved != before) > 0.2
    assert set(np.unique(moved).tolist()) <= {0, *np.unique(before).tolist()}


def follows(ps: ctpatch.PatchSet, found: dict[int, Patches], wanted: Callable[[Patches], Patches]) -> None:
    """A transform that has no choice does what its definition says."""
    before: Any = ps.read(range(60))
    for at, patches in found.items():
        for name, patch in wanted({name: stack[at][None] for name, stack in before.items()}).items():
            assert np.allclose(patches[name], patch, rtol=0, atol=1e-6), name


def test_monai(ps: ctpatch.PatchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monai = library("monai.transforms", monkeypatch)
    names = ["image", "target", "mask"]
    turn = monai.Compose(
        [
            monai.RandRotate90d(names, prob=1.0, max_k=3),
            monai.OneOf([monai.RandFlipd(names, prob=0.5, spatial_axis=0), monai.Identityd(names)]),
        ]
    )
    turn.set_random_state(seed=1)
    state = turn.R.get_state()[2]
    is_turned(ps, keyed(ps, adapters.from_monai(turn)), kinds=6)
    assert turn.R.get_state()[2] == state  # the user's own is not touched
    affine = monai.RandAffined(names, prob=1.0, rotate_range=1.0, mode=["bilinear", "bilinear", "nearest"])
    moved_labels(ps, keyed(ps, adapters.from_monai(affine)))
    crop = by_number(ps, adapters.from_monai(monai.RandSpatialCropd(names, roi_size=(8, 6), random_size=False)))
    assert {name: patch.shape for name, patch in crop[3].items()} == dict.fromkeys(names, (1, 8, 6))
    assert crop[3]["image"].tobytes() in {
        ps.read([3], arrays="image")[0][row : row + 8, col : col + 6].tobytes() for row in range(9) for col in range(11)
    }
    follows(
        ps,
        by_number(ps, adapters.from_monai(monai.ScaleIntensityRanged(["image"], 0, 2, 0, 1))),
        lambda patch: patch | {"image": patch["image"] / 2},
    )
    several = adapters.from_monai(monai.RandSpatialCropSamplesd(names, roi_size=(8, 8), num_samples=2))
    with pytest.raises(ConfigError, match="returned list, wanted a dict"):
        by_number(ps, several)
    blurred = adapters.from_monai(monai.GaussianSmoothd(["mask"], sigma=1.0))
    with pytest.raises(ConfigError, match="mask of patch 0 came back as float32 with values that uint8 does not hold"):
        by_number(ps, blurred)


def test_torchio(ps: ctpatch.PatchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    torchio = library("torchio", monkeypatch)
    is_turned(ps, keyed(ps, adapters.from_torchio(torchio.RandomFlip(axes=(0, 1), flip_probability=0.5))), kinds=4)
    moved_labels(ps, keyed(ps, adapters.from_torchio(torchio.RandomAffine(degrees=40, scales=0.2))))
    noise = keyed(ps, adapters.from_torchio(torchio.RandomNoise(std=(0.1, 0.2))))
    before = ps.read(range(60))
    assert all(np.array_equal(patch["mask"][0], before["mask"][at]) for at, patch in noise.items())
    added = np.stack([patch["image"][0] for patch in noise.values()]) - before["image"]
    assert 0.1 < added.std(axis=(1, 2)).mean() < 0.2
    follows(
        ps,
        by_number(ps, adapters.from_torchio(torchio.CropOrPad((10, 20, 1)))),
        lambda patch: {name: np.pad(each[:, 3:13], ((0, 0), (0, 0), (2, 2))) for name, each in patch.items()},
    )


def test_albumentations(ps: ctpatch.PatchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    albumentations = library("albumentations", monkeypatch)
    turn = albumentations.Compose([albumentations.RandomRotate90(p=1), albumentations.HorizontalFlip(p=0.5)], seed=3)
    is_turned(ps, keyed(ps, adapters.from_albumentations(turn)), kinds=8)
    moved_labels(ps, keyed(ps, adapters.from_albumentations(albumentations.Affine(rotate=(-40, 40), p=1))))
    noise = keyed(ps, adapters.from_albumentations(albumentations.GaussNoise(std_range=(0.1, 0.2), p=1)))
    before = ps.read(range(60))
    assert all(np.array_equal(patch["mask"][0], before["mask"][at]) for at, patch in noise.items())
    assert all(not np.array_equal(patch["target"][0], before["target"][at]) for at, patch in noise.items())
    crop = albumentations.OneOf([albumentations.CenterCrop(8, 6)], p=1)
    follows(
        ps,
        by_number(ps, adapters.from_albumentations(crop)),
        lambda patch: {name: each[:, 4:12, 5:11] for name, each in patch.items()},
    )
    with pytest.raises(ConfigError, match="needs an array of pixels"):
        by_number(ps, adapters.from_albumentations(turn), arrays="mask")
    tensors = albumentations.Lambda(image=lambda image, **_: torch.from_numpy(image), p=1)
    with pytest.raises(ConfigError, match="returned a Tensor for image, wanted a NumPy array; leave ToTensorV2 out"):
        by_number(ps, adapters.from_albumentations(tensors))


def flips(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A flip of the columns by each library; that of Albumentations, which computes in the dtype given, comes first."""
    names = ("albumentations", "kornia.augmentation", "monai.transforms", "torchio")
    albumentations, kornia, monai, torchio = (library(name, monkeypatch) for name in names)
    return [
        adapters.from_albumentations(albumentations.HorizontalFlip(p=1)),
        adapters.from_kornia(kornia.RandomHorizontalFlip(p=1.0)),
        adapters.from_monai(monai.Flipd(["image", "mask"], spatial_axis=1)),
        adapters.from_torchio(torchio.RandomFlip(axes=(1,), flip_probability=1)),
    ]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize("channels", [1, 3])
def test_labels_of_every_dtype_are_moved_whole(dtype: Any, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With channels as neighbouring slices give them."""
    high = min(2**24, int(np.array(-1).astype(dtype)) if np.dtype(dtype).kind in "ub" else np.iinfo(dtype).max)
    rng = np.random.default_rng(0)
    image = rng.random((3, channels, 12, 12), dtype=np.float32)
    labels = rng.choice([0, 1, high - 1, high], (3, 1, 12, 12)).astype(dtype)
    transforms = flips(monkeypatch)
    for transform in transforms:
        arrays = {"image": image.copy(), "mask": labels.copy()}
        got = transform(Batch(arrays, {}, indices=np.arange(3), epoch=0, seed=0, set_size=3)).arrays
        assert np.array_equal(got["image"], image[..., ::-1])
        assert np.array_equal(got["mask"], labels[..., ::-1])
        assert got["mask"].dtype == dtype


def test_labels_that_would_be_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = flips(monkeypatch)[1:]
    albumentations = library("albumentations", monkeypatch)
    for labels in (2**24 + 1, -(2**24) - 1):
        arrays = {"image": np.zeros((1, 1, 8, 8), np.float32), "mask": np.full((1, 1, 8, 8), labels)}
        batch: Batch[Any] = Batch(arrays, {}, indices=np.arange(1), epoch=0, seed=0, set_size=1)
        for transform in refusing:
            with pytest.raises(ConfigError, match=rf"mask has labels from {labels} to {labels}; .* in float32"):
                transform(batch)
        kept = adapters.from_albumentations(albumentations.Rotate((90, 90), p=1))(batch)
        assert np.unique(kept.arrays["mask"]).tolist() == [labels]


def test_values_that_albumentations_may_clip_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    albumentations = library("albumentations", monkeypatch)
    transform = adapters.from_albumentations(albumentations.HorizontalFlip(p=1))
    arrays = {"image": np.full((1, 1, 8, 8), -0.5, np.float32)}
    with pytest.warns(UserWarning, match=r"image has values from -0\.5 to -0\.5: many transforms"):
        transform(Batch(arrays, {}, indices=np.arange(1), epoch=0, seed=0, set_size=1))


def test_kornia(ps: ctpatch.PatchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    kornia = library("kornia.augmentation", monkeypatch)
    flips = kornia.AugmentationSequential(kornia.RandomHorizontalFlip(p=0.5), kornia.RandomVerticalFlip(p=0.5))
    turn = adapters.from_kornia(flips)
    whole = by_number(ps, turn)
    is_turned(ps, whole, kinds=4)
    torch.manual_seed(9)
    assert same(by_number(ps, turn, prefetch=0), whole)
    assert not same(by_number(ps, turn, epoch=1), whole)
    assert not same(by_number(ps, turn, batch_size=8), whole)  # as its documentation says
    moved_labels(ps, by_number(ps, adapters.from_kornia(kornia.RandomAffine(40.0, p=1.0))))
    first = ps.batches(7, seed=4, transform=turn)
    passing = iter(first)
    for _ in range(3):
        next(passing)
    second = ps.batches(7, seed=4, transform=turn)
    second.load_state_dict(first.state_dict())
    for batch in second:
        for place, at in enumerate(batch.indices.tolist()):
            assert batch.arrays["mask"][place].tobytes() == whole[at]["mask"].tobytes()
    with pytest.raises(ConfigError, match="Kornia needs an array of pixels, this loader reads mask only"):
        by_number(ps, turn, arrays="mask")


@pytest.mark.parametrize("library_name", ["albumentations", "kornia", "monai", "torchio"])
def test_what_is_no_transform_is_refused(library_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library(library_name, monkeypatch)
    take = getattr(adapters, f"from_{library_name}")
    with pytest.raises(ConfigError, match=rf"from_{library_name}: wanted an? \w+ of \w+, got a list"):
        take([])
    if library_name in ("albumentations", "monai"):  # whose random numbers ctpatch could not set
        with pytest.raises(ConfigError, match="got a function"):
            take(lambda **sample: sample)


class _Stamped(torch.Tensor):  # type: ignore[misc]
    """A tensor that knows what it is, as those of torchvision's tv_tensors."""

    def __new__(cls, data: Any) -> Any:
        return data.as_subclass(cls)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """The adapter of torchvision is not there yet, and what a test makes of it is gone afterwards."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    sys.modules.pop("ctpatch.adapters.torchvision", None)
    vars(adapters).pop("from_torchvision", None)


@pytest.mark.usefixtures("forgotten")
def test_torchvision_by_a_stand_in(ps: ctpatch.PatchSet, monkeypatch: pytest.MonkeyPatch) -> None:
    tv_tensors: Any = types.ModuleType("torchvision.tv_tensors")
    tv_tensors.Image, tv_tensors.Mask = type("Image", (_Stamped,), {}), type("Mask", (_Stamped,), {})
    torchvision: Any = types.ModuleType("torchvision")
    torchvision.tv_tensors = tv_tensors
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.tv_tensors", tv_tensors)
    is_turned(ps, keyed(ps, adapters.from_torchvision(_flip_and_dim)), kinds=2)
    follows(
        ps,
        by_number(ps, adapters.from_torchvision(_dim)),
        lambda patch: {"image": patch["image"] / 2, "target": patch["target"] / 2, "mask": patch["mask"]},
    )


def _flip_and_dim(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: each.flip(-1) for name, each in sample.items()} if torch.rand(1).item() < 0.5 else sample


def _dim(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: each / 2 if type(each).__name__ == "Image" else each for name, each in sample.items()}


def test_the_training_draws_the_numbers_that_it_draws_without(
    ps: ctpatch.PatchSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchio, kornia = library("torchio", monkeypatch), library("kornia.augmentation", monkeypatch)
    for transform in (
        None,
        adapters.from_torchio(torchio.RandomNoise()),
        adapters.from_kornia(kornia.RandomGaussianNoise(p=1.0)),
    ):
        torch.manual_seed(7)
        drawn = [torch.rand(1).item() for _ in ps.batches(10, transform=transform)]
        torch.manual_seed(7)
        assert drawn == [torch.rand(1).item() for _ in range(6)]


def test_torchs_global_numbers_are_refused_to_the_reading_thread(
    ps: ctpatch.PatchSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchio = library("torchio", monkeypatch)
    noise = adapters.from_torchio(torchio.RandomNoise())

    def both(batch: Any) -> Any:
        return noise(ctpatch.FlipsAndRotations()(batch))

    with pytest.raises(ConfigError, match=r"TorchIO draws .* give the loader transform=ctpatch\.in_callers_thread"):
        by_number(ps, both)
    assert same(by_number(ps, ctpatch.in_callers_thread(both)), by_number(ps, both, prefetch=0))


@pytest.mark.usefixtures("forgotten")
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match=r"from_torchvision needs torchvision, .*: pip install torchvision"):
        adapters.from_torchvision  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'from_nothing'"):
        adapters.from_nothing  # noqa: B018
    assert dir(adapters) == sorted(adapters.__all__)
