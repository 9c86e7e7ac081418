"""What `prepare nifti` and `prepare lodopab` alone can be told: who stays together, how observations become images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import ConfigError, OutputConflictError
from ctpatch.events import Notice
from ctpatch.prepare.readers.lodopab.reader import LodopabReader
from helpers import csv_rows
from lodopab_files import write_ground_truth, write_observation


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef" * 4)
    return path


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Three files of two slices in one folder, and one of a BIDS subject."""
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    rng = np.random.default_rng(0)
    for name in ("hospital/a.nii", "hospital/b.nii", "hospital/c.nii.gz", "hospital/sub-07_ct.nii"):
        path = tmp_path / "nifti" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(rng.integers(-900, 900, (8, 9, 2)).astype(np.int16), np.eye(4)), path)
    return tmp_path / "nifti"


@pytest.fixture(scope="module")
def lodopab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("h5py", reason="h5py is not installed")
    root = tmp_path_factory.mktemp("lodopab")
    rng = np.random.default_rng(0)
    write_ground_truth(root, "test", 0, [rng.random((362, 362), np.float32)], rows=1)
    write_observation(root, "test", 0, [rng.random((1000, 513), np.float32) / 100])
    return root


def prepared_options(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "prepared" / "set" / "prepare_meta.json").read_bytes())["options"]
    return found


def patients(out: Path) -> list[str]:
    return [row["patient_id"] for row in csv_rows(out / "prepared" / "set" / "train" / "train_manifest.csv")]


@pytest.mark.parametrize(("group_by", "groups"), [("folder", 2), ("file", 4)])
def test_files_of_a_folder_are_one_patient_or_each_its_own(
    volumes: Path, tmp_path: Path, key: Path, group_by: Any, groups: int
) -> None:
    out, other = tmp_path / "data", tmp_path / "other"
    heard: list[Any] = []
    result = ctpatch.prepare_nifti(
        volumes, out, "set", group_by=group_by, split=["train=1"], key=key, listener=heard.append
    )
    assert len(set(patients(out))) == result.meta.splits["train"].num_patients == groups
    assert result.meta.grouped_by == {group_by: 6, "patient": 2}
    assert prepared_options(out)["group_by"] == group_by
    said = [each.message for each in heard if isinstance(each, Notice) and "count as one patient" in each.message]
    assert ["use --group-by file" in message for message in said] == ([True] if group_by == "folder" else [])
    where = ["--out", str(other), "--dataset", "set", "--key", str(key), "--split", "train=1"]
    assert main(["prepare", "nifti", str(volumes), *where, "--group-by", group_by]) == 0
    assert patients(other) == patients(out)


def test_another_grouping_is_another_set(volumes: Path, tmp_path: Path, key: Path) -> None:
    ctpatch.prepare_nifti(volumes, tmp_path / "data", "set", split=["train=1"], key=key)
    assert ctpatch.prepare_nifti(volumes, tmp_path / "data", "set", split=["train=1"], key=key).outcome == "complete"
    with pytest.raises(OutputConflictError, match="group_by"):
        ctpatch.prepare_nifti(volumes, tmp_path / "data", "set", group_by="file", split=["train=1"], key=key)
    with pytest.raises(ConfigError, match="group_by: 'study' is not known"):
        ctpatch.prepare_nifti(volumes, tmp_path / "data", "set", group_by="study", key=key)  # type: ignore[arg-type]


def test_filter_and_scaling_are_those_asked_for(lodopab: Path, tmp_path: Path, key: Path) -> None:
    where = ["--out", str(tmp_path / "data"), "--dataset", "set", "--key", str(key), "--pairs"]
    how = ["--filter", "shepp-logan", "--frequency-scaling", "0.75"]
    assert main(["prepare", "lodopab", str(lodopab), *where, *how]) == 0
    options = prepared_options(tmp_path / "data")
    assert (options["filter"], options["frequency_scaling"]) == ("shepp-logan", 0.75)
    reader = LodopabReader("observation", filter_name="shepp-logan", frequency_scaling=0.75)
    (wanted,) = reader.read(lodopab, reader.scan(lodopab, lambda _: None).slices)
    (row,) = csv_rows(tmp_path / "data" / "prepared" / "set" / "test" / "test_manifest.csv")
    np.testing.assert_array_equal(np.load(tmp_path / "data" / row["path"]), wanted)
    (usual,) = LodopabReader("observation").read(lodopab, reader.scan(lodopab, lambda _: None).slices)
    assert not np.array_equal(wanted, usual)
    again: dict[str, Any] = {"pairs": True, "filter_name": "shepp-logan", "frequency_scaling": 0.75, "key": key}
    assert ctpatch.prepare_lodopab(lodopab, tmp_path / "data", "set", **again).outcome == "complete"
    for other in ({"filter_name": "hann"}, {"frequency_scaling": 1.0}):
        with pytest.raises(OutputConflictError, match="filter" if "filter_name" in other else "frequency_scaling"):
            ctpatch.prepare_lodopab(lodopab, tmp_path / "data", "set", **{**again, **other})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filter_name": "ramp"}, "for the reconstruction of pairs; add --pairs"),
        ({"frequency_scaling": 0.5}, "for the reconstruction of pairs; add --pairs"),
        ({"pairs": True, "filter_name": "gauss"}, "filter_name: 'gauss' is not known, wanted one of ramp, shepp-logan"),
        ({"pairs": True, "frequency_scaling": 1.5}, "frequency_scaling: 1.5, wanted more than 0 and at most 1"),
        ({"pairs": True, "frequency_scaling": float("nan")}, "frequency_scaling: nan, wanted more than 0"),
    ],
)
def test_filters_that_make_no_sense(
    lodopab: Path, tmp_path: Path, key: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        ctpatch.prepare_lodopab(lodopab, tmp_path / "data", "set", key=key, **options)
    assert not (tmp_path / "data").exists()


def test_ground_truth_alone_has_no_filter_on_record(lodopab: Path, tmp_path: Path, key: Path) -> None:
    ctpatch.prepare_lodopab(lodopab, tmp_path / "data", "set", key=key)
    assert not {"filter", "frequency_scaling"} & set(prepared_options(tmp_path / "data"))
