"""Links that leave the source: left out and counted, or followed on request, each folder once."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctpatch.cli.app import main
from ctpatch.errors import SliceError, UsageError
from ctpatch.prepare.api import prepare_dicom, prepare_nifti, prepare_raw
from ctpatch.prepare.privacy.pseudonyms import load_key
from ctpatch.prepare.readers.dicom import Dicom
from ctpatch.prepare.readers.tree import find_files, source_file
from dicom_files import unit_of, write_series
from helpers import Heard
from lodopab_files import SIDE, write_ground_truth, write_patients

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")

STORE = "annex_Doe_Janet_19420317"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of links to a store beside it: one file by itself, one folder, and nothing else."""
    write_series(tmp_path / STORE / "objects", 2, patient="ann", uid="1")
    write_series(tmp_path / STORE / "bob", 2, patient="bob", uid="2", seed=50)
    root = tmp_path / "raw"
    (root / "ann").mkdir(parents=True)
    for name in ("001", "002"):
        (root / "ann" / f"{name}.dcm").symlink_to(tmp_path / STORE / "objects" / name)
    (root / "bob").symlink_to(tmp_path / STORE / "bob", target_is_directory=True)
    return root


def test_files_are_listed_under_the_names_of_the_links(root: Path, tmp_path: Path) -> None:
    (root / "plain").write_bytes(b"")
    assert find_files(root, follow_links=True) == (["ann/001.dcm", "ann/002.dcm", "bob/001", "bob/002", "plain"], [])
    names, left_out = find_files(root)
    assert names == ["plain"]
    assert [(each.where, each.kind) for each in left_out] == [
        ("ann/001.dcm", "outside-link"),
        ("ann/002.dcm", "outside-link"),
        ("bob", "outside-link"),
    ]
    assert source_file(root, "bob/001", follow_links=True).read_bytes() == (tmp_path / STORE / "bob/001").read_bytes()
    with pytest.raises(UsageError, match="leads out of the source folder"):
        source_file(root, "bob/001")


def test_links_in_a_circle_end_and_no_folder_is_entered_twice(root: Path, tmp_path: Path) -> None:
    (root / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "again").symlink_to(tmp_path / STORE / "bob", target_is_directory=True)
    (root / "ann/here").symlink_to(root / "ann", target_is_directory=True)
    (root / "itself").symlink_to(root / "itself")
    (root / "one").symlink_to(root / "other")
    (root / "other").symlink_to(root / "one")
    names, left_out = find_files(root, follow_links=True)
    # `again` stands before `bob`; `up` holds the store, of which `objects` alone is a folder not entered yet.
    assert [name for name in names if name.startswith(("ann", "bob", "again"))] == [
        *("again/001", "again/002", "ann/001.dcm", "ann/002.dcm"),
    ]
    assert [name for name in names if name.startswith("up/")] == [
        f"up/{STORE}/objects/001",
        f"up/{STORE}/objects/002",
    ]
    assert {(each.where, each.kind, each.fault) for each in left_out} == {
        ("bob", "linked-folder", False),
        ("ann/here", "linked-folder", False),
        ("up/raw", "linked-folder", False),
        (f"up/{STORE}/bob", "linked-folder", False),
        ("itself", "broken-link", True),
        ("one", "broken-link", True),
        ("other", "broken-link", True),
    }
    kinds = {each.where: each.kind for each in find_files(root)[1]}
    assert kinds["itself"] == kinds["one"] == "broken-link"


