"""Splits that keep something else together than patients: the patient stays on record, and a leak is found."""

import csv
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.prepare.api import prepare_dicom
from dicom_files import ROOT, write_series
from helpers import SMALL, Heard

KEY = b"0123456789abcdef" * 4
HALVES = ["train=0.5", "test=0.5"]


def pseudonym(name: str) -> str:
    """What stands for a patient or a group, by the definition."""
    return "P" + hmac.new(KEY, b"patient\0" + name.encode(), hashlib.sha256).hexdigest()[:16]


def rows_of(folder: Path) -> list[dict[str, str]]:
    rows = []
    for path in sorted(folder.glob("*/*_manifest.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows += [row | {"split": path.parent.name} for row in csv.DictReader(file)]
    return rows


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "my.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two patients; six series of ann, each of a study of its own, and one of bob."""
    for number in range(6):
        write_series(tmp_path / f"raw/{number}", 2, patient="ann", uid=str(number), seed=10 * number)
    write_series(tmp_path / "raw/bob", 2, patient="bob", uid="9", seed=90)
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("group_by", "names"),
    [
        ("series", [f"series {ROOT}{number}.1" for number in (0, 1, 2, 3, 4, 5, 9)]),
        ("study", [f"study {ROOT}{number}" for number in (0, 1, 2, 3, 4, 5, 9)]),
        ("folder", [f"folder {name}" for name in ("0", "1", "2", "3", "4", "5", "bob")]),
    ],
)
def test_the_patient_stays_on_record_and_the_group_beside(
    tree: Path, tmp_path: Path, key: Path, group_by: Any, names: list[str]
) -> None:
    heard = Heard()
    result = prepare_dicom(
        tree, tmp_path / "data", "set", group_by=group_by, split=HALVES, key=key, listener=heard, seed=1
    )
    rows = rows_of(result.folder)
    assert {row["patient_id"] for row in rows} == {pseudonym("ann"), pseudonym("bob")}
    wanted = {pseudonym(name): pseudonym("bob" if name == names[-1] else "ann") for name in names}
    assert {row["group"]: row["patient_id"] for row in rows} == wanted
    splits = {group: {row["split"] for row in rows if row["group"] == group} for group in wanted}
    assert all(len(found) == 1 for found in splits.values())
    anns = {row["split"] for row in rows if row["patient_id"] == pseudonym("ann")}
    assert anns == {"train", "test"}
    assert heard.notices("no-patient") == []
    (said,) = heard.notices("divided-patients")
    assert said.startswith(
        f"1 of 2 patients have slices in several splits ('ann'), because splits keep each {group_by} together, not"
    )
    assert sum(split.num_patients for split in result.meta.splits.values()) == 3
    assert result.meta.grouped_by == {group_by: 14}


def test_audit_finds_a_divided_patient_in_slices_and_in_patches(tree: Path, tmp_path: Path, key: Path) -> None:
    result = prepare_dicom(tree, tmp_path / "data", "set", group_by="series", split=HALVES, key=key, seed=1)
    for found in (result.folder, tmp_path / "data/patches/set"):
        report = ctpatch.audit(found)
        assert dict(report.counts) == {"patient": 1}
        assert f"patient {pseudonym('ann')!r} has " in report.findings[0].message
        ctpatch.build(result.folder, config=SMALL)


def test_off_a_terminal_no_patient_is_named(
    tree: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(tmp_path / "data"), "--dataset", "set", "--key", str(key), "--split", *HALVES, "--seed", "1"]
    assert main(["prepare", "dicom", str(tree), "--group-by", "series", *words]) == 0
    said = capsys.readouterr().err
    assert "1 of 2 patients have slices in several splits, because splits keep each series together" in said
    assert "ann" not in said


def test_a_table_may_list_the_patients_and_keeps_them_whole(tree: Path, tmp_path: Path, key: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text(f"patient_id,split\nann,train\n{pseudonym('bob')},test\n")
    heard = Heard()
    options: dict[str, Any] = {"group_by": "series", "key": key, "listener": heard}
    result = prepare_dicom(tree, tmp_path / "data", "set", patients=table, **options)
    assert {(row["split"], row["patient_id"]) for row in rows_of(result.folder)} == {
        ("train", pseudonym("ann")),
        ("test", pseudonym("bob")),
    }
    assert heard.notices("divided-patients") == []
    # A series can still be listed as itself, and goes first.
    table.write_text(f"patient_id,split\nann,train\nbob,test\nseries {ROOT}3.1,test\n")
    result = prepare_dicom(tree, tmp_path / "data", "other", patients=table, **options)
    places = {row["group"]: row["split"] for row in rows_of(result.folder)}
    assert places[pseudonym(f"series {ROOT}3.1")] == "test"
    assert list(places.values()).count("train") == 5
    assert len(heard.notices("divided-patients")) == 1


def test_without_a_patient_id_the_study_stands_for_the_patient(tmp_path: Path, key: Path) -> None:
    for number in range(6):
        series = f"{ROOT}5.{number}"
        write_series(tmp_path / f"raw/{number}", 1, patient="", uid="5", seed=10 * number, SeriesInstanceUID=series)
    heard = Heard()
    options: dict[str, Any] = {"split": HALVES, "key": key, "listener": heard}
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", group_by="series", **options)
    rows = rows_of(result.folder)
    assert {row["patient_id"] for row in rows} == {pseudonym(f"study {ROOT}5")}
    assert {row["group"] for row in rows} == {pseudonym(f"series {ROOT}5.{number}") for number in range(6)}
    (said,) = heard.notices("no-patient")
    assert said == "6 slices have no patient id: each series counts as one patient when splits are made"
    assert len(heard.notices("divided-patients")) == 1
    # Where ids are blank, a top folder is the user's own word for a patient.
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "tops", group_by="top-folder", **options)
    assert {row["patient_id"] for row in rows_of(result.folder)} == {pseudonym(f"folder {n}") for n in range(6)}
    assert "group" not in rows_of(result.folder)[0]


def test_groups_that_are_the_patients_have_no_column_of_their_own(tree: Path, tmp_path: Path, key: Path) -> None:
    heard = Heard()
    result = prepare_dicom(tree, tmp_path / "data", "set", split=HALVES, key=key, listener=heard)
    assert "group" not in rows_of(result.folder)[0]
    assert heard.notices("divided-patients") == []


def test_pairs_are_found_within_the_patient_whatever_the_group(tmp_path: Path, key: Path) -> None:
    for number, patient in enumerate(("ann", "bob")):
        for kernel in range(2):
            where = tmp_path / f"raw/{patient}/{kernel}"
            series = f"{ROOT}{number}.{kernel}"
            tags = {"SeriesInstanceUID": series, "ConvolutionKernel": f"B{kernel}"}
            write_series(where, 2, patient=patient, uid=str(number), seed=20 * number + 5 * kernel, **tags)
    result = prepare_dicom(
        tmp_path / "raw", tmp_path / "data", "set", series="*b0", target_series="*b1", group_by="series", key=key,
        split=["train=1"],
    )  # fmt: skip
    assert len(rows_of(result.folder)) == 4
    assert all(row["target_path"] for row in rows_of(result.folder))


def test_patients_with_one_series_uid_are_two_series(tmp_path: Path, key: Path) -> None:
    for number, patient in enumerate(("ann", "bob")):
        write_series(tmp_path / f"raw/{patient}", 2, patient=patient, uid="1", seed=20 * number)
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", group_by="series", key=key, split=["train=1"])
    rows = rows_of(result.folder)
    assert len({row["group"] for row in rows}) == 1
    assert len({(row["patient_id"], row["series"]) for row in rows}) == len({row["series"] for row in rows}) == 2
