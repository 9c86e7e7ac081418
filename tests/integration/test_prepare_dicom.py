"""`ctpatch prepare dicom`, whole: values, pairs, masks, splits, privacy, going on, and the way to patches."""

import getpass
import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import (
    CtPatchError,
    OutputConflictError,
    SliceError,
    SourceManifestError,
    UsageError,
    WorkerLostError,
)
from ctpatch.events import WorkAdvanced
from ctpatch.files import atomic
from ctpatch.prepare.api import prepare, prepare_dicom
from ctpatch.prepare.options import CommonOptions
from ctpatch.prepare.part import ArraySource
from ctpatch.prepare.privacy.pseudonyms import load_key
from ctpatch.prepare.values import PRESETS
from dicom_files import ROOT, DeadlyReader, pixels_of, unit_of, write_ct, write_series
from helpers import Heard, data_folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three patients, eight slices."""
    root = tmp_path / "raw"
    write_series(root / "a", 4, patient="ann", uid="1")
    write_series(root / "b", 3, patient="bob", uid="2", seed=50)
    write_series(root / "c", 1, patient="cid", uid="3", seed=90)
    return root


def tree_bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(out: Path, dataset: str, split: str) -> pl.DataFrame:
    return pl.read_csv(out / f"prepared/{dataset}/{split}/{split}_manifest.csv")


def test_slices_tables_and_meta(tree: Path, tmp_path: Path, key: Path) -> None:
    out = tmp_path / "data"
    result = prepare_dicom(tree, out, "set", split=["train=1"], key=key)
    assert (result.outcome, result.complete) == ("prepared", True)
    rows = manifest(out, "set", "train")
    assert rows.columns == [
        "index", "path", "min", "max", "patient_id", "series", "position_mm", "spacing_row_mm", "spacing_col_mm",
        "source_digest",
    ]  # fmt: skip
    assert rows["index"].to_list() == list(range(8))
    pseudonyms, _, made = load_key(key, ())
    assert not made
    wanted = {
        ("ann", 0): 0,
        ("ann", 2): 1,
        ("ann", 4): 2,
        ("ann", 6): 3,
        ("bob", 0): 50,
        ("bob", 2): 51,
        ("bob", 4): 52,
    }
    wanted[("cid", 0)] = 90
    patients = {pseudonyms.patient(name): name for name in ("ann", "bob", "cid")}
    seen = set()
    for row in rows.iter_rows(named=True):
        image = np.load(out / row["path"])
        place = (patients[row["patient_id"]], int(row["position_mm"]))
        seen.add(place)
        np.testing.assert_allclose(image, unit_of(pixels_of(wanted[place])), atol=1e-7)
        assert image.dtype == np.float32
        assert (row["min"], row["max"]) == (image.min(), image.max())
        assert (row["spacing_row_mm"], row["spacing_col_mm"]) == (0.8, 0.8)
    assert seen == set(wanted)
    assert rows["series"].n_unique() == 3
    meta = json.loads((out / "prepared/set/prepare_meta.json").read_text())
    assert meta["mapping"]["low_hu"] == -1024
    assert meta["created"] == "2023-11-14T22:13:20Z"
    assert meta["splits"]["train"]["num_patients"] == 3
    assert not (out / "prepared/set/.ctpatch").exists()


def test_the_same_bytes_from_one_process_and_from_three(tree: Path, tmp_path: Path, key: Path) -> None:
    trees = []
    for workers in (1, 3):
        out = tmp_path / f"data{workers}"
        prepare_dicom(tree, out, "set", split=["train=0.5", "test=0.5"], workers=workers, key=key)
        trees.append(tree_bytes(out))
    assert trees[0] == trees[1]
    assert len(trees[0]) >= 8 + 3


def test_two_commands_from_dicom_to_patches(
    tree: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "data")
    words = ["prepare", "dicom", str(tree), "--out", out, "--dataset", "set", "--split", "train=0.5", "test=0.5"]
    assert main([*words, "--key", str(key), "--crop", "40x40"]) == 0
    assert "set prepared: " in capsys.readouterr().out
    assert main(["build", f"{out}/prepared/set", "--patch-size", "16", "--stride", "8"]) == 0
    sets = [ctpatch.open(path.parent) for path in Path(out).glob("patches/set/*/patch_meta.json")]
    assert sum(len(each) for each in sets) == 8 * 16
    assert all(ctpatch.verify(each.folder, deep=True).ok for each in sets)


def test_no_patient_is_in_two_splits_and_more_patients_move_nobody(tmp_path: Path, key: Path) -> None:
    root = tmp_path / "raw"

    def splits(out: Path) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in out.rglob("*_manifest.csv"):
            for patient in pl.read_csv(path)["patient_id"].unique():
                assert found.setdefault(patient, path.parent.name) == path.parent.name
        return found

    for number in range(8):
        write_series(root / f"{number}/x", 1, patient=f"p{number}", uid=f"{number + 1}", seed=number)
        write_series(root / f"{number}/y", 1, patient=f"p{number}", uid=f"{number + 1}.9", seed=number + 30)
    prepare_dicom(root, tmp_path / "few", "set", split=["train=0.6", "test=0.4"], key=key)
    for number in range(8, 16):
        write_series(root / f"{number}", 1, patient=f"p{number}", uid=f"{number + 1}", seed=number)
    prepare_dicom(root, tmp_path / "more", "set", split=["train=0.6", "test=0.4"], key=key)
    few, more = splits(tmp_path / "few"), splits(tmp_path / "more")
    assert len(few) == 8
    assert len(more) == 16
    assert set(few.values()) == {"train", "test"}
    assert {patient: more[patient] for patient in few} == few


def test_pairs_from_two_trees(tmp_path: Path, key: Path) -> None:
    low, full = tmp_path / "low", tmp_path / "full"
    write_series(low / "x", 4, uid="1", seed=0)
    write_series(full / "somewhere/else", 3, uid="2", seed=40)
    (low / "x/002").rename(low / "x/zzz")
    result = prepare_dicom(low, tmp_path / "data", "set", target=full, split=["train=1"], key=key)
    rows = manifest(tmp_path / "data", "set", "train")
    assert rows["position_mm"].to_list() == [0, 2, 4]
    for number, row in enumerate(rows.iter_rows(named=True)):
        np.testing.assert_allclose(np.load(tmp_path / "data" / row["path"]), unit_of(pixels_of(number)), atol=1e-7)
        target = np.load(tmp_path / "data" / row["target_path"])
        np.testing.assert_allclose(target, unit_of(pixels_of(40 + number)), atol=1e-7)
    assert result.meta.num_left_out == {"unmatched": 1}
    assert result.left_out == ["x/001: it has no partner of the same position [unmatched]"]


def test_pairs_from_one_tree_by_series_or_refused(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw/1", 2, uid="1", ConvolutionKernel="B70f")
    write_series(tmp_path / "raw/2", 2, uid="2", seed=9, SeriesDescription="Thorax B40f")
    options: dict[str, Any] = {"split": ["train=1"], "key": key}
    prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", series="*b70*", target_series="*B40*", **options)
    assert manifest(tmp_path / "data", "set", "train").height == 2
    alone = prepare_dicom(tmp_path / "raw", tmp_path / "data", "alone", series="*b70*", **options)
    assert alone.meta.num_left_out == {"other-series": 2}
    with pytest.raises(UsageError, match=r"no slice of target fits '\*B41\*'"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "two", target_series="*B41*", **options)
    with pytest.raises(UsageError, match="are the same slices"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "two", target=tmp_path / "raw", **options)
    with pytest.raises(SliceError, match="no slices to prepare as image and target in raw: 4 pair-ambiguous"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "two", target_series="*", **options)


def test_masks_are_kept_as_they_are(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "ct", 2)
    labels = np.random.default_rng(5).integers(0, 118, (40, 50)).astype(np.int16)
    for number in range(2):
        where = [-20.0, -16.0, 2.0 * number]
        write_ct(tmp_path / f"mask/{number}", labels + number, RescaleIntercept=0, ImagePositionPatient=where)
    options: dict[str, Any] = {"mask": tmp_path / "mask", "preset": "lung", "split": ["train=1"], "key": key}
    prepare_dicom(tmp_path / "ct", tmp_path / "data", "set", **options)
    prepare_dicom(tmp_path / "ct", tmp_path / "data", "coarse", spacing=(1.6, 1.6), **options)
    rows = manifest(tmp_path / "data", "set", "train")
    for number, path in enumerate(rows["mask_path"]):
        mask = np.load(tmp_path / "data" / path)
        assert mask.dtype == np.int16
        np.testing.assert_array_equal(mask, labels + number)
    coarse = manifest(tmp_path / "data", "coarse", "train")
    assert coarse["spacing_row_mm"].to_list() == [1.6, 1.6]
    mask = np.load(tmp_path / "data" / coarse["mask_path"][0])
    assert mask.shape == np.load(tmp_path / "data" / coarse["path"][0]).shape == (20, 25)
    assert set(np.unique(mask)) <= set(np.unique(labels))


def test_given_splits_and_patients_without_any(tree: Path, tmp_path: Path, key: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("patient_id,split\nann,test\nbob,train\ncid,train\n")
    prepare_dicom(tree, tmp_path / "data", "set", patients=table, key=key)
    assert manifest(tmp_path / "data", "set", "test").height == 4
    assert manifest(tmp_path / "data", "set", "train").height == 4
    table.write_text("patient_id,split\nann,test\n")
    with pytest.raises(SourceManifestError, match="2 of 3 patients: 'bob', 'cid'"):
        prepare_dicom(tree, tmp_path / "data", "other", patients=table, key=key)


def test_blank_ids_are_said(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw/f", 2, patient="", uid="7")
    heard = Heard()
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", split=["train=1"], key=key, listener=heard)
    assert heard.notices("no-patient")[0].startswith("2 slices have no patient id: each study counts as one patient")
    assert result.meta.grouped_by == {"study": 2}


SECRETS: dict[str, Any] = {
    "PatientName": "Doe^Janet^Q",
    "PatientID": "HOSP-8842-7719",
    "PatientBirthDate": "19420317",
    "StudyDate": "20240229",
    "StudyTime": "113355",
    "AccessionNumber": "ACC55120091",
    "InstitutionName": "Saint Elsewhere Clinic",
    "ReferringPhysicianName": "Strange^Stephen",
    "DeviceSerialNumber": "SN-60064-XQ",
    "StationName": "CTROOM42",
    "SeriesDescription": "Janets follow-up",
    "ConvolutionKernel": "KERNELX77",
    "StudyID": "ST-99812",
    "FrameOfReferenceUID": f"{ROOT}777.1",
    "OperatorsName": "Operator^Otto",
    "PatientComments": "lives at 12 Elm Street",
}


@pytest.mark.parametrize("interrupted", [False, True], ids=["finished", "cut off"])
def test_nothing_private_is_in_any_byte_of_the_output(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    root = tmp_path / "Doe_Janet_1942/export of drstrange"
    uid = "8842.7719"
    series = root / "CT 2024-02-29 PrivateFolder"
    write_series(series, 40, uid=uid, **SECRETS)
    dataset_uid = f"{ROOT}{uid}.1.3"
    (root / "Janet Doe report.dcm").write_bytes(b"no dicom, of Janet Doe")
    write_ct(series / "Doe localizer", pixels_of(1), ImageType=["ORIGINAL", "LOCALIZER"], **SECRETS)
    (series / "007").write_bytes((series / "007").read_bytes()[:-3000])
    mate = tmp_path / "targets of Doe"
    write_series(mate / "CT 2024-02-29", 39, uid=f"{uid}.5", seed=60, **SECRETS)
    (mate / "CT 2024-02-29/copy of Doe").write_bytes((mate / "CT 2024-02-29/001").read_bytes())
    out = tmp_path / "out/data"
    written: list[int] = []
    if interrupted:
        real = atomic.write_atomic

        def cut_off(path: Path, content: bytes) -> None:
            real(path, content)
            written.append(1)
            if len(written) == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr("ctpatch.work.receipt.write_atomic", cut_off)
    names = tmp_path / "names.csv"
    options: dict[str, Any] = {"target": mate, "key": key, "on_error": "skip", "split": ["train=1"], "names": names}
    try:
        result = prepare_dicom(root, out, "set", **options)
        assert not result.complete
        assert result.meta.num_left_out == {
            "duplicate": 1, "localizer": 1, "not-dicom": 1, "unmatched": 1, "unusable": 1
        }  # fmt: skip
    except KeyboardInterrupt:
        assert interrupted
    content = {name.encode() + b"\n" + each for name, each in tree_bytes(out).items()}
    everything = b"\n".join(content)
    assert len(everything) > 39 * 40 * 50 * 4
    text = everything.lower()
    planted = [
        *SECRETS.values(), "Doe", "Janet", "Strange", "drstrange", "PrivateFolder", "2024-02-29", "report.dcm",
        dataset_uid, ROOT.rstrip("."), "1.2.826", str(tmp_path), str(key), getpass.getuser() + "/",
        str(Path.home()) + "/", "0123456789abcdef",
    ]  # fmt: skip
    if not interrupted:
        planted.append(socket.gethostname())  # while it is written, the lock says who writes
        assert names.read_text(encoding="utf-8").count("HOSP-8842-7719") >= 1
    for secret in planted:
        for form in (secret, secret.replace("^", " ")):
            assert form.lower().encode() not in text, form
    if os.name == "posix" and not interrupted:
        assert names.stat().st_mode & 0o077 == 0


def test_another_key_gives_other_pseudonyms_and_the_same_splits(tree: Path, tmp_path: Path, key: Path) -> None:
    other = tmp_path / "other.key"
    sets = []
    for each in (key, other):
        out = tmp_path / each.stem
        prepare_dicom(tree, out, "set", split=["train=0.5", "test=0.5"], key=each, new_key=each == other)
        sets.append({path.name: pl.read_csv(path) for path in out.rglob("*_manifest.csv")})
    assert len(other.read_bytes()) >= 64
    for name, rows in sets[0].items():
        again = sets[1][name]
        assert set(rows["source_digest"]) == set(again["source_digest"])
        assert not set(rows["patient_id"]) & set(again["patient_id"])


def test_the_key_stays_out_of_the_output(tree: Path, tmp_path: Path, key: Path) -> None:
    for inside in (tmp_path / "data/my.key", tree / "my.key"):
        with pytest.raises(UsageError, match="choose a --key elsewhere"):
            prepare_dicom(tree, tmp_path / "data", "set", key=inside)
    with pytest.raises(UsageError, match="choose a --names elsewhere"):
        prepare_dicom(tree, tmp_path / "data", "set", key=key, names=tmp_path / "data/names.csv")
    key.write_bytes(b"short")
    with pytest.raises(UsageError, match="has 5 bytes, wanted 32 or more"):
        prepare_dicom(tree, tmp_path / "data", "set", key=key)
    assert not (tmp_path / "data").exists()


def test_cut_off_anywhere_and_run_again_gives_the_same_bytes(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctpatch.prepare.pipeline.SLICES_PER_PART", 4)
    root = tmp_path / "raw"
    for number in range(5):
        write_series(root / str(number), 3, patient=f"p{number}", uid=str(number + 1), seed=100 * number)
    options: dict[str, Any] = {"split": ["train=0.6", "test=0.4"], "key": key}
    prepare_dicom(root, tmp_path / "whole", "set", **options)
    wanted = tree_bytes(tmp_path / "whole")
    real = atomic.publish
    for place in range(1, 12):
        out = tmp_path / f"cut{place}"
        count = 0

        def cut_off(temporary: Path, path: Path, place: int = place) -> None:
            nonlocal count
            count += 1
            if count == place:
                raise KeyboardInterrupt
            real(temporary, path)

        monkeypatch.setattr(atomic, "publish", cut_off)
        try:
            prepare_dicom(root, out, "set", **options)
            ended = True
        except KeyboardInterrupt:
            ended = False
        monkeypatch.setattr(atomic, "publish", real)
        assert ended or not (out / "prepared/set/prepare_meta.json").exists()
        prepare_dicom(root, out, "set", **options)
        assert tree_bytes(out) == wanted, place
        if ended:
            break
    assert place > 6


def test_a_finished_part_is_not_done_again_and_a_spoiled_one_is(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "raw", 70)
    options: dict[str, Any] = {"split": ["train=1"], "key": key}
    from ctpatch.prepare import pipeline as run

    def fail(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run.PrepareWork, "finish", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", **options)
    folder = tmp_path / "data/prepared/set"
    spoiled = folder / "train/train_000040.npy"
    content = spoiled.read_bytes()
    spoiled.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    heard = Heard()
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", **options, listener=heard)
    assert result.outcome == "resumed"
    reused = [event.steps for event in heard.events if isinstance(event, WorkAdvanced) and event.reused]
    assert reused == [32, 6]
    assert spoiled.read_bytes() == content
    assert prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", **options).outcome == "complete"


def test_other_options_and_changed_sources_are_refused_and_overwritten_on_request(
    tree: Path, tmp_path: Path, key: Path
) -> None:
    out = tmp_path / "data"
    options: dict[str, Any] = {"split": ["train=1"], "key": key}
    prepare_dicom(tree, out, "set", **options)
    (out / "prepared/set/train/notes.txt").write_text("mine")
    with pytest.raises(OutputConflictError, match="mapping was"):
        prepare_dicom(tree, out, "set", preset="lung", **options)
    with pytest.raises(OutputConflictError, match="finished set prepared otherwise: split was"):
        prepare_dicom(tree, out, "set", split=["train=0.5", "test=0.5"], key=key)
    # touched, not changed
    os.utime(tree / "a/001")
    assert prepare_dicom(tree, out, "set", **options).outcome == "complete"
    write_series(tree / "a", 4, patient="ann", uid="1", seed=7)
    with pytest.raises(OutputConflictError, match="has changed since it was prepared"):
        prepare_dicom(tree, out, "set", **options)
    assert prepare_dicom(tree, out, "set", overwrite=True, **options).outcome == "prepared"
    fresh = tmp_path / "fresh"
    prepare_dicom(tree, fresh, "set", **options)
    left = tree_bytes(out)
    assert left.pop("prepared/set/train/notes.txt") == b"mine"
    assert left == tree_bytes(fresh)


def test_files_that_are_not_ours_are_never_written_over(tree: Path, tmp_path: Path, key: Path) -> None:
    foreign = tmp_path / "data/prepared/set/train/train_000003.npy"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(
            OutputConflictError, match=r"holds train/train_000003.npy, which this preparation would write"
        ):
            prepare_dicom(tree, tmp_path / "data", "set", split=["train=1"], key=key, overwrite=overwrite)
    assert foreign.read_bytes() == b"mine"


def test_damaged_slices_stop_or_are_skipped(tree: Path, tmp_path: Path, key: Path) -> None:
    path = tree / "b/002"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SliceError, match=r"b/002: .*--on-error skip leaves it out"):
        prepare_dicom(tree, tmp_path / "data", "set", split=["train=1"], key=key)
    assert not (tmp_path / "data/prepared/set/prepare_meta.json").exists()
    result = prepare_dicom(tree, tmp_path / "data", "set", split=["train=1"], key=key, on_error="skip")
    assert not result.complete
    assert result.faults[0].startswith("b/002")
    assert manifest(tmp_path / "data", "set", "train").height == 7


def test_a_slice_that_ends_its_process_is_named_and_the_others_are_prepared(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw", 3)
    (tmp_path / "raw/002").rename(tmp_path / "raw/deadly")
    arrays = [ArraySource("image", DeadlyReader(), tmp_path / "raw", PRESETS["full"])]

    def run(on_error: Any) -> Any:
        options = CommonOptions(tmp_path / "data", "set", ["train=1"], key=key, workers=2, on_error=on_error)
        return prepare(arrays, options, "position", {})

    with pytest.raises(WorkerLostError, match=r"1 slice\(s\) end the process that prepares them, twice each: deadly"):
        run("stop")
    assert not (tmp_path / "data/prepared/set/prepare_meta.json").exists()
    result = run("skip")
    assert not result.complete
    assert result.faults[0].startswith("deadly: its process was ended twice")
    assert manifest(tmp_path / "data", "set", "train")["index"].to_list() == [0, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "../up"], "cannot be used as a name"),
        (["--split", "train=0.5"], "sum to 0.5, wanted 1"),
        (["--window", "5", "1"], "wanted the lowest and then a higher HU"),
        (["--crop", "big"], "wanted pixels as 362"),
        (["--crop", "0"], "wanted 1 to 16384 pixels"),
        (["--spacing", "-1"], "wanted millimetres above 0"),
        (["--window", "0", "80", "--preset", "brain"], "both given"),
        (["--stratify", "sex"], "none is given"),
        (["--workers", "0"], "workers"),
    ],
)
def test_nonsense_ends_in_a_sentence(
    tree: Path, tmp_path: Path, key: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["prepare", "dicom", str(tree), "--out", str(tmp_path / "data"), "--key", str(key)]
    if "--dataset" not in words:
        base += ["--dataset", "set"]
    assert main([*base, *words]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "data").exists()


def test_sources_that_are_none(tree: Path, tmp_path: Path, key: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        prepare_dicom(tmp_path / "none", tmp_path / "data", "set", key=key)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SliceError, match="no slices to prepare as image in empty: no files"):
        prepare_dicom(tmp_path / "empty", tmp_path / "data", "set", key=key)
    with pytest.raises(SliceError, match="no slices to prepare as mask in empty: no files"):
        prepare_dicom(tree, tmp_path / "data", "set", key=key, mask=tmp_path / "empty")
    with pytest.raises(UsageError, match="would lie in the source"):
        prepare_dicom(tree, tree, "set", key=key)
    with pytest.raises(CtPatchError, match="there is no option 'sed'"):
        prepare_dicom(tree, tmp_path / "data", "set", key=key, sed=1)  # type: ignore[call-arg]


def test_json_says_it_all(tree: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", "dicom", str(tree), "--out", str(tmp_path / "data"), "--dataset", "set", "--key", str(key)]
    assert main([*words, "--split", "train=1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["outcome"], result["complete"]) == ("prepared", True)
    assert result["meta"]["splits"]["train"]["num_slices"] == 8


def real(collection: str) -> Path:
    folder = data_folder() / collection
    if not folder.is_dir():
        pytest.skip(f"no {collection}: set CTPATCH_DATA to the folder that holds it")
    return folder


def test_the_lung_series_become_30_aligned_pairs_and_patches(tmp_path: Path, key: Path) -> None:
    options: dict[str, Any] = {"split": ["train=1"], "key": key, "series": "*b70f*", "target_series": "*b40f*"}
    result = prepare_dicom(real("lung_pet_ct_dx"), tmp_path / "data", "lung", **options)
    assert result.meta.num_left_out == {"not-dicom": 1}
    rows = manifest(tmp_path / "data", "lung", "train")
    assert rows["position_mm"].to_list() == [80.0 + 8 * number for number in range(30)]
    for image_path, target_path in rows.select("path", "target_path").iter_rows():
        image, target = (np.load(tmp_path / "data" / path) for path in (image_path, target_path))
        assert np.corrcoef(image.ravel(), target.ravel())[0, 1] > 0.98
        # B70f is the grainy one
        assert np.abs(np.diff(image)).mean() > 1.3 * np.abs(np.diff(target)).mean()
    built = ctpatch.build(tmp_path / "data/prepared/lung/train", layout="shards")[0]
    assert built.meta.num_patches == 30 * 49
    assert set(built.meta.arrays) == {"image", "target"}


def test_the_tcga_set_loses_duplicates_and_splits_by_patient(tmp_path: Path, key: Path) -> None:
    result = prepare_dicom(
        real("tcga_ct100"), tmp_path / "data", "tcga", key=key, split=["train=0.6", "test=0.4"], preset="lung"
    )
    assert result.meta.num_left_out == {"duplicate": 2}
    assert sum(info.num_slices for info in result.meta.splits.values()) == 27
    assert sum(info.num_patients for info in result.meta.splits.values()) == 12
    assert [note.kind for note in result.meta.notes] == ["turned"] * 4
    patients = [set(pl.read_csv(path)["patient_id"]) for path in tmp_path.rglob("*_manifest.csv")]
    assert len(patients) == 2
    assert not patients[0] & patients[1]
    # what lies outside the scanner's circle is air, also where it is -2000 (stored as 63536 in some) or undeclared
    air = np.float32((-1024 + 1350) / 1500)
    for path in tmp_path.rglob("*.npy"):
        image = np.load(path)
        assert image.min() >= air
        assert image[0, 0] <= air + 0.05


def test_jpeg_2000_without_ids_goes_through(tmp_path: Path, key: Path) -> None:
    pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    result = prepare_dicom(
        real("totalseg_ct_j2k"), tmp_path / "data", "j2k", key=key, split=["train=1"], preset="abdomen"
    )
    assert result.meta.grouped_by == {"folder": 20}
    rows = manifest(tmp_path / "data", "j2k", "train")
    assert np.allclose(np.diff(rows["position_mm"].to_numpy()), 2.0)
    assert ctpatch.build(tmp_path / "data/prepared/j2k/train", layout="index")[0].meta.num_patches == 20 * 49


def _rle_without_its_pixels(path: Path) -> None:
    """A slice of patient `dan` whose header is whole and whose compressed pixels are not."""
    write_ct(path, pixels_of(7), PatientID="dan", SeriesInstanceUID=f"{ROOT}9.1")
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    dataset.PixelData = pydicom.encaps.encapsulate([b"no run lengths"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize("copies", [2, 3])
def test_a_repeated_slice_of_which_no_copy_can_be_read(tree: Path, tmp_path: Path, key: Path, copies: int) -> None:
    """A series of one place, all faulty: it stops a run that is to stop, and costs one that skips nothing else."""
    for number in range(copies):
        _rle_without_its_pixels(tree / f"d/{number}")
    with pytest.raises(SliceError, match="d/0"):
        prepare_dicom(tree, tmp_path / "stops", "set", split=["train=1"], key=key)
    result = prepare_dicom(tree, tmp_path / "data", "set", split=["train=1"], key=key, on_error="skip")
    assert sum(each.num_slices for each in result.meta.splits.values()) == 8
    left = pl.read_csv(result.folder / "left_out.csv")
    assert left.height == copies
    assert not result.complete
    assert sorted(manifest(tmp_path / "data", "set", "train")["patient_id"].value_counts()["count"]) == [1, 3, 4]
