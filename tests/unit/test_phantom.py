"""The phantom: what its pixels promise, and what it writes."""

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, SystemFailureError
from ctpatch.phantom.labels import ORGAN_LABELS
from ctpatch.phantom.slices import (
    DEFAULT_SPLITS,
    PhantomSplit,
    hu_to_unit,
    phantom_pair,
    phantom_slice,
    write_phantom,
)

SIZE = 160
SPLITS = (PhantomSplit("train", 2, 2), PhantomSplit("test", 1, 3))


def hounsfield(unit: NDArray[np.float32]) -> NDArray[np.float64]:
    return (unit.astype(np.float64) * 81.35858 - 20.0) / 0.01998


def border(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows above the body: nothing but air lies there."""
    return image[: image.shape[0] // 16]


@pytest.mark.parametrize(("hu", "unit"), [(-1024, 0), (-1000, 0.000246), (0, 0.245825), (3071, 1), (4000, 1)])
def test_mapping_at_known_hu(hu: float, unit: float) -> None:
    mapped = hu_to_unit(np.array([hu], dtype=np.float32))
    assert mapped.dtype == np.float32
    assert mapped[0] == pytest.approx(unit, abs=5e-7)


@pytest.mark.parametrize(("size", "shape"), [(1, (1, 1)), (64, (64, 64)), ((96, 130), (96, 130)), (362, (362, 362))])
def test_shape_dtype_and_range(size: int | tuple[int, int], shape: tuple[int, int]) -> None:
    for image in phantom_pair(0, 1, 2, size):
        assert image.shape == shape
        assert image.dtype == np.float32
        assert image.flags.c_contiguous
        assert image.min() >= 0.0
        assert image.max() <= 1.0


@pytest.mark.parametrize("patient", range(8))
def test_air_is_exactly_zero_and_the_same_at_both_doses(patient: int) -> None:
    low, full = phantom_pair(3, patient, 4, SIZE)
    np.testing.assert_array_equal(low == 0.0, full == 0.0)
    assert not border(low).any()
    assert 0.3 < np.mean(full == 0.0) < 0.75
    # What is not air lies at -1000 HU or above: lung, gas and the table's foam are no zeros.
    assert full[full > 0.0].min() >= 0.000245
    assert low[low > 0.0].min() >= 0.000245


def test_a_slice_holds_lung_fat_soft_tissue_and_bone() -> None:
    shares = np.zeros(4)
    for number in range(0, 55, 5):
        hu = hounsfield(phantom_slice(0, 0, number, SIZE))
        for i, (low, high) in enumerate([(-950, -750), (-140, -60), (0, 200), (400, 1200)]):
            shares[i] = max(shares[i], np.mean((hu > low) & (hu < high)))
    assert (shares > [0.08, 0.06, 0.12, 0.005]).all(), shares


def test_low_dose_is_noisier_and_unbiased_in_soft_tissue() -> None:
    low, full = (hounsfield(image) for image in phantom_pair(0, 2, 3))
    # The smoothed full-dose slice tells soft tissue without choosing pixels by their noise.
    smooth = np.lib.stride_tricks.sliding_window_view(full, (5, 5)).mean(axis=(2, 3))
    soft = (smooth > 20) & (smooth < 150)
    assert soft.sum() > 5000
    inner = np.s_[2:-2, 2:-2]

    def rough(image: NDArray[np.float64]) -> float:
        # The median, as organ borders are rough at any dose.
        return float(np.median(np.abs(image[inner] - smooth)[soft]))

    assert rough(low) > 1.5 * rough(full)
    difference = (low - full)[inner][soft]
    assert 12 < difference.std() < 32
    assert abs(difference.mean()) < 3


def test_noise_is_correlated_over_neighbours() -> None:
    low, full = phantom_pair(0, 0, 0)
    difference = (low - full)[100:260, 90:270].astype(np.float64)
    # Lung's clipping at -1000 HU does not matter here: most pixels are far from it.
    one, four = (np.corrcoef(difference[:, :-lag].ravel(), difference[:, lag:].ravel())[0, 1] for lag in (1, 4))
    assert 0.4 < one < 0.8
    assert abs(four) < 0.15


def test_same_bytes_in_any_order() -> None:
    wanted = list(product((0, 9), (0, 1, 5), (0, 7)))
    forward = {each: phantom_slice(*each, 48, dose="low").tobytes() for each in wanted}
    backward = {each: phantom_slice(*each, 48, dose="low").tobytes() for each in reversed(wanted)}
    assert forward == backward
    assert len(set(forward.values())) == len(wanted)


def test_a_pair_is_its_two_slices() -> None:
    low, full = phantom_pair(5, 1, 2, 64)
    np.testing.assert_array_equal(low, phantom_slice(5, 1, 2, 64, dose="low"))
    np.testing.assert_array_equal(full, phantom_slice(5, 1, 2, 64))


def test_neighbours_are_alike_and_patients_are_not() -> None:
    def apart(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
        return float(np.abs(one - other).mean())

    for patient in range(4):
        here = phantom_slice(0, patient, 3, SIZE)
        beside = apart(here, phantom_slice(0, patient, 4, SIZE))
        # Numbers past the torso's end come back up, so one far number could mean a near place.
        far = max(apart(here, phantom_slice(0, patient, number, SIZE)) for number in (15, 25, 40))
        assert 0 < beside < 0.5 * far
        assert beside < 0.5 * apart(here, phantom_slice(0, patient + 1, 3, SIZE))
        assert beside < apart(here, phantom_slice(1, patient, 3, SIZE))


def test_any_slice_number_is_a_slice() -> None:
    for number in (54, 55, 56, 511, 100_000):
        assert (phantom_slice(0, 0, number, 48) > 0).mean() > 0.2


@pytest.mark.parametrize("call", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (0, 0, 0, 0), (0, 0, 0, (8, 0))])
def test_nonsense_is_refused(call: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="is"):
        phantom_slice(*call)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / f"{folder.name}_manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


PLACE = ["series", "position_mm"]


def test_written_slices_read_back(tmp_path: Path) -> None:
    folders = write_phantom(tmp_path, "toy", SPLITS, size=(40, 56), seed=4)
    assert folders == [tmp_path / "prepared" / "toy" / name for name in ("train", "test")]
    patient_of = {"train": [0, 0, 1, 1], "test": [2, 2, 2]}
    number_of = {"train": [0, 1, 0, 1], "test": [0, 1, 2]}
    for folder in folders:
        rows, split = rows_of(folder), folder.name
        assert list(rows[0]) == ["index", "min", "max", "patient_id", "path", "target_path", *PLACE]
        assert [row["index"] for row in rows] == [str(i) for i in range(len(patient_of[split]))]
        for i, row in enumerate(rows):
            patient, number = patient_of[split][i], number_of[split][i]
            assert row["path"] == f"prepared/toy/{split}/{split}_{i:06d}.npy"
            assert row["target_path"] == f"prepared/toy/{split}/{split}_target_{i:06d}.npy"
            assert row["patient_id"] == f"P{patient + 1:04d}"
            assert (row["series"], float(row["position_mm"])) == (f"S{patient + 1:04d}", -6.0 * number)
            image = np.load(tmp_path / row["path"], allow_pickle=False)
            target = np.load(tmp_path / row["target_path"], allow_pickle=False)
            assert image.dtype == target.dtype == np.float32
            low, full = phantom_pair(4, patient, number, (40, 56))
            np.testing.assert_array_equal(image, low)
            np.testing.assert_array_equal(target, full)
            assert (float(row["min"]), float(row["max"])) == (float(image.min()), float(image.max()))
        names = {path.name for path in folder.iterdir()}
        assert len(names) == 2 * len(rows) + 1  # nothing temporary is left


def test_patients_are_in_one_split_only(tmp_path: Path) -> None:
    folders = write_phantom(tmp_path, size=8)
    patients = [{row["patient_id"] for row in rows_of(folder)} for folder in folders]
    assert [len(each) for each in patients] == [4, 2, 2] == [split.patients for split in DEFAULT_SPLITS]
    assert len(set.union(*patients)) == 8
    assert [len(rows_of(folder)) for folder in folders] == [24, 8, 8]


def test_without_pairs_the_image_is_the_full_dose(tmp_path: Path) -> None:
    (folder,) = write_phantom(tmp_path, splits=SPLITS[:1], size=16, pairs=False)
    row = rows_of(folder)[0]
    assert list(row) == ["index", "min", "max", "patient_id", "path", *PLACE]
    np.testing.assert_array_equal(np.load(tmp_path / row["path"]), phantom_slice(0, 0, 0, 16))


def test_masks_are_the_organs_that_were_painted(tmp_path: Path) -> None:
    """Organs have the values that they are painted with; every organ is met in one patient or another."""
    (folder,) = write_phantom(tmp_path, splits=[PhantomSplit("train", 3, 30)], size=96, masks=True)
    usual = {"lung": (-950, -780), "liver": (70, 160), "spleen": (100, 155), "kidney": (120, 210)}
    seen: dict[str, list[float]] = {organ: [] for organ in ORGAN_LABELS}
    for row in rows_of(folder):
        mask = np.load(tmp_path / row["mask_path"], allow_pickle=False)
        hu = hounsfield(np.load(tmp_path / row["target_path"], allow_pickle=False))
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, *ORGAN_LABELS.values()}
        for organ, label in ORGAN_LABELS.items():
            seen[organ] += hu[mask == label].tolist()
        lung = mask == ORGAN_LABELS["lung"]
        assert (hu[lung] < -500).sum() >= 0.85 * lung.sum()  # the rest are vessels
    for organ, (low, high) in usual.items():
        assert len(seen[organ]) > 300
        assert low < np.median(seen[organ]) < high


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        (folder,) = write_phantom(tmp_path, splits=SPLITS[1:], size=24)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "C:"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        write_phantom(tmp_path, name, SPLITS, size=8)
    with pytest.raises(ConfigError, match="cannot name a folder"):
        write_phantom(tmp_path, "toy", [PhantomSplit(name, 1, 1)], size=8)
    assert not list(tmp_path.iterdir())


def test_a_split_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="once"):
        write_phantom(tmp_path, "toy", [SPLITS[0], SPLITS[0]], size=8)


def test_a_refused_write_is_explained(tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("a file where the folder should be")
    with pytest.raises(SystemFailureError, match="prepared/toy/train"):
        write_phantom(tmp_path, "toy", SPLITS, size=8)
