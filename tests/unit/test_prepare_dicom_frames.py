"""Multi-frame CT: each frame is a slice of its own, with the values, the place and the checks of one."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import RawSlice, Scan
from ctpatch.prepare.readers.dicom import file as dicom_file
from ctpatch.prepare.readers.dicom.reader import DicomReader
from dicom_files import DEFLATED, J2K, RLE, ROOT, pixels_of, pydicom, write_ct
from dicom_frames import ENHANCED, LEGACY, frame_groups, frames_dataset, groups, save, shared_groups, volume


def scan(root: Path, **options: Any) -> Scan:
    return DicomReader(**options).scan(root, lambda _count: None)


def images_of(root: Path, slices: list[RawSlice], **options: Any) -> list[np.ndarray[Any, Any]]:
    return list(DicomReader(**options).read(root, slices))


def reason(root: Path, **options: Any) -> str:
    """Why nothing of a file is prepared; all that is left out is a fault."""
    found = scan(root, **options)
    assert found.slices == []
    assert all(each.fault for each in found.left_out)
    return found.left_out[0].reason


@pytest.mark.parametrize("storage", [ENHANCED, LEGACY, "1.2.840.10008.5.1.4.1.1.2"])
def test_each_frame_is_a_slice_with_its_own_place_and_rescale(tmp_path: Path, storage: str) -> None:
    images, _ = volume()
    slopes, intercepts = (1.0, 2.0, 0.5, 1.0), (-1024.0, -1000.0, 0.0, -8192.0)
    per_frame = [
        frame_groups(
            number + 1,
            8.0 - 2.0 * number,
            PixelValueTransformationSequence={
                "RescaleSlope": slope,
                "RescaleIntercept": intercept,
                "RescaleType": "HU",
            },
        )
        for number, (slope, intercept) in enumerate(zip(slopes, intercepts, strict=True))
    ]
    shared = shared_groups(PixelValueTransformationSequence=None)
    save(frames_dataset(images, per_frame, shared, SOPClassUID=storage), tmp_path / "a")
    found = scan(tmp_path)
    assert found.left_out == []
    assert [(each.item, each.position_mm, each.origin_mm) for each in found.slices] == [
        (number, z, (-20.0, -16.0, z)) for number, z in ((4, 2.0), (3, 4.0), (2, 6.0), (1, 8.0))
    ]
    assert {each.spacing_mm for each in found.slices} == {(0.5, 0.8)}
    assert {each.axes for each in found.slices} == {(1.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    assert {each.names for each in found.slices} == {("B40f",)}
    for one, image in zip(found.slices, images_of(tmp_path, found.slices), strict=True):
        stored = images[one.item - 1]
        wanted = np.empty(stored.shape, np.float32)
        for place, value in np.ndenumerate(stored):
            wanted[place] = float(value) * slopes[one.item - 1] + intercepts[one.item - 1]
        np.testing.assert_array_equal(image, wanted)


def test_marked_pixels_lie_where_the_frame_says_when_it_is_made_upright(tmp_path: Path) -> None:
    """Prone frames: each pixel's place in mm, by the plain formula of the standard, is that of the turned image."""
    images, per_frame = volume(3)
    shared = shared_groups(PlaneOrientationSequence={"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0]})
    save(frames_dataset(images, per_frame, shared), tmp_path / "a")
    slices = scan(tmp_path).slices
    for one, image in zip(slices, images_of(tmp_path, slices), strict=True):
        stored = images[one.item - 1]
        z = 2.0 * (3 - (one.item - 1))
        place_of = {}
        for (row, col), value in np.ndenumerate(stored):
            place_of[round(-20.0 - 0.8 * col, 6), round(-16.0 - 0.5 * row, 6), z] = float(value) - 1024
        assert one.origin_mm is not None
        x, y, there = one.origin_mm
        for (row, col), hu in np.ndenumerate(image):
            assert place_of[round(x + 0.8 * col, 6), round(y + 0.5 * row, 6), there] == hu


def test_simpleitk_gives_the_same_values_and_places(tmp_path: Path) -> None:
    itk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    images = [np.abs(pixels_of(number, (24, 32))) for number in range(3)]
    per_frame = [frame_groups(number + 1, 2.0 * number) for number in range(3)]
    dataset = frames_dataset(images, per_frame)
    whole = itk.ReadImage(str(save(dataset, tmp_path / "a")))
    assert whole.GetSize() == (32, 24, 3)
    slices = scan(tmp_path).slices
    for one, image in zip(slices, images_of(tmp_path, slices), strict=True):
        np.testing.assert_array_equal(image, itk.GetArrayFromImage(whole)[one.item - 1])
        assert whole.TransformIndexToPhysicalPoint((0, 0, one.item - 1)) == pytest.approx(one.origin_mm)


def test_highdicom_converts_slices_that_read_as_they_did(tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed")
    singles = []
    for number in range(3):
        path = write_ct(
            tmp_path / f"singles/{number}",
            pixels_of(number),
            ImagePositionPatient=[-20.0, -16.0, 2.5 * number],
            SOPInstanceUID=f"{ROOT}9.{number + 1}",
            InstanceNumber=number + 1,
            ConvolutionKernel="B70f",
            SliceThickness=2.5,
            FrameOfReferenceUID=f"{ROOT}9",
            PositionReferenceIndicator="",
            **dict.fromkeys(("PatientName", "PatientSex", "PatientBirthDate", "StudyID", "AccessionNumber"), ""),
            **dict.fromkeys(("StudyDate", "ContentDate", "AcquisitionDate"), "20200101"),
            **dict.fromkeys(("StudyTime", "ContentTime", "AcquisitionTime"), "101112"),
            ReferringPhysicianName="",
            Manufacturer="none",
            BodyPartExamined="ABDOMEN",
            PatientPosition="HFS",
            RescaleType="HU",
            PresentationLUTShape=None,
        )
        singles.append(pydicom.dcmread(path))
    converted = highdicom.legacy.LegacyConvertedEnhancedCTImage(singles, f"{ROOT}9.8", 2, f"{ROOT}9.9", 1)
    save(converted, tmp_path / "converted/a")
    one_by_one, together = scan(tmp_path / "singles"), scan(tmp_path / "converted")
    assert together.left_out == []
    for name in ("position_mm", "origin_mm", "axes", "spacing_mm", "names", "shape", "order", "group"):
        assert [getattr(each, name) for each in together.slices] == [getattr(each, name) for each in one_by_one.slices]
    for image, wanted in zip(
        images_of(tmp_path / "converted", together.slices),
        images_of(tmp_path / "singles", one_by_one.slices),
        strict=True,
    ):
        np.testing.assert_array_equal(image, wanted)


@pytest.mark.parametrize(
    ("syntax", "table"),
    [(syntax, table) for syntax in (J2K, RLE) for table in ("basic", "extended", "none")]
    + [(syntax, "none") for syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", DEFLATED)],
)
def test_transfer_syntaxes_give_the_same_pixels(tmp_path: Path, syntax: str, table: str) -> None:
    images = [np.abs(pixels_of(number, (64, 64))) for number in range(3)]
    per_frame = [frame_groups(number + 1, 2.0 * number) for number in range(3)]
    dataset = frames_dataset(images, per_frame)
    if syntax in {J2K, RLE}:
        try:
            dataset.compress(syntax, generate_instance_uid=False, encapsulate_ext=table == "extended")
        except (RuntimeError, NotImplementedError, ValueError) as error:
            pytest.skip(f"nothing installed encodes {syntax}: {type(error).__name__}")
        if table == "none":
            frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=3))
            dataset.PixelData = pydicom.encaps.encapsulate(frames, has_bot=False)
        save(dataset, tmp_path / "a")
    else:
        if syntax.endswith("2.2"):
            dataset.PixelData = np.stack(images).astype(">i2").tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(tmp_path / "a", dataset, enforce_file_format=True)
    slices = scan(tmp_path, allow_deflated=True).slices
    assert len(slices) == 3
    for image, wanted in zip(images_of(tmp_path, slices, allow_deflated=True), images, strict=True):
        np.testing.assert_array_equal(image, wanted.astype(np.float32) - 1024)


def test_fragments_of_a_frame_are_put_together_by_the_offset_table(tmp_path: Path) -> None:
    images = [np.abs(pixels_of(number, (24, 32))) for number in range(3)]
    dataset = frames_dataset(images, [frame_groups(number + 1, 2.0 * number) for number in range(3)])
    dataset.compress(RLE, generate_instance_uid=False)
    frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=3))
    dataset.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=3)
    save(dataset, tmp_path / "a")
    slices = scan(tmp_path).slices
    for image, wanted in zip(images_of(tmp_path, slices), images, strict=True):
        np.testing.assert_array_equal(image, wanted.astype(np.float32) - 1024)
    dataset.PixelData = pydicom.encaps.encapsulate(frames, fragments_per_frame=3, has_bot=False)
    save(dataset, tmp_path / "a")
    assert "9 fragments of 3 frames, and no offset table says which are of which frame" in reason(tmp_path)
    first = struct.pack("<L", 0)
    packed = pydicom.encaps.encapsulate(frames, fragments_per_frame=3)
    for lie in (first * 3, struct.pack("<LLL", 0, 7, 9), struct.pack("<LLL", 8, 16, 24)):
        dataset.PixelData = packed[:8] + lie + packed[20:]
        save(dataset, tmp_path / "a")
        assert "offset table does not give 3 frames" in reason(tmp_path)


