"""Volumes and masks under the names of usual data sets, in one source: each mask with its own image."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, CtPatchError, SliceError, UsageError
from ctpatch.events import Event, Notice
from ctpatch.prepare.api import prepare_nifti
from ctpatch.prepare.naming.names import parse_pair, recognised
from ctpatch.prepare.pipeline import PrepareResult

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")

NAMES = {
    "nnunet": ("imagesTr/c_{}_0000.nii.gz", "labelsTr/c_{}.nii.gz"),
    "decathlon": ("imagesTr/liver_{}.nii.gz", "labelsTr/liver_{}.nii.gz"),
    "kits": ("case_0000{}/imaging.nii.gz", "case_0000{}/segmentation.nii.gz"),
    "btcv": ("Training/img/img000{}.nii.gz", "Training/label/label000{}.nii.gz"),
}


def write(path: Path, voxels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 2.5, 1.0])), path)


def volume_of(case: int) -> NDArray[np.int16]:
    return np.random.default_rng(case).integers(-1000, 1000, (9, 8, 2)).astype(np.int16)


def prepared(tmp_path: Path, **options: Any) -> PrepareResult:
    key = tmp_path / "my.key"
    key.write_text("0123456789abcdef" * 4)
    key.chmod(0o600)
    return prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", split=["train=1"], key=key, **options)


def pairs_of(made: PrepareResult) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Patient, image in HU, mask."""
    root = made.folder.parents[1]
    rows = pl.read_csv(made.folder / "train/train_manifest.csv").to_dicts()
    return [
        (row["patient_id"], np.rint(np.load(root / row["path"]) * 4096.0 - 1024.0), np.load(root / row["mask_path"]))
        for row in rows
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("auto", [False, True])
def test_masks_of_usual_names_find_their_images(tmp_path: Path, name: str, auto: bool) -> None:
    for case in range(3):
        image, mask = (tmp_path / "raw" / each.format(case) for each in NAMES[name])
        write(image, volume_of(case))
        if case < 2:
            write(mask, (volume_of(case) > 300).astype(np.uint8))
    said: list[Event] = []
    made = prepared(tmp_path, naming="auto" if auto else name, listener=said.append)
    found = pairs_of(made)
    assert len(found) == 4
    assert len({patient for patient, *_ in found}) == 2  # a case is a patient
    for _, image_hu, labels in found:
        np.testing.assert_array_equal(labels, image_hu > 300)
    assert made.meta.num_left_out == {"unmatched": 2}
    assert made.meta.options["naming"] == name
    assert auto == any(isinstance(each, Notice) and each.code == "naming" for each in said)


def test_structures_in_a_file_each_become_one_label_map(tmp_path: Path) -> None:
    bands = {"liver": (300, 600), "spleen": (-200, 0), "aorta": (700, 900)}
    for case in range(2):
        volume = volume_of(case)
        write(tmp_path / f"raw/s000{case}/ct.nii.gz", volume)
        for name, (low, high) in bands.items():
            inside = (volume > low) & (volume < high)
            write(tmp_path / f"raw/s000{case}/segmentations/{name}.nii.gz", inside.astype(np.uint8))
    for chosen, numbers in ((None, {"aorta": 1, "liver": 2, "spleen": 3}), ("spleen,liver", {"spleen": 1, "liver": 2})):
        made = prepared(tmp_path, naming="totalsegmentator", structures=chosen, overwrite=True)
        assert made.meta.options["structures"] == numbers
        found = pairs_of(made)
        assert len(found) == 4
        for _, hu, labels in found:
            wanted = np.zeros(hu.shape, np.int16)
            for name, number in numbers.items():
                wanted[(hu > bands[name][0]) & (hu < bands[name][1])] = number
            np.testing.assert_array_equal(labels, wanted)


def test_structures_that_overlap_or_are_missing_are_refused(tmp_path: Path) -> None:
    for case in range(2):
        write(tmp_path / f"raw/s000{case}/ct.nii.gz", volume_of(case))
        write(tmp_path / f"raw/s000{case}/segmentations/a.nii.gz", np.ones((9, 8, 2), np.uint8))
    write(tmp_path / "raw/s0000/segmentations/b.nii.gz", np.ones((9, 8, 2), np.uint8))
    with pytest.raises(SliceError, match="1 of 2 structures have no slice"):
        prepared(tmp_path, naming="totalsegmentator")
    write(tmp_path / "raw/s0001/segmentations/b.nii.gz", np.zeros((9, 8, 2), np.uint8))
    with pytest.raises(SliceError, match="overlaps"):
        prepared(tmp_path, naming="totalsegmentator")
    with pytest.raises(UsageError, match="c not found in the source; there are: a, b"):
        prepared(tmp_path, naming="totalsegmentator", structures="a,c")


@pytest.mark.parametrize("apart", [False, True])
def test_a_pair_of_names_in_one_tree_or_in_two(tmp_path: Path, apart: bool) -> None:
    for case in range(2):
        write(tmp_path / f"raw/deep/p{case}-ct.nii.gz", volume_of(case))
        write(tmp_path / f"{'masks' if apart else 'raw'}/p{case}-seg.nii", (volume_of(case) > 300).astype(np.uint8))
    options = {"mask": tmp_path / "masks"} if apart else {}
    found = pairs_of(prepared(tmp_path, pair="{case}-ct.nii.gz={case}-seg.nii", **options))
    assert len(found) == 4
    for _, hu, labels in found:
        np.testing.assert_array_equal(labels, hu > 300)


def test_names_that_fit_several_or_none_are_refused() -> None:
    with pytest.raises(UsageError, match="fit decathlon and kits"):
        recognised(["imagesTr/a.nii", "labelsTr/a.nii", "case_00000/imaging.nii", "case_00000/segmentation.nii"])
    with pytest.raises(UsageError, match="no image of the source has a mask"):
        recognised(["a.nii", "b.nii"])


@pytest.mark.parametrize("pair", ["", "{case}.nii", "{case}.nii={case}.nii", "a={case}", "{case}={id}{case}", "a=b=c"])
def test_a_pair_that_makes_no_sense_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="pair: "):
        parse_pair(pair)


@pytest.mark.parametrize(
    "options",
    [
        {"naming": "x"},
        {"naming": "kits", "pair": "{case}a={case}b"},
        {"structures": "a"},
        {"naming": "kits", "series": "a"},
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path / "raw/case_00000/imaging.nii.gz", volume_of(0))
    with pytest.raises(CtPatchError, match=r"naming|series"):
        prepared(tmp_path, **options)
