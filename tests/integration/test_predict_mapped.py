"""Predictions with `normalize` and `hu`: what the model is given, and its output, by plain arithmetic."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError, OutputConflictError, ReassemblyError
from ctpatch.evaluating import scale
from ctpatch.format.hu_scale import LODOPAB
from helpers import SMALL, Image, Prepared, build_one, change_meta, make_split, refusal

MEAN, STD = 0.4, 0.25
LOW, HIGH = -1000.0, 2000.0
SCALE = {"kind": "window", "low_hu": LOW, "high_hu": HIGH}


def changed(batch: Any) -> Any:
    return batch * np.float32(0.5) + np.float32(0.1)


@pytest.fixture
def split(tmp_path: Path) -> Prepared:
    return make_split(tmp_path / "set", [(40, 50)] * 3)


@pytest.fixture
def ps(split: Prepared) -> ctpatch.PatchSet:
    build_one(split, layout="slices")
    change_meta(split.out, lambda meta: meta.update(hu=SCALE))
    return ctpatch.open(split.out)


def results(folder: Path) -> list[Image]:
    return [np.load(path) for path in sorted(folder.glob("*.npy"))]


def test_the_model_is_given_what_loaders_give(ps: ctpatch.PatchSet, split: Prepared) -> None:
    """Also where a slice is padded with zeros: these are mapped as well."""
    given: list[NDArray[np.float32]] = []

    def model(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        given.append(batch.copy())
        return batch

    image = split.images["image"][0]
    cfg = ctpatch.PatchConfig(patch_size=16, stride=16, pad_mode="zero")
    found = ctpatch.predict(model, image, cfg, normalize=(MEAN, STD), window="uniform")
    padded = np.pad(image, [(0, 8), (0, 14)]).astype(np.float64)
    wanted = [padded[row : row + 16, col : col + 16] for row in range(0, 48, 16) for col in range(0, 64, 16)]
    np.testing.assert_allclose(np.concatenate(given)[:, 0], (np.stack(wanted) - MEAN) / STD, rtol=1e-6, atol=1e-6)
    assert np.abs(found - image).max() < 1e-6
    given.clear()
    list(ps.batches(5, normalize="train"))
    ctpatch.predict(model, ps, SMALL, normalize="train", out=split.root / "o", fill=0.5)
    (loaded,) = (batch.arrays["image"] for batch in ps.batches(1000, normalize="train"))
    np.testing.assert_array_equal(np.concatenate(given), loaded)


def test_the_output_is_mapped_back(split: Prepared) -> None:
    image = split.images["image"][0].astype(np.float64)
    seen = (image - MEAN) / STD * 0.5 + 0.1
    cfg = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
    options: dict[str, Any] = {"normalize": (MEAN, STD)}
    back = ctpatch.predict(changed, image, cfg, **options)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, seen * STD + MEAN, atol=1e-6)
    np.testing.assert_allclose(ctpatch.predict(changed, image, cfg, map_back=False, **options), seen, atol=1e-6)
    # Windows of 16 at a stride of 8 leave 2 columns: the fill is a value of the slice.
    filled = ctpatch.predict(changed, image, SMALL, fill=0.75, **options)
    assert (filled[:, 48:] == 0.75).all()
    np.testing.assert_allclose(filled[:, :48], (seen * STD + MEAN)[:, :48], atol=1e-6)


def test_labels_and_scores_are_not_mapped_back(split: Prepared) -> None:
    image = split.images["image"][0]
    cfg = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
    options: dict[str, Any] = {"normalize": (MEAN, STD)}

    def labels(batch: NDArray[np.float32]) -> NDArray[np.uint8]:
        return (batch > 0).astype(np.uint8)

    def scores(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([-batch, batch], axis=1)

    wanted = (image - MEAN) / STD > 0
    np.testing.assert_array_equal(ctpatch.predict(labels, image, cfg, **options), wanted)
    np.testing.assert_array_equal(ctpatch.predict(scores, image, cfg, argmax=True, **options), wanted)
    with pytest.raises(ReassemblyError, match="the model gives 2 channels"):
        ctpatch.predict(scores, image, cfg, **options)
    both = ctpatch.predict(scores, image, cfg, map_back=True, **options)
    np.testing.assert_allclose(both[1], image, atol=1e-6)


def test_of_several_outputs_those_that_are_named(split: Prepared) -> None:
    image = split.images["image"][0]
    cfg = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
    options: dict[str, Any] = {"normalize": (MEAN, STD), "output": ["clean", "noise"]}

    def two(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"clean": batch, "noise": batch * 2}

    assert "several outputs" in refusal(ConfigError, lambda: ctpatch.predict(two, image, cfg, **options))
    found = ctpatch.predict(two, image, cfg, map_back=["clean"], **options)
    np.testing.assert_allclose(found["clean"], image, atol=1e-6)
    np.testing.assert_allclose(found["noise"], (image - MEAN) / STD * 2, atol=1e-5)
    words = refusal(ConfigError, lambda: ctpatch.predict(two, image, cfg, map_back=["other"], **options))
    assert "map_back: 'other' is none of the outputs" in words


def test_one_window_of_hu_is_mapped_back(ps: ctpatch.PatchSet, split: Prepared, tmp_path: Path) -> None:
    folder = ctpatch.predict(changed, ps, out=tmp_path / "o", hu=(-160, 240), model_id="m")
    for found, image in zip(results(folder), split.images["image"], strict=True):
        hu = image.astype(np.float64) * (HIGH - LOW) + LOW
        seen = np.clip((hu + 160) / 400, 0, 1) * 0.5 + 0.1
        np.testing.assert_allclose(found, (seen * 400 - 160 - LOW) / (HIGH - LOW), atol=1e-6)
    record = json.loads((folder / "predict_meta.json").read_bytes())["options"]
    assert record["hu"]["windows"] == [[-160.0, 240.0]]
    assert record["mapped_back"] is True
    with pytest.raises(OutputConflictError, match="hu"):
        ctpatch.predict(changed, ps, out=tmp_path / "o", model_id="m")


def test_results_on_a_scale_of_their_own_are_not_evaluated_in_hu(
    ps: ctpatch.PatchSet, split: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "prepared_scale", lambda _manifest: LODOPAB)
    for map_back, known in ((None, LODOPAB), (False, None)):
        folder = ctpatch.predict(
            changed, ps, out=tmp_path / str(map_back), normalize=(MEAN, STD), map_back=map_back, clip=False
        )
        assert scale.scale_of_manifest(folder / "train_manifest.csv", [split.root]) == known


def test_several_windows_stay_as_the_model_gives_them(ps: ctpatch.PatchSet, split: Prepared, tmp_path: Path) -> None:
    windows: list[Any] = [(-1000, 0), (0, 1000)]

    def model(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        assert batch.shape[1] == 2
        return batch[:, 0] + 2 * batch[:, 1] - 1

    with pytest.warns(UserWarning, match="sees 2 windows, which cannot be mapped back"):
        folder = ctpatch.predict(model, ps, out=tmp_path / "o", hu=windows, model_id="m")
    ctpatch.predict(model, ps, out=tmp_path / "o", hu=windows, model_id="m", map_back=False)
    for found, image in zip(results(folder), split.images["image"], strict=True):
        hu = image.astype(np.float64) * (HIGH - LOW) + LOW
        seen = [np.clip((hu - low) / (high - low), 0, 1) for low, high in windows]
        np.testing.assert_allclose(found, seen[0] + 2 * seen[1] - 1, atol=1e-6)  # nor are they clipped
    words = refusal(ConfigError, lambda: ctpatch.predict(model, ps, out=tmp_path / "p", hu=windows, map_back=True))
    assert "map_back: the model sees 2 windows" in words


def test_context_and_windows_together() -> None:
    """Channels of a slice follow one another: the windows of the first neighbour, then those of the next."""
    stack = np.random.default_rng(3).random((3, 21, 30), dtype=np.float32)
    cfg = ctpatch.PatchConfig(patch_size=8, stride=4, pad_mode="even")
    found = ctpatch.predict(lambda batch: batch[:, 2], stack, cfg, context=1, normalize=(MEAN, STD))
    np.testing.assert_allclose(found, stack[2], atol=1e-6)


def test_what_is_refused(ps: ctpatch.PatchSet, split: Prepared) -> None:
    image = split.images["image"][0]

    def refused(source: Any, **options: Any) -> str:
        return refusal(ConfigError, lambda: ctpatch.predict(changed, source, SMALL, out=split.root / "o", **options))

    assert "belongs to no set" in refused(image, hu=(-160, 240))
    assert "normalize: 'train' means the set beside" in refused(image, normalize="train")
    assert "map_back: nothing maps the values" in refused(image, map_back=True)
    assert "normalize and hu both decide" in refused(ps, normalize=(0, 1), hu="lung")
    assert "normalize: wanted a finite mean" in refused(image, normalize=(0, 0))
    from_set = ctpatch.predict(lambda batch: batch, image, SMALL, normalize=ps, map_back=False, fill=0)
    values = ps.read(range(len(ps))).astype(np.float64)
    np.testing.assert_allclose(from_set[:, :48], ((image - values.mean()) / values.std())[:, :48], atol=1e-5)


def test_a_device_gives_what_the_cpu_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours and mapped values go to the device with the slice; what comes back is mapped here."""
    torch = pytest.importorskip("torch")
    stack = np.random.default_rng(3).random((3, 40, 50), dtype=np.float32)
    net = torch.nn.Conv2d(3, 1, 3, padding=1)
    options: dict[str, Any] = {"context": 1, "normalize": (MEAN, STD), "fill": 0.75}
    wanted = ctpatch.predict(net, stack, SMALL, **options)
    monkeypatch.setattr("ctpatch.predicting.torch_side.works_apart", lambda _: True)
    found = ctpatch.predict(net, stack, SMALL, **options)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert (found[:, 48:] == 0.75).all()
