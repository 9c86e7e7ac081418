"""`--series` means what fits the path, the description or the kernel; where nothing does, the series are listed."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.cli.app import main
from ctpatch.errors import SliceError, UsageError
from ctpatch.prepare.api import prepare_dicom, prepare_nifti
from ctpatch.prepare.patterns import none_fits, of_series
from ctpatch.prepare.readers.base import RawSlice
from ctpatch.prepare.readers.dicom.reader import DicomReader
from dicom_files import write_series


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three series; the second has no description, the third no kernel."""
    root = tmp_path / "raw"
    write_series(root / "ann/one", 3, uid="1", SeriesDescription="Thorax 1.0", ConvolutionKernel="B70f")
    write_series(root / "ann/two", 2, uid="2", seed=20, ConvolutionKernel=["Br40d", "3"])
    write_series(root / "ann/[three]", 1, uid="3", seed=40, SeriesDescription="Abdomen [B31f] ")
    return root


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("B70f", 3),
        ("b70F", 3),
        ("thorax 1.0", 3),
        ("Thorax*", 3),
        ("Thorax 1.0 B70f", 3),
        ("*1.0*B70*", 3),
        ("Br40d*", 2),
        ("*\\3", 2),
        ("ann/two", 2),
        ("ann/two/*", 2),
        ("ann/two/001", 1),
        ("Abdomen [B31f]", 1),
        ("ann/[three]", 1),
        ("*", 6),
        ("B70", 0),
        ("horax*", 0),
        ("1.0 B70f", 0),
        ("two", 0),
    ],
)
def test_a_pattern_fits_path_description_or_kernel_alone(raw: Path, pattern: str, count: int) -> None:
    slices = DicomReader().scan(raw, lambda _count: None).slices
    assert len(of_series(slices, pattern)) == count


def test_where_nothing_fits_the_series_are_listed(raw: Path, tmp_path: Path, key: Path) -> None:
    options: dict[str, Any] = {"split": ["train=1"], "key": key}
    wanted = (
        "no slice of image fits '*B99*'; there are: 'Abdomen [B31f]' (1 slice); 'Br40d\\\\3' (2 slices); "
        "'Thorax 1.0' / 'B70f' (3 slices). A pattern is to fit the path, the description or the kernel, "
        "such as '*B40f*'"
    )
    with pytest.raises(UsageError) as caught:
        prepare_dicom(raw, tmp_path / "data", "set", series="*B99*", **options)
    assert caught.value.message == wanted
    with pytest.raises(UsageError, match="no slice of target fits 'x'; there are: "):
        prepare_dicom(raw, tmp_path / "data", "set", series="B70f", target_series="x", **options)
    assert not (tmp_path / "data").exists()


