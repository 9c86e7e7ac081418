"""What belongs together: directions and spacings that differ by rounding, and acquisitions that share one series."""

import math
import shutil
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.prepare.readers.base import Scan, SeriesNote
from ctpatch.prepare.readers.dicom.reader import DicomReader
from ctpatch.prepare.readers.dicom.together import common_points
from dicom_files import ROOT, pixels_of, write_ct


def scan(root: Path, **options: Any) -> Scan:
    return DicomReader(**options).scan(root, lambda _count: None)


def kinds(found: Scan) -> list[str]:
    return sorted({note.kind for note in found.notes if isinstance(note, SeriesNote)})


def positions(found: Scan) -> list[list[float | None]]:
    """Of each series, in order."""
    series: dict[str, list[float | None]] = {}
    for each in found.slices:
        places = series.setdefault(each.series, [])
        assert each.order == len(places)
        places.append(each.position_mm)
    return sorted(series.values(), key=lambda each: [place or 0.0 for place in each])


def write(root: Path, places: Sequence[float], tags: Sequence[dict[str, Any]]) -> None:
    for number, (place, more) in enumerate(zip(places, tags, strict=True)):
        where = {"ImagePositionPatient": [-200.0, -200.0, place], "InstanceNumber": number + 1}
        write_ct(root / f"{number:03d}", pixels_of(number), **(where | more))


def turned(degrees: float) -> list[float]:
    """Axial axes, turned in their plane."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [round(value, 6) for value in (c, s, 0, -s, c, 0)]


def tipped(degrees: float) -> list[float]:
    """Axial axes, tipped about the axis from side to side."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [1.0, 0.0, 0.0, 0.0, round(c, 6), round(s, 6)]


@pytest.mark.parametrize("about", [0.0, 0.0286, 0.5, 12.0, 29.997])
@pytest.mark.parametrize("way", [turned, tipped])
def test_directions_that_jitter_are_one_series_along_one_normal(tmp_path: Path, about: float, way: Any) -> None:
    """0.0286 degrees is a cosine of 0.0005, the edge between two numbers of three places."""
    jitter = [0.001, -0.002, 0.0015, -0.0005, 0.002, -0.001, 0.0, 0.0018]
    tags = [{"ImageOrientationPatient": way(about + each)} for each in jitter]
    write(tmp_path, range(8), tags)
    found = scan(tmp_path)
    (places,) = positions(found)
    assert [each.file for each in found.slices] == [f"{number:03d}" for number in range(8)]
    lean = math.cos(math.radians(about)) if way is tipped else 1.0
    steps = np.diff(np.array(places, float))
    np.testing.assert_allclose(steps, lean, atol=1e-4)
    assert "several-orientations" not in kinds(found)
    assert "mixed-spacing" not in kinds(found)


@pytest.mark.parametrize("degrees", [0.3, 1.0, 15.0])
def test_other_directions_are_other_series_and_that_is_reported(tmp_path: Path, degrees: float) -> None:
    tags = [{"ImageOrientationPatient": tipped(degrees * (number % 2))} for number in range(8)]
    write(tmp_path, range(8), tags)
    found = scan(tmp_path)
    assert [len(each) for each in positions(found)] == [4, 4]
    assert "several-orientations" in kinds(found)


def test_no_chain_of_small_steps_makes_one_of_two(tmp_path: Path) -> None:
    tags = [{"ImageOrientationPatient": tipped(0.06 * number)} for number in range(40)]
    write(tmp_path, range(40), tags)
    found = scan(tmp_path)
    series: dict[str, list[Any]] = {}
    for each in found.slices:
        series.setdefault(each.series, []).append(each.axes)
    assert len(found.slices) == 40
    for axes in series.values():
        angles = [math.degrees(math.asin(each[5])) for each in axes]
        assert max(angles) - min(angles) <= 2 * 0.1 + 1e-4


def test_names_of_files_make_no_difference_to_what_belongs_together(tmp_path: Path) -> None:
    tags = [{"ImageOrientationPatient": tipped(0.06 * number)} for number in range(12)]
    write(tmp_path / "a", range(12), tags)
    wanted = {(each.series, each.order, each.position_mm) for each in scan(tmp_path / "a").slices}
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    for seed in range(5):
        others = np.random.default_rng(seed).permutation(names).tolist()
        (tmp_path / str(seed)).mkdir()
        for name, other in zip(names, others, strict=True):
            shutil.copy(tmp_path / "a" / name, tmp_path / str(seed) / other)
        assert {(each.series, each.order, each.position_mm) for each in scan(tmp_path / str(seed)).slices} == wanted


