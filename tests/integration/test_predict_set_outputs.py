"""Several outputs, channels and scores of a whole set: files, manifest, record, resume, and what is refused."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError, OutputConflictError, UsageError
from helpers import Prepared, build_one, csv_columns, csv_rows, make_split

EVEN = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
Floats = NDArray[np.float32]


def enlarged(values: Floats, scale: int = 2) -> Floats:
    return values.repeat(scale, -2).repeat(scale, -1)


def several(batch: Floats) -> dict[str, Any]:
    """An image, two channels and class numbers."""
    return {
        "logits": np.concatenate([1 - batch, batch], 1),
        "restored": batch * np.float32(0.5),
        "organ_mask": (batch[:, 0] > 0.5).astype(np.uint8),
    }


@pytest.fixture
def ps(prepared: Prepared) -> Any:
    build_one(prepared)
    return ctpatch.open(prepared.out)


def predicted(ps: Any, out: Path, model: Any = several, **options: Any) -> Path:
    folder: Path = ctpatch.predict(model, ps, EVEN, out=out, **{"model_id": "m", **options})
    return folder


def test_each_output_has_files_and_a_column_that_build_reads(ps: Any, prepared: Prepared, tmp_path: Path) -> None:
    folder = predicted(ps, tmp_path, output=["restored", "logits", "organ_mask"])
    names = ["index", "path", "min", "max", "patient_id"]
    assert csv_columns(folder / "train_manifest.csv") == [*names, "logits_0_path", "logits_1_path", "organ_mask_path"]
    for number, row in enumerate(csv_rows(folder / "train_manifest.csv")):
        image = prepared.images["image"][number]
        where = "prepared/phantoms_predicted/train/train_00000"
        assert row["path"] == f"{where}{number}.npy"
        assert row["logits_1_path"] == f"{where}{number}_logits_1.npy"
        np.testing.assert_allclose(np.load(tmp_path / row["path"]), image * 0.5, atol=1e-6)
        np.testing.assert_allclose(np.load(tmp_path / row["logits_0_path"]), 1 - image, atol=1e-6)
        np.testing.assert_allclose(np.load(tmp_path / row["logits_1_path"]), image, atol=1e-6)
        labels = np.load(tmp_path / row["organ_mask_path"])
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, image > 0.5)
        assert float(row["max"]) == np.load(tmp_path / row["path"]).max()
    (built,) = ctpatch.build(folder, config=EVEN, layout="shards", out=tmp_path / "set")
    assert ctpatch.open(built.folder).arrays == ("image", "logits_0", "logits_1", "organ_mask")


def test_all_is_the_list_of_all_and_resumes_it(ps: Any, tmp_path: Path) -> None:
    folder = predicted(ps, tmp_path, output="all")
    content = json.loads((folder / "predict_meta.json").read_bytes())
    assert content["options"]["output"] == ["logits", "restored", "organ_mask"]
    assert csv_columns(folder / "train_manifest.csv")[5:] == ["logits_1_path", "restored_path", "organ_mask_path"]
    before = (folder / "predict_meta.json").read_bytes()
    predicted(ps, tmp_path, output=["logits", "restored", "organ_mask"])
    assert (folder / "predict_meta.json").read_bytes() == before
    with pytest.raises(OutputConflictError, match=r'output was \["logits", "restored", "organ_mask"\], now "logits"'):
        predicted(ps, tmp_path, output="logits")


def test_the_output_called_image_is_the_slice(ps: Any, tmp_path: Path) -> None:
    folder = predicted(ps, tmp_path, lambda batch: {"noise": 0 * batch, "image": batch}, output="all")
    assert csv_columns(folder / "train_manifest.csv")[5:] == ["noise_path"]
    assert np.load(folder / "train_000000.npy").max() > 0
    assert np.load(folder / "train_000000_noise.npy").max() == 0


def test_channels_of_the_one_output_are_arrays(ps: Any, prepared: Prepared, tmp_path: Path) -> None:
    folder = predicted(ps, tmp_path, lambda batch: np.concatenate([batch, batch * np.float32(0.25)], 1))
    assert csv_columns(folder / "train_manifest.csv")[5:] == ["channel_1_path"]
    np.testing.assert_allclose(
        np.load(folder / "train_000002_channel_1.npy"), prepared.images["image"][2] * 0.25, atol=1e-6
    )


def test_starting_anew_removes_the_files_of_all_outputs_and_no_others(ps: Any, tmp_path: Path) -> None:
    folder = predicted(ps, tmp_path, output="all")
    (folder / "train_000000_other.npy").write_bytes(b"mine")
    predicted(ps, tmp_path, lambda batch: batch, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "predict_meta.json",
        "train_000000.npy",
        "train_000000_other.npy",
        "train_000001.npy",
        "train_000002.npy",
        "train_manifest.csv",
    ]


def test_a_run_that_failed_is_resumed_to_the_same_files(tmp_path: Path) -> None:
    made = make_split(tmp_path / "more", [(40, 50)] * 6)
    build_one(made)
    ps = ctpatch.open(made.out)

    class StoppedError(Exception):
        pass

    class Stopping:
        def __init__(self, stops_at: int) -> None:
            self.calls, self.stops_at = 0, stops_at

        def __call__(self, batch: Floats) -> dict[str, Any]:
            self.calls += 1
            if self.calls == self.stops_at:
                raise StoppedError
            return several(batch)

    options: dict[str, Any] = {"output": "all", "batch_size": 4, "tta": "flips"}
    whole_model = Stopping(-1)
    whole = predicted(ps, tmp_path / "whole", whole_model, **options)
    cut = Stopping(8 * 25)
    with pytest.raises(StoppedError):
        predicted(ps, tmp_path / "cut", cut, **options)
    again = Stopping(-1)
    folder = predicted(ps, tmp_path / "cut", again, **options)
    assert again.calls < whole_model.calls
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in folder.iterdir())
    for name in names:
        if name != "predict_meta.json":
            assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_scores_of_a_set_become_labels(ps: Any, prepared: Prepared, tmp_path: Path) -> None:
    folder = predicted(ps, tmp_path, lambda batch: np.concatenate([0.5 - batch, batch - 0.5], 1), argmax=True)
    for number, image in enumerate(prepared.images["image"]):
        found = np.load(folder / f"train_00000{number}.npy")
        assert found.dtype == np.uint8
        clear = np.abs(image - 0.5) > 1e-6
        np.testing.assert_array_equal(found[clear], (image > 0.5)[clear])
    assert csv_columns(folder / "train_manifest.csv")[5:] == []


def test_scale_margin_and_the_rest_are_on_record(ps: Any, prepared: Prepared, tmp_path: Path) -> None:
    def model(batch: Floats) -> Floats:
        return enlarged(batch[..., 3:-3, 3:-3])

    folder = predicted(ps, tmp_path, model, scale=2, margin=3, tta="flips")
    for number, image in enumerate(prepared.images["image"]):
        np.testing.assert_allclose(np.load(folder / f"train_00000{number}.npy"), enlarged(image), atol=1e-6)
    options = json.loads((folder / "predict_meta.json").read_bytes())["options"]
    assert {name: options.get(name) for name in ("scale", "margin", "tta")} == {"scale": 2, "margin": 3, "tta": "flips"}
    for changed, said in (
        ({"scale": 1}, "scale was 2, now null"),
        ({"margin": 2}, "margin was 3, now 2"),
        ({"tta": None}, 'tta was "flips", now null'),
        ({"argmax": True}, "argmax was null, now true"),
    ):
        with pytest.raises(OutputConflictError, match=said):
            predicted(ps, tmp_path, model, **{"scale": 2, "margin": 3, "tta": "flips", **changed})


def test_what_is_not_asked_for_is_not_on_record(ps: Any, tmp_path: Path) -> None:
    """So that earlier results, whose records know of none of it, resume and are found complete."""
    folder = predicted(ps, tmp_path, lambda batch: batch)
    options = json.loads((folder / "predict_meta.json").read_bytes())["options"]
    earlier = {"patch_size", "stride", "pad_mode", "batch_size", "window", "fill", "clip"}
    assert set(options) == earlier | {"model", "source", "source_fingerprint"}


@pytest.mark.parametrize(
    ("names", "kind", "said"),
    [
        (["a", "../b"], ConfigError, "output: '../b' cannot be used as a name"),
        (["a", "src"], UsageError, "an array of a set cannot be called 'src'"),
    ],
)
def test_names_that_are_none_for_files_are_refused_before_anything_is_written(
    ps: Any, tmp_path: Path, names: list[str], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        predicted(ps, tmp_path / "out", lambda batch: dict.fromkeys(names, batch), output=names)
    assert not (tmp_path / "out").exists()


def test_two_arrays_of_one_name_are_refused(ps: Any, tmp_path: Path) -> None:
    def model(batch: Floats) -> dict[str, Floats]:
        return {"x": batch, "a": batch.repeat(2, 1), "a_1": batch}

    with pytest.raises(UsageError, match="two arrays would be called 'a_1'"):
        predicted(ps, tmp_path, model, output="all")


@pytest.mark.parametrize("channels", [1, 24])
def test_memory_is_that_of_the_open_slices_whatever_comes_of_them(tmp_path: Path, channels: int) -> None:
    """Sums of two slices at most, their mean and what is written; ten slices with all channels would be far more."""
    made = make_split(tmp_path, [(96, 96)] * 10)
    build_one(made, layout="slices")
    ps = ctpatch.open(made.out)
    cfg = ctpatch.PatchConfig(patch_size=32, stride=16, pad_mode="even")
    ctpatch.predict(lambda batch: batch, ps, cfg, out=tmp_path / "warm")  # what is loaded once

    def model(batch: Floats) -> Floats:
        return np.repeat(batch, channels, axis=1)

    tracemalloc.start()
    ctpatch.predict(model, ps, cfg, 4, out=tmp_path / "out", argmax=channels > 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    sums = 96 * 96 * channels * 8
    assert peak < 3 * sums + (2 << 20)
    if channels > 1:
        assert 3 * sums + (2 << 20) < 10 * sums
