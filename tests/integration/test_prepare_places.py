"""Names and places that are unusual: bytes that are no UTF-8, no home directory, files that macOS leaves behind."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.cli.app import main
from ctpatch.errors import SystemFailureError, UsageError
from ctpatch.prepare.api import prepare_dicom, prepare_nifti
from ctpatch.prepare.privacy import pseudonyms as keys
from ctpatch.prepare.privacy.pseudonyms import load_key, save_key
from dicom_files import write_series
from helpers import Heard

SPLIT: dict[str, Any] = {"split": ["train=1"]}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "my.key"
    path.write_bytes(b"9c1f4be07d22a8365fe3b10c7746d9ae58120bf3c6e94d7fa1350e8b62c7d940")
    path.chmod(0o600)
    return path


def in_latin_1(path: Path, new: bytes) -> Path:
    """Rename a file or folder to bytes that are no UTF-8, where the system takes them."""
    target = os.path.join(os.fsencode(path.parent), new)
    try:
        os.rename(os.fsencode(path), target)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    return Path(os.fsdecode(target))


def named(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["pseudonym"]: row["name"] for row in csv.DictReader(file)}


def write_nifti(path: Path, seed: int) -> Any:
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = np.random.default_rng(seed).integers(-1000, 2000, (5, 4, 3)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1.0, 2.0, 1.0])), path)
    return volume


@pytest.mark.skipif(sys.platform == "win32", reason="names are no bytes there")
def test_a_dicom_file_whose_name_is_no_utf_8_is_escaped_in_the_list_of_names(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "raw/M", 2)
    (tmp_path / "raw/M/note").write_text("no DICOM")
    in_latin_1(tmp_path / "raw/M/001", b"M\xfcller.dcm")
    in_latin_1(tmp_path / "raw/M/note", b"caf\xe9")
    in_latin_1(tmp_path / "raw/M", b"J\xf6rg")
    names = tmp_path / "names.csv"
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key, names=names, **SPLIT)
    pseudonyms, _, _ = load_key(key, ())
    found = named(names)
    assert found[pseudonyms.file(os.fsdecode(b"J\xf6rg/M\xfcller.dcm"))] == r"J\xf6rg/M\xfcller.dcm"
    assert found[pseudonyms.file(os.fsdecode(b"J\xf6rg/caf\xe9"))] == r"J\xf6rg/caf\xe9"
    assert result.left_out == [r"J\xf6rg/caf\xe9: it is no DICOM file [not-dicom]"]
    assert result.left_out_short == [r"1 not-dicom: it is no DICOM file (J\xf6rg/caf\xe9)"]
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    words = ["--out", str(tmp_path / "data"), "--dataset", "other", "--key", str(key), "--split", "train=1"]
    assert main(["prepare", "dicom", str(tmp_path / "raw"), *words]) == 0
    assert r"not-dicom: it is no DICOM file (J\xf6rg/caf\xe9)" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="names are no bytes there")
@pytest.mark.parametrize("group_by", ["folder", "file"])
def test_a_nifti_file_in_a_folder_that_is_no_utf_8(tmp_path: Path, key: Path, group_by: Any) -> None:
    volume = write_nifti(tmp_path / "raw/M/a.nii.gz", 0)
    in_latin_1(tmp_path / "raw/M", b"M\xfcller")
    names = tmp_path / "names.csv"
    result = prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", group_by=group_by, key=key, names=names, **SPLIT)
    image = np.load(result.folder / "train/train_000000.npy")
    np.testing.assert_array_equal(image, ((volume[:, :, 0].T + 1024.0) / 4096).astype(np.float32))
    assert set(named(names).values()) == {r"M\xfcller", r"M\xfcller/a.nii.gz"} - (
        {r"M\xfcller"} if group_by == "file" else set()
    )


@pytest.mark.skipif(sys.platform == "win32", reason="names are no bytes there")
def test_source_and_output_whose_names_are_no_utf_8(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw", 2)
    source = in_latin_1(tmp_path / "raw", b"M\xfcller")
    (tmp_path / "out").mkdir()
    out = in_latin_1(tmp_path / "out", b"B\xf6hm")
    words = ["--out", str(out), "--dataset", "set", "--key", str(key), "--split", "train=1"]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}

    def run(*words: str) -> bytes:
        command = [sys.executable, "-m", "ctpatch", *words]
        done = subprocess.run(command, capture_output=True, check=False, env=strict)
        assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr[-2000:]
        return done.stdout

    run("prepare", "dicom", str(source), *words)
    for path in source.iterdir():
        path.touch()  # the set's own manifest is then looked at as well
    result = json.loads(run("prepare", "dicom", str(source), *words, "--json"))
    assert (result["outcome"], result["folder"]) == ("complete", f"{out}/prepared/set")
    run("build", f"{out}/prepared/set", "--patch-size", "16", "--stride", "8")
    run("verify", "--deep", f"{out}/patches/set/train")
    run("report", f"{out}/patches/set/train", "--out", f"{out}/page.html")
    assert (out / "page.html").is_file()


def test_without_a_home_directory_the_cure_is_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    write_series(tmp_path / "raw", 2)
    words = ["prepare", "dicom", str(tmp_path / "raw"), "--out", str(tmp_path / "data"), "--dataset", "set"]
    assert main([*words, "--split", "train=1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this user has no home directory, in which the key of the pseudonyms would lie; ")
    assert "--key FILE --new-key" in said
    assert not (tmp_path / "data").exists()
    assert main([*words, "--split", "train=1", "--key", str(tmp_path / "my.key"), "--new-key"]) == 0


def test_a_home_that_cannot_be_written_is_found_out_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "raw", 2)
    heard = Heard()

    def refused(home: Path, why: str) -> None:
        for variable in ("XDG_CONFIG_HOME", "APPDATA"):
            monkeypatch.setenv(variable, str(home))
        with pytest.raises(UsageError, match=rf"pseudonym\.key cannot be made: .*{why}; name .*--key FILE --new-key"):
            prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", listener=heard, **SPLIT)
        assert heard.events == []
        assert not (tmp_path / "data").exists()

    (tmp_path / "file").write_text("")
    refused(tmp_path / "file/home", r"file is no folder")
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path / "home")
    refused(tmp_path / "home", r"home cannot be written")
    refused(tmp_path / "home/deeper", r"home cannot be written")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_a_key_that_the_system_does_not_take_names_the_cure() -> None:
    # Whoever may write everywhere can still make no folder here.
    file = Path("/proc/nowhere/pseudonym.key")
    pseudonyms = keys.Pseudonyms(b"0" * 64)
    with pytest.raises(SystemFailureError, match=r"^the key /proc/nowhere/pseudonym\.key cannot be made: .*--key FILE"):
        save_key(pseudonyms, file)


def test_a_key_that_cannot_be_read_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "my.key").mkdir()
    with pytest.raises(SystemFailureError, match=r"my\.key cannot be read: .*; check .* or name another with --key"):
        load_key(tmp_path / "my.key", ())


def test_a_key_that_others_can_read_is_told_of_once_and_used(tmp_path: Path, key: Path) -> None:
    if os.name != "posix":
        pytest.skip("other systems have other permissions")
    write_series(tmp_path / "raw", 2)
    heard = Heard()
    prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key, listener=heard, **SPLIT)
    assert heard.notices("key-open") + heard.notices("key-weak") == []
    key.chmod(0o644)
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key, listener=heard, **SPLIT)
    assert result.outcome == "complete"
    assert len(heard.notices("key-open")) == 1
    key.write_bytes(b"1" * 40)
    key.chmod(0o600)
    prepare_dicom(tmp_path / "raw", tmp_path / "data", "weak", key=key, listener=heard, **SPLIT)
    assert len(heard.notices("key-weak")) == len(heard.notices("key-open")) == 1


def test_what_macos_leaves_in_a_nifti_tree_is_left_out_and_counted(tmp_path: Path, key: Path) -> None:
    volume = write_nifti(tmp_path / "raw/p/a.nii.gz", 3)
    masks = tmp_path / "masks/p"
    write_nifti(masks / "a.nii.gz", 4)
    double = b"\0\5\x16\7\0\2\0\0Mac OS X        " + b"\0" * 80
    for name, content in {
        "raw/p/._a.nii.gz": double,
        "raw/._p": double,
        "raw/__MACOSX/p/._a.nii": b"",
        "masks/p/._a.nii.gz": double,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    result = prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", mask=tmp_path / "masks", key=key, **SPLIT)
    assert result.complete
    assert result.meta.num_left_out == {"apple-double": 4}
    assert {each.partition(":")[0] for each in result.left_out} == {
        "p/._a.nii.gz", "._p", "__MACOSX/p/._a.nii",
    }  # fmt: skip
    image = np.load(result.folder / "train/train_000002.npy")
    np.testing.assert_array_equal(image, ((volume[:, :, 2].T + 1024.0) / 4096).astype(np.float32))
    assert re.fullmatch(
        r"4 apple-double: it is what macOS leaves .* \(._p, __MACOSX/p/._a.nii, p/._a.nii.gz and 1 more\)",
        result.left_out_short[0],
    )


@pytest.mark.skipif(sys.platform == "win32", reason="names are no bytes there")
def test_a_damaged_file_whose_name_is_no_utf_8_is_left_out_without_its_name(tmp_path: Path, key: Path) -> None:
    write_series(tmp_path / "raw", 3)
    damaged = tmp_path / "raw/002"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    in_latin_1(damaged, b"M\xfcller")
    names = tmp_path / "names.csv"
    options: dict[str, Any] = {"key": key, "names": names, "on_error": "skip", **SPLIT}
    result = prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", **options)
    reason = "its header promises 4000 bytes of pixels, it holds 3500"
    assert result.faults == [rf"M\xfcller: {reason}"]
    assert result.faults_short == [rf"1 unusable: {reason} (M\xfcller)"]
    pseudonym = load_key(key, ())[0].file(os.fsdecode(b"M\xfcller"))
    assert f'{pseudonym},image,unusable,"the file: {reason}"' in (result.folder / "left_out.csv").read_text()
    assert named(names)[pseudonym] == r"M\xfcller"