@pytest.mark.parametrize(
    ("group_by", "group", "kind", "patients"),
    [
        ("patient", None, "patient", [None, None]),
        ("top-folder", "folder all", "folder", ["ann", "bob"]),
        ("series", f"series {ROOT}1.1", "series", ["ann", "bob"]),
    ],
)
def test_directions_that_jitter_are_one_series_for_each_patient_of_a_group(
    tmp_path: Path, group_by: str, group: str | None, kind: str, patients: list[str | None]
) -> None:
    """Both have one series id; every second slice is of the other one."""
    jitter = [0.001, -0.002, 0.0015, -0.0005, 0.002, -0.001]
    tags = [
        {
            "PatientID": ("ann", "bob")[number % 2],
            "ImageOrientationPatient": turned(0.0286 + each),
            "ConvolutionKernel": "B40f",
        }
        for number, each in enumerate(jitter)
    ]
    write(tmp_path / "all", range(6), tags)
    found = scan(tmp_path, group_by=group_by)
    np.testing.assert_allclose(np.array(positions(found), float), [[0, 2, 4], [1, 3, 5]], atol=1e-6)
    assert "several-orientations" not in kinds(found)
    by_patient = sorted(found.slices, key=lambda each: each.who)
    assert [each.file for each in by_patient] == [f"all/{number:03d}" for number in (0, 2, 4, 1, 3, 5)]
    assert [each.who for each in by_patient] == ["ann"] * 3 + ["bob"] * 3
    assert [each.patient for each in by_patient[::3]] == patients
    assert {(each.group, each.group_kind) for each in by_patient} == (
        {(name, kind) for name in ("ann", "bob")} if group is None else {(group, kind)}
    )
    assert {(each.names, each.label) for each in by_patient} == {(("B40f",), "B40f")}


def test_the_order_of_points_makes_no_difference() -> None:
    points = [(0.0,), (0.8,), (1.6,), (2.4,), (2.4,)]
    found = [common_points(order, 1.0) for order in permutations(points)]
    # 1.6 has four within 1; 0.0 is left, since no chain leads to it
    assert all(each == {(0.0,): (0.0,), (0.8,): (1.6,), (1.6,): (1.6,), (2.4,): (1.6,)} for each in found)


def test_spacings_that_differ_by_rounding_are_one_series(tmp_path: Path) -> None:
    tags = [{"PixelSpacing": [0.703125 + 1e-7 * (-1) ** number] * 2} for number in range(6)]
    write(tmp_path / "a", range(6), tags)
    assert [len(each) for each in positions(scan(tmp_path / "a"))] == [6]
    write(tmp_path / "b", range(6), [{"PixelSpacing": [0.7 + 0.01 * (number % 2)] * 2} for number in range(6)])
    assert [len(each) for each in positions(scan(tmp_path / "b"))] == [3, 3]


def acquired(numbers: Sequence[int | None], **more: Sequence[Any]) -> list[dict[str, Any]]:
    tags: list[dict[str, Any]] = [{"AcquisitionNumber": number} for number in numbers]
    for tag, values in more.items():
        for each, value in zip(tags, values, strict=True):
            each[tag] = value
    return tags


