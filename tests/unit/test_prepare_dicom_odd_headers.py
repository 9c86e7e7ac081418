"""Headers that lack something, say it twice or in other words: nothing of it is taken for the usual in silence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.prepare.readers.base import Scan, SeriesNote
from ctpatch.prepare.readers.dicom.reader import DicomReader
from ctpatch.prepare.readers.dicom.rescale import means_hu
from dicom_files import ct_dataset, pixels_of, write_ct

SHAPE = (6, 9)


def scan(root: Path, **options: Any) -> Scan:
    return DicomReader(**options).scan(root, lambda _count: None)


def read(root: Path, **options: Any) -> list[Any]:
    reader = DicomReader(**options)
    return list(reader.read(root, reader.scan(root, lambda _count: None).slices))


def notes(found: Scan) -> dict[str, str]:
    return {note.kind: note.message for note in found.notes if isinstance(note, SeriesNote)}


def left(found: Scan) -> list[tuple[str, bool]]:
    return [(each.kind, each.fault) for each in found.left_out]


# Each turn is worked out by hand: where in the stored image the patient's front and right are.
TURNS: dict[str, Any] = {
    "HFS": lambda image: image,
    "FFS": lambda image: image,
    "HFP": lambda image: image[::-1, ::-1],
    "FFP": lambda image: image[::-1, ::-1],
    "HFDL": lambda image: image.T[::-1],
    "HFDR": lambda image: image.T[:, ::-1],
}


@pytest.mark.parametrize("position", TURNS)
@pytest.mark.parametrize("axes", [None, [0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]], ids=["missing", "zeros", "parallel"])
def test_patient_position_stands_in_for_an_orientation(tmp_path: Path, position: str, axes: Any) -> None:
    pixels = pixels_of(1, SHAPE)
    write_ct(tmp_path / "a", pixels, ImageOrientationPatient=axes, PatientPosition=position)
    found = scan(tmp_path)
    np.testing.assert_array_equal(read(tmp_path)[0], TURNS[position](pixels).astype(np.float32) - 1024)
    assert list(found.slices[0].axes or ()) == [1, 0, 0, 0, 1, 0]
    message = notes(found)["orientation-assumed"]
    assert message.startswith("ImageOrientationPatient is " + ("missing" if axes is None else "no pair of directions"))
    assert "PatientPosition" in message
    assert message.endswith("(1 of 1 slices)")


@pytest.mark.parametrize(
    ("letters", "turned"),
    [
        (["L", "P"], lambda image: image),
        (["L", "PF"], lambda image: image),
        (["R", "A"], lambda image: image[::-1, ::-1]),
        (["A", "L"], lambda image: image.T[::-1]),
    ],
)
def test_patient_orientation_comes_before_patient_position(tmp_path: Path, letters: list[str], turned: Any) -> None:
    pixels = pixels_of(2, SHAPE)
    tags: dict[str, Any] = {"PatientOrientation": letters, "PatientPosition": "HFDR"}
    write_ct(tmp_path / "a", pixels, ImageOrientationPatient=None, **tags)
    np.testing.assert_array_equal(read(tmp_path)[0], turned(pixels).astype(np.float32) - 1024)
    assert "PatientOrientation is used" in notes(scan(tmp_path))["orientation-assumed"]


@pytest.mark.parametrize("said", [{}, {"PatientPosition": "SITTING"}, {"PatientOrientation": ["L", "R"]}])
def test_an_orientation_that_nothing_says_is_unknown(tmp_path: Path, said: dict[str, Any]) -> None:
    pixels = pixels_of(3, SHAPE)
    write_ct(tmp_path / "a", pixels, ImageOrientationPatient=None, **said)
    found = scan(tmp_path)
    assert notes(found)["orientation-unknown"].startswith("orientation unknown: ")
    assert found.slices[0].axes is None
    np.testing.assert_array_equal(read(tmp_path)[0], pixels.astype(np.float32) - 1024)


def test_positions_count_where_the_orientation_is_assumed(tmp_path: Path) -> None:
    for number in range(3):
        where = [-20.0, -16.0, 5.0 * number]
        tags: dict[str, Any] = {"ImagePositionPatient": where, "InstanceNumber": 3 - number, "PatientPosition": "HFP"}
        write_ct(tmp_path / str(number), pixels_of(number), ImageOrientationPatient=None, **tags)
    assert [each.position_mm for each in scan(tmp_path).slices] == [0, 5, 10]


def test_two_tags_that_name_other_directions_are_reported(tmp_path: Path) -> None:
    write_ct(tmp_path / "a/1", pixels_of(1), PatientOrientation=["R", "A"])
    assert "orientation-conflict" in notes(scan(tmp_path / "a"))
    np.testing.assert_array_equal(read(tmp_path / "a")[0], pixels_of(1).astype(np.float32) - 1024)
    write_ct(tmp_path / "b/1", pixels_of(1), PatientOrientation=["L", "P"], PatientPosition="HFS")
    assert notes(scan(tmp_path / "b")) == {}


@pytest.mark.parametrize(
    "unit",
    ["HU", "hu", "HU ", "H.U.", "Hounsfield", "HOUNSFIELD UNIT", "Houndsfield Unit", "Hounsfeild Units", "Hunsfield"],
)
def test_rescale_types_that_mean_hu(tmp_path: Path, unit: str) -> None:
    assert means_hu(unit.strip())
    write_ct(tmp_path / "a", pixels_of(0), RescaleType=unit)
    np.testing.assert_array_equal(read(tmp_path)[0], pixels_of(0).astype(np.float32) - 1024)
    assert notes(scan(tmp_path)) == {}


@pytest.mark.parametrize("unit", ["OD", "HU_MOD", "MGML", "Z_EFF", "ED", "EDW", "PCT", "NORMALIZED", "DENSITY", "?"])
def test_rescale_types_that_mean_something_else(tmp_path: Path, unit: str) -> None:
    assert not means_hu(unit)
    write_ct(tmp_path / "a", pixels_of(0), RescaleType=unit)
    found = scan(tmp_path)
    assert left(found) == [("not-hu", False)]
    assert ("NORMALIZED" in found.left_out[0].reason) is False
    # a mask's numbers are no HU anyway
    assert len(scan(tmp_path, labels=True).slices) == 1


@pytest.mark.parametrize(("low", "kept"), [(0, True), (1000, False)])
def test_an_unspecified_unit_is_hu_where_values_reach_air(tmp_path: Path, low: int, kept: bool) -> None:
    for number in range(3):
        pixels = np.full((40, 50), 1100, np.int16)
        pixels[:4] = low
        where = [0, 0, number]
        write_ct(
            tmp_path / str(number), pixels, RescaleType="US", ImagePositionPatient=where, SOPInstanceUID=f"1.{number}"
        )
    found = scan(tmp_path)
    if kept:
        assert "taken for HU (3 of 3 slices)" in notes(found)["unit-unknown"]
        assert read(tmp_path)[0][0, 0] == -1024
    else:
        assert left(found) == [("not-hu", False)] * 3
        assert found.slices == []


def test_slices_that_say_hu_are_kept_beside_others_that_say_nothing(tmp_path: Path) -> None:
    for number, unit in enumerate(["HU", "US", "HU", "US"]):
        pixels = np.full((40, 50), 1100 + number, np.int16)
        write_ct(tmp_path / str(number), pixels, RescaleType=unit, ImagePositionPatient=[0, 0, number])
    found = scan(tmp_path)
    assert [each.file for each in found.slices] == ["0", "2"]
    assert [(each.where, each.kind) for each in found.left_out] == [("1", "not-hu"), ("3", "not-hu")]


@pytest.mark.parametrize(
    ("tags", "said", "slope", "intercept"),
    [
        ({"RescaleSlope": None}, "it has RescaleIntercept and no RescaleSlope,", 1, -1024),
        ({"RescaleIntercept": None}, "it has RescaleSlope and no RescaleIntercept,", 2, 0),
        ({"RescaleSlope": None, "RescaleIntercept": None}, "it has no RescaleSlope or RescaleIntercept,", 1, 0),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, "it has no RescaleSlope or RescaleIntercept,", 1, 0),
    ],
)
def test_missing_rescale_is_a_fault_unless_hu_are_assumed(
    tmp_path: Path, tags: dict[str, Any], said: str, slope: int, intercept: int
) -> None:
    pixels = pixels_of(4)
    write_ct(tmp_path / "a", pixels, **({"RescaleSlope": 2} | tags))
    found = scan(tmp_path)
    assert left(found) == [("no-rescale", True)]
    assert found.left_out[0].reason.startswith(said)
    assert "--assume-hu" in found.left_out[0].reason
    np.testing.assert_array_equal(read(tmp_path, assume_hu=True)[0], pixels.astype(np.float32) * slope + intercept)
    assert "missing and taken to be" in notes(scan(tmp_path, assume_hu=True))["assumed-hu"]


def test_assumed_hu_change_nothing_where_the_tags_are_there(tmp_path: Path) -> None:
    pixels = pixels_of(4)
    write_ct(tmp_path / "a", pixels, RescaleSlope=3)
    np.testing.assert_array_equal(read(tmp_path, assume_hu=True)[0], pixels.astype(np.float32) * 3 - 1024)
    assert notes(scan(tmp_path, assume_hu=True)) == {}


@pytest.mark.parametrize("slope", [0, "nan", "inf"])
def test_a_slope_that_makes_no_sense_is_a_fault_even_then(tmp_path: Path, slope: Any) -> None:
    dataset = ct_dataset(pixels_of(0), RescaleSlope=1)
    dataset["RescaleSlope"]._value = slope
    dataset.save_as(tmp_path / "a", enforce_file_format=True)
    assert left(scan(tmp_path, assume_hu=True)) == [("no-rescale", True)]


def test_values_that_stand_twice_are_taken_once(tmp_path: Path) -> None:
    pixels = pixels_of(5, SHAPE)
    twice: dict[str, Any] = {
        "RescaleSlope": [2, 2],
        "RescaleIntercept": [-1000, -1000],
        "PixelSpacing": [0.5, 0.7, 0.5, 0.7],
        "ImagePositionPatient": [-20, -16, 8, -20, -16, 8],
        "ImageOrientationPatient": [-1, 0, 0, 0, -1, 0] * 2,
        "InstanceNumber": [4, 4],
        "PatientID": ["patient-1", "patient-1"],
    }
    write_ct(tmp_path / "a", pixels, **twice)
    found = scan(tmp_path)
    (one,) = found.slices
    assert (one.group, one.spacing_mm, one.position_mm) == ("patient-1", (0.5, 0.7), 8)
    np.testing.assert_array_equal(read(tmp_path)[0], pixels[::-1, ::-1].astype(np.float32) * 2 - 1000)
    for tag in twice:
        assert tag in notes(found)["doubled-values"]


def test_two_values_that_differ_are_a_fault(tmp_path: Path) -> None:
    write_ct(tmp_path / "a", pixels_of(0), RescaleSlope=[1, 2])
    found = scan(tmp_path)
    assert left(found) == [("conflicting-values", True)]
    assert found.left_out[0].reason == (
        "its RescaleSlope has 2 values that differ (1 and 2), wanted one; correct its header"
    )


NOWHERE: dict[str, Any] = {"ImagePositionPatient": None, "ImageOrientationPatient": None}
CORONAL: dict[str, Any] = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "BurnedInAnnotation": "YES"} | NOWHERE, "screen-save"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "BurnedInAnnotation": "YES"} | NOWHERE, "screen-save"),
        ({"ImageType": ["DERIVED", "SECONDARY"], "ConversionType": "WSD"} | NOWHERE, "screen-save"),
        ({"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]}, "dose-sheet"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}, "dose-sheet"),
        ({"SeriesDescription": "Dose Report"} | NOWHERE, "dose-sheet"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "SCOUT"]} | CORONAL, "localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]} | CORONAL, "localizer"),
        ({"ImageType": None} | CORONAL, "localizer"),
        ({"SeriesDescription": "Topogram  0.6  T20s"} | NOWHERE, "localizer"),
        ({"ImageType": "LOCALIZER"}, "localizer"),
    ],
)
def test_what_is_no_cross_section_is_left_out_by_kind(tmp_path: Path, tags: dict[str, Any], kind: str) -> None:
    for number in range(3):
        write_ct(tmp_path / f"ct/{number}", pixels_of(number), ImagePositionPatient=[0, 0, 2 * number])
    write_ct(tmp_path / "other", pixels_of(9, (60, 50)), **tags)
    found = scan(tmp_path)
    assert [(each.where, each.kind, each.fault) for each in found.left_out] == [("other", kind, False)]
    assert len(found.slices) == 3


def test_a_scout_among_slices_of_its_series_is_left_out_without_a_word_on_the_others(tmp_path: Path) -> None:
    for number in range(3):
        write_ct(tmp_path / f"ct/{number}", pixels_of(number), ImagePositionPatient=[0, 0, 2 * number])
    for number in range(3):  # taken three times at one place
        write_ct(tmp_path / f"scout {number}", pixels_of(10 + number), **CORONAL)
    found = scan(tmp_path)
    assert [each.kind for each in found.left_out] == ["localizer"] * 3
    assert len(found.slices) == 3
    assert notes(found) == {}
    assert len(scan(tmp_path, keep_reformats=True).slices) == 6


REFORMATS: dict[str, Any] = {
    "axial": ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, "reformat"),
    "mpr": ({"ImageType": ["DERIVED", "SECONDARY", "MPR", "CSA MPR"]}, "reformat"),
    "coronal": ({"ImageType": ["DERIVED", "SECONDARY"]} | CORONAL, "reformat"),
    "mip": ({"ImageType": ["DERIVED", "SECONDARY", "CSA MIP"]}, "projection"),
    "min ip": ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "MIN IP"]}, "projection"),
}


@pytest.mark.parametrize("name", REFORMATS)
def test_what_was_made_from_slices_is_left_out_unless_asked_for(tmp_path: Path, name: str) -> None:
    tags, kind = REFORMATS[name]
    for number in range(4):
        write_ct(tmp_path / str(number), pixels_of(number), ImagePositionPatient=[0, 3 * number, 3 * number], **tags)
    found = scan(tmp_path)
    assert left(found) == [(kind, False)] * 4
    assert "--keep-reformats" in found.left_out[0].reason
    kept = scan(tmp_path, keep_reformats=True)
    assert [each.position_mm for each in kept.slices] == [0, 3, 6, 9]
    stored = [pixels_of(number).astype(np.float32) - 1024 for number in range(4)]
    assert all(any(np.array_equal(image, one) for one in stored) for image in read(tmp_path, keep_reformats=True))
    assert len(scan(tmp_path, labels=True).slices) == 4


@pytest.mark.parametrize(
    "tags",
    [
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]},
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"ImageType": ["DERIVED", "SECONDARY"]} | NOWHERE,
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SeriesDescription": "Abdomen after scout, low dose report"},
        {"ImageType": None},
        {"ImageType": ["ORIGINAL", "PRIMARY"]} | NOWHERE,
    ],
)
def test_slices_are_no_screens(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_ct(tmp_path / "a", pixels_of(0), **tags)
    assert left(scan(tmp_path)) == []


def test_a_stack_across_the_table_that_says_it_was_scanned_is_kept(tmp_path: Path) -> None:
    for number in range(3):
        write_ct(tmp_path / str(number), pixels_of(number), ImagePositionPatient=[0, 3 * number, 0], **CORONAL)
    found = scan(tmp_path)
    assert len(found.slices) == 3
    assert list(notes(found)) == ["not-axial"]


def test_burnt_in_text_is_noted_with_a_count(tmp_path: Path) -> None:
    for number, said in enumerate(["YES", "NO", None, "YES"]):
        where = [0, 0, 2 * number]
        write_ct(tmp_path / str(number), pixels_of(number), ImagePositionPatient=where, BurnedInAnnotation=said)
    found = scan(tmp_path)
    assert len(found.slices) == 4
    assert notes(found)["burnt-in-text"].endswith("look at them (2 of 4 slices)")
