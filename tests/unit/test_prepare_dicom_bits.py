"""Bits of DICOM pixels: values against those that were put in, in every syntax and for headers that do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import Observed, Scan, SeriesNote
from ctpatch.prepare.readers.dicom.bits import Bits, BitsError, values_of
from ctpatch.prepare.readers.dicom.reader import DicomReader
from ctpatch.prepare.readers.dicom.stream import StreamHeader
from dicom_files import EXPLICIT, J2K, RLE, ct_dataset, jpeg_lossless, pydicom

BIG_ENDIAN, IMPLICIT, JPEG_LOSSLESS = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70"
SHAPE = (36, 48)  # the encoder of JPEG 2000 takes no side below 32


def numbers(low: int, high: int, seed: int = 0) -> NDArray[np.int64]:
    """Values from `low` to `high`, both among them."""
    values = np.random.default_rng(seed).integers(low, high + 1, SHAPE)
    values[0, :2] = low, high
    return values


def write(path: Path, cells: NDArray[Any], syntax: str, precision: int = 16, **tags: Any) -> Path:
    """Write cells of 16 bits as they are; a compressed image has so many bits a value."""
    dataset = ct_dataset(cells, TransferSyntaxUID=syntax, **{"PixelRepresentation": 0, "BitsStored": 12, **tags})
    words = cells.astype(np.int64) % 65536
    dataset.PixelData = words.astype(">u2" if syntax == BIG_ENDIAN else "<u2").tobytes()
    frame = None
    if syntax == RLE:
        dataset.file_meta.TransferSyntaxUID = EXPLICIT
        dataset.compress(RLE, generate_instance_uid=False)
    elif syntax == J2K:
        openjpeg = pytest.importorskip("openjpeg.utils", reason="pylibjpeg-openjpeg is not installed")
        frame = openjpeg.encode_array(words.astype(np.uint16), bits_stored=precision, photometric_interpretation=2)
    elif syntax == JPEG_LOSSLESS:
        pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
        frame = jpeg_lossless(words.astype(np.uint16))
    if frame is not None:
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(frame)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def scan(root: Path) -> Scan:
    return DicomReader().scan(root, lambda _count: None)


def observe(root: Path) -> Observed:
    found = scan(root)
    assert found.left_out == []
    (seen,) = DicomReader().observe(root, found.slices)
    return seen


def kinds(seen: Observed) -> list[str]:
    return [remark.kind for remark in seen.remarks]


SYNTAXES = pytest.mark.parametrize(
    "syntax",
    [EXPLICIT, IMPLICIT, BIG_ENDIAN, RLE, J2K, JPEG_LOSSLESS],
    ids=["explicit", "implicit", "big-endian", "rle", "jpeg-2000", "jpeg-lossless"],
)


@SYNTAXES
@pytest.mark.parametrize("signed", [0, 1])
def test_unused_bits_are_taken_out_in_every_syntax(tmp_path: Path, syntax: str, signed: int) -> None:
    values = numbers(-2048, 2047) if signed else numbers(0, 4095)
    cells = values & 0xFFF
    cells[5:9, 3:20] |= 0x1000  # an overlay
    cells[12, :] |= 0xA000
    write(tmp_path / "a", cells, syntax, HighBit=11, PixelRepresentation=signed)
    seen = observe(tmp_path)
    np.testing.assert_array_equal(seen.image, values - 1024)
    assert kinds(seen) == ["unused-bits"]
    assert "above BitsStored 12 set, up to bit 16 of 16" in seen.remarks[0].message


@SYNTAXES
@pytest.mark.parametrize("signed", [0, 1])
def test_bits_that_fit_are_not_remarked_upon(tmp_path: Path, syntax: str, signed: int) -> None:
    values = numbers(-2048, 2047) if signed else numbers(0, 4095)
    write(tmp_path / "a", values, syntax, HighBit=11, PixelRepresentation=signed)
    seen = observe(tmp_path)
    np.testing.assert_array_equal(seen.image, values - 1024)
    assert kinds(seen) == []


@pytest.mark.parametrize("signed", [0, 1])
def test_a_compressed_image_of_just_the_bits_stored_is_read_as_it_is(tmp_path: Path, signed: int) -> None:
    values = numbers(-2048, 2047) if signed else numbers(0, 4095)
    write(tmp_path / "a", values & 0xFFF, J2K, precision=12, HighBit=11, PixelRepresentation=signed)
    seen = observe(tmp_path)
    np.testing.assert_array_equal(seen.image, values - 1024)
    assert kinds(seen) == []


def test_bits_that_stand_there_twice_are_taken_once(tmp_path: Path) -> None:
    values = numbers(-2048, 2047)
    tags: dict[str, Any] = {
        "BitsAllocated": [16, 16],
        "BitsStored": [12, 12],
        "HighBit": [11, 11],
        "PixelRepresentation": [1, 1],
    }
    write(tmp_path / "a", (values & 0xFFF) | 0x3000, EXPLICIT, **tags)
    seen = observe(tmp_path)
    np.testing.assert_array_equal(seen.image, values - 1024)
    assert kinds(seen) == ["unused-bits"]
    assert "doubled-values" in [note.kind for note in scan(tmp_path).notes if isinstance(note, SeriesNote)]


def test_bits_that_stand_there_twice_and_differ_are_a_fault(tmp_path: Path) -> None:
    write(tmp_path / "a", numbers(0, 4095), EXPLICIT, BitsStored=[12, 16], HighBit=11)
    (left,) = scan(tmp_path).left_out
    assert (left.kind, left.fault) == ("conflicting-values", True)
    assert "BitsStored has 2 values that differ (12 and 16)" in left.reason


def test_pixels_that_need_more_bits_than_stored_are_remarked_upon(tmp_path: Path) -> None:
    values = numbers(0, 5000)
    write(tmp_path / "a", values, EXPLICIT, HighBit=11)
    seen = observe(tmp_path)
    np.testing.assert_array_equal(seen.image, values % 4096 - 1024)
    assert "above BitsStored 12 set, up to bit 13 of 16" in seen.remarks[0].message
    assert "correct BitsStored" in seen.remarks[0].message


@SYNTAXES
@pytest.mark.parametrize("signed", [0, 1])
def test_values_in_the_upper_bits_are_shifted_down(tmp_path: Path, syntax: str, signed: int) -> None:
    values = numbers(-2048, 2047) if signed else numbers(0, 4095)
    write(tmp_path / "a", values << 4, syntax, HighBit=15, PixelRepresentation=signed)
    seen = observe(tmp_path)
    np.testing.assert_array_equal(seen.image, values - 1024)
    assert kinds(seen) == ["left-justified"]
    assert seen.remarks[0].message.endswith("ctpatch shifted them down by 4 bits")


def test_values_in_the_middle_bits_are_shifted_down(tmp_path: Path) -> None:
    values = numbers(0, 1023)
    write(tmp_path / "a", values << 3, EXPLICIT, BitsStored=10, HighBit=12)
    np.testing.assert_array_equal(observe(tmp_path).image, values - 1024)


def test_a_wrong_high_bit_is_not_followed_where_the_pixels_tell(tmp_path: Path) -> None:
    values = numbers(0, 4095)
    write(tmp_path / "a", values, EXPLICIT, HighBit=15)
    seen = observe(tmp_path)
    np.testing.assert_array_equal(seen.image, values - 1024)
    assert kinds(seen) == ["high-bit"]


def test_a_high_bit_that_is_too_low_is_remarked_upon_where_pixels_need_more(tmp_path: Path) -> None:
    for high, found in ((4095, []), (5000, ["high-bit"])):
        write(tmp_path / "a", numbers(0, high), EXPLICIT, BitsStored=16, HighBit=11)
        seen = observe(tmp_path)
        np.testing.assert_array_equal(seen.image, numbers(0, high) - 1024)
        assert kinds(seen) == found


def test_a_high_bit_with_bits_above_and_below_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", numbers(0, 65535), EXPLICIT, HighBit=15)
    with pytest.raises(
        SliceError, match="a: its HighBit is 15, its BitsStored 12 says 11, and its pixels use bits above"
    ):
        observe(tmp_path)


def test_a_high_bit_that_is_missing_is_that_of_bits_stored(tmp_path: Path) -> None:
    values = numbers(0, 4095)
    write(tmp_path / "a", values, EXPLICIT, HighBit=None)
    np.testing.assert_array_equal(observe(tmp_path).image, values - 1024)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"BitsStored": 17, "HighBit": 16}, "its BitsStored is 17, wanted 1 to 16, its BitsAllocated"),
        ({"BitsStored": 0}, "its BitsStored is 0, wanted 1 to 16"),
        ({"BitsStored": None}, "its BitsStored is missing"),
        ({"HighBit": 16}, "its HighBit is 16, wanted 0 to 15, as its BitsAllocated is 16"),
        ({"PixelRepresentation": None}, "its PixelRepresentation is missing, wanted 0 (no sign) or 1 (sign)"),
        ({"PixelRepresentation": 2}, "its PixelRepresentation is 2"),
    ],
)
def test_fields_that_make_no_sense_are_found_by_the_scan(tmp_path: Path, tags: dict[str, Any], reason: str) -> None:
    dataset = ct_dataset(numbers(0, 4095), **tags)
    dataset.save_as(tmp_path / "a", enforce_file_format=False)
    (left,) = scan(tmp_path).left_out
    assert (left.kind, left.fault) == ("bits", True)
    assert left.reason.startswith(reason)


def test_a_compressed_image_of_more_bits_than_allocated_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", numbers(0, 4095), J2K, BitsAllocated=8, BitsStored=8, HighBit=7)
    with pytest.raises(
        SliceError, match="its compressed image has values of 16 bits, wanted 1 to 8, its BitsAllocated"
    ):
        observe(tmp_path)


def test_a_sign_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    # 12 bits without a sign in a file of 16 with one: 3000 could be -1096
    write(tmp_path / "a", numbers(0, 3000), J2K, precision=12, BitsStored=16, HighBit=15, PixelRepresentation=1)
    with pytest.raises(SliceError, match="values of 12 bits without a sign, its header says 16 bits with a sign"):
        observe(tmp_path)
    write(tmp_path / "a", numbers(0, 2047), J2K, precision=12, BitsStored=16, HighBit=15, PixelRepresentation=1)
    np.testing.assert_array_equal(observe(tmp_path).image, numbers(0, 2047) - 1024)


@pytest.mark.parametrize("syntax", [EXPLICIT, J2K])
def test_padding_beyond_the_bits_stored_is_padding(tmp_path: Path, syntax: str) -> None:
    values = numbers(0, 4095)
    cells = values.copy()
    cells[:, :6] = 63536  # -2000 without its sign; its lowest 12 bits are 2096
    write(tmp_path / "a", cells, syntax, HighBit=11, PixelPaddingValue=63536)
    seen = observe(tmp_path)
    wanted = values - 1024
    wanted[:, :6] = -1024
    np.testing.assert_array_equal(seen.image, wanted)
    assert kinds(seen) == []
    assert seen.padding is not None
    np.testing.assert_array_equal(seen.padding, cells == 63536)
    assert seen.padding_hu == (62512, 62512)


def test_what_is_padding_turns_with_the_image(tmp_path: Path) -> None:
    cells = numbers(1, 4095)
    cells[:, :6] = 0
    tags: dict[str, Any] = {"PixelPaddingValue": 0, "ImageOrientationPatient": [0, -1, 0, 1, 0, 0]}
    write(tmp_path / "a", cells, EXPLICIT, HighBit=11, **tags)
    seen = observe(tmp_path)
    assert seen.padding is not None
    np.testing.assert_array_equal(seen.padding, seen.image == -1024)
    assert seen.padding.shape == seen.image.shape == SHAPE[::-1]


def test_values_of_bits_against_arithmetic_on_single_pixels() -> None:
    """For each header and cell: unsigned bits high to high - stored + 1, with the sign of two's complement."""
    random = np.random.default_rng(3)
    nothing = np.zeros((4, 4), np.bool_)
    tried = 0
    for stored, high, signed in [(10, 9, 0), (12, 11, 1), (12, 15, 0), (12, 15, 1), (7, 12, 1), (16, 15, 1), (1, 0, 0)]:
        bits = Bits(16, stored, high, signed=bool(signed))
        shift = high + 1 - stored
        values = random.integers(0, 1 << stored, (4, 4))
        cells = (values << shift).astype(np.uint16).view(np.int16 if signed else np.uint16)
        out, _ = values_of(cells, bits, None, nothing)
        for value, got in zip(values.ravel().tolist(), out.ravel().tolist(), strict=True):
            assert got == (value - (1 << stored) if signed and value >> (stored - 1) else value)
            tried += 1
    assert tried == 7 * 16


