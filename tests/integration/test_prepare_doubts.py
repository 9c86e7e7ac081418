"""`ctpatch prepare` on series that hold no HU: notes, `--strict`, the record, and the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import DoubtfulValuesError
from ctpatch.files import atomic
from ctpatch.format.hu_values import BIN_HU, HIGH_HU, LOW_HU, read_hu_values
from ctpatch.prepare.api import prepare_dicom, prepare_lodopab, prepare_nifti
from dicom_files import ROOT, ct_dataset, write_ct
from helpers import Heard
from hu_phantoms import Hu, around_the_circle, body, lung

SPLIT: dict[str, Any] = {"split": ["train=1"]}


def write_slices(folder: Path, slices: Sequence[Hu], number: int = 1, **tags: Any) -> None:
    """A series of slices 2 mm apart, signed 16 bits, stored as HU + 1024, of a patient of its own."""
    for place, hu in enumerate(slices):
        write_ct(
            folder / f"{place:03d}",
            (np.rint(hu) + 1024).astype(np.int16),
            **{
                "PatientID": f"patient {number}",
                "StudyInstanceUID": f"{ROOT}{number}",
                "SeriesInstanceUID": f"{ROOT}{number}.1",
                "ImagePositionPatient": [0.0, 0.0, 2.0 * place],
                **tags,
            },
        )


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A sound series, one without its offset, and one that is wrapped."""
    root = tmp_path / "raw"
    write_slices(root / "sound", [lung(), body(seed=1)], 1)
    write_slices(root / "shifted", [body(seed=k) for k in range(3)], 2, RescaleIntercept=0)
    write_slices(root / "wrapped", [np.mod(np.rint(body(seed=k)), 4096) for k in range(2)], 3)
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_each_doubtful_series_has_one_notice(raw: Path, tmp_path: Path, key: Path) -> None:
    heard = Heard()
    result = prepare_dicom(raw, tmp_path / "data", "set", key=key, listener=heard, **SPLIT)
    rows = pl.read_csv(tmp_path / "data/prepared/set/train/train_manifest.csv")
    sizes = dict(rows.group_by("series").len().iter_rows())
    assert result.complete
    assert {note.kind: sizes[note.series] for note in result.meta.notes} == {"hu-shifted-up": 3, "hu-wrapped": 2}
    notices = heard.notices("doubtful-values")
    assert len(notices) == 2
    for note in result.meta.notes:
        (found,) = [notice for notice in notices if notice.endswith(note.message)]
        assert found.startswith("series " + ("shifted/" if note.kind == "hu-shifted-up" else "wrapped/")), found
    # a finished set says it again
    again = Heard()
    assert prepare_dicom(raw, tmp_path / "data", "set", key=key, listener=again, **SPLIT).outcome == "complete"
    assert again.notices("doubtful-values") == notices


def test_two_doubts_of_one_series_are_one_notice(tmp_path: Path, key: Path) -> None:
    hu = around_the_circle(np.rint(body()), 0)
    hu[40:60, 40:60] = 0
    heard = Heard()
    write_slices(tmp_path / "raw", [hu + 1024], PixelPaddingValue=2048)  # 1024 HU, and 0 once the offset is taken off
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key, listener=heard, **SPLIT)
    (message,) = heard.notices("doubtful-values")
    assert [note.kind for note in result.meta.notes] == ["hu-shifted-up", "hu-padding-amid-tissue"]
    assert "; also: 400 of " in message


def test_values_on_record_are_those_of_the_raw_slices(raw: Path, tmp_path: Path, key: Path) -> None:
    prepare_dicom(raw, tmp_path / "data", "set", key=key, window=(0, 80), crop=(50, 60), **SPLIT)
    found = {each.slices: each for each in read_hu_values(tmp_path / "data/prepared/set")}
    slices = [np.rint(body(seed=k)) + 1024 for k in range(3)]
    values = np.concatenate([each.ravel() for each in slices])
    shifted = found[3]
    assert (shifted.array, shifted.pixels, shifted.padding) == ("image", 3 * 96 * 96, 0)
    assert (shifted.min_hu, shifted.max_hu) == (values.min(), values.max())
    assert (shifted.below, shifted.above) == (0, 0)
    wanted, edges = np.histogram(values, np.arange(LOW_HU, HIGH_HU + 1, BIN_HU))
    filled = np.flatnonzero(wanted)
    assert shifted.first_hu == edges[filled[0]]
    assert list(shifted.counts) == wanted[filled[0] : filled[-1] + 1].tolist()