def test_stacks_and_orientations_and_files_are_series_of_their_own(tmp_path: Path) -> None:
    images, _ = volume(6)
    coronal = {"PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}}
    axial = {"PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}}
    per_frame = [
        frame_groups(1, 0.0, "A", **axial),
        frame_groups(2, 2.0, "A", **axial),
        frame_groups(1, 0.0, "B", **axial),
        frame_groups(2, 2.0, "B", **axial),
        frame_groups(
            1, 0.0, "A", **coronal, CTImageFrameTypeSequence={"FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]}
        ),
        frame_groups(2, 2.0, "B", **axial),
    ]
    shared = shared_groups(PlaneOrientationSequence=None)
    save(frames_dataset(images, per_frame, shared), tmp_path / "a")
    save(frames_dataset(images[4:], per_frame[:2], shared, SOPInstanceUID=f"{ROOT}7.2"), tmp_path / "b")
    found = scan(tmp_path)
    series: dict[str, list[tuple[str, int]]] = {}
    for each in found.slices:
        series.setdefault(each.series, []).append((each.file, each.item))
    # The last frame lies where the fourth lies and has other pixels: both are kept, and it is reported.
    assert sorted(series.values()) == [[("a", 1), ("a", 2)], [("a", 3), ("a", 4), ("a", 6)], [("b", 1), ("b", 2)]]
    assert [(each.where, each.kind) for each in found.left_out] == [("a[5]", "localizer")]


def test_parts_of_a_concatenation_are_one_series(tmp_path: Path) -> None:
    images, per_frame = volume(4)
    for number, half in enumerate((slice(0, 2), slice(2, 4))):
        uids = {"SOPInstanceUID": f"{ROOT}7.{number + 1}", "ConcatenationUID": f"{ROOT}7"}
        save(frames_dataset(images[half], per_frame[half], **uids), tmp_path / str(number))
    slices = scan(tmp_path).slices
    assert [(each.file, each.item, each.order) for each in slices] == [
        ("1", 2, 0),
        ("1", 1, 1),
        ("0", 2, 2),
        ("0", 1, 3),
    ]
    assert len({each.series for each in slices}) == 1
    wanted = [image.astype(np.float32) - 1024 for image in reversed(images)]
    for image, one in zip(images_of(tmp_path, slices), wanted, strict=True):
        np.testing.assert_array_equal(image, one)


def test_times_of_one_stack_are_series_of_their_own(tmp_path: Path) -> None:
    images, _ = volume(6)
    per_frame = []
    for time in (1, 2):
        for number in range(3):
            said = frame_groups(number + 1, 2.0 * number)
            said.FrameContentSequence[0].TemporalPositionIndex = time
            per_frame.append(said)
    save(frames_dataset(images, per_frame), tmp_path / "a")
    found = scan(tmp_path)
    assert [[each.item for each in found.slices][at : at + 3] for at in (0, 3)] == [[1, 2, 3], [4, 5, 6]]
    assert len({each.series for each in found.slices}) == 2


def test_a_copy_of_a_file_is_left_out_frame_by_frame(tmp_path: Path) -> None:
    images, per_frame = volume(2)
    save(frames_dataset(images, per_frame), tmp_path / "a")
    save(frames_dataset(images, per_frame), tmp_path / "b")
    found = scan(tmp_path)
    assert {each.file for each in found.slices} == {"a"}
    assert [(each.where, each.kind) for each in found.left_out] == [("b[1]", "duplicate"), ("b[2]", "duplicate")]


@pytest.mark.parametrize(
    "group",
    [
        *("CTImageFrameTypeSequence", "PixelMeasuresSequence", "PlaneOrientationSequence"),
        *("PixelValueTransformationSequence", "PlanePositionSequence", "FrameContentSequence"),
    ],
)
def test_a_missing_group_is_refused_by_its_name(tmp_path: Path, group: str) -> None:
    images, per_frame = volume(2)
    shared = shared_groups()
    for each in (*per_frame, shared):
        if group in each:
            delattr(each, group)
    save(frames_dataset(images, per_frame, shared), tmp_path / "a")
    found = scan(tmp_path, assume_hu=True)
    assert found.slices == []
    assert [(each.where, each.kind, each.fault) for each in found.left_out] == [
        ("a[1]", "missing-group", True),
        ("a[2]", "missing-group", True),
    ]
    assert f"it lacks {group} in its functional groups" in found.left_out[0].reason


def test_only_the_frame_that_lacks_a_group_is_left_out(tmp_path: Path) -> None:
    images, per_frame = volume(3)
    del per_frame[1].PlanePositionSequence[0].ImagePositionPatient
    save(frames_dataset(images, per_frame), tmp_path / "a")
    found = scan(tmp_path)
    assert [each.item for each in found.slices] == [3, 1]
    assert [each.where for each in found.left_out] == ["a[2]"]
    assert "it lacks PlanePositionSequence ImagePositionPatient" in found.left_out[0].reason


def test_frames_are_checked_as_slices_are(tmp_path: Path) -> None:
    """Kinds, rescale, orientation and contradictions, each of the one frame that it is true of."""
    images, per_frame = volume(6)
    changes: list[tuple[str, dict[str, Any]]] = [
        ("CTImageFrameTypeSequence", {"FrameType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}),
        ("CTImageFrameTypeSequence", {"FrameType": ["DERIVED", "PRIMARY", "VOLUME", "MAX_IP"]}),
        ("PixelValueTransformationSequence", {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "PCT"}),
        ("PixelValueTransformationSequence", {"RescaleIntercept": -1024, "RescaleType": "HU"}),
        ("PixelMeasuresSequence", {"PixelSpacing": [0.5, 0.9]}),
    ]
    shared = shared_groups(CTImageFrameTypeSequence=None, PixelValueTransformationSequence=None)
    usual = shared_groups()
    for number, each in enumerate(per_frame):
        for name in ("CTImageFrameTypeSequence", "PixelValueTransformationSequence"):
            setattr(each, name, usual[name].value)
        if number < len(changes):
            name, tags = changes[number]
            setattr(each, name, groups(**{name: tags})[name].value)
    save(frames_dataset(images, per_frame, shared), tmp_path / "a")
    found = scan(tmp_path)
    assert [each.item for each in found.slices] == [6]
    assert [(each.where, each.kind, each.fault) for each in found.left_out] == [
        ("a[1]", "localizer", False),
        ("a[2]", "projection", False),
        ("a[3]", "not-hu", False),
        ("a[4]", "no-rescale", True),
        ("a[5]", "multi-frame", True),
    ]
    assert "frame 5 says another PixelMeasuresSequence PixelSpacing than all frames share" in found.left_out[4].reason


@pytest.mark.parametrize(
    ("technique", "kind"),
    [("MAX_IP", "projection"), ("VOLUME_RENDER", "projection"), ("MPR", "reformat"), ("NONE", None)],
)
def test_the_technique_of_a_volume_tells_its_kind(tmp_path: Path, technique: str, kind: str | None) -> None:
    images, per_frame = volume(2)
    frame_type = {
        "FrameType": ["DERIVED", "PRIMARY", "VOLUME", "NONE"],
        "VolumeBasedCalculationTechnique": technique,
    }
    save(frames_dataset(images, per_frame, shared_groups(CTImageFrameTypeSequence=frame_type)), tmp_path / "a")
    found = scan(tmp_path)
    assert {each.kind for each in found.left_out} == ({kind} if kind else set())
    assert len(found.slices) == (0 if kind else 2)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (3, "its NumberOfFrames is 3, and its PerFrameFunctionalGroupsSequence has 4 items"),
        (5, "its NumberOfFrames is 5, and its PerFrameFunctionalGroupsSequence has 4 items"),
        (0, "its NumberOfFrames is 0, wanted 1 to 16384"),
        (-4, "its NumberOfFrames is -4, wanted 1 to 16384"),
        (2**31 - 1, "its NumberOfFrames is 2147483647, wanted 1 to 16384"),
        ("", "its NumberOfFrames is missing or no whole number"),
    ],
)
def test_a_number_of_frames_that_lies_is_refused(tmp_path: Path, said: int | str, wanted: str) -> None:
    images, per_frame = volume()
    save(frames_dataset(images, per_frame, NumberOfFrames=said), tmp_path / "a")
    assert wanted in reason(tmp_path)


@pytest.mark.parametrize("change", [-1, 1])
def test_pixels_of_fewer_or_more_frames_are_refused(tmp_path: Path, change: int) -> None:
    images, per_frame = volume()
    dataset = frames_dataset(images, per_frame)
    dataset.PixelData = np.stack((images * 2)[: 4 + change]).astype("<i2").tobytes()
    save(dataset, tmp_path / "a")
    there = (4 + change) * 24 * 32 * 2
    assert f"promises 4 frames of 1536 bytes, it holds {there} bytes" in reason(tmp_path)


@pytest.mark.parametrize("length", [900, 1500, 2500, 5000])
def test_a_file_that_is_cut_short_is_a_fault(tmp_path: Path, length: int) -> None:
    images, per_frame = volume()
    path = save(frames_dataset(images, per_frame), tmp_path / "a")
    path.write_bytes(path.read_bytes()[:length])
    assert reason(tmp_path)


def test_ct_image_storage_with_frames_and_no_groups_is_refused(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", np.stack([pixels_of(0)] * 3).reshape(120, 50), NumberOfFrames=3, Rows=40)
    assert "its NumberOfFrames is 3, and its PerFrameFunctionalGroupsSequence is missing or empty" in reason(tmp_path)


def test_headers_of_very_many_items_or_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, per_frame = volume()
    save(frames_dataset(images, per_frame), tmp_path / "a")
    monkeypatch.setattr(dicom_file, "_MAX_ITEMS", 10)
    assert "its sequences have more than 10 items" in reason(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(dicom_file, "MAX_HEADER_BYTES", 1000)
    assert "its header has more than 1000 bytes, or is damaged" in reason(tmp_path)


def test_pixels_behind_the_largest_header_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [pixels_of(number, (200, 200)) for number in range(3)]
    path = save(
        frames_dataset(images, [frame_groups(number + 1, float(number)) for number in range(3)]), tmp_path / "a"
    )
    monkeypatch.setattr(dicom_file, "MAX_HEADER_BYTES", path.stat().st_size - 3 * 200 * 200 * 2)
    slices = scan(tmp_path).slices
    for image, wanted in zip(images_of(tmp_path, slices), images, strict=True):
        np.testing.assert_array_equal(image, wanted.astype(np.float32) - 1024)


def test_another_kind_of_many_frames_is_left_out_by_its_kind(tmp_path: Path) -> None:
    images, per_frame = volume()
    save(frames_dataset(images, per_frame, SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1"), tmp_path / "a")
    assert [(each.kind, each.fault) for each in scan(tmp_path).left_out] == [("enhanced-mr-image-storage", False)]


def test_a_file_that_lost_frames_since_it_was_found_is_an_error(tmp_path: Path) -> None:
    images, per_frame = volume()
    save(frames_dataset(images, per_frame), tmp_path / "a")
    slices = scan(tmp_path).slices
    save(frames_dataset(images[:2], per_frame[:2]), tmp_path / "a")
    with pytest.raises(SliceError, match=r"a\[4\]: it has 2 frames, when it was found it had 4 or more"):
        images_of(tmp_path, slices)
    write_ct(tmp_path / "a", pixels_of(0, (24, 32)))
    with pytest.raises(SliceError, match=r"a\[4\]"):
        images_of(tmp_path, slices)


def test_a_frame_is_read_without_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read takes more than a frame: of 40 frames, no piece as large as two is ever asked for."""
    images = [pixels_of(number, (64, 64)) for number in range(40)]
    save(frames_dataset(images, [frame_groups(number + 1, float(number)) for number in range(40)]), tmp_path / "a")
    slices = scan(tmp_path).slices
    largest = 0
    read = dicom_file._BoundedFile.read

    def watched(self: Any, size: int | None = -1, /) -> bytes:
        nonlocal largest
        start = self.tell()
        content: bytes = read(self, size)
        largest = max(largest, len(content) if start >= pixels_start else 0)
        return content

    pixels_start = (tmp_path / "a").stat().st_size - 40 * 64 * 64 * 2
    monkeypatch.setattr(dicom_file._BoundedFile, "read", watched)
    monkeypatch.setattr(dicom_file, "_refuse_many_items", lambda *_: None)
    (image,) = images_of(tmp_path, [slices[17]])
    np.testing.assert_array_equal(image, images[17].astype(np.float32) - 1024)
    assert largest == 64 * 64 * 2
