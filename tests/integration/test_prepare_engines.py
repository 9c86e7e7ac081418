"""Preparing on every engine: the bytes are those of one process, and workers that cannot work are named."""

import importlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import UsageError
from ctpatch.events import Event, WorkAdvanced
from ctpatch.prepare import pipeline
from ctpatch.work.executors.serial import SerialExecutor
from dicom_files import write_series
from helpers import assert_same_tree, tree_bytes
from lodopab_files import write_ground_truth

ENGINES = ("threads", "dask")
Prepare = Callable[..., ctpatch.PrepareResult]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


@pytest.fixture(params=ENGINES)
def executor(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "dask":
        yield request.getfixturevalue("client")
    else:
        with ThreadPoolExecutor(2) as pool:
            yield pool


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SLICES_PER_PART", 2)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine slices of three patients as DICOM, four of NIfTI, three of LoDoPaB-CT; and the key."""
    root = tmp_path_factory.mktemp("raw")
    (root / "key").write_bytes(b"0123456789abcdef" * 4)
    for number, name in enumerate(("ann", "bob", "cid")):
        write_series(root / "dicom" / name, 3, patient=name, uid=str(number + 1), seed=10 * number)
    (root / "lodopab").mkdir()
    rows, cols = np.mgrid[:362, :362].astype(np.float32) / 362
    if importlib.util.find_spec("h5py") is not None:
        write_ground_truth(root / "lodopab", "test", 0, [0.1 * k + 0.4 * rows + 0.2 * cols for k in range(3)], rows=4)
    if importlib.util.find_spec("nibabel") is not None:
        nib = importlib.import_module("nibabel")
        values = np.random.default_rng(0).integers(-1000, 2000, (20, 30, 4)).astype(np.int16)
        (root / "nifti").mkdir()
        nib.save(nib.Nifti1Image(values, np.diag([-0.8, -0.8, 2.0, 1.0])), root / "nifti" / "volume.nii.gz")
    return root


def prepare_dicom(raw: Path, out: Path, **options: Any) -> ctpatch.PrepareResult:
    shares = ["train=0.6", "test=0.4"]
    return ctpatch.prepare_dicom(
        raw / "dicom", out, "set", split=shares, spacing=(1.1, 1.1), crop=(24, 24), key=raw / "key", **options
    )


def prepare_nifti(raw: Path, out: Path, **options: Any) -> ctpatch.PrepareResult:
    pytest.importorskip("nibabel", reason="nibabel is not installed")
    return ctpatch.prepare_nifti(raw / "nifti", out, "set", split=["train=1"], key=raw / "key", **options)


def prepare_lodopab(raw: Path, out: Path, **options: Any) -> ctpatch.PrepareResult:
    pytest.importorskip("h5py", reason="h5py is not installed")
    return ctpatch.prepare_lodopab(raw / "lodopab", out, "set", key=raw / "key", **options)


@pytest.mark.parametrize(
    ("kind", "slices"),
    [(prepare_dicom, 9), (prepare_nifti, 4), (prepare_lodopab, 3)],
    ids=["dicom", "nifti", "lodopab"],
)
def test_same_bytes(raw: Path, tmp_path: Path, executor: Any, kind: Prepare, slices: int) -> None:
    kind(raw, tmp_path / "serial")
    result = kind(raw, tmp_path / "engine", executor=executor)
    assert (result.outcome, result.complete) == ("prepared", True)
    assert sum(split.num_slices for split in result.meta.splits.values()) == slices
    assert_same_tree(tree_bytes(tmp_path / "engine"), tree_bytes(tmp_path / "serial"))
    assert kind(raw, tmp_path / "engine", executor=executor).outcome == "complete"


def test_begun_on_one_engine_and_finished_by_another(raw: Path, tmp_path: Path, executor: Any) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, WorkAdvanced) and event.task == "preparing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dicom(raw, tmp_path / "begun", executor=executor, listener=interrupt)
    state = tmp_path / "begun" / "prepared" / "set" / ".ctpatch"
    assert list(state.glob("*.receipt.json"))
    assert not list(state.glob("*.token"))
    assert prepare_dicom(raw, tmp_path / "begun", executor=SerialExecutor()).outcome == "resumed"
    prepare_dicom(raw, tmp_path / "whole")
    assert_same_tree(tree_bytes(tmp_path / "begun"), tree_bytes(tmp_path / "whole"))