def test_json_lists_the_series_too(raw: Path, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", "dicom", str(raw), "--out", str(tmp_path / "data"), "--dataset", "set", "--key", str(key)]
    assert main([*words, "--series", "*B99*", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "usage"
    assert "'Thorax 1.0' / 'B70f' (3 slices)" in error["message"]
    assert "ann" not in error["message"]


def test_many_series_and_long_names_are_shortened() -> None:
    slices = [
        RawSlice(f"{number}", 0, (4, 4), "g", "patient", f"{number}", 0, names=(f"{number:02d}" + "x" * 100,))
        for number in range(30)
    ]
    message = none_fits("image", "y", slices, paths_shown=True)
    assert "'00" + "x" * 57 + "…' (1 slice)" in message
    assert "'19" in message
    assert "'20" not in message
    assert " and 10 more. " in message


def test_paths_stand_for_series_without_names_on_a_terminal_alone() -> None:
    slices = [RawSlice("Doe/ct.nii", 0, (4, 4), "g", "file", "Doe/ct.nii", 0, label="Doe/ct.nii")] * 3
    assert "'Doe/ct.nii' (3 slices)" in none_fits("image", "y", slices, paths_shown=True)
    assert "Doe" not in none_fits("image", "y", slices, paths_shown=False)


def test_a_pattern_over_no_slices_at_all_says_what_is_there(tmp_path: Path, key: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/notes.txt").write_text("no slice")
    with pytest.raises(SliceError, match="no slices to prepare as image in raw: 1 not-dicom"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", series="*B40f*", key=key)


def test_a_single_file_is_a_source_wherever_the_output_lies(raw: Path, key: Path) -> None:
    folder = raw / "ann/one"
    result = prepare_dicom(folder / "002", folder, "set", split=["train=1"], key=key)
    assert result.meta.splits["train"].num_slices == 1
    assert result.left_out == []
    assert (folder / "prepared/set/train/train_000000.npy").is_file()


def test_a_single_nifti_file_is_a_source(tmp_path: Path, key: Path) -> None:
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    (tmp_path / "here").mkdir()
    file = tmp_path / "here/ct.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([-1, -1, 2, 1])), file)
    result = prepare_nifti(file, tmp_path / "here", "set", split=["train=1"], key=key)
    assert result.meta.splits["train"].num_slices == 5


def test_the_key_may_lie_beside_a_single_file_that_is_the_source(raw: Path, tmp_path: Path, key: Path) -> None:
    beside = key.rename(raw / "ann/one/my.key")
    result = prepare_dicom(raw / "ann/one/002", tmp_path / "data", "set", split=["train=1"], key=beside)
    assert result.meta.splits["train"].num_slices == 1
    with pytest.raises(UsageError, match=r"the key my\.key lies in"):
        prepare_dicom(raw / "ann/one", tmp_path / "data", "folder", split=["train=1"], key=beside)


@pytest.mark.parametrize("names_shown", [True, False])
def test_an_archive_is_named_as_one(raw: Path, tmp_path: Path, key: Path, names_shown: bool) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(raw / "ann/one/001", "001")
    wanted = r"^all.zip is a zip archive, which ctpatch does not look into; unpack it and give the folder"
    for prepare in (prepare_dicom, prepare_nifti):
        with pytest.raises(SliceError, match=wanted):
            prepare(tmp_path / "all.zip", tmp_path / "data", "set", key=key, names_shown=names_shown)
    (tmp_path / "some").mkdir()
    (tmp_path / "all.zip").rename(tmp_path / "some/all.zip")
    with pytest.raises(SliceError, match="1 of the files are archives by their names: unpack them first"):
        prepare_dicom(tmp_path / "some", tmp_path / "data", "set", key=key, names_shown=names_shown)


def test_a_file_that_is_no_ct_is_called_as_the_user_called_it(tmp_path: Path, key: Path) -> None:
    (tmp_path / "notes.txt").write_text("no slice")
    with pytest.raises(SliceError, match=r"no slices to prepare as image in notes.txt: 1 not-dicom"):
        prepare_dicom(tmp_path / "notes.txt", tmp_path / "data", "set", key=key, names_shown=False)


def test_assumed_hu_and_kept_reformats_are_on_record(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "raw"
    write_series(root, 2, RescaleIntercept=None, ImageType=["DERIVED", "SECONDARY", "MPR"])
    words = ["prepare", "dicom", str(root), "--out", str(tmp_path / "data"), "--key", str(key), "--split", "train=1"]
    assert main([*words, "--dataset", "plain"]) == 1
    assert "no slices to prepare as image in raw: 2 reformat" in capsys.readouterr().err
    assert main([*words, "--dataset", "kept", "--keep-reformats"]) == 1
    assert "--assume-hu takes 1 for a missing slope" in capsys.readouterr().err
    assert main([*words, "--dataset", "both", "--keep-reformats", "--assume-hu"]) == 0
    assert "RescaleIntercept is missing and taken to be 0" in capsys.readouterr().err
    meta = json.loads((tmp_path / "data/prepared/both/prepare_meta.json").read_text())
    assert (meta["options"]["assume_hu"], meta["options"]["keep_reformats"]) == (True, True)
    # The values were made for an intercept of -1024, so 0 is wrong; the check of values reports that too.
    assert [note["kind"] for note in meta["notes"]] == ["assumed-hu", "hu-far-above-bone"]
    ordinary = tmp_path / "ordinary"
    write_series(ordinary, 1)
    result = prepare_dicom(ordinary, tmp_path / "data", "ordinary", split=["train=1"], key=key)
    assert {"assume_hu", "keep_reformats"}.isdisjoint(result.meta.options)
    again = prepare_dicom(ordinary, tmp_path / "data", "other", split=["train=1"], key=key, assume_hu=True)
    assert again.meta.options["assume_hu"] is True
