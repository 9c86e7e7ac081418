"""DICOM files of every kind, among them those that lie, against what pydicom and arithmetic say."""

import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import Scan, SeriesNote
from ctpatch.prepare.readers.dicom import file as dicom_file
from ctpatch.prepare.readers.dicom.pixels import _unpacked_bytes
from ctpatch.prepare.readers.dicom.reader import DicomReader
from ctpatch.prepare.readers.dicom.series import upright_turn
from ctpatch.prepare.readers.dicom.stream import StreamHeader, j2k_header, jpeg_header
from dicom_files import DEFLATED, J2K, RLE, ct_dataset, jpeg_lossless, pixels_of, pydicom, write_ct, write_series

TEST_FILES = Path(pydicom.__file__).parent / "data/test_files"


def scan(root: Path, **options: Any) -> Scan:
    return DicomReader(**options).scan(root, lambda _count: None)


def read(root: Path, **options: Any) -> list[np.ndarray[Any, Any]]:
    reader = DicomReader(**options)
    return list(reader.read(root, scan(root, **options).slices))


def kinds(found: Scan) -> dict[str, str]:
    return {each.where: each.kind for each in found.left_out}


@pytest.mark.parametrize("syntax", [J2K, RLE, "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"])
def test_transfer_syntaxes_give_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    pixels = np.abs(pixels_of(1, (64, 64)))
    dataset = ct_dataset(pixels)
    if syntax in {J2K, RLE}:
        try:
            dataset.compress(syntax, generate_instance_uid=False)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            pytest.skip(f"nothing installed encodes {syntax}: {type(error).__name__}")
        dataset.save_as(tmp_path / "a", enforce_file_format=True)
    else:
        big = syntax.endswith("2.2")
        if big:
            dataset.PixelData = pixels.astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(tmp_path / "a", dataset, enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path)[0], pixels.astype(np.float32) - 1024)


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEGLSNearLossless_16.dcm"])
def test_jpeg_and_jpeg_ls_of_other_makers_are_decoded(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pylibjpeg", reason="pylibjpeg is not installed")
    dataset = pydicom.dcmread(TEST_FILES / name)
    wanted = dataset.pixel_array.astype(np.float32)
    # the same pixels as a CT slice: what is compressed stays as it is
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = dicom_file.CT_STORAGE
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.ImageType = 2, -1000, ["ORIGINAL", "PRIMARY", "AXIAL"]
    for tag in ("RescaleType", "NumberOfFrames", "PixelPaddingValue"):
        if tag in dataset:
            delattr(dataset, tag)
    dataset.save_as(tmp_path / "a")
    np.testing.assert_array_equal(read(tmp_path, keep_orientation=True)[0], wanted * 2 - 1000)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"])
def test_jpeg_lossless_gives_every_pixel(tmp_path: Path, syntax: str) -> None:
    pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
    pixels = np.abs(pixels_of(1)).astype(np.uint16)
    dataset = ct_dataset(pixels, PixelRepresentation=0, TransferSyntaxUID=syntax)
    dataset.PixelData = pydicom.encaps.encapsulate([jpeg_lossless(pixels)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path)[0], pixels.astype(np.float32) - 1024)


def test_a_dataset_without_preamble_is_found(tmp_path: Path) -> None:
    pixels = pixels_of(2)
    dataset = ct_dataset(pixels)
    dataset.save_as(tmp_path / "plain", implicit_vr=False, little_endian=True, enforce_file_format=False)
    content = (tmp_path / "plain").read_bytes()
    start = content.index(b"\x08\x00\x08\x00CS")
    (tmp_path / "plain").write_bytes(content[start:])
    np.testing.assert_array_equal(read(tmp_path)[0], pixels.astype(np.float32) - 1024)


@pytest.mark.parametrize(
    ("padding", "limit", "gone"),
    [
        (-2000, None, {-2000}),
        (63536, None, {-2000}),
        (-2000, -1998, {-2000, -1999, -1998}),
        (-1998, -2000, {-2000, -1999, -1998}),
    ],
)
def test_padding_becomes_air(tmp_path: Path, padding: int, limit: int | None, gone: set[int]) -> None:
    pixels = np.array([[-2000, -1999, -1998], [-1997, 0, 3000]], np.int16)
    dataset = ct_dataset(pixels)
    vr = "US" if padding > 32767 else "SS"
    dataset.add_new(0x00280120, vr, padding)
    if limit is not None:
        dataset.add_new(0x00280121, vr, limit)
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    image = read(tmp_path)[0]
    for stored, hu in zip(pixels.ravel().tolist(), image.ravel().tolist(), strict=True):
        assert hu == (-1024 if stored in gone else stored - 1024)
    # a mask keeps every value
    np.testing.assert_array_equal(read(tmp_path, labels=True)[0], pixels.astype(np.float32) - 1024)


def test_rescale_is_that_of_each_file(tmp_path: Path) -> None:
    pixels = pixels_of(3)
    write_ct(tmp_path / "a", pixels, ImagePositionPatient=[0, 0, 0], RescaleSlope=1.0002441)
    write_ct(tmp_path / "b", pixels, ImagePositionPatient=[0, 0, 5], RescaleIntercept=0)
    first, second = read(tmp_path)
    np.testing.assert_allclose(first, pixels * 1.0002441 - 1024, rtol=1e-6)
    np.testing.assert_array_equal(second, pixels.astype(np.float32))


ORIENTATIONS: dict[str, tuple[list[int], Callable[[Any], Any]]] = {
    "supine": ([1, 0, 0, 0, 1, 0], lambda image: image),
    "prone": ([-1, 0, 0, 0, -1, 0], lambda image: image[::-1, ::-1]),
    "mirrored": ([-1, 0, 0, 0, 1, 0], lambda image: image[:, ::-1]),
    "decubitus": ([0, -1, 0, 1, 0, 0], lambda image: image.T[::-1]),
    "other side": ([0, 1, 0, -1, 0, 0], lambda image: image.T[:, ::-1]),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_slices_are_made_upright(tmp_path: Path, name: str) -> None:
    """Each pixel's place in the patient, by the standard's formula, is the same before and after."""
    axes, turned = ORIENTATIONS[name]
    pixels = pixels_of(4, (6, 9))
    write_ct(tmp_path / "a", pixels, ImageOrientationPatient=axes, PixelSpacing=[0.5, 0.7])
    (found,) = scan(tmp_path).slices
    image = read(tmp_path)[0]
    np.testing.assert_array_equal(image, turned(pixels).astype(np.float32) - 1024)
    assert found.shape == image.shape
    assert found.axes is not None
    assert found.origin_mm is not None
    assert found.spacing_mm is not None
    assert np.allclose(found.axes, [1, 0, 0, 0, 1, 0])

    def places(image: Any, origin: Any, axes: Any, spacing: Any) -> dict[tuple[float, ...], float]:
        along_cols, along_rows = np.array(axes[:3]), np.array(axes[3:])
        return {
            tuple(np.round(origin + along_cols * spacing[1] * col + along_rows * spacing[0] * row, 6)): float(value)
            for (row, col), value in np.ndenumerate(image)
        }

    before = places(pixels.astype(np.float32) - 1024, np.array([-20.0, -16.0, 0.0]), axes, (0.5, 0.7))
    assert places(image, np.array(found.origin_mm), found.axes, found.spacing_mm) == before
    np.testing.assert_array_equal(read(tmp_path, keep_orientation=True)[0], pixels.astype(np.float32) - 1024)


def test_sagittal_slices_are_kept_and_named(tmp_path: Path) -> None:
    assert upright_turn((0, 1, 0, 0, 0, -1)) is None
    for number in range(3):
        axes, where = [0, 1, 0, 0, 0, -1], [2 * number, 0, 0]
        write_ct(tmp_path / str(number), pixels_of(number), ImageOrientationPatient=axes, ImagePositionPatient=where)
    assert len(scan(tmp_path).slices) == 3
    notes = [note for note in scan(tmp_path).notes if isinstance(note, SeriesNote)]
    assert [note.kind for note in notes] == ["not-axial"]


def test_series_split_by_uid_orientation_size_and_spacing(tmp_path: Path) -> None:
    write_series(tmp_path / "a", 2)
    write_series(tmp_path / "b", 2, uid="2")
    write_series(tmp_path / "c", 2, PixelSpacing=[0.9, 0.9])
    write_series(tmp_path / "d", 2, patient="patient-2")
    write_ct(tmp_path / "e", pixels_of(1, (30, 50)))
    found = scan(tmp_path)
    assert len({each.series for each in found.slices}) == 5
    for name in {each.series for each in found.slices}:
        assert [each.order for each in found.slices if each.series == name] in ([0, 1], [0])


def test_gaps_mixed_spacing_and_tilt_are_reported(tmp_path: Path) -> None:
    for number, z in enumerate([0.0, 2, 4, 10, 12]):
        write_ct(tmp_path / f"gap/{number}", pixels_of(number), ImagePositionPatient=[0, 0, z])
    for number, z in enumerate([0, 2, 4, 6.5, 8.5]):
        uid = f"{pixels_of(0).shape[0]}.7"
        write_ct(tmp_path / f"mix/{number}", pixels_of(number), ImagePositionPatient=[0, 0, z], SeriesInstanceUID=uid)
    for number in range(3):
        tilt = {"SeriesInstanceUID": "1.8", "GantryDetectorTilt": 12.5}
        write_ct(tmp_path / f"tilt/{number}", pixels_of(number), ImagePositionPatient=[0, 0, 2 * number], **tilt)
    for number in range(3):
        where = [0, 0.5 * number, 2 * number]
        write_ct(tmp_path / f"shift/{number}", pixels_of(number), ImagePositionPatient=where, SeriesInstanceUID="1.9")
    notes = {note.kind: note.message for note in scan(tmp_path).notes if isinstance(note, SeriesNote)}
    messages = [note.message for note in scan(tmp_path).notes if isinstance(note, SeriesNote) and note.kind == "tilt"]
    assert notes["gap"].startswith("1 gaps: steps of up to 6 mm where 2 mm is usual; about 2 slices")
    assert "run from 2 to 2.5 mm" in notes["mixed-spacing"]
    assert sorted(messages) == [
        "neighbouring slices are shifted by up to 0.50 mm within their plane",
        "the gantry is tilted by 12.5 degrees",
    ]


def test_duplicates_are_same_place_and_same_pixels(tmp_path: Path) -> None:
    write_series(tmp_path / "a", 3)
    shutil.copy(tmp_path / "a/002", tmp_path / "a/copy of 2.dcm")
    # other pixels at the same place are no duplicate
    write_ct(tmp_path / "a/other", pixels_of(99), ImagePositionPatient=[-20.0, -16.0, 0.0])
    found = scan(tmp_path)
    assert kinds(found) == {"a/copy of 2.dcm": "duplicate"}
    assert len(found.slices) == 4
    assert [note.kind for note in found.notes if isinstance(note, SeriesNote)] == ["same-position"]


def test_without_ids_the_next_wider_thing_counts(tmp_path: Path) -> None:
    blank = {"PatientID": "", "StudyInstanceUID": "", "SeriesInstanceUID": ""}
    write_ct(tmp_path / "p/folder/a", pixels_of(0), **blank)
    write_ct(tmp_path / "p/b", pixels_of(1), **(blank | {"SeriesInstanceUID": "1.2.3"}))
    write_ct(tmp_path / "p/c", pixels_of(2), **(blank | {"StudyInstanceUID": "1.2"}))
    write_ct(tmp_path / "p/d", pixels_of(3))
    got = {each.file: (each.group_kind, each.group) for each in scan(tmp_path).slices}
    assert got == {
        "p/folder/a": ("folder", "folder p/folder"),
        "p/b": ("series", "series 1.2.3"),
        "p/c": ("study", "study 1.2"),
        "p/d": ("patient", "patient-1"),
    }
    assert {each.group for each in scan(tmp_path, group_by="top-folder").slices} == {"folder p"}


def test_one_id_for_many_studies_is_pointed_out(tmp_path: Path) -> None:
    for number in range(3):
        write_series(tmp_path / f"C{number:03d}", 2, patient="Anonymous", uid=str(number + 1))
    assert "--group-by study or top-folder" in str(scan(tmp_path).notes[-1])
    assert not [note for note in scan(tmp_path, group_by="top-folder").notes if isinstance(note, str)]


@pytest.mark.parametrize(
    ("tags", "kind", "fault"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "mr-image-storage", False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "multi-frame", True),
        ({"SOPClassUID": "1.2.3.4.5"}, "unknown-storage", False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer", False),
        ({"RescaleType": "PCT"}, "not-hu", False),
        ({"RescaleSlope": None}, "no-rescale", True),
        ({"RescaleSlope": 0}, "no-rescale", True),
        ({"NumberOfFrames": 40}, "multi-frame", True),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "no-grey-values", False),
        ({"PhotometricInterpretation": None}, "damaged", True),
        ({"Rows": 60000, "Columns": 60000}, "too-large", True),
        ({"Rows": 0}, "too-large", True),
        ({"BitsAllocated": 64}, "damaged", True),
    ],
)
def test_what_is_no_slice_is_counted_by_kind(tmp_path: Path, tags: dict[str, Any], kind: str, fault: bool) -> None:
    write_ct(tmp_path / "a", pixels_of(0), **tags)
    found = scan(tmp_path)
    assert [(each.kind, each.fault) for each in found.left_out] == [(kind, fault)]
    assert found.slices == []


@pytest.mark.parametrize("length", [140, 200, 400, 700])
def test_a_file_that_is_cut_short_is_a_fault(tmp_path: Path, length: int) -> None:
    whole = write_ct(tmp_path / "a", pixels_of(0)).read_bytes()
    (tmp_path / "a").write_bytes(whole[:length])
    (left,) = scan(tmp_path).left_out
    assert left.fault
    assert "colours" not in left.reason
    if length == 200:
        assert (left.kind, left.reason.partition(":")[2]) == ("damaged", " it is cut short or damaged")


def test_a_header_that_promises_more_pixels_is_refused(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", pixels_of(0), Rows=4000, Columns=4000)
    with pytest.raises(SliceError, match="promises 32000000 bytes of pixels, it holds 4000"):
        read(tmp_path)


def test_a_file_with_more_than_a_slice_of_pixels_is_refused(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", pixels_of(0), Rows=20)
    with pytest.raises(SliceError, match="promises one slice of 2000 bytes, it holds 4000"):
        read(tmp_path)


def test_deflated_is_refused_unless_allowed_and_then_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = pixels_of(0)
    write_ct(tmp_path / "a", pixels, TransferSyntaxUID=DEFLATED)
    assert [(each.kind, each.fault) for each in scan(tmp_path).left_out] == [("deflated", True)]
    np.testing.assert_array_equal(read(tmp_path, allow_deflated=True)[0], pixels.astype(np.float32) - 1024)
    monkeypatch.setattr(dicom_file, "MAX_FILE_BYTES", 10_000)
    content = (tmp_path / "a").read_bytes()
    dataset, end = dicom_file._meta_group(content, 132)
    assert dataset[0x0010] == DEFLATED
    machine = zlib.compressobj(wbits=-15)
    bomb = content[:end] + machine.compress(b"\0" * 5_000_000) + machine.flush()
    assert len(bomb) < 10_000
    (tmp_path / "a").write_bytes(bomb)
    assert kinds(scan(tmp_path, allow_deflated=True)) == {"a": "too-large"}


def test_a_compressed_image_larger_than_its_header_is_not_decoded(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(TEST_FILES / "693_J2KI.dcm")
    frame = bytearray(pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1))
    assert j2k_header(bytes(frame)) == StreamHeader(512, 512, 1, 16, signed=True)
    at = frame.index(b"\xff\x4f\xff\x51") + 8
    frame[at : at + 8] = (30000).to_bytes(4, "big") * 2
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(frame)])
    dataset.save_as(tmp_path / "a")
    with pytest.raises(SliceError, match="header says 512x512 pixels of one value, its compressed image 30000x30000"):
        read(tmp_path)


def test_an_rle_image_that_unpacks_to_too_much_is_not_decoded(tmp_path: Path) -> None:
    pixels = np.abs(pixels_of(1, (64, 64)))
    dataset = ct_dataset(pixels)
    dataset.compress(RLE, generate_instance_uid=False)
    frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    # each of the two segments can end in a byte of padding
    assert 0 <= _unpacked_bytes(frame) - pixels.nbytes <= 2
    bomb = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\0" * 2_200_000
    assert _unpacked_bytes(bomb) == 2_200_000 * 128
    dataset.PixelData = pydicom.encaps.encapsulate([bomb])
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    with pytest.raises(SliceError, match="unpacks to more than its header says"):
        read(tmp_path)


def test_sizes_in_jpeg_headers() -> None:
    for name, wanted in {"JPEG-lossy.dcm": (1024, 256, 1), "JPEGLSNearLossless_16.dcm": None}.items():
        dataset = pydicom.dcmread(TEST_FILES / name)
        frame = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
        found = jpeg_header(frame)
        assert found is not None
        assert (found.rows, found.cols, found.values) == (wanted or (dataset.Rows, dataset.Columns, 1))
        assert found.precision == dataset.BitsStored
    assert jpeg_header(b"\xff\xd8\xff\xda\0\0") is None
    assert j2k_header(b"rubbish") is None


def test_rubbish_of_any_kind_is_named_not_raised(tmp_path: Path) -> None:
    content = write_ct(tmp_path / "a", pixels_of(0, (8, 8))).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(150):
        spoiled = bytearray(content)
        for place in rng.integers(132, len(content), 6):
            spoiled[place] = int(rng.integers(256))
        (tmp_path / f"{number:03d}").write_bytes(bytes(spoiled[: int(rng.integers(140, len(content)))]))
    found = scan(tmp_path)
    assert len(found.slices) + len(found.left_out) == 151
    reader = DicomReader()
    for each in found.slices:
        try:
            (image,) = reader.read(tmp_path, [each])
        except SliceError as error:
            assert error.message.startswith(each.file)  # noqa: PT017 - either is right
        else:
            assert np.isfinite(image).all()


@pytest.mark.skipif(sys.platform == "win32", reason="resource is for Unix")
def test_lengths_that_lie_cost_no_memory(tmp_path: Path) -> None:
    import resource

    path = write_ct(tmp_path / "a", pixels_of(0))
    content = path.read_bytes()
    at = content.index(b"\x20\x00\x11\x00") if b"\x20\x00\x11\x00" in content else content.index(b"\x10\x00\x20\x00LO")
    # the patient's id says that it is 3 GB long
    spoiled = content[:at] + content[at : at + 4] + b"UN\0\0" + (3 * 10**9).to_bytes(4, "little") + content[at + 8 :]
    path.write_bytes(spoiled)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = scan(tmp_path)
    assert len(found.slices) + len(found.left_out) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
