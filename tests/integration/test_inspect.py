"""What `ctpatch inspect` says of trees whose content the tests know."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")
pytest.importorskip("nibabel", reason="nibabel is not installed")

import nibabel as nib

import ctpatch
from ctpatch.cli.app import main
from ctpatch.errors import ConfigError, UsageError
from ctpatch.inspecting.partners import role_of
from ctpatch.inspecting.result import Inspection
from ctpatch.inspecting.samples import spread
from dicom_files import ROOT, pixels_of, write_ct, write_series
from helpers import data_folder
from volume_files import write_mha

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def write_nifti(path: Path, volume: Any, spacing: tuple[float, float, float] = (0.7, 0.8, 2.5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])), path)


def ct_volume(seed: int = 0, shape: tuple[int, int, int] = (20, 24, 4)) -> Any:
    return np.random.default_rng(seed).integers(-1100, 1000, shape).astype(np.int16)


@pytest.fixture
def two_patients(tmp_path: Path) -> Path:
    """Four slices of one patient with a gap of two, three of another one, and a scout view."""
    raw = tmp_path / "raw"
    for number, place in enumerate((0.0, 2.0, 8.0, 10.0)):
        write_ct(
            raw / f"SECRET-A/{number}",
            pixels_of(number),
            PatientID="SECRET-A",
            PatientName="SECRET^NAME",
            SeriesInstanceUID=f"{ROOT}1.1",
            SeriesDescription="Thorax\x1b[31m",
            ConvolutionKernel="B70f",
            SliceThickness=3,
            InstanceNumber=number,
            ImagePositionPatient=[-20.0, -16.0, place],
        )
    write_series(raw / "b", 3, seed=50, patient="SECRET-B", uid="2", SeriesDescription="Abdomen")
    write_ct(raw / "scout", pixels_of(99), PatientID="SECRET-A", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return raw


def test_patients_series_gaps_and_what_is_left_out(two_patients: Path) -> None:
    found = ctpatch.inspect(two_patients)
    (section,) = found.sections
    assert (found.files, section.format, section.patients, section.patient_kind) == (8, "dicom", 2, "patient")
    thorax, abdomen = sorted(section.series, key=lambda each: -each.slices)
    assert (thorax.slices, thorax.shape, thorax.kernel, thorax.thickness_mm) == (4, (40, 50), "B70f", 3.0)
    assert (thorax.step_mm, thorax.missing, thorax.spacing_mm, thorax.plane) == (2.0, 2, (0.8, 0.8), "axial")
    assert [each.kind for each in thorax.suspicions if each.kind == "gap"] == ["gap"]
    assert (abdomen.slices, abdomen.kernel, abdomen.description, abdomen.thickness_mm) == (3, "", "Abdomen", None)
    assert abdomen.missing == 0
    assert {thorax.patient, abdomen.patient} == {1, 2}
    assert [(each.kind, each.count, each.first) for each in section.left_out] == [("localizer", 1, "scout")]
    assert shlex.split(section.commands[0])[:4] == ["ctpatch", "prepare", "dicom", str(two_patients)]


def test_hu_are_those_of_the_slices_that_are_read(two_patients: Path) -> None:
    (section,) = ctpatch.inspect(two_patients, slices=3).sections
    (abdomen,) = (each for each in section.series if each.description == "Abdomen")
    stored = np.stack([pixels_of(50 + number) for number in range(3)])
    assert abdomen.slices_read == 3
    assert abdomen.hu == (stored.min() - 1024.0, stored.max() - 1024.0)
    (section,) = ctpatch.inspect(two_patients, slices=1).sections
    (abdomen,) = (each for each in section.series if each.description == "Abdomen")
    assert abdomen.hu == (stored[1].min() - 1024.0, stored[1].max() - 1024.0)
    (section,) = ctpatch.inspect(two_patients, slices=0).sections
    assert [(each.hu, each.slices_read) for each in section.series] == [(None, 0)] * 2


def test_no_id_or_name_of_a_patient_is_shown_and_no_path_where_it_is_kept(
    two_patients: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(two_patients)]) == 0
    shown = capsys.readouterr().out
    assert main(["inspect", str(two_patients), "--json"]) == 0
    kept = capsys.readouterr().out
    found = ctpatch.inspect(two_patients)
    for text in (shown, kept, repr(found), found._repr_html_()):
        assert "SECRET" not in text
        assert "\x1b" not in text
        assert "Thorax" in text
    assert json.loads(kept) == json.loads(json.dumps(ctpatch.inspect(two_patients, names_shown=False).as_dict()))
    assert "(scout)" not in shown
    assert "(scout)" in repr(found)


def test_nothing_is_written(two_patients: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in two_patients.rglob("*")}
    ctpatch.inspect(two_patients)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in two_patients.rglob("*")} == before


def test_the_line_prepares_what_was_found(
    two_patients: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = two_patients.rename(two_patients.with_name("it's raw"))
    monkeypatch.chdir(raw.parent)
    monkeypatch.setenv("CTPATCH_KEY", "")
    (section,) = ctpatch.inspect("it's raw").sections
    words = shlex.split(section.commands[0])
    assert words == ["ctpatch", "prepare", "dicom", "it's raw", "--out", "data", "--dataset", "ct"]
    key = raw.parent / "key"
    assert main([*words[1:], "--split", "train=1", "--key", str(key), "--new-key"]) == 0, capsys.readouterr().err
    meta = json.loads((raw.parent / "data/prepared/ct/prepare_meta.json").read_text())
    assert sum(split["num_slices"] for split in meta["splits"].values()) == section.slices == 7


def test_a_set_never_goes_into_its_own_source(two_patients: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two_patients)
    (section,) = ctpatch.inspect(".").sections
    words = shlex.split(section.commands[0])
    assert words[words.index("--out") + 1] == str(two_patients.parent / "prepared-ct")


def test_a_mixed_tree_has_a_section_for_each_format(two_patients: Path) -> None:
    write_nifti(two_patients / "n/ct.nii.gz", ct_volume())
    write_mha(two_patients / "m/ct.mha", ct_volume(1, (4, 24, 20)), (0.7, 0.8, 2.5))
    np.save(two_patients / "array.npy", ct_volume(2, (5, 6, 7)))
    (two_patients / "lost.nii.gz").write_bytes(POINTER)
    (two_patients / "notes.txt").write_text("x")
    found = ctpatch.inspect(two_patients)
    by_format = {each.format: each for each in found.sections}
    assert {name: (each.slices, len(each.series)) for name, each in by_format.items()} == {
        "dicom": (7, 2),
        "nifti": (4, 1),
        "metaimage": (4, 1),
        "numpy": (5, 1),
    }
    (nifti,) = by_format["nifti"].series
    volume = ct_volume()
    assert (nifti.shape, nifti.step_mm) == ((24, 20), 2.5)
    assert nifti.spacing_mm == pytest.approx((0.8, 0.7))
    read = volume[:, :, [0, 2, 3]]  # three of four, evenly spread
    assert nifti.hu == (read.min(), read.max())
    assert by_format["numpy"].series[0].hu is None
    assert "--axes AXES" in by_format["numpy"].commands[0]
    faults = [each for section in found.sections for each in section.left_out if each.fault]
    assert [(each.first, "Git LFS" in each.message) for each in faults] == [("lost.nii.gz", True)]
    assert [(each.kind, each.count) for each in found.others] == [("unknown", 1)]
    assert "1 .txt" in found.others[0].message


def test_a_pointer_alone_is_named_and_nothing_is_usable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scan.dcm").write_bytes(POINTER)
    found = ctpatch.inspect(tmp_path)
    assert [(each.kind, each.count, each.first) for each in found.others] == [("git-lfs", 1, "scan.dcm")]
    assert not found.usable
    assert main(["inspect", str(tmp_path)]) == 1
    assert "git lfs pull" in capsys.readouterr().out


def test_an_empty_folder_and_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    assert "There is no CT here that ctpatch can prepare." in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "gone")]) == 2
    assert "does not exist" in capsys.readouterr().err
    with pytest.raises(UsageError, match="does not exist"):
        ctpatch.inspect(tmp_path / "gone")


@pytest.mark.parametrize("wrong", [{"slices": -1}, {"slices": 1.5}, {"workers": 0}, {"slices": True}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ctpatch.inspect(tmp_path, **wrong)


def test_damaged_files_are_counted_and_the_first_is_named(two_patients: Path) -> None:
    whole = (two_patients / "b/001").read_bytes()
    for name in ("b/x1", "b/x2"):
        (two_patients / name).write_bytes(whole[:200])
    (section,) = ctpatch.inspect(two_patients).sections
    (fault,) = (each for each in section.left_out if each.fault)
    assert (fault.count, fault.first) == (2, "b/x1")
    assert "add --on-error skip" in repr(ctpatch.inspect(two_patients))


def test_masks_in_a_folder_of_their_own_come_with_the_line(tmp_path: Path) -> None:
    for case in range(2):
        write_nifti(tmp_path / f"imagesTr/case_{case}_0000.nii.gz", ct_volume(case))
        write_nifti(tmp_path / f"labelsTr/case_{case}.nii.gz", (ct_volume(case) > 0).astype(np.uint8))
    (section,) = ctpatch.inspect(tmp_path).sections
    assert [each.role for each in section.series] == ["image", "image", "mask", "mask"]
    assert shlex.split(section.commands[0])[3:6] == [
        str(tmp_path / "imagesTr"),
        "--mask",
        str(tmp_path / "labelsTr"),
    ]
    assert "8 of 8 slices have a mask" in section.notes[-1]
    assert not any(each.suspicions for each in section.series if each.role == "mask")


def test_masks_beside_images_come_with_patterns_that_prepare_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    for case in range(2):
        write_nifti(raw / f"case_{case}/imaging.nii.gz", ct_volume(case))
        write_nifti(raw / f"case_{case}/segmentation.nii.gz", (ct_volume(case) > 0).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    (section,) = ctpatch.inspect("raw").sections
    words = shlex.split(section.commands[0])
    assert words[4:10] == [
        *("--series", "*/imaging.nii.gz", "--mask-series", "*/segmentation.nii.gz", "--match", "position")
    ]
    assert main([*words[1:], "--split", "train=1", "--key", str(tmp_path / "key"), "--new-key"]) == 0
    meta = json.loads((tmp_path / "data/prepared/ct/prepare_meta.json").read_text())
    assert meta["arrays"] == {"image": "float32", "mask": "int16"}
    assert meta["splits"]["train"]["num_slices"] == 8


def test_a_mask_among_the_images_is_suspected(tmp_path: Path) -> None:
    write_nifti(tmp_path / "one.nii.gz", np.arange(1920, dtype=np.uint8).reshape(20, 24, 4) % 4)
    (section,) = ctpatch.inspect(tmp_path).sections
    assert [each.kind for each in section.series[0].suspicions] == ["like-a-mask"]
    # Each slice has a number of its own, and three of the four are read: 0, 2 and 3.
    assert "from 0 to 3, 3 of them" in section.series[0].suspicions[0].message


def test_values_that_are_no_hu_are_suspected_as_in_prepare(tmp_path: Path) -> None:
    write_nifti(tmp_path / "one.nii.gz", np.random.default_rng(0).random((20, 24, 4), dtype=np.float32))
    (section,) = ctpatch.inspect(tmp_path).sections
    assert [each.kind for each in section.series[0].suspicions] == ["hu-unit-range"]


def test_sets_are_recognised_and_not_taken_for_raw_ct(phantom_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ctpatch.inspect(phantom_set)
    assert found.sections == ()
    kinds = {each.kind: each for each in found.sets}
    assert kinds["prepared"].count == 1
    assert kinds["patches"].count == 1
    for kind, each in kinds.items():
        small = ["--patch-size", "16"] if kind == "prepared" else []  # no slice is as large as the usual patch
        assert main([*shlex.split(each.command)[1:], *small]) == 0, capsys.readouterr().err
    (split,) = (path.parent for path in phantom_set.glob("prepared/*/train/train_manifest.csv"))
    assert [each.kind for each in ctpatch.inspect(split).sets] == ["prepared"]


@pytest.fixture
def phantom_set(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    write_series(raw, 3)
    data = tmp_path / "data"
    ctpatch.prepare_dicom(raw, data, "ct", split=["train=1"], key=tmp_path / "key", new_key=True)
    ctpatch.build(data / "prepared/ct", ctpatch.PatchConfig(patch_size=16, stride=16))
    return data


def test_lodopab_comes_with_pairs(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    from lodopab_files import write_ground_truth, write_observation

    image = np.full((362, 362), 0.25, np.float32)
    write_ground_truth(tmp_path, "train", 0, [image] * 2, rows=2)
    (section,) = ctpatch.inspect(tmp_path).sections
    assert (section.format, section.slices, section.hu_unknown != "") == ("lodopab", 2, True)
    assert "--pairs" not in section.commands[0]
    write_observation(tmp_path, "train", 0, [np.zeros((1000, 513), np.float32)] * 2)
    (section,) = ctpatch.inspect(tmp_path).sections
    assert section.commands[0].startswith("ctpatch prepare lodopab ")
    assert "--pairs" in section.commands[0]


def test_tables_fit_80_columns_and_long_lists_are_cut(tmp_path: Path) -> None:
    for number in range(23):
        write_ct(
            tmp_path / f"{number}",
            pixels_of(number),
            PatientID=f"p{number}",
            SeriesInstanceUID=f"{ROOT}{number}",
            SeriesDescription="a long description " * 3,
            ConvolutionKernel="Br40d",
        )
    found = ctpatch.inspect(tmp_path)
    lines = repr(found).splitlines()
    assert len(found.sections[0].series) == 23
    assert any("and 3 more series" in line for line in lines)
    commands = [line for line in lines if "ctpatch prepare" in line or line.startswith(str(tmp_path))]
    assert max(len(line) for line in lines if line not in commands) <= 80


def test_an_inspection_without_anything_has_a_page_too() -> None:
    assert "no CT here" in Inspection("raw", 0)._repr_html_()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("labelsTr", "mask"),
        ("masks", "mask"),
        ("segmentation.nii.gz", "mask"),
        ("full_dose", "target"),
        ("ground_truth", "target"),
        ("imagesTr", None),
        ("imaging.nii.gz", None),
        ("segmented_lung_study", None),
    ],
)
def test_roles_by_name(name: str, role: str | None) -> None:
    assert role_of(name) == role


@pytest.mark.parametrize("total", [1, 2, 3, 4, 10, 101])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_slices_are_spread_evenly(total: int, count: int) -> None:
    chosen: list[Any] = spread(range(total), count)  # type: ignore[arg-type]
    # The middles of equal shares of the series.
    shares = np.array_split(np.arange(total * 1000), min(count, total))
    assert chosen == [int(share.mean() + 0.5) // 1000 for share in shares]


def test_real_ct_of_two_kernels() -> None:
    folder = data_folder() / "lung_pet_ct_dx"
    if not folder.is_dir():
        pytest.skip("real CT is not there: CTPATCH_DATA names its folder")
    (section,) = ctpatch.inspect(folder).sections
    assert (section.patients, section.slices) == (1, 60)
    assert sorted(each.kernel for each in section.series) == ["B40f", "B70f"]
    for each in section.series:
        assert (each.slices, each.shape, each.thickness_mm, each.step_mm) == (30, (512, 512), 8.0, 8.0)
        assert (each.missing, each.plane) == (0, "axial")
        assert each.hu is not None
        assert each.hu[0] == -1024
