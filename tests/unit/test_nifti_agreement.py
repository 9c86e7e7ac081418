"""sform, qform and voxel sizes that say different things are reported; what differs by rounding is not."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="nibabel is not installed")

import nibabel as nib

from ctpatch.prepare.readers.base import SeriesNote
from ctpatch.prepare.readers.nifti.reader import NiftiReader
from helpers import data_folder

QFORM = np.array([[-0.8, 0, 0, 100], [0, -0.7, 0, 90], [0, 0, 2.5, -300], [0, 0, 0, 1.0]])


def notes(root: Path) -> dict[str, str]:
    found = NiftiReader().scan(root, lambda _count: None)
    return {note.kind: note.message for note in found.notes if isinstance(note, SeriesNote)}


def save(root: Path, sform: Any, qform: Any = QFORM, units: str = "mm", shape: tuple[int, ...] = (5, 6, 4)) -> None:
    image = nib.Nifti1Image(np.zeros(shape, np.int16), QFORM)
    image.set_qform(qform, code=0 if qform is None else 1)
    if qform is None:
        image.header["pixdim"][1:4] = (0.8, 0.7, 2.5)
    image.set_sform(sform, code=0 if sform is None else 1)
    image.header.set_xyzt_units(units)
    nib.save(image, root / "v.nii")


def changed(**cells: float) -> Any:
    """The qform with other cells: `r0c3=5`."""
    affine = QFORM.copy()
    for cell, value in cells.items():
        affine[int(cell[1]), int(cell[3])] = value
    return affine


def rotated(degrees: float) -> Any:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ QFORM


@pytest.mark.parametrize(
    ("sform", "said"),
    [
        (changed(r2c2=3.2), "voxels of 0.8 x 0.7 x 3.2 mm against 0.8 x 0.7 x 2.5 mm (pixdim)"),
        (changed(r0c0=-1, r1c1=-1, r2c2=1), "voxels of 1 x 1 x 1 mm against 0.8 x 0.7 x 2.5 mm (pixdim)"),
        (changed(r2c3=-250), "first voxels that lie 50.0 mm apart"),
        (changed(r0c0=0.8), "axes that differ by 180.0 degrees"),
    ],
)
def test_what_differs_is_said(tmp_path: Path, sform: Any, said: str) -> None:
    save(tmp_path, sform)
    assert notes(tmp_path)["two-orientations"] == (f"its sform and qform disagree: {said}; the sform is used, check it")


def test_directions_and_places_that_differ_are_said_together(tmp_path: Path) -> None:
    save(tmp_path, rotated(5))
    # the first voxel is 134.5 mm from the axis of the rotation: 2 * 134.5 * sin(2.5 degrees)
    assert "axes that differ by 5.0 degrees, first voxels that lie 11.7 mm apart" in notes(tmp_path)["two-orientations"]


def test_the_sform_decides_spacing_and_place(tmp_path: Path) -> None:
    save(tmp_path, changed(r2c2=3.2, r2c3=-10))
    slices = NiftiReader().scan(tmp_path, lambda _count: None).slices
    np.testing.assert_allclose([each.position_mm or 0.0 for each in slices], -10 + 3.2 * np.arange(4), atol=1e-5)


def test_voxel_sizes_count_without_a_qform(tmp_path: Path) -> None:
    save(tmp_path, changed(r2c2=5), None)
    assert "against 0.8 x 0.7 x 2.5 mm (pixdim)" in notes(tmp_path)["two-orientations"]


def test_metres_are_said_in_millimetres(tmp_path: Path) -> None:
    affine = QFORM / 1000
    affine[3, 3] = 1
    longer = affine.copy()
    longer[2, 2] = 0.005
    save(tmp_path, longer, affine, "meter")
    assert "voxels of 0.8 x 0.7 x 5 mm against 0.8 x 0.7 x 2.5 mm" in notes(tmp_path)["two-orientations"]


@pytest.mark.parametrize(
    "sform",
    [
        QFORM,
        QFORM.astype(np.float32),
        changed(r0c0=-0.8004, r2c3=-300.05),
        rotated(0.01),
        None,
    ],
)
def test_what_differs_by_rounding_is_no_disagreement(tmp_path: Path, sform: Any) -> None:
    save(tmp_path, sform)
    assert notes(tmp_path) == {}


def test_an_axis_of_one_voxel_has_no_length_to_disagree_on(tmp_path: Path) -> None:
    save(tmp_path, changed(r2c2=1), None, shape=(5, 6, 1))
    assert notes(tmp_path) == {}


@pytest.mark.parametrize("axes", [(0.3, -20.0), (2.1, 171.0), (-0.7, 89.9)])
def test_oblique_volumes_that_agree_are_not_reported(tmp_path: Path, axes: tuple[float, float]) -> None:
    tip, turn = (math.radians(each) for each in axes)
    a = np.array([[1, 0, 0], [0, math.cos(tip), -math.sin(tip)], [0, math.sin(tip), math.cos(tip)]])
    b = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = b @ a @ np.diag([0.8, 0.7, 2.5])
    affine[:3, 3] = (12.5, -200.25, 1000)
    save(tmp_path, affine, affine)
    assert "two-orientations" not in notes(tmp_path)


@pytest.mark.parametrize(
    ("slope", "inter", "said"),
    [(0.0, -1024.0, True), (math.nan, -1024.0, True), (0.0, 0.0, False), (1.0, -1024.0, False)],
)
def test_an_intercept_without_a_slope_is_reported(tmp_path: Path, slope: float, inter: float, said: bool) -> None:
    save(tmp_path, QFORM)
    path = tmp_path / "v.nii"
    raw = path.read_bytes()
    path.write_bytes(raw[:112] + struct.pack("<ff", slope, inter) + raw[120:])
    assert ("no-slope" in notes(tmp_path)) is said
    found = NiftiReader().scan(tmp_path, lambda _count: None)
    (image, *_) = NiftiReader().read(tmp_path, found.slices)
    assert float(image[0, 0]) == (-1024.0 if slope == 1 else 0.0)


def test_nothing_is_reported_of_real_volumes() -> None:
    folder = data_folder() / "totalseg_nifti"
    if not folder.is_dir():
        pytest.skip("no totalseg_nifti: set CTPATCH_DATA to the folder that holds it")
    assert notes(folder) == {}