def test_strict_publishes_nothing_and_the_same_command_without_it_resumes(
    raw: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "dicom", str(raw), "--out", str(tmp_path / "data"), "--dataset", "set", "--split", "train=1"]
    words += ["--key", str(key)]
    folder = tmp_path / "data/prepared/set"
    assert main([*words, "--strict"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("series S") == 2
    assert "negative values may be wrapped into 12 bits" in said
    assert "ctpatch published nothing" in said
    assert not list(folder.rglob("*.csv"))
    assert not list(folder.glob("*.json"))
    with pytest.raises(ctpatch.CtPatchError):
        ctpatch.build(folder)
    assert main(words) == 0
    assert (folder / "prepare_meta.json").is_file()
    before = files_of(folder)
    # a finished set that is doubted is no success under --strict either, and stays as it is
    assert main([*words, "--strict"]) == 1
    assert "was made without --strict and stays as it is" in " ".join(capsys.readouterr().err.split())
    assert files_of(folder) == before


def test_strict_says_nothing_of_sound_series(raw: Path, tmp_path: Path, key: Path) -> None:
    result = prepare_dicom(raw / "sound", tmp_path / "data", "set", key=key, strict=True, **SPLIT)
    assert (result.outcome, result.meta.notes) == ("prepared", [])
    with pytest.raises(DoubtfulValuesError, match=r"series S.*1024 was not taken off"):
        prepare_dicom(raw / "shifted", tmp_path / "data", "other", key=key, strict=True, **SPLIT)


def test_workers_and_runs_that_were_cut_off_give_the_same_bytes(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "raw"
    for number in range(3):
        shift = 1024 * (number == 1)
        write_slices(root / str(number), [lung() + shift + place for place in range(30)], number + 1)
    prepare_dicom(root, tmp_path / "one", "set", key=key, **SPLIT)
    wanted = files_of(tmp_path / "one")
    assert b"hu-shifted-up" in wanted["prepared/set/prepare_meta.json"]
    prepare_dicom(root, tmp_path / "two", "set", key=key, workers=2, **SPLIT)
    assert files_of(tmp_path / "two") == wanted
    real, written = atomic.write_atomic, []

    def cut_off(path: Path, content: bytes) -> None:
        real(path, content)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("ctpatch.work.receipt.write_atomic", cut_off)
    with pytest.raises(KeyboardInterrupt):
        prepare_dicom(root, tmp_path / "cut", "set", key=key, **SPLIT)
    assert prepare_dicom(root, tmp_path / "cut", "set", key=key, **SPLIT).outcome == "resumed"
    assert files_of(tmp_path / "cut") == wanted


def test_targets_are_looked_at_and_of_masks_only_the_bits(tmp_path: Path, key: Path) -> None:
    write_slices(tmp_path / "ct", [body()])
    write_slices(tmp_path / "scaled", [np.rint(np.clip(body(), 0, 200))])
    labels = np.rint(np.clip(body(), 0, 1))
    labels[0, 0] = 0x1000  # above the 12 bits
    write_slices(tmp_path / "mask", [labels - 1024], RescaleIntercept=0, BitsStored=12, HighBit=11)
    sources: dict[str, Any] = {"target": tmp_path / "scaled", "mask": tmp_path / "mask"}
    result = prepare_dicom(tmp_path / "ct", tmp_path / "data", "set", key=key, **SPLIT, **sources)
    assert [note.kind for note in result.meta.notes] == ["unused-bits", "hu-8-bit"]
    assert result.meta.notes[0].message.startswith("mask: pixels have bits above BitsStored 12 set, up to bit 14")
    assert result.meta.notes[1].message.startswith("target: values run from 0 to 200, wanted HU")
    np.testing.assert_array_equal(
        np.load(tmp_path / "data/prepared/set/train/train_mask_000000.npy"), labels * (labels < 2)
    )
    rows = read_hu_values(tmp_path / "data/prepared/set")
    assert [row.array for row in rows] == ["image", "target"]


def test_unused_bits_are_reported_with_the_number_of_slices(tmp_path: Path, key: Path) -> None:
    for place in range(3):
        cells = np.maximum(np.rint(body(seed=place)) + 1024, 0).astype(np.int64)
        cells[10:20, 10:40] |= 0x1000 * (place > 0)
        tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "ImagePositionPatient": [0, 0, place]}
        dataset = ct_dataset(cells, **tags)
        (tmp_path / "raw").mkdir(exist_ok=True)
        dataset.save_as(tmp_path / f"raw/{place}", enforce_file_format=True)
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key, window=(-1024, 3072), **SPLIT)
    (note,) = result.meta.notes
    assert note.kind == "unused-bits"
    assert note.message.endswith("(2 of 3 slices)")
    for place in range(3):
        image = np.load(tmp_path / f"data/prepared/set/train/train_{place:06d}.npy")
        np.testing.assert_allclose(image * 4096 - 1024, np.maximum(np.rint(body(seed=place)), -1024), atol=1e-3)


def test_nifti_is_looked_at_too(tmp_path: Path, key: Path) -> None:
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    volumes = {
        "sub-a": np.stack([body(seed=k) for k in range(3)]),
        "sub-b": np.stack([(np.clip(body(seed=k), -1024, 3071) + 1024) / 4095 for k in range(3)]),
        "sub-c": np.stack([np.clip(body(seed=k), -160, 240) for k in range(3)]),
    }
    (tmp_path / "raw").mkdir()
    for name, volume in volumes.items():
        image = nib.Nifti1Image(volume.transpose(2, 1, 0).astype(np.float32), np.diag([-1, -1, 2, 1]))
        nib.save(image, tmp_path / f"raw/{name}.nii.gz")
    heard = Heard()
    result = prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", key=key, listener=heard, **SPLIT)
    assert sorted(note.kind for note in result.meta.notes) == ["hu-no-air", "hu-unit-range"]
    assert len(heard.notices("doubtful-values")) == 2


def test_slices_that_are_scaled_by_design_are_exempt(tmp_path: Path, key: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    from lodopab_files import SIDE, write_ground_truth, write_patients

    images = [np.random.default_rng(k).random((SIDE, SIDE)).astype(np.float32) for k in range(2)]
    (tmp_path / "raw").mkdir()
    for patient, split in enumerate(("train", "validation", "test")):
        write_ground_truth(tmp_path / "raw", split, 0, images, rows=2)
        write_patients(tmp_path / "raw", split, [patient, patient])
    heard = Heard()
    result = prepare_lodopab(tmp_path / "raw", tmp_path / "data", "set", key=key, strict=True, listener=heard)
    assert result.complete
    assert heard.notices("doubtful-values") == []
    assert read_hu_values(result.folder) == []


def test_the_report_shows_values_in_hu_and_what_is_doubted(raw: Path, tmp_path: Path, key: Path) -> None:
    pytest.importorskip("jinja2", reason="the extra report is not installed")
    pytest.importorskip("PIL", reason="the extra report is not installed")
    result = prepare_dicom(raw, tmp_path / "data", "set", key=key, **SPLIT)
    config = ctpatch.PatchConfig(patch_size=32, stride=32)
    (made,) = ctpatch.build(result.folder, config)
    page = ctpatch.report(made.folder, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Values in HU" in page
    assert page.count('class="hu"') == 3
    for row in read_hu_values(result.folder):
        assert f"set/train, image of series {row.series}: {row.slices} slices, {row.min_hu:,.6g} to" in page
    for note in result.meta.notes:
        assert note.message in page
    # without what is on record, and with rubbish there, the page is as it was before
    values = result.folder / "hu_values.csv"
    content = values.read_bytes()
    for spoiled in (b"\0\1\2", content.replace(b",image,", b",image,-"), b""):
        values.write_bytes(spoiled)
        page = ctpatch.report(made.folder, tmp_path / "r.html").read_text(encoding="utf-8")
        assert "Values in HU" not in page
    values.unlink()
    assert "Values in HU" not in ctpatch.report(made.folder, tmp_path / "r.html").read_text(encoding="utf-8")


def test_json_has_the_notes(raw: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", "dicom", str(raw), "--out", str(tmp_path / "data"), "--dataset", "set", "--split", "train=1"]
    assert main([*words, "--key", str(key), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(note["kind"] for note in found["meta"]["notes"]) == ["hu-shifted-up", "hu-wrapped"]
