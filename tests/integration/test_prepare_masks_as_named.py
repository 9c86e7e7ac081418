"""Masks under the names that usual data sets give them, beside the images or in a tree of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from ctpatch.prepare.api import prepare_nifti

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")

VOLUME = np.random.default_rng(0).integers(-1000, 1000, (12, 10, 4)).astype(np.int16)
LABELS = (VOLUME > 300).astype(np.uint8)


def write(path: Path, voxels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.5, 1.0])), path)


def assert_paired(folder: Path, count: int) -> None:
    """Each mask holds the labels of its own slice, whichever file they came from."""
    rows = pl.read_csv(folder / "train/train_manifest.csv").to_dicts()
    assert len(rows) == count
    root = folder.parents[1]
    for row in rows:
        image = np.rint(np.load(root / row["path"]) * 4096.0 - 1024.0)
        np.testing.assert_array_equal(np.load(root / row["mask_path"]), image > 300)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("case_001_0000.nii.gz", "case_001.nii.gz"),
        ("a.nii", "a.nii.gz"),
        ("imagesTr/a.nii.gz", "imagesTr/a.nii"),
        ("a_0000.nii.gz", "a_0000.nii.gz"),
    ],
)
def test_a_tree_of_masks(tmp_path: Path, image: str, mask: str) -> None:
    write(tmp_path / "raw" / image, VOLUME)
    write(tmp_path / "masks" / mask, LABELS)
    options: dict[str, Any] = {"mask": tmp_path / "masks", "split": ["train=1"], "key": key_in(tmp_path)}
    assert_paired(prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", **options).folder, 4)


def test_masks_beside_their_images(tmp_path: Path) -> None:
    """As KiTS has them: a folder for each case, and in it the image and the labels."""
    for case in range(2):
        volume = np.roll(VOLUME, case, axis=0)
        write(tmp_path / f"raw/case_{case}/imaging.nii.gz", volume)
        write(tmp_path / f"raw/case_{case}/segmentation.nii.gz", (volume > 300).astype(np.uint8))
    options: dict[str, Any] = {"series": "*imaging*", "mask_series": "*segmentation*", "match_by": "position"}
    made = prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", split=["train=1"], key=key_in(tmp_path), **options)
    assert_paired(made.folder, 8)


def test_the_same_path_comes_before_the_same_case(tmp_path: Path) -> None:
    write(tmp_path / "raw/a.nii.gz", VOLUME)
    write(tmp_path / "masks/a.nii.gz", LABELS)
    write(tmp_path / "masks/a.nii", np.zeros_like(LABELS))
    options: dict[str, Any] = {"mask": tmp_path / "masks", "split": ["train=1"], "key": key_in(tmp_path)}
    assert_paired(prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", on_error="skip", **options).folder, 4)


def key_in(folder: Path) -> Path:
    path = folder / "my.key"
    path.write_text("0123456789abcdef" * 4)
    path.chmod(0o600)
    return path
