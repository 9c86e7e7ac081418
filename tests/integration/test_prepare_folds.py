"""Folds and exact shares through `prepare` and `audit`: every patient in one, whatever is asked."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import ctpatch
from ctpatch.errors import ConfigError
from ctpatch.prepare.api import prepare_nifti
from ctpatch.prepare.pipeline import PrepareResult

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")


def raw_of(folder: Path, patients: int) -> Path:
    for number in range(patients):
        path = folder / f"sub-{number:02}/ct.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        voxels = np.random.default_rng(number).integers(-1000, 1000, (8, 8, 1)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return folder


def prepared(tmp_path: Path, count: int, **options: Any) -> PrepareResult:
    key = tmp_path / "my.key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    return prepare_nifti(raw_of(tmp_path / "raw", count), tmp_path / "data", "set", key=key, **options)


def test_each_patient_is_in_one_fold_and_the_audit_finds_no_leak(tmp_path: Path) -> None:
    made = prepared(tmp_path, 7, folds=3, exact=True)
    assert sorted(info.num_patients for info in made.meta.splits.values()) == [2, 2, 3]
    assert list(made.meta.splits) == ["fold0", "fold1", "fold2"]
    tables = [pl.read_csv(made.folder / f"fold{at}/fold{at}_manifest.csv") for at in range(3)]
    found = [patient for table in tables for patient in table["patient_id"]]
    assert len(found) == len(set(found)) == 7
    assert made.meta.options["folds"] == 3
    assert ctpatch.audit(made.folder).status == "ok"
    pl.concat([tables[0], tables[1][:1].with_columns(index=pl.lit(99, pl.Int64))]).write_csv(
        made.folder / "fold0/fold0_manifest.csv"
    )
    assert "patient" in {each.check for each in ctpatch.audit(made.folder).findings}


def test_a_fold_that_would_stay_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folds: of 2 patients .* ask for fewer folds"):
        prepared(tmp_path, 2, folds=5)
    assert not (tmp_path / "data/prepared/set").exists()


def test_exact_and_folds_contradict_other_ways_to_split(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("patient_id,split\nsub-00,train\n")
    for options, said in (
        ({"folds": 2, "split": ["a=0.5", "b=0.5"]}, "leave out the shares"),
        ({"folds": 2, "patients": table}, "the table of patients gives the splits"),
        ({"exact": True, "patients": table, "stratify": "split"}, "stratify keeps the shares"),
    ):
        with pytest.raises(ConfigError, match=said):
            prepared(tmp_path, 1, **options)
