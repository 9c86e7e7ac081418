"""Predicting a set is work in parts: it resumes, refuses what it cannot compare, and leaves nothing stale."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import OutputConflictError, OutputLockedError
from ctpatch.events import Event, WorkAdvanced, ignore
from ctpatch.predicting.model import model_digest
from ctpatch.predicting.predicted_files import PredictedFiles
from ctpatch.work.folder import WorkFolder
from helpers import Prepared, assert_same_tree, make_split, tree_bytes

SMALL = ctpatch.PatchConfig(patch_size=16, stride=8)


class FailedError(Exception):
    """Stands for whatever ends a run."""


class Model:
    """Halves its input; fails at a call of a given number."""

    def __init__(self, fails_at: int | None = None, factor: float = 0.5) -> None:
        self.calls = 0
        self.factor = factor
        self._fails_at = fails_at

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        if self.calls == self._fails_at:
            raise FailedError
        return (batch * np.float32(self.factor)).astype(np.float32)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    made = make_split(tmp_path / "set", [(40, 50)] * 10 + [(33, 47)] * 4)
    ctpatch.build(made.folder, config=SMALL, layout="slices", out=made.out)
    return made


def predict(prepared: Prepared, root: Path, model: Callable[[Any], Any], **options: Any) -> Path:
    given = {"model_id": "half", "batch_size": 4, **options}
    with_set = ctpatch.open(prepared.out)
    folder: Path = ctpatch.predict(model, with_set, out=root, **given)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree_bytes(folder).items() if not name.startswith("predict_meta")}


def meta_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "predict_meta.json").read_bytes())
    del content["created"]
    return content


def calls_of_parts_before(failed: int) -> int:
    """Calls of the parts that were whole when a call failed: parts have windows for eight batches of four, or more."""
    windows = [4 * 6] * 10 + [4 * 5] * 4  # windows of 16 at stride 8, spread evenly over 40x50 and 33x47
    done = made = part = 0
    for count in windows:
        part += count
        if part >= 8 * 4:
            made += -(-part // 4)
            if made >= failed:
                break
            done, part = made, 0
    return done


def test_a_run_that_failed_is_resumed_to_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    whole_model = Model()
    whole = predict(prepared, tmp_path / "whole", whole_model)
    for number in (1, whole_model.calls // 2, whole_model.calls):
        root = tmp_path / f"cut-{number}"
        with pytest.raises(FailedError):
            predict(prepared, root, Model(fails_at=number))
        folder = root / whole.relative_to(tmp_path / "whole")
        assert not (folder / "predict_meta.json").exists()
        assert not (folder / "train_manifest.csv").exists()
        again = Model()
        assert predict(prepared, root, again) == folder
        assert again.calls == whole_model.calls - calls_of_parts_before(number)
        assert_same_tree(files_of(folder), files_of(whole))
        assert meta_of(folder) == meta_of(whole)


def test_a_finished_one_is_complete_and_the_model_is_not_asked(prepared: Prepared, tmp_path: Path) -> None:
    folder = predict(prepared, tmp_path / "out", Model())
    before = tree_bytes(folder)
    model = Model()
    predict(prepared, tmp_path / "out", model)
    assert model.calls == 0
    assert_same_tree(tree_bytes(folder), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_id": "other"}, r'model was "half", now "other"'),
        ({"window": "uniform"}, r'window was "hann", now "uniform"'),
        (
            {"cfg": ctpatch.PatchConfig(patch_size=8, stride=8, pad_mode="even")},
            r"patch_size was \[16, 16\], now \[8, 8\]",
        ),
        ({"clip": False}, r"clip was true, now false"),
        ({"model_id": None}, r'model was "half", now null'),
    ],
)
def test_results_made_otherwise_are_refused_and_stay(
    prepared: Prepared, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    folder = predict(prepared, tmp_path / "out", Model())
    before = tree_bytes(folder)
    with pytest.raises(OutputConflictError, match=said) as error:
        predict(prepared, tmp_path / "out", Model(factor=0.25), **options)
    assert "overwrite=True makes it anew" in error.value.message
    assert_same_tree(tree_bytes(folder), before)


def test_models_that_cannot_be_compared_are_never_taken_for_the_same(prepared: Prepared, tmp_path: Path) -> None:
    root = tmp_path / "out"
    folder = predict(prepared, root, Model(), model_id=None)
    with pytest.raises(OutputConflictError, match="whether it is the same model cannot be told: give model_id="):
        predict(prepared, root, Model(factor=0.25), model_id=None)
    predict(prepared, root, Model(factor=0.25), model_id=None, overwrite=True)
    image = np.load(folder / "train_000003.npy")
    assert np.abs(image - prepared.images["image"][3] * np.float32(0.25)).max() < 1e-6
    cut = tmp_path / "cut"
    with pytest.raises(FailedError):
        predict(prepared, cut, Model(fails_at=20), model_id=None)
    with pytest.raises(OutputConflictError, match=r"an unfinished prediction .* cannot be told"):
        predict(prepared, cut, Model(), model_id=None)


def test_overwriting_leaves_no_slice_of_the_first_run(prepared: Prepared, tmp_path: Path) -> None:
    root = tmp_path / "out"
    folder = predict(prepared, root, Model())
    fewer = make_split(tmp_path / "fewer", [(40, 50)] * 3)
    ctpatch.build(fewer.folder, config=SMALL, layout="slices", out=fewer.out)
    with pytest.raises(OutputConflictError, match="source_fingerprint was"):
        predict(fewer, root, Model(), dataset=folder.parent.name)
    mine = folder / "notes.txt"
    mine.write_text("mine")
    predict(fewer, root, Model(), dataset=folder.parent.name, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "notes.txt",
        "predict_meta.json",
        "train_000000.npy",
        "train_000001.npy",
        "train_000002.npy",
        "train_manifest.csv",
    ]


def test_files_that_are_not_ours_are_not_written_over(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "out/prepared/other/train"
    folder.mkdir(parents=True)
    (folder / "train_000004.npy").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(OutputConflictError, match=r"holds train_000004.npy, which this prediction would write"):
            predict(prepared, tmp_path / "out", Model(), dataset="other", overwrite=overwrite)
    assert (folder / "train_000004.npy").read_bytes() == b"mine"


def test_only_one_writes_at_a_time(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "out/prepared/other/train"
    with (
        WorkFolder(folder, PredictedFiles(), ignore).held(),
        pytest.raises(OutputLockedError, match="is being written by process"),
    ):
        predict(prepared, tmp_path / "out", Model(), dataset="other")


def test_an_unfinished_prediction_is_no_source(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(FailedError):
        predict(prepared, tmp_path / "out", Model(fails_at=20), dataset="other")
    with pytest.raises(ctpatch.CtPatchError, match="prediction of train has not finished"):
        ctpatch.build(tmp_path / "out/prepared/other/train", config=SMALL)


def test_progress_counts_every_slice_once(prepared: Prepared, tmp_path: Path) -> None:
    heard: list[Event] = []
    predict(prepared, tmp_path / "out", Model(), listener=heard.append)
    assert sum(event.steps for event in heard if isinstance(event, WorkAdvanced)) == 14


def test_the_meta_says_what_was_predicted_with_what(prepared: Prepared, tmp_path: Path) -> None:
    folder = predict(prepared, tmp_path / "out", Model())
    content = meta_of(folder)
    source = ctpatch.open(prepared.out).meta
    assert content["source_fingerprint"] == source.fingerprint
    assert content["num_slices"] == 14
    assert content["options"]["model"] == "half"
    assert content["options"]["fill"] == "nan"


def test_a_modules_digest_is_that_of_its_weights() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    before = model_digest(module)
    assert before is not None
    assert model_digest(module.eval()) == before
    copy = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    assert model_digest(copy) != before
    copy.load_state_dict(module.state_dict())
    assert model_digest(copy) == before
    with torch.no_grad():
        copy[0].bias[1] += 1e-6
    assert model_digest(copy) != before
    assert model_digest(module.to(torch.bfloat16)) not in {None, before}
    assert model_digest(lambda batch: batch) is None