def test_a_pipe_behind_a_link_is_not_waited_for(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (root / "pipe").symlink_to(tmp_path / "pipe")
    (root / "device").symlink_to("/dev/null")
    left_out = find_files(root, follow_links=True)[1]
    assert [(each.where, each.kind) for each in left_out] == [("device", "no-file"), ("pipe", "no-file")]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_links_lead_to_is_prepared_by_value(root: Path, tmp_path: Path, key: Path, workers: int) -> None:
    options: dict[str, Any] = {"split": ["train=1"], "key": key, "workers": workers}
    heard = Heard()
    with pytest.raises(SliceError, match=r"3 outside-link.*; --follow-links follows links that lead out"):
        prepare_dicom(root, tmp_path / "data", "set", listener=heard, **options)
    assert heard.notices("links") == [
        "3 links lead out of the source, and ctpatch does not follow them; --follow-links does"
    ]
    heard = Heard()
    result = prepare_dicom(root, tmp_path / "data", "set", follow_links=True, listener=heard, **options)
    assert heard.notices("links") == []
    stored = write_series(tmp_path / "a", 2) + write_series(tmp_path / "b", 2, seed=50)
    rows = pl.read_csv(result.folder / "train/train_manifest.csv").to_dicts()
    found = {np.load(tmp_path / "data" / row["path"]).tobytes() for row in rows}
    assert len(rows) == 4
    assert found == {unit_of(image).tobytes() for image in stored}
    pseudonyms, _, _ = load_key(key, ())
    assert {row["patient_id"] for row in rows} == {pseudonyms.patient("ann"), pseudonyms.patient("bob")}
    written = b"".join(path.read_bytes() for path in result.folder.rglob("*") if path.is_file())
    for secret in (STORE, "Doe", "objects", "ann", "bob"):
        assert secret.encode() not in written
    assert result.meta.options["follow_links"] is True
    assert prepare_dicom(root, tmp_path / "data", "set", follow_links=True, **options).outcome == "complete"
    raw = Dicom(follow_links=True)
    assert prepare_raw(raw, root, tmp_path / "data", "set", **options).outcome == "complete"


def test_an_assumed_intercept_reaches_files_behind_links(tmp_path: Path, key: Path) -> None:
    stored = write_series(tmp_path / STORE, 2, RescaleIntercept=None)
    root = tmp_path / "raw"
    root.mkdir()
    (root / "ann").symlink_to(tmp_path / STORE, target_is_directory=True)
    with pytest.raises(SliceError, match=r"ann/001: it has RescaleSlope and no RescaleIntercept"):
        prepare_dicom(root, tmp_path / "data", "set", split=["train=1"], key=key, follow_links=True)
    options: dict[str, Any] = {"split": ["train=1"], "key": key, "follow_links": True, "assume_hu": True}
    result = prepare_dicom(root, tmp_path / "data", "set", **options)
    assert (result.meta.options["follow_links"], result.meta.options["assume_hu"]) == (True, True)
    for number, image in enumerate(stored):
        prepared = np.load(result.folder / f"train/train_{number:06d}.npy")
        np.testing.assert_array_equal(prepared, unit_of(image + np.int16(1024)))  # an intercept of 0, not of -1024


def test_links_and_archives_are_both_hinted_at_where_nothing_is_found(root: Path, tmp_path: Path, key: Path) -> None:
    for name in ("one.zip", "two.tar.gz", "notes.txt", "more.txt"):
        (root / name).write_text("no slice")
    hints = "; --follow-links follows links that lead out of the source; 2 of the files are archives by their names"
    with pytest.raises(SliceError, match=f"3 outside-link.*{hints}: unpack them first"):
        prepare_dicom(root, tmp_path / "data", "set", split=["train=1"], key=key)


def test_links_that_are_not_followed_are_not_on_record(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw", 2)
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", split=["train=1"], key=key)
    assert "follow_links" not in result.meta.options


def test_the_command_follows_links_and_names_no_target_of_one(
    root: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", "dicom", str(root), "--out", str(tmp_path / "data"), "--dataset", "set", "--key", str(key)]
    assert main([*words, "--split", "train=1", "--json"]) == 1
    capsys.readouterr()
    assert main([*words, "--split", "train=1", "--follow-links", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["meta"]["splits"]["train"]["num_slices"] == 4
    assert STORE not in shown.out + shown.err


def test_a_damaged_file_behind_a_link_is_named_by_the_link(root: Path, tmp_path: Path, key: Path) -> None:
    target = tmp_path / STORE / "objects/001"
    target.write_bytes(target.read_bytes()[:-500])
    with pytest.raises(SliceError, match=r"^ann/001\.dcm: ") as caught:
        prepare_dicom(root, tmp_path / "data", "set", follow_links=True, split=["train=1"], key=key)
    assert STORE not in caught.value.message


def test_nifti_behind_links(tmp_path: Path, key: Path) -> None:
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    volume = np.arange(24, dtype=np.int16).reshape(4, 3, 2) * 40
    (tmp_path / "store").mkdir()
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "store/a.nii.gz")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/sub-1.nii.gz").symlink_to(tmp_path / "store/a.nii.gz")
    options: dict[str, Any] = {"split": ["train=1"], "key": key}
    with pytest.raises(SliceError, match="--follow-links"):
        prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", **options)
    result = prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", follow_links=True, **options)
    first = np.load(result.folder / "train/train_000000.npy")
    # Columns run to the left and rows to the back, as the file's first and second axis do.
    wanted = (volume[:, :, 0].T.astype(np.float64) + 1024) / 4096
    np.testing.assert_array_equal(first, wanted.astype(np.float32))


def test_lodopab_behind_links(tmp_path: Path, key: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    images = [np.full((SIDE, SIDE), value, np.float32) for value in (0.25, 0.5)]
    store = tmp_path / "store"
    store.mkdir()
    write_ground_truth(store, "test", 0, images)
    write_patients(store, "test", [7, 8])
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/all").symlink_to(store, target_is_directory=True)
    with pytest.raises(SliceError, match=r"1 outside-link.*--follow-links"):
        prepare_raw("lodopab", tmp_path / "raw", tmp_path / "data", "set", key=key)
    result = prepare_raw("lodopab", tmp_path / "raw", tmp_path / "data", "set", key=key, follow_links=True)
    found = [np.load(result.folder / f"test/test_{number:06d}.npy") for number in range(2)]
    np.testing.assert_array_equal(found, images)