class Elsewhere:
    """An executor whose workers find what they are made to find."""

    def __init__(self, change: Callable[[Any], Any]) -> None:
        self._change = change

    def run(self, *_work: Any) -> Iterator[Any]:
        raise AssertionError("work began")

    def everywhere(self, function: Any, argument: Any) -> dict[str, Any]:
        return {"tcp://node8:42": function(self._change(argument))}

    def workers(self) -> int:
        return 1


def other_file(landmarks: Any) -> Any:
    (path, _mark) = landmarks.files[1]
    return replace(landmarks, files=((path + "-gone", "0-0"),))


def other_version(name: str, version: str) -> Callable[[Any], Any]:
    def change(landmarks: Any) -> Any:
        assert name in dict(landmarks.software)
        return replace(landmarks, software=((name, version),))

    return change


def not_installed(landmarks: Any) -> Any:
    return replace(landmarks, software=(("pydicom-of-tomorrow", "4.0"),))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_file, r"worker tcp://node8:42 does not see …/dicom/\w+/\d+-gone"),
        (other_version("pydicom", "1.0"), r"worker tcp://node8:42 runs pydicom [\d.]+, the builder 1\.0"),
        (other_version("scipy", "0.1"), r"worker tcp://node8:42 runs scipy [\d.]+, the builder 0\.1"),
        (not_installed, r"worker tcp://node8:42 has no pydicom-of-tomorrow, the builder 4\.0; install the same"),
    ],
)
def test_workers_that_cannot_read_the_same_are_named_before_any_work(
    raw: Path, tmp_path: Path, change: Any, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        prepare_dicom(raw, tmp_path, executor=Elsewhere(change))
    assert not list(tmp_path.rglob("*.npy"))
    assert not list(tmp_path.rglob("*.token"))


def test_what_is_no_executor_is_refused_before_anything_is_looked_at(raw: Path, tmp_path: Path) -> None:
    heard: list[Event] = []
    with pytest.raises(UsageError, match="got a str, wanted a concurrent"):
        prepare_dicom(raw, tmp_path, executor="dask", listener=heard.append)
    assert heard == []
    assert list(tmp_path.iterdir()) == []


def test_command_line(raw: Path, tmp_path: Path, client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def run(out: str, *options: str) -> int:
        where = ["--out", str(tmp_path / out), "--dataset", "set", "--key", str(raw / "key")]
        return main(["prepare", "dicom", str(raw / "dicom"), *where, "--split", "train=1", *options])

    scheduler_file = tmp_path / "scheduler.json"
    scheduler_file.write_text(json.dumps({"address": client.scheduler.address}))
    assert run("serial", "--engine", "serial") == 0
    assert run("processes", "--engine", "processes", "--workers", "2") == 0
    assert run("dask", "--engine", "dask", "--scheduler", client.scheduler.address) == 0
    assert run("file", "--engine", "dask", "--scheduler-file", os.fspath(scheduler_file)) == 0
    for out in ("processes", "dask", "file"):
        assert_same_tree(tree_bytes(tmp_path / out), tree_bytes(tmp_path / "serial"))
    capsys.readouterr()
    assert run("none", "--scheduler", "tcp://127.0.0.1:1") == 2
    assert "add --engine dask" in capsys.readouterr().err
    assert run("none", "--engine", "dask", "--scheduler", client.scheduler.address, "--workers", "2") == 2
    assert "leave --workers out" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
