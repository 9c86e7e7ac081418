"""Where voxels of volumes lie, held against SimpleITK: a value at the same millimetres, however a volume lies."""

import math
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.prepare.readers import raw_format
from ctpatch.prepare.readers.base import RawSlice, SeriesNote

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")

FILES = {
    "mha": ("metaimage", "v.mha", False),
    "mha, packed": ("metaimage", "v.mha", True),
    "mhd and raw": ("metaimage", "v.mhd", False),
    "mhd and zraw": ("metaimage", "v.mhd", True),
    "nrrd": ("nrrd", "v.nrrd", False),
    "nrrd, packed": ("nrrd", "v.nrrd", True),
    "nhdr": ("nrrd", "v.nhdr", False),
    "nhdr, packed": ("nrrd", "v.nhdr", True),
    "nifti": ("nifti", "v.nii.gz", True),
}
TURNS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]
COUNTS = (6, 5, 4)  # along x, y, z of the file


def turned(axes: tuple[int, ...], signs: tuple[int, ...]) -> Any:
    """Directions of the file's axes in the patient, in columns."""
    matrix = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[row, column] = sign
    return matrix


def tilted(degrees: float) -> Any:
    """Turned about the patient's left-right axis, then about the long one."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def save(path: Path, matrix: Any, *, packed: bool, dtype: str = "i2") -> Any:
    """Write voxels that all differ, and give what SimpleITK reads again."""
    values = np.arange(math.prod(COUNTS)).reshape(COUNTS[::-1]).astype(dtype)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-120.5, 33.25, 400.0))
    image.SetDirection(matrix.ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=packed)
    return sitk.ReadImage(str(path))


def place_of(one: RawSlice, row: int, col: int) -> Any:
    """The place of a pixel in the patient, from what the record of its slice says."""
    assert one.origin_mm is not None
    assert one.axes is not None
    assert one.spacing_mm is not None
    across, down = np.array(one.axes[:3]), np.array(one.axes[3:])
    return np.array(one.origin_mm) + row * one.spacing_mm[0] * down + col * one.spacing_mm[1] * across


def assert_same_places(folder: Path, kind: str, image: Any) -> list[str]:
    """Every voxel is at the place that SimpleITK says; returns the kinds of the notes."""
    reader = raw_format(kind)().reader("image", 1)
    found = reader.scan(folder, lambda _: None)
    assert found.left_out == []
    places: dict[int, Any] = {}
    positions: list[float] = []
    for one, pixels in zip(found.slices, reader.read(folder, found.slices), strict=True):
        for row, col in np.ndindex(pixels.shape):
            places[int(pixels[row, col])] = place_of(one, row, col)
        assert one.axes is not None
        assert one.position_mm is not None
        assert one.position_mm == pytest.approx(np.dot(place_of(one, 0, 0), np.cross(one.axes[:3], one.axes[3:])))
        positions.append(one.position_mm)
    wanted = {int(image[index]): image.TransformIndexToPhysicalPoint(index) for index in np.ndindex(*image.GetSize())}
    assert places.keys() == wanted.keys()
    for value, place in places.items():
        np.testing.assert_allclose(place, wanted[value], atol=2e-4)
    assert positions == sorted(positions)
    return [note.kind for note in found.notes if isinstance(note, SeriesNote)]


@pytest.mark.parametrize("file", FILES)
def test_all_axis_orders_and_flips(tmp_path: Path, file: str) -> None:
    kind, name, packed = FILES[file]
    # A NIfTI file that mirrors has an affine that SimpleITK does not write.
    turns = [each for each in TURNS if kind != "nifti" or np.linalg.det(turned(*each)) > 0]
    for number, turn in enumerate(turns[:: 1 if packed else 5]):
        folder = tmp_path / str(number)
        folder.mkdir()
        image = save(folder / name, turned(*turn), packed=packed)
        assert assert_same_places(folder, kind, image) == []


@pytest.mark.parametrize("file", FILES)
def test_slices_off_the_axial_plane(tmp_path: Path, file: str) -> None:
    kind, name, packed = FILES[file]
    image = save(tmp_path / name, tilted(12), packed=packed)
    assert assert_same_places(tmp_path, kind, image) == ["oblique"]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("file", ["mha", "mhd and zraw", "nrrd", "nhdr, packed"])
def test_all_types_of_numbers(tmp_path: Path, file: str, dtype: str) -> None:
    kind, name, packed = FILES[file]
    image = save(tmp_path / name, np.eye(3), packed=packed, dtype=dtype)
    assert assert_same_places(tmp_path, kind, image) == []


def test_numpy_lies_as_it_is_stated(tmp_path: Path) -> None:
    values = np.arange(math.prod(COUNTS)).reshape(COUNTS[::-1]).astype(np.int16)
    np.save(tmp_path / "v.npy", values)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    reader = raw_format("numpy")(axes="-z-yx", voxel_spacing=(2.5, 0.9, 0.7)).reader("image", 1)  # type: ignore[call-arg]
    found = reader.scan(tmp_path, lambda _: None)
    for one, pixels in zip(found.slices, reader.read(tmp_path, found.slices), strict=True):
        for row, col in np.ndindex(pixels.shape):
            index = image.TransformPhysicalPointToIndex(place_of(one, row, col).tolist())
            assert image[index] == pixels[row, col]