def test_a_stream_says_its_own_bits() -> None:
    bits = Bits(16, 16, 15, signed=True)
    cells, nothing = np.array([[2048]], np.int16), np.zeros((1, 1), np.bool_)
    with pytest.raises(BitsError, match="12 bits without a sign"):
        values_of(cells, bits, StreamHeader(1, 1, 1, 12), nothing)
    values, remarks = values_of(cells, bits, StreamHeader(1, 1, 1, 13, signed=True), nothing)
    assert (values.tolist(), remarks) == ([[2048]], ())


def test_a_stream_with_a_sign_under_a_header_without_one_is_remarked_upon(tmp_path: Path) -> None:
    openjpeg = pytest.importorskip("openjpeg.utils", reason="pylibjpeg-openjpeg is not installed")
    for low, found in ((-1000, ["stream-sign"]), (0, [])):
        values = numbers(low, 2000)
        dataset = ct_dataset(values, TransferSyntaxUID=J2K, BitsStored=12, HighBit=11, PixelRepresentation=0)
        frame = openjpeg.encode_array(values.astype(np.int16), bits_stored=12, photometric_interpretation=2)
        dataset.PixelData = pydicom.encaps.encapsulate([bytes(frame)])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(tmp_path / "a", enforce_file_format=True)
        seen = observe(tmp_path)
        np.testing.assert_array_equal(seen.image, values % 4096 - 1024)
        assert kinds(seen) == found