INTERLEAVED: dict[str, tuple[list[float], list[dict[str, Any]]]] = {
    "half a step apart": ([0, 2, 4, 6, 1, 3, 5, 7], acquired([1] * 4 + [2] * 4)),
    "some of a step apart": ([0, 5, 10, 15, 1.2, 6.2, 11.2, 16.2], acquired([1] * 4 + [2] * 4)),
    "numbered along the normal": ([0, 1, 2, 3, 4, 5, 6, 7], acquired([1, 2] * 4)),
    "at the same places": ([0, 2, 4, 6] * 2, acquired([1] * 4 + [2] * 4)),
    "numbers begin anew": ([0, 2, 4, 6, 1, 3, 5, 7], acquired([1] * 4 + [2] * 4, InstanceNumber=[1, 2, 3, 4] * 2)),
    "times of day": (
        [0, 2, 4, 6, 1, 3, 5, 7],
        acquired([None] * 8, AcquisitionTime=["100000"] * 4 + ["100500"] * 4),
    ),
    "kernels": ([0, 2, 4, 6] * 2, acquired([1] * 8, ConvolutionKernel=["B70f"] * 4 + ["B30f"] * 4)),
    "phases": ([0, 2, 4, 6] * 2, acquired([1] * 8, TemporalPositionIdentifier=[1] * 4 + [2] * 4)),
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_acquisitions_over_the_same_range_are_told_apart(tmp_path: Path, name: str) -> None:
    places, tags = INTERLEAVED[name]
    write(tmp_path, places, tags)
    found = scan(tmp_path)
    alternate = [places[::2], places[1::2]] if "along the normal" in name else [places[:4], places[4:]]
    assert positions(found) == sorted(alternate)
    assert found.left_out == []
    messages = [note.message for note in found.notes if isinstance(note, SeriesNote) and note.kind == "interleaved"]
    assert len(messages) == 2
    assert messages[0].startswith("its 8 slices are 2 acquisitions over the same range (")
    assert {note.series for note in found.notes if isinstance(note, SeriesNote)} <= {
        each.series for each in found.slices
    }


ONE_SCAN: dict[str, tuple[list[float], list[dict[str, Any]]]] = {
    "blocks": (list(range(9)), acquired([1] * 3 + [2] * 3 + [3] * 3)),
    "blocks that come again in other numbers": (list(range(8)), acquired([4, 4, 1, 1, 3, 3, 2, 2])),
    "one for each slice": (list(range(8)), acquired([3, 1, 4, 15, 9, 2, 6, 5])),
    "one slice among others": (list(range(8)), acquired([1, 1, 1, 2, 1, 1, 1, 1])),
    "blanks": (list(range(8)), acquired([1, None, 2, None, 1, None, 2, 1])),
    "times run on": (
        list(range(8)),
        acquired([1, 2] * 4, AcquisitionTime=[f"1000{number:02d}.5" for number in range(8)]),
    ),
    "times run on, feet first": (
        [7, 6, 5, 4, 3, 2, 1, 0],
        acquired([1, 2] * 4, AcquisitionTime=[f"1000{number:02d}" for number in range(8)]),
    ),
    "a time for each block": (
        list(range(9)),
        acquired([1] * 9, AcquisitionTime=["100000"] * 3 + ["100007"] * 3 + ["100009"] * 3),
    ),
}


@pytest.mark.parametrize("name", ONE_SCAN)
def test_acquisition_numbers_of_one_scan_divide_nothing(tmp_path: Path, name: str) -> None:
    places, tags = ONE_SCAN[name]
    write(tmp_path, places, tags)
    found = scan(tmp_path)
    assert positions(found) == [sorted(places)]
    assert kinds(found) == []


def test_acquisitions_that_overlap_at_their_ends_are_reported(tmp_path: Path) -> None:
    write(tmp_path, [0, 2, 4, 6, 8, 10, 7, 9, 11, 13, 15, 17], acquired([1] * 6 + [2] * 6))
    found = scan(tmp_path)
    assert len(positions(found)) == 1
    assert "acquisitions-overlap" in kinds(found)


def test_numbers_that_run_twice_over_a_range_are_reported_without_any_other_sign(tmp_path: Path) -> None:
    write(tmp_path / "two", [0, 2, 4, 6, 1, 3, 5, 7], acquired([None] * 8))
    assert kinds(scan(tmp_path / "two")) == ["interleaved-numbers"]
    write(tmp_path / "back", [0, 2, 4, 6, 7, 5, 3, 1], acquired([None] * 8))
    assert kinds(scan(tmp_path / "back")) == ["interleaved-numbers"]
    write(tmp_path / "one", [7, 6, 5, 4, 3, 2, 1, 0], acquired([None] * 8))
    write(tmp_path / "mixed up", [3, 0, 6, 1, 7, 4, 2, 5], acquired([None] * 8))
    assert kinds(scan(tmp_path / "one")) == kinds(scan(tmp_path / "mixed up")) == []


def test_duplicates_are_dropped_before_acquisitions_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, [0, 2, 4, 6, 1, 3, 5, 7], acquired([1] * 4 + [2] * 4))
    shutil.copy(tmp_path / "002", tmp_path / "copy")
    found = scan(tmp_path)
    assert [(each.where, each.kind) for each in found.left_out] == [("copy", "duplicate")]
    assert positions(found) == [[0, 2, 4, 6], [1, 3, 5, 7]]
