"""What `ctpatch prepare` says: names on a terminal alone, keys that were meant, the cause and what to do next."""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import SliceError, SourceManifestError, UsageError
from ctpatch.prepare import pipeline as run
from ctpatch.prepare.api import prepare_dicom, prepare_nifti
from ctpatch.prepare.privacy.pseudonyms import load_key
from dicom_files import pixels_of, write_ct, write_series
from helpers import SMALL, Heard

SECRET = "Doe_Janet_19420317"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three slices, a report and a damaged slice, in a folder that says whose they are."""
    root = tmp_path / "raw"
    write_series(root / SECRET, 4, patient="HOSP-77")
    (root / SECRET / "report.txt").write_text("no DICOM")
    damaged = root / SECRET / "002"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    return root


def words(tree: Path, out: Path, key: Path, *more: str) -> list[str]:
    given = ["--out", str(out), "--dataset", "set", "--key", str(key), "--split", "train=1", *more]
    return ["prepare", "dicom", str(tree), *given]


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.mark.parametrize("as_json", [False, True])
def test_off_a_terminal_files_are_counted_and_in_json_called_by_their_pseudonyms(
    tree: Path, tmp_path: Path, key: Path, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--json"] if as_json else []
    assert main(words(tree, tmp_path / "data", key, "--on-error", "skip", *more)) == 1
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    pseudonyms, _, _ = load_key(key, ())
    report, damaged = (pseudonyms.file(f"{SECRET}/{name}") for name in ("report.txt", "002"))
    if not as_json:  # a log gets counts: pseudonyms would say nothing in it
        assert "  left out    1 not-dicom: it is no DICOM file\n" in shown.out
        assert "  failed      1 unusable: its header promises 4000 bytes of pixels, it holds " in shown.out
        assert "left_out.csv lists 2, under pseudonyms; --names FILE writes the table of pseudonyms" in shown.out
        assert not re.search(r"\bF[0-9a-f]{16}\b", shown.out + shown.err)
    else:
        result = json.loads(shown.out)
        assert [each.partition(":")[0] for each in result["faults"]] == [damaged]
        assert [each.partition(":")[0] for each in result["left_out"]] == [report]


def test_on_a_terminal_files_are_named_and_json_never_names_them(
    tree: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_terminal(monkeypatch)
    assert main(words(tree, tmp_path / "data", key, "--on-error", "skip")) == 1
    shown = capsys.readouterr().out
    assert f"  left out    1 not-dicom: it is no DICOM file ({SECRET}/report.txt)\n" in shown
    assert f" ({SECRET}/002)\n" in shown[shown.index("  failed      1 unusable: ") :]
    assert main(words(tree, tmp_path / "other", key, "--on-error", "skip", "--json")) == 1
    assert SECRET not in capsys.readouterr().out


def test_an_error_names_its_file_on_a_terminal_or_in_the_list_alone(
    tree: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pseudonyms, _, _ = load_key(key, ())
    wanted = pseudonyms.file(f"{SECRET}/002")
    assert main(words(tree, tmp_path / "data", key)) == 1
    said = capsys.readouterr().err
    assert f"{wanted}: " in said
    assert "--names FILE writes the table of pseudonyms" in said
    assert SECRET not in said
    names = tmp_path / "names.csv"
    assert main(words(tree, tmp_path / "data", key, "--names", str(names))) == 1
    assert SECRET not in capsys.readouterr().err
    with names.open(newline="", encoding="utf-8") as file:
        rows = {row["pseudonym"]: row["name"] for row in csv.DictReader(file)}
    assert rows[wanted] == f"{SECRET}/002"
    on_terminal(monkeypatch)
    assert main(words(tree, tmp_path / "data", key)) == 1
    assert f"{SECRET}/002: " in capsys.readouterr().err


def test_an_error_before_slices_are_read_and_of_patients_holds_no_name(tree: Path, tmp_path: Path, key: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("patient_id,split\nsomeone,train\n")
    pseudonyms, _, _ = load_key(key, ())
    options: dict[str, Any] = {"key": key, "names_shown": False}
    with pytest.raises(SourceManifestError, match=rf"1 of 1 patients: {pseudonyms.patient('HOSP-77')}; add them"):
        prepare_dicom(tree, tmp_path / "data", "set", patients=table, **options)
    (tree / SECRET / "cut").write_bytes((tree / SECRET / "001").read_bytes()[:200])
    with pytest.raises(SliceError) as raised:
        prepare_dicom(tree, tmp_path / "data", "set", **options)
    assert raised.value.message.startswith(pseudonyms.file(f"{SECRET}/cut"))
    assert SECRET not in raised.value.message


def test_a_key_that_is_not_there_is_refused_or_made_on_request(tmp_path: Path) -> None:
    write_series(tmp_path / "raw", 2)
    key = tmp_path / "nope.key"
    with pytest.raises(UsageError, match=r"the key nope.key does not exist.*--new-key"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key)
    assert not key.exists()
    assert main(words(tmp_path / "raw", tmp_path / "data", key)) == 2
    assert not key.exists()
    assert main(words(tmp_path / "raw", tmp_path / "data", key, "--new-key")) == 0
    assert len(key.read_bytes()) >= 64
    again = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", split=["train=1"], key=key)
    assert again.outcome == "complete"


def test_a_refused_run_leaves_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "settings"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SliceError, match="no files"):
        prepare_dicom(tmp_path / "empty", tmp_path / "data", "set")
    write_series(tmp_path / "raw", 2)
    foreign = tmp_path / "data/prepared/set/train/train_000000.npy"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(UsageError, match="which this preparation would write"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", split=["train=1"])
    assert not (tmp_path / "settings").exists()
    heard = Heard()
    prepare_dicom(tmp_path / "raw", tmp_path / "data", "other", split=["train=1"], listener=heard)
    assert (tmp_path / "settings/ctpatch/pseudonym.key").is_file()
    assert len(heard.notices("key")) == 1


def test_the_example_is_of_the_cause(tmp_path: Path, key: Path) -> None:
    root = tmp_path / "raw"
    (root / "a").mkdir(parents=True)
    (root / "a/readme").write_text("the first file, and not the cause")
    write_series(root / "low", 3, uid="1")
    write_series(root / "one", 3, uid="2", seed=20)
    write_series(root / "two", 3, uid="3", seed=40)
    with pytest.raises(SliceError, match=r"3 pair-ambiguous.*low/00\d: 2 slices could be its partner.*--target-series"):
        prepare_dicom(root, tmp_path / "data", "set", series="low/*", target_series="[ot]*", key=key)


def test_an_unfinished_preparation_is_no_source(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "raw", 3)
    options: dict[str, Any] = {"split": ["train=1"], "key": key}

    def fail(*_args: Any) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "data/prepared/set"
    for where, step in (
        (run.PrepareWork, "finish"),
        (run, "Counter"),
    ):  # before any table, and between the tables and the meta
        with monkeypatch.context() as patched:
            patched.setattr(where, step, fail)
            with pytest.raises(KeyboardInterrupt):
                prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", **options)
        sources = [folder, folder / "train"]
        if step == "Counter":
            sources.append(folder / "train/train_manifest.csv")
            assert sources[-1].is_file()
        for source in sources:
            with pytest.raises(UsageError, match="the preparation of set has not finished; run the same ctpatch prepa"):
                ctpatch.build(source, config=SMALL)
    prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", **options)
    assert ctpatch.build(folder, config=SMALL)[0].meta.num_slices == 3


def test_an_empty_split_of_one_patient_is_said_properly(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw", 2)
    heard = Heard()
    prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", split=["train=0.999999", "test=0.000001"], key=key,
                  listener=heard)  # fmt: skip
    (said,) = heard.notices("empty-split")
    assert said.startswith("no slices in test: there is one patient (or what stands for one), whose hash falls into ")
    assert said.endswith("into train; --split train=1 asks for that split alone")


def test_series_at_the_same_places_are_pointed_out(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw/1", 3, uid="1", ConvolutionKernel="B70f")
    write_series(tmp_path / "raw/2", 2, uid="2", seed=9, ConvolutionKernel="B40f")
    write_ct(tmp_path / "raw/3/a", pixels_of(77), PatientID="another")
    for dataset, series, wanted in (("all", None, 1), ("one", "*b70*", 0)):
        heard = Heard()
        prepare_dicom(
            tmp_path / "raw", tmp_path / "data", dataset, series=series, split=["train=1"], key=key, listener=heard
        )
        said = heard.notices("repeated-places")
        assert len(said) == wanted
        if wanted:
            assert said[0].startswith("4 slices lie where one of another series of the same patient lies (up to 2 ")
            assert "--target-series" in said[0]


def test_series_in_notes_have_their_description_on_a_terminal_and_a_count_elsewhere(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "raw"
    for number, (folder, description) in enumerate([("a/1", "Chest"), ("a/2", "Lung"), ("b", "")]):
        tags: dict[str, Any] = {"SeriesDescription": description, "ConvolutionKernel": "B7" if description else None}
        write_series(root / folder, 5, uid=str(number), seed=9 * number, **tags)
        (root / folder / "002").unlink()  # the last but one
    gap = "1 gaps: steps of up to 4 mm where 2 mm is usual; about 1 slices are missing"
    assert main(words(root, tmp_path / "data", key)) == 0
    said = capsys.readouterr().err
    assert f"note: {gap} (3 series; prepare_meta.json has all)\n" in said
    for secret in ("Chest", "Lung", "a/1"):
        assert secret not in said
    on_terminal(monkeypatch)
    heard = Heard()
    prepare_dicom(root, tmp_path / "other", "set", split=["train=1"], key=key, listener=heard)
    assert heard.notices("gap") == [f"{gap} ('Chest B7' in a/1, 'Lung B7' in a/2, b/005)"]


def test_masks_are_not_advised_to_become_targets(tmp_path: Path, key: Path) -> None:
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    volume = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    for name, values in (("imaging", volume), ("segmentation", (volume > 30).astype(np.uint8))):
        (tmp_path / "raw/case").mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(values, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / f"raw/case/{name}.nii.gz")
    options: dict[str, Any] = {"split": ["train=1"], "key": key, "match_by": "position"}
    said = r"2 slices could be its mask; name the masks that are meant \(--mask-series\)"
    with pytest.raises(SliceError, match=said) as no:
        prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", series="*imaging*", mask=tmp_path / "raw", **options)
    assert "--target-series" not in no.value.message
    # Taken for a target, the labels 0 and 1 would be HU, 0.25 and 0.2502 of the usual window.
    heard = Heard()
    prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", listener=heard, **options)
    (said,) = heard.notices("repeated-places")
    assert said.endswith(
        "masks are no series of CT: they are named by --mask-series, or go into a folder of their own, for --mask"
    )
