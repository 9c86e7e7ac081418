"""Loaders that normalise by the train set, held against NumPy over all patches of that set; labels stay as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError
from helpers import SMALL, build_one, change_meta, make_split, refusal

RULE = SMALL.with_rules(ctpatch.Rule(name="air", condition="air_fraction > 0.6"))
NAMES = ["image", "target", "mask"]
Set = ctpatch.PatchSet[dict[str, NDArray[Any]]]


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Set]:
    """Splits whose values are spread differently."""
    opened = {}
    for number, split in enumerate(("train", "val", "test")):
        prepared = make_split(tmp_path, [(40, 50)] * 3, split=split, arrays={"target": "f4", "mask": "u1"}, seed=number)
        build_one(prepared, RULE, layout="slices")
        opened[split] = ctpatch.open(prepared.out, arrays=NAMES)
    return opened


def all_patches(ps: Set) -> dict[str, NDArray[Any]]:
    return ps.read(range(len(ps)))


def batches_of(loader: Any) -> dict[str, NDArray[Any]]:
    found = list(loader)
    return {name: np.concatenate([batch.arrays[name] for batch in found])[:, 0] for name in found[0].arrays}


def assert_normalised(found: NDArray[Any], patches: NDArray[Any], source: NDArray[Any]) -> None:
    values = source.astype(np.float64)
    wanted = (patches.astype(np.float64) - values.mean()) / values.std()
    assert found.dtype == np.float32
    assert np.abs(found - wanted).max() < 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_train_means_the_train_set(sets: dict[str, Set], split: str) -> None:
    found, patches, train = (
        batches_of(sets[split].batches(7, normalize="train")),
        all_patches(sets[split]),
        all_patches(sets["train"]),
    )
    for array in ("image", "target"):
        assert_normalised(found[array], patches[array], train[array])
    assert np.array_equal(found["mask"], patches["mask"])
    assert found["mask"].dtype == np.uint8


def test_the_train_set_has_mean_0_and_std_1(sets: dict[str, Set]) -> None:
    for array, values in batches_of(sets["train"].batches(normalize="train", arrays=["image", "target"])).items():
        assert abs(values.astype(np.float64).mean()) < 1e-6, array
        assert abs(values.astype(np.float64).std() - 1) < 1e-6, array


def test_a_set_and_its_folder_say_the_same(sets: dict[str, Set]) -> None:
    wanted = batches_of(sets["val"].batches(normalize="train"))
    for given in (sets["train"], sets["train"].folder, str(sets["train"].folder)):
        found = batches_of(sets["val"].batches(normalize=given))
        assert all(np.array_equal(found[name], wanted[name]) for name in NAMES)


def test_two_numbers(sets: dict[str, Set]) -> None:
    patches = all_patches(sets["test"])
    found = batches_of(sets["test"].batches(normalize=(0.25, 0.5)))
    for array in ("image", "target"):
        assert np.array_equal(found[array], ((patches[array].astype(np.float64) - 0.25) / 0.5).astype(np.float32))


def test_predictions_map_back(sets: dict[str, Set]) -> None:
    loader = sets["val"].batches(normalize="train", arrays="image")
    (found,) = batches_of(loader).values()
    back = loader.maps["image"].back(found)
    assert np.abs(back - sets["val"].read(range(len(sets["val"])), arrays="image")).max() < 1e-6


def test_a_transform_sees_normalised_values(sets: dict[str, Set]) -> None:
    seen = []

    def look(batch: Any) -> Any:
        seen.append(batch.arrays["image"].copy())
        return batch

    found = [batch.arrays["image"] for batch in sets["train"].batches(7, normalize="train", transform=look)]
    assert all(np.array_equal(*each) for each in zip(seen, found, strict=True))


def test_windows_drawn_while_training_are_normalised(sets: dict[str, Set]) -> None:
    windows = ctpatch.RandomWindows(patch_size=16, per_slice=4)
    plain = batches_of(sets["train"].batches(windows=windows, seed=5))
    found = batches_of(sets["train"].batches(windows=windows, seed=5, normalize="train"))
    train = all_patches(sets["train"])
    for array in ("image", "target"):
        assert_normalised(found[array], plain[array], train[array])
    prepared = ctpatch.open_slices(sets["val"].data_root / "prepared/phantoms/val")
    plain = batches_of(prepared.batches(windows=windows, seed=5))
    found = batches_of(prepared.batches(windows=windows, seed=5, normalize="train"))
    for array in ("image", "target"):
        assert_normalised(found[array], plain[array], train[array])


def test_held_out_sets_are_refused_by_name(sets: dict[str, Set]) -> None:
    for split in ("test", "val"):
        message = refusal(ConfigError, lambda split=split: sets["train"].batches(normalize=sets[split]))  # type: ignore[misc]
        assert f"phantoms/{split}" in message
        assert "must not enter training" in message


def test_a_missing_train_set_is_named(sets: dict[str, Set]) -> None:
    sets["train"].folder.rename(sets["train"].folder.parent / "other")
    message = refusal(ConfigError, lambda: sets["val"].batches(normalize="train"))
    assert "there is no finished set of the split train beside this one (phantoms/train)" in message


def test_another_set_in_the_place_of_train_is_refused(sets: dict[str, Set]) -> None:
    sets["train"].folder.rename(sets["train"].folder.parent / "other")
    sets["test"].folder.rename(sets["train"].folder)
    assert "the set beside this one is phantoms/test" in refusal(
        ConfigError, lambda: sets["val"].batches(normalize="train")
    )


def test_sets_of_earlier_versions_say_what_to_do(sets: dict[str, Set]) -> None:
    change_meta(sets["train"].folder, lambda meta: meta.pop("values"))
    message = refusal(ConfigError, lambda: sets["val"].batches(normalize="train"))
    assert "phantoms/train has no values on record" in message
    assert "build it again with --overwrite, or give normalize=(mean, std)" in message
    assert len(batches_of(sets["val"].batches(normalize=(0, 1)))["image"])


def test_arrays_that_the_train_set_lacks_are_named(sets: dict[str, Set], tmp_path: Path) -> None:
    alone = make_split(tmp_path / "alone", [(40, 50)])
    build_one(alone)
    message = refusal(ConfigError, lambda: sets["val"].batches(normalize=alone.out))
    assert "phantoms/train has no values of target" in message
    assert list(sets["val"].batches(normalize=alone.out, arrays="image"))


def test_values_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    flat = make_split(tmp_path, images=[np.full((20, 20), 0.1, np.float32)])
    build_one(flat)
    assert "all pixels of image in phantoms/train are 0.1" in refusal(
        ConfigError, lambda: ctpatch.open(flat.out).batches(normalize="train")
    )


def test_a_set_on_another_scale_is_refused(sets: dict[str, Set], tmp_path: Path) -> None:
    hu = make_split(tmp_path / "hu", images=[np.linspace(-1000, 2000, 400, dtype=np.float32).reshape(20, 20)])
    build_one(hu, ctpatch.PatchConfig(patch_size=16, stride=8, value_range=(-1024, 3072)))
    assert "another scale" in refusal(ConfigError, lambda: sets["val"].batches(normalize=hu.out, arrays="image"))


@pytest.mark.parametrize("pair", [(0, 0), (0, -1), (float("nan"), 1), (0, float("inf")), (1,), (0, 1, 2), ("a", 1)])
def test_numbers_that_make_no_sense(sets: dict[str, Set], pair: Any) -> None:
    assert "normalize: wanted " in refusal(ConfigError, lambda: sets["train"].batches(normalize=pair))


@pytest.mark.parametrize("given", [5, "no/such/folder"])
def test_what_is_no_train_set(sets: dict[str, Set], given: Any) -> None:
    assert "normalize: " in refusal(ConfigError, lambda: sets["train"].batches(normalize=given))


def test_a_state_goes_on_with_the_same_values_only(sets: dict[str, Set]) -> None:
    loader = sets["val"].batches(4, normalize="train")
    rest = iter(loader)
    next(rest)
    state = json.loads(json.dumps(loader.state_dict()))
    train = sets["train"].meta
    assert state["normalize"]["source"] == "phantoms/train"
    assert state["normalize"]["fingerprint"] == train.fingerprint
    again = sets["val"].batches(4, normalize="train")
    again.load_state_dict(state)
    assert np.array_equal(next(iter(again)).arrays["image"], next(rest).arrays["image"])
    for other in (sets["val"].batches(4), sets["val"].batches(4, normalize=(0.25, 0.5))):
        with pytest.raises(ConfigError, match="state: normalize was"):
            other.load_state_dict(state)
    with pytest.raises(ConfigError, match="state: normalize was None"):
        again.load_state_dict(sets["val"].batches(4).state_dict())


def test_normalize_and_hu_exclude_each_other(sets: dict[str, Set]) -> None:
    assert "normalize and hu" in refusal(ConfigError, lambda: sets["train"].batches(normalize="train", hu="lung"))


def test_tensors(sets: dict[str, Set]) -> None:
    pytest.importorskip("torch")
    from ctpatch.torch import PatchLoader

    loader = PatchLoader(sets["val"], 7, normalize="train", arrays=["image", "mask"])
    wanted = batches_of(sets["val"].batches(7, normalize="train"))
    found = list(loader)
    for array in ("image", "mask"):
        assert np.array_equal(np.concatenate([batch[array].numpy()[:, 0] for batch in found]), wanted[array])
    assert set(loader.maps) == {"image"}
