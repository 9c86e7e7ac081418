"""Slices chosen by plane, kernel and thickness, and what is on record of the others; multi-frame files end to end."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ctpatch.cli.app import main
from ctpatch.errors import ConfigError, CtPatchError, UsageError
from ctpatch.prepare.api import prepare_dicom, prepare_nifti
from ctpatch.prepare.pipeline import PrepareWork
from ctpatch.prepare.readers.dicom.choices import plane_of, thickness_range
from dicom_files import ROOT, unit_of, write_series
from dicom_frames import frames_dataset, save, volume

PLANES: dict[str, list[float]] = {
    "axial": [1, 0, 0, 0, 1, 0],
    "coronal": [1, 0, 0, 0, 0, -1],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "oblique": [1, 0, 0, 0, 0.70710678, -0.70710678],
}


def write_planes(root: Path, patient: str, study: str, planes: list[str], **tags: Any) -> None:
    """Three slices of each plane in one study, a series for each; 5 mm to the left, back and head from each other."""
    for number, plane in enumerate(planes):
        for place in range(3):
            write_series(
                root / patient / f"{plane}{place}",
                1,
                seed=100 * number + place,
                patient=patient,
                uid=study,
                SeriesInstanceUID=f"{ROOT}{study}.{number + 1}",
                ImageOrientationPatient=PLANES[plane],
                ImagePositionPatient=[5.0 * place] * 3,
                **tags,
            )


def prepared(tmp_path: Path, dataset: str, **options: Any) -> tuple[Counter[tuple[str, str]], int]:
    """Kinds and reasons in `left_out.csv`, and how many slices were prepared."""
    result = prepare_dicom(
        tmp_path / "raw", tmp_path / "out", dataset, split=["train=1"], key=tmp_path / "key", new_key=True, **options
    )
    left = pl.read_csv(result.folder / "left_out.csv")
    assert result.meta.num_left_out == dict(Counter(left["kind"].to_list()))
    return Counter(zip(left["kind"], left["reason"], strict=True)), result.meta.splits["train"].num_slices


def test_planes_of_directions() -> None:
    for plane, axes in PLANES.items():
        a, b, c, d, e, f = (float(each) for each in axes)
        assert plane_of((a, b, c, d, e, f)) == plane
    tilted = float(np.cos(np.radians(30))), float(np.sin(np.radians(30)))
    assert plane_of((1.0, 0.0, 0.0, 0.0, *tilted)) == "axial"
    assert plane_of(None) is None


def test_a_study_that_mixes_planes_gives_its_axial_slices(tmp_path: Path) -> None:
    write_planes(tmp_path / "raw", "mixed", "1", list(PLANES))
    write_planes(tmp_path / "raw", "coronal-alone", "2", ["coronal"])
    left, slices = prepared(tmp_path, "usual")
    assert slices == 6
    assert left == {
        ("other-plane", f"its plane is {plane}, and its study has axial slices; --planes all takes both"): 3
        for plane in ("coronal", "sagittal", "oblique")
    }
    assert prepared(tmp_path, "all", planes="all") == (Counter(), 15)


@pytest.mark.parametrize(("plane", "slices"), [("axial", 3), ("coronal", 6), ("sagittal", 3), ("oblique", 3)])
def test_one_plane_is_chosen(tmp_path: Path, plane: str, slices: int) -> None:
    write_planes(tmp_path / "raw", "mixed", "1", list(PLANES))
    write_planes(tmp_path / "raw", "coronal-alone", "2", ["coronal"])
    left, there = prepared(tmp_path, "one", planes=plane)
    assert there == slices
    assert sum(left.values()) == 15 - slices
    assert {reason for _, reason in left} == {
        f"its plane is {other}, --planes asks for {plane}" for other in PLANES if other != plane
    }


def test_a_plane_that_is_not_said_is_not_guessed(tmp_path: Path) -> None:
    write_series(tmp_path / "raw/a", 3)
    write_series(tmp_path / "raw/b", 2, patient="b", uid="2", seed=9, ImageOrientationPatient=None)
    left, slices = prepared(tmp_path, "axial", planes="axial")
    assert (slices, left) == (3, {("other-plane", "it does not say its plane, --planes asks for axial"): 2})
    assert prepared(tmp_path, "usual") == (Counter(), 5)


def test_reformats_that_are_asked_for_come_in_their_planes(tmp_path: Path) -> None:
    write_planes(tmp_path / "raw", "mixed", "1", ["axial"])
    write_planes(tmp_path / "raw", "mixed", "1", ["coronal"], ImageType=["DERIVED", "SECONDARY", "MPR"])
    left, slices = prepared(tmp_path, "usual")
    assert (slices, {kind for kind, _ in left}) == (3, {"reformat"})
    assert prepared(tmp_path, "kept", keep_reformats=True) == (Counter(), 6)
    assert prepared(tmp_path, "coronal", keep_reformats=True, planes="coronal")[1] == 3


def test_kernel_and_thickness_choose_and_what_they_leave_out_is_on_record(tmp_path: Path) -> None:
    for number, (kernel, thickness) in enumerate(
        [("B40f", 1.0), ("B70f", 1.0), ("B41s", 3.0), ("B40f", 5.0), (None, 1.0), ("B40f", None)]
    ):
        write_series(
            tmp_path / f"raw/{number}", 2, seed=10 * number, uid=f"{number + 1}",
            ConvolutionKernel=kernel, SliceThickness=thickness,
        )  # fmt: skip
    left, slices = prepared(tmp_path, "both", kernel="b4*", thickness="1..3")
    assert slices == 4
    assert left == {
        ("other-kernel", "its ConvolutionKernel does not fit the pattern of --kernel"): 2,
        ("other-kernel", "it does not say its ConvolutionKernel, by which --kernel chooses"): 2,
        ("other-thickness", "its SliceThickness is 5 mm, --thickness asks for 1..3 mm"): 2,
        ("other-thickness", "it does not say its SliceThickness, by which --thickness chooses"): 2,
    }
    with pytest.raises(
        UsageError,
        match=r"no kernel fits --kernel 'Br4\.'; kernels that are there: 'B40f'; 'B41s'; 'B70f'; 'none said'",
    ):
        prepared(tmp_path, "none", kernel="Br4.")
    with pytest.raises(CtPatchError, match=r"other-thickness .*--thickness asks for 8\.\.9 mm"):
        prepared(tmp_path, "thick", thickness="8..9")


def test_what_was_asked_for_is_on_record(tmp_path: Path) -> None:
    write_series(tmp_path / "raw", 3, ConvolutionKernel="B40f", SliceThickness=2)
    words = ["prepare", "dicom", f"{tmp_path}/raw", "--out", f"{tmp_path}/out", "--key", f"{tmp_path}/key", "--new-key"]
    chosen = ["--planes", "axial", "--kernel", "B40f", "--thickness", "0..3"]
    assert main([*words, "--dataset", "d", "--split", "train=1", *chosen]) == 0
    options = json.loads((tmp_path / "out/prepared/d/prepare_meta.json").read_text())["options"]
    assert {name: options[name] for name in ("planes", "kernel", "thickness")} == {
        "planes": "axial",
        "kernel": "B40f",
        "thickness": "0..3",
    }


@pytest.mark.parametrize("text", ["", "3", "3..1", "..3", "0..", "-1..3", "a..b", "0..3mm", "nan..3", "0..1e9"])
def test_a_thickness_that_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"thickness: .*wanted the least and the most millimetres, such as '0\.\.3'"):
        thickness_range(text)


def test_formats_that_say_no_kernel_refuse_to_choose_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="kernel is an option of dicom alone"):
        prepare_nifti(tmp_path, tmp_path / "out", "d", kernel="B40f")  # type: ignore[call-arg]
    words = ["prepare", "nifti", str(tmp_path), "--out", str(tmp_path), "--dataset", "d"]
    for option in ("--kernel", "--thickness", "--planes"):
        assert main([*words, option, "x"]) == 2
        assert f"{option} is an option of ctpatch prepare dicom alone" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="planes: 'axiall', wanted one of axial, coronal"):
        prepare_dicom(tmp_path, tmp_path / "out", "d", planes="axiall")  # type: ignore[arg-type]


def test_a_file_of_frames_is_prepared_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More frames than a part holds: prepared by value; cut off with a slice lost, it ends with the same bytes."""
    images, per_frame = volume(40)
    save(frames_dataset(images, per_frame), tmp_path / "raw/a")

    def fail(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PrepareWork, "finish", fail)
        with pytest.raises(KeyboardInterrupt):
            prepared(tmp_path, "d")
    spoiled = tmp_path / "out/prepared/d/train/train_000035.npy"
    before = spoiled.read_bytes()
    spoiled.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    _, slices = prepared(tmp_path, "d")
    assert slices == 40
    (manifest,) = (tmp_path / "out").rglob("*train*.csv")
    rows = pl.read_csv(manifest).sort("position_mm")
    arrays = [tmp_path / "out" / path for path in rows["path"]]
    for path, image in zip(arrays, reversed(images), strict=True):
        np.testing.assert_array_equal(np.load(path), unit_of(image))
    assert rows["position_mm"].to_list() == [2.0 * (number + 1) for number in range(40)]
    assert spoiled.read_bytes() == before
