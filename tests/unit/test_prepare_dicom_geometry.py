"""What DICOM headers say of size and direction: images that are not square, and slices off the axial plane."""

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import SeriesNote
from ctpatch.prepare.readers.dicom.header import Axes
from ctpatch.prepare.readers.dicom.reader import DicomReader
from ctpatch.prepare.readers.dicom.series import Turn, upright_turn
from ctpatch.prepare.readers.dicom.stream import StreamHeader, j2k_header, jpeg_header
from dicom_files import J2K, ct_dataset, pixels_of, pydicom, write_ct


def codestream(rows: int, cols: int, top: int = 0, left: int = 0, values: int = 1) -> bytes:
    """The start of a JPEG 2000 codestream: SOC, then SIZ (ISO 15444-1, A.5.1)."""
    size = struct.pack(">HHIIIIIIII", 38 + 3 * values, 0, left + cols, top + rows, left, top, cols, rows, 0, 0)
    return b"\xff\x4f\xff\x51" + size + struct.pack(">H", values) + b"\x0f\x01\x01" * values + b"\xff\x52"


def test_sizes_of_images_that_are_not_square() -> None:
    assert j2k_header(codestream(24, 40)) == StreamHeader(24, 40, 1, 16)
    assert j2k_header(codestream(24, 40, top=5, left=3)) == StreamHeader(24, 40, 1, 16)
    assert j2k_header(b"a JP2 file's boxes" + codestream(512, 300, values=3)) == StreamHeader(512, 300, 3, 16)
    # SOF0 of ISO 10918-1, B.2.2: precision, rows, columns, values
    assert jpeg_header(b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 24, 40, 1) + bytes(3)) == StreamHeader(
        24, 40, 1, 8
    )


@pytest.mark.parametrize("shape", [(64, 96), (96, 64)])
def test_a_jpeg_2000_slice_that_is_not_square_is_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.abs(pixels_of(1, shape))
    dataset = ct_dataset(pixels)
    try:
        dataset.compress(J2K, generate_instance_uid=False)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        pytest.skip(f"nothing installed encodes JPEG 2000: {type(error).__name__}")
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    reader = DicomReader()
    slices = reader.scan(tmp_path, lambda _: None).slices
    (image,) = reader.read(tmp_path, slices)
    np.testing.assert_array_equal(image, pixels.astype(np.float32) - 1024)


def test_a_jpeg_2000_image_turned_against_its_header_is_refused(tmp_path: Path) -> None:
    dataset = ct_dataset(pixels_of(1, (24, 40)), TransferSyntaxUID=J2K)
    dataset.PixelData = pydicom.encaps.encapsulate([codestream(40, 24)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    reader = DicomReader()
    slices = reader.scan(tmp_path, lambda _: None).slices
    with pytest.raises(SliceError, match="header says 24x40 pixels of one value, its compressed image 40x24 of 1"):
        list(reader.read(tmp_path, slices))


def tilted(degrees: float) -> dict[str, Axes]:
    """Axial axes, tilted like a gantry (about the axis from side to side), swivelled, and turned in their plane."""
    near, far = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return {
        "tilted": (1, 0, 0, 0, near, far),
        "tilted back": (1, 0, 0, 0, near, -far),
        "swivelled": (near, 0, far, 0, 1, 0),
        "turned": (near, far, 0, -far, near, 0),
    }


@pytest.mark.parametrize("way", tilted(0))
@pytest.mark.parametrize("degrees", [0, 10, 20, 25, 30, 36])
def test_slices_tilted_by_up_to_36_degrees_are_axial(way: str, degrees: float) -> None:
    a, b = np.split(np.array(tilted(degrees)[way]), 2)
    assert upright_turn((*a, *b)) == Turn()
    assert upright_turn((*-a, *-b)) == Turn(flip_rows=True, flip_cols=True)
    assert upright_turn((*-a, *b)) == Turn(flip_cols=True)
    assert upright_turn((*b, *a)) == Turn(transpose=True)
    assert upright_turn((*b, *-a)) == Turn(transpose=True, flip_cols=True)


@pytest.mark.parametrize("way", tilted(0))
@pytest.mark.parametrize("degrees", [37.5, 40, 45, 50])
def test_slices_tilted_further_are_not(way: str, degrees: float) -> None:
    a, b = np.split(np.array(tilted(degrees)[way]), 2)
    assert upright_turn((*a, *b)) is None
    assert upright_turn((*-b, *a)) is None


def test_a_tilted_series_is_named_for_its_tilt_and_not_as_no_axial_one(tmp_path: Path) -> None:
    for degrees, name in ((30, "a"), (40, "b")):
        axes = list(tilted(degrees)["tilted"])
        write_ct(tmp_path / name / "1", pixels_of(degrees), ImageOrientationPatient=axes, GantryDetectorTilt=degrees)
        found = DicomReader().scan(tmp_path / name, lambda _: None)
        kinds = [note.kind for note in found.notes if isinstance(note, SeriesNote)]
        assert kinds == (["tilt"] if degrees == 30 else ["not-axial", "tilt"])
