"""Patients are compared as people mean them, and slices by their windows: what spelling or geometry would hide."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.checking.audit import AuditReport, audit
from ctpatch.cli.app import main
from ctpatch.format.ids import id_key, without_blanks
from helpers import LAYOUTS, SMALL, Image, make_split, write_manifest


def noise(seed: int, shape: tuple[int, int] = (48, 56)) -> Image:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def two_splits(root: Path, train: list[Any], test: list[Any]) -> Path:
    """Two splits of slices of noise, of these patients."""
    for split, patients, first in (("train", train, 0), ("test", test, 100)):
        images = [noise(first + number) for number in range(len(patients))]
        make_split(root, images=images, split=split, columns={"patient_id": patients})
    return root / "prepared/phantoms"


def checks(report: AuditReport) -> dict[str, int]:
    return {check: count for check, count in report.counts.items() if count}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("7", "7.0"),
        ("7", "007"),
        ("007", "7.00"),
        ("7.0", "07"),
        ("p7", "P7"),
        ("LIDC-IDRI-0007", "lidc-idri-7"),
        ("P 7", "P7"),
        ("Straße", "STRASSE"),
        ("\uff17", "7"),
        ("0", "000"),
        ("7", "7,0"),
    ],
)
@pytest.mark.parametrize("form", ["prepared", "index"])
def test_ids_that_are_the_same_but_for_spelling(
    tmp_path: Path, one: str, other: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = two_splits(tmp_path, [one, one, "a"], [other, "b"])
    if form == "index":
        ctpatch.build(dataset, config=SMALL, layout="index")
        dataset = tmp_path / "patches/phantoms"
    report = audit(dataset)
    assert (report.status, checks(report)) == ("leaks", {"patient-spelling": 1})
    (leak,) = report.findings
    assert (leak.first.row, leak.second.row) == (2, 2)
    assert leak.message == (
        f"patient {one!r} (2 slices in phantoms/train) and patient {other!r} (1 slice in phantoms/test) are the same "
        "but for spelling; write one patient's id one way"
    )
    assert main(["audit", str(dataset)]) == 1
    assert "whose ids are the same but for spelling: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("7", "70"),
        ("7", "7.5"),
        ("1.05", "1.5"),
        ("1.2.840.0", "1.2.840"),
        ("1.2.840.10", "1.2.840.1"),
        ("P-7", "P7"),
        ("10", "1"),
        ("0.7", "7"),
        ("a0b", "ab"),
    ],
)
def test_ids_that_are_others(tmp_path: Path, one: str, other: str) -> None:
    assert id_key(one) != id_key(other)
    assert audit(two_splits(tmp_path, [one, "x"], [other, "y"])).status == "ok"


def test_the_same_text_is_told_as_before_and_not_twice(tmp_path: Path) -> None:
    report = audit(two_splits(tmp_path, ["7", " 7 ", "8"], ["7", "07", "9"]))
    assert checks(report) == {"patient": 1, "patient-spelling": 1}


@pytest.mark.parametrize("blank", ["nan", "NaN", "NA", "N/A", "<NA>", "None", "NULL", "null", " nan ", "", "  ", "NaT"])
@pytest.mark.parametrize("form", ["prepared", "files"])
def test_texts_that_stand_for_no_id(tmp_path: Path, blank: str, form: str) -> None:
    dataset = two_splits(tmp_path, [blank, "a"], ["b", blank])
    if form == "files":
        ctpatch.build(dataset, config=SMALL)
        dataset = tmp_path / "patches/phantoms"
    report = audit(dataset)
    assert (report.status, checks(report)) == ("ok", {})
    assert [(each.split, each.what, each.count) for each in report.not_checked] == [
        ("phantoms/test", "patients", 1),
        ("phantoms/train", "patients", 1),
    ]
    assert [split.patients for split in report.splits] == [1, 1]


def test_what_is_blank_in_a_column() -> None:
    import polars as pl

    assert without_blanks(pl.Series(["Nancy", "none", " x ", "NA1"])).to_list() == ["Nancy", None, "x", "NA1"]
    assert without_blanks(pl.Series([1.0, float("nan")])).to_list() == [1.0, None]
    assert without_blanks(pl.Series([1, 2])).to_list() == [1, 2]


@pytest.mark.parametrize("column", ["PatientID", "Patient_ID", "patient id", "patient"])
def test_a_column_of_patients_by_another_name_is_pointed_out(tmp_path: Path, column: str) -> None:
    for split, first in (("train", 0), ("test", 100)):
        make_split(tmp_path, images=[noise(first)], split=split, columns={column: ["p"]})
    notes = [str(each) for each in audit(tmp_path / "prepared/phantoms").not_checked]
    assert notes[0].endswith(f"has no column patient_id; if {column!r} is meant, name it patient_id")


def foreign(
    folder: Path,
    windows: list[tuple[str, int, int, Image]],
    *,
    names: tuple[str, str, str] = ("src_path", "row", "col"),
) -> Path:
    """A set made elsewhere: for each patch its slice as the manifest names it, its origin, and its pixels."""
    folder.mkdir(parents=True)
    table: dict[str, list[object]] = {"patch_path": [], **{name: [] for name in names}}
    for number, (slice_name, row, col, pixels) in enumerate(windows):
        np.save(folder / f"{number}.npy", pixels)
        for column, cell in zip(table, (f"{number}.npy", slice_name, row, col), strict=True):
            table[column].append(cell)
    write_manifest(folder / "patch_manifest.csv", table)
    return folder


def window(image: Image, row: int, col: int, size: int = 16) -> Image:
    return np.ascontiguousarray(image[row : row + size, col : col + size])


def windows_of(name: str, image: Image, places: list[tuple[int, int]]) -> list[tuple[str, int, int, Image]]:
    return [(name, row, col, window(image, row, col)) for row, col in places]


@pytest.mark.parametrize(
    "names",
    [("src_path", "row", "col"), ("slice_index", "row", "col"), ("src_path", "y", "x"), ("src_path", "top", "left")],
)
@pytest.mark.parametrize(("place", "leaks"), [((8, 8), True), ((12, 14), True), ((0, 16), False), ((16, 0), False)])
def test_overlapping_windows_of_sets_made_elsewhere(
    tmp_path: Path, names: tuple[str, str, str], place: tuple[int, int], leaks: bool
) -> None:
    image, other = noise(1), noise(2)
    label = "3" if names[0] == "slice_index" else "slices/s3.npy"
    apart = [("5", 0, 0, window(noise(5), 0, 0)), ("6", 0, 0, window(noise(6), 0, 0))]
    train = foreign(tmp_path / "ds/train", [*windows_of(label, image, [(0, 0), (0, 32)]), *apart], names=names)
    test = foreign(
        tmp_path / "ds/test", [*windows_of(label, image, [place]), ("9", 0, 0, window(other, 0, 0))], names=names
    )
    report = audit([train, test])
    assert checks(report) == ({"overlapping-patch": 1} if leaks else {})
    if leaks:
        (leak,) = report.findings
        assert (leak.first.split, leak.first.row, leak.second.split, leak.second.row) == ("ds/train", 2, "ds/test", 2)
        assert f"that at {place} overlaps that at (0, 0)" in leak.message
        assert main(["audit", str(train), str(test)]) == 1


@pytest.mark.parametrize("label", ["7", "slice_007.npy"])
def test_slices_of_one_name_with_other_pixels_are_no_leak(tmp_path: Path, label: str) -> None:
    names = ("slice_index" if label == "7" else "src_path", "row", "col")
    train = foreign(tmp_path / "ds/train", windows_of(label, noise(1), [(0, 0), (8, 8)]), names=names)
    test = foreign(tmp_path / "ds/test", windows_of(label, noise(2), [(4, 4)]), names=names)
    report = audit([train, test])
    assert (report.status, checks(report)) == ("ok", {})
    said = [each for each in report.not_checked if each.what.startswith("patches that overlap")]
    assert [each.count for each in said] == ([] if label == "7" else [1])


def test_a_source_that_is_there_needs_no_pixels_to_agree(tmp_path: Path) -> None:
    """Patches that were normalised one by one share no value, and still show the same anatomy."""
    image = noise(1)
    root = tmp_path / "data"
    (root / "raw").mkdir(parents=True)
    np.save(root / "raw/s.npy", image)
    one = [("raw/s.npy", 0, 0, window(image, 0, 0))]
    two = [("raw/s.npy", 15, 15, (window(image, 15, 15) - 0.5) * 3)]
    train, test = foreign(root / "patches/ds/train", one), foreign(root / "patches/ds/test", two)
    assert checks(audit([train, test])) == {"overlapping-patch": 1}


def test_air_that_overlaps_proves_nothing(tmp_path: Path) -> None:
    air = np.zeros((48, 56), np.float32)
    train = foreign(tmp_path / "ds/train", windows_of("s.npy", air, [(0, 0)]))
    test = foreign(tmp_path / "ds/test", windows_of("s.npy", air, [(8, 8)]))
    assert audit([train, test]).status == "ok"


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "index"])
def test_a_set_of_ours_and_one_made_elsewhere(tmp_path: Path, layout: Any) -> None:
    """With the source slices at hand they are identical slices; without them, the windows tell."""
    prepared = make_split(tmp_path, images=[noise(1), noise(2)])
    ctpatch.build(prepared.folder, config=SMALL, layout=layout)
    shutil.rmtree(prepared.folder)
    inside = windows_of(prepared.paths["image"][1], noise(2), [(5, 3), (21, 30)])
    test = foreign(tmp_path / "patches/phantoms/test", inside)
    report = audit([prepared.out, test])
    assert checks(report) == {"overlapping-patch": 1}
    assert report.findings[0].message.startswith("2 windows of a slice in phantoms/test with pixels of windows of the")


def test_a_prepared_slice_and_windows_of_it(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, images=[noise(1), noise(2)])
    scaled = [("prepared/phantoms/train/train_000000.npy", 7, 7, window(noise(1), 7, 7) * np.float32(0.3))]
    test = foreign(tmp_path / "patches/phantoms/test", scaled)
    report = audit([prepared.folder, test])
    assert checks(report) == {"overlapping-patch": 1}
    assert "from a slice that is whole in phantoms/train" in report.findings[0].message


def test_identical_slices_are_told_once(tmp_path: Path) -> None:
    """Two sets of ours from one slice: that they share it is told as before, and its windows are no further finding."""
    for split in ("train", "test"):
        make_split(tmp_path, images=[noise(1)], split=split)
    ctpatch.build(tmp_path / "prepared/phantoms", config=SMALL)
    assert checks(audit(tmp_path / "patches/phantoms")) == {"identical-slice": 1}


def test_two_sets_of_ours_from_one_file_that_was_written_anew(tmp_path: Path) -> None:
    prepared = make_split(tmp_path, images=[noise(1)])
    ctpatch.build(prepared.folder, config=SMALL, out=tmp_path / "patches/phantoms/train")
    np.save(prepared.file(0), noise(2) * np.float32(0.5))
    other = tmp_path / "prepared/phantoms/test"
    other.mkdir()
    write_manifest(other / "test_manifest.csv", {"path": prepared.paths["image"]})
    ctpatch.build(other, config=SMALL)
    report = audit(tmp_path / "patches/phantoms")
    assert checks(report) == {"overlapping-patch": 1}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patches_of_one_raw_slice_under_two_windows(tmp_path: Path, layout: Any) -> None:
    """What `prepare` says of the raw pixels is known of a patch set too, as long as its source manifest is there."""
    raw = noise(1)
    for split, values in (("train", [raw, noise(3)]), ("test", [noise(4), (raw * np.float32(4) - 1).clip(0, 1) ** 9])):
        digests = ["aa", "bb"] if split == "train" else ["cc", " aa "]
        make_split(tmp_path, images=values, split=split, columns={"source_digest": digests})
    ctpatch.build(tmp_path / "prepared/phantoms", config=SMALL, layout=layout)
    report = audit(tmp_path / "patches/phantoms")
    assert checks(report) == {"same-source": 1}
    (leak,) = report.findings
    assert {(leak.first.split, leak.first.id), (leak.second.split, leak.second.id)} == {
        ("phantoms/train", "slice 0"),
        ("phantoms/test", "slice 1"),
    }
    (tmp_path / "prepared/phantoms/test/test_manifest.csv").unlink()
    assert audit(tmp_path / "patches/phantoms").status == "ok"


def test_air_comes_from_the_same_pixels(tmp_path: Path) -> None:
    for split, first in (("train", 0), ("test", 100)):
        air = np.zeros((48, 56), np.float32)
        make_split(tmp_path, images=[air, noise(first)], split=split, columns={"source_digest": ["air", str(first)]})
    ctpatch.build(tmp_path / "prepared/phantoms", config=SMALL)
    assert audit(tmp_path / "patches/phantoms").status == "ok"
