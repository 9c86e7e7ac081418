"""LoDoPaB-CT's files to prepared slices: quirks, patients, orientation, reconstruction."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="h5py is not installed")

import ctpatch
from ctpatch.errors import ConfigError, RangeError, SourceManifestError
from ctpatch.phantom.slices import phantom_slice
from ctpatch.prepare.readers.base import Scan, SeriesNote
from ctpatch.prepare.readers.lodopab.reader import PUBLISHED_LENGTHS, LodopabReader
from helpers import Image, csv_rows, data_folder
from lodopab_files import low_dose, project, psnr, write_ground_truth, write_observation, write_patients


def scan(reader: LodopabReader, root: Path) -> Scan:
    return reader.scan(root, lambda _: None)


def tiny(number: int) -> Image:
    """A slice that says its number, brighter to the right and, less so, downwards."""
    rows, cols = np.mgrid[:362, :362].astype(np.float32) / 362
    return np.asarray(0.1 + 0.002 * (number % 100) + 0.4 * cols + 0.2 * rows, dtype=np.float32)


@pytest.fixture(scope="module")
def pair() -> tuple[Image, Image]:
    upright = phantom_slice(0, 1, 8)
    return upright, low_dose(project(upright))


def test_published_lengths_end_where_the_last_file_does() -> None:
    last = {split: (-(-length // 128), (length - 1) % 128 + 1) for split, length in PUBLISHED_LENGTHS.items()}
    assert last == {"train": (280, 108), "validation": (28, 66), "test": (28, 97), "challenge": (29, 94)}


@pytest.mark.parametrize("known_by", ["published", "observation", "zeros"])
def test_rows_of_fill_are_no_slices(tmp_path: Path, known_by: str) -> None:
    number = 27 if known_by == "published" else 0
    filled = [tiny(k) for k in range(128)] if known_by == "published" else [tiny(k) for k in range(5)]
    write_ground_truth(tmp_path, "test", number, filled)
    if known_by == "observation":
        write_observation(tmp_path, "test", number, [np.zeros((1000, 513), np.float32)] * 4)
    found = scan(LodopabReader(), tmp_path)
    rows = {"published": 97, "observation": 4, "zeros": 5}[known_by]
    assert [each.item for each in found.slices] == list(range(rows))
    assert [each.order for each in found.slices] == list(range(number * 128, number * 128 + rows))
    assert [(each.kind, each.reason) for each in found.left_out] == [
        ("fill", f"rows {rows} to 127 lie behind the split's last slice")
    ]


def test_slices_stand_upright_in_order_with_their_patients(tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    write_ground_truth(folder, "train", 0, [tiny(k) for k in range(128)])
    write_ground_truth(folder, "train", 1, [tiny(k) for k in range(128, 140)])
    write_patients(tmp_path, "train", [(7 * k) % 5 for k in range(140)])
    (tmp_path / "ground_truth_test.zip").write_bytes(b"PK")
    found = scan(LodopabReader(), tmp_path)
    assert [each.order for each in found.slices] == list(range(140))
    assert [each.group for each in found.slices] == [str((7 * k) % 5) for k in range(140)]
    assert {(each.group_kind, each.split, each.unit, each.spacing_mm) for each in found.slices} == {
        ("patient", "train", "mapped", None)
    }
    assert [each.kind for each in found.left_out] == ["packed", "fill"]
    chosen = [found.slices[k] for k in (0, 7, 8, 127, 128, 139)]
    for one, image in zip(chosen, LodopabReader().read(tmp_path, chosen), strict=True):
        np.testing.assert_array_equal(image, tiny(one.order))
        assert image.dtype == np.float32
        assert image.flags.c_contiguous
    kept = list(LodopabReader(keep_orientation=True).read(tmp_path, chosen))
    np.testing.assert_array_equal(kept[1], tiny(7).T)


def test_reconstruction_is_aligned_upright_and_in_the_truths_unit(tmp_path: Path, pair: tuple[Image, Image]) -> None:
    upright, sinogram = pair
    write_ground_truth(tmp_path, "test", 0, [upright])
    write_observation(tmp_path, "test", 0, [sinogram])
    truth, low = LodopabReader(kind="ground_truth"), LodopabReader(kind="observation")
    truths, lows = scan(truth, tmp_path).slices, scan(low, tmp_path).slices
    assert [(a.series, a.order) for a in truths] == [(b.series, b.order) for b in lows] == [("test", 0)]
    (image,) = low.read(tmp_path, lows)
    (target,) = truth.read(tmp_path, truths)
    assert image.shape == (362, 362)
    assert image.dtype == np.float32
    assert 0.0 <= float(image.min()) <= float(image.max()) <= 1.0
    best = psnr(image, target)
    assert 28 < best < 33
    inside = target > 0.15
    assert abs(float(image[inside].mean() - target[inside].mean())) < 3e-3  # the threshold favours grains of noise
    for row, col in product((-1, 0, 1), repeat=2):
        if row or col:
            assert psnr(np.roll(image, (row, col), (0, 1)), target) < best - 0.1
    others = [image.T, image[::-1], image[:, ::-1], image[::-1, ::-1]]
    assert max(psnr(each, target) for each in others) < 16
    (turned,) = LodopabReader(kind="observation", keep_orientation=True).read(tmp_path, lows)
    np.testing.assert_array_equal(turned, image.T)
    (rough,) = LodopabReader(kind="observation", filter_name="ramp").read(tmp_path, lows)
    assert psnr(rough, target) < best - 3


def test_pairs_go_through_to_prepared_slices(tmp_path: Path, pair: tuple[Image, Image]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    upright, sinogram = pair
    for split in ("train", "test"):
        write_ground_truth(source, split, 0, [upright, upright[:, ::-1]])
        write_observation(source, split, 0, [sinogram, sinogram[::-1]])
        write_patients(source, split, [3, 4] if split == "train" else [8, 9])
    out = tmp_path / "data"
    ctpatch.prepare_lodopab(source, out, "lodopab", pairs=True, key=tmp_path / "key", new_key=True)
    for split in ("train", "test"):
        rows = csv_rows(out / "prepared" / "lodopab" / split / f"{split}_manifest.csv")
        assert len(rows) == 2
        for row, truth in zip(rows, (upright, upright[:, ::-1]), strict=True):
            np.testing.assert_array_equal(np.load(out / row["target_path"]), truth)
            assert psnr(np.load(out / row["path"]), truth) > 28


def test_real_slice_comes_back(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    files = sorted((data_folder() / "lung_pet_ct_dx").rglob("*B40f*/1-15.dcm"))
    if not files:
        pytest.skip("no lung_pet_ct_dx: set CTPATCH_DATA to the folder that holds it")
    dataset = pydicom.dcmread(files[0])
    hu = dataset.pixel_array[75:-75, 75:-75] * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    upright = np.clip((hu * 0.01998 + 20) / 81.35858, 0, 1).astype(np.float32)
    write_ground_truth(tmp_path, "validation", 0, [upright])
    write_observation(tmp_path, "validation", 0, [low_dose(project(upright))])
    (target,) = LodopabReader().read(tmp_path, scan(LodopabReader(), tmp_path).slices)
    np.testing.assert_array_equal(target, upright)
    low = LodopabReader(kind="observation")
    (image,) = low.read(tmp_path, scan(low, tmp_path).slices)
    assert 29 < psnr(image, target) < 32


def test_challenge_has_observations_alone(tmp_path: Path, pair: tuple[Image, Image]) -> None:
    write_observation(tmp_path, "challenge", 28, [pair[1]] * 96)
    without = scan(LodopabReader(), tmp_path)
    assert not without.slices
    assert [note for note in without.notes if str(note).startswith("no ground_truth file of LoDoPaB-CT was found")]
    found = scan(LodopabReader(kind="observation"), tmp_path)
    assert len(found.slices) == 94
    assert {(each.group, each.group_kind, each.split) for each in found.slices} == {
        ("challenge", "series", "challenge")
    }
    notes = {note.kind: note.message for note in found.notes if isinstance(note, SeriesNote)}
    assert set(notes) == {"missing-files", "incomplete", "no-patients"}
    assert notes["incomplete"] == "94 of the 3678 slices published are there"


def test_damaged_files_are_left_out_and_named(tmp_path: Path) -> None:
    path = write_ground_truth(tmp_path, "train", 0, [tiny(0)], rows=1)
    write_ground_truth(tmp_path, "train", 1, [tiny(1)], rows=1)
    path.write_bytes(path.read_bytes()[:5000])
    found = scan(LodopabReader(), tmp_path)
    assert [each.file for each in found.slices] == ["ground_truth_train_001.hdf5"]
    (left,) = found.left_out
    assert (left.where, left.kind, left.fault) == (path.name, "damaged", True)
    assert left.reason.startswith("cannot be read as HDF5")
    assert {note.kind for note in found.notes if isinstance(note, SeriesNote)} == {"incomplete", "no-patients"}


def test_lists_of_patients_are_held_to_their_form(tmp_path: Path) -> None:
    write_ground_truth(tmp_path, "train", 0, [tiny(0), tiny(1)], rows=2)
    listed = write_patients(tmp_path, "train", [5])
    found = scan(LodopabReader(), tmp_path)
    assert len(found.slices) == 1
    assert [(each.kind, each.fault) for each in found.left_out] == [("no-patient", True)]
    for content, seen in ((b"5\nSmith\n", "row 2: 'Smith'"), (b"5\n\n6\n", "row 2: ''"), (b"1" * 5_000_000, "bytes")):
        listed.write_bytes(content)
        with pytest.raises(SourceManifestError, match=seen):
            scan(LodopabReader(), tmp_path)


def test_values_outside_the_range_are_named(tmp_path: Path) -> None:
    wrong = [tiny(0) + np.float32(1), np.full((362, 362), np.nan, np.float32)]
    write_ground_truth(tmp_path, "train", 0, wrong, rows=2)
    slices = scan(LodopabReader(), tmp_path).slices
    for one, seen in zip(slices, (r"\[0\] reaches from 1.1", r"\[1\] holds NaN"), strict=True):
        with pytest.raises(RangeError, match=seen):
            list(LodopabReader().read(tmp_path, [one]))


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="kind: 'sinogram' is not known"):
        LodopabReader(kind="sinogram")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="filter_name"):
        LodopabReader(filter_name="none")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="frequency_scaling"):
        LodopabReader(frequency_scaling=math.inf)
