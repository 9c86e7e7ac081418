"""NRRD volumes to axial slices: every way to keep the voxels, held against pynrrd, and headers that lie."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import Scan, SeriesNote
from ctpatch.prepare.readers.nrrd import fields
from ctpatch.prepare.readers.nrrd.reader import NrrdReader
from helpers import Image, csv_rows
from volume_files import nrrd_header, write_nhdr, write_nrrd

VOLUME = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 6)).astype(np.int16)
SPACING = (0.7, 0.9, 2.5)


def scan(root: Path) -> Scan:
    return NrrdReader().scan(root, lambda _: None)


def read_all(root: Path) -> list[Image]:
    found = scan(root)
    assert found.left_out == []
    return list(NrrdReader().read(root, found.slices))


def notes(root: Path) -> list[str]:
    return [note.kind for note in scan(root).notes if isinstance(note, SeriesNote)]


def refused(root: Path) -> str:
    """The reason why the one header is refused, and nothing read."""
    found = scan(root)
    assert not found.slices
    (left,) = [each for each in found.left_out if each.fault]
    assert left.kind == "damaged"
    assert left.where not in left.reason
    return left.reason


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
def test_files_of_pynrrd(tmp_path: Path, encoding: str, detached: bool) -> None:
    nrrd = pytest.importorskip("nrrd", reason="pynrrd is not installed")
    header = {
        "encoding": encoding,
        "space": "right-anterior-superior",
        "space directions": np.diag([0.7, -0.9, 2.5]),
        "space origin": [1.0, 2.0, 3.0],
        "kinds": ["domain", "domain", "domain"],
        "Patient Name": "a key of a program",
    }
    path = tmp_path / ("v.nhdr" if detached else "v.nrrd")
    nrrd.write(str(path), VOLUME, header, index_order="C")
    values, _ = nrrd.read(str(path), index_order="C")
    found = scan(tmp_path)
    assert [each.position_mm for each in found.slices] == [3, 5.5, 8, 10.5]
    assert {each.origin_mm and each.origin_mm[:2] for each in found.slices} == {(-1 - 5 * 0.7, -2.0)}
    # x runs to the right and y to the back: columns are turned, rows are not.
    np.testing.assert_array_equal(read_all(tmp_path), values[:, :, ::-1])


@pytest.mark.parametrize("space", ["left-posterior-superior", "RAS", "left-anterior-superior", "LAS", "lps"])
def test_spaces(tmp_path: Path, space: str) -> None:
    write_nrrd(tmp_path / "v.nrrd", VOLUME, SPACING, space=space)
    right = space == "RAS"
    front = space not in {"left-posterior-superior", "lps"}
    wanted = VOLUME[:, :: -1 if front else 1, :: -1 if right else 1]
    np.testing.assert_array_equal(read_all(tmp_path), wanted)
    assert notes(tmp_path) == []


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "<u2", ">i4", "<f4", ">f8"])
def test_types_and_byte_orders(tmp_path: Path, dtype: str) -> None:
    volume = (VOLUME % 100).astype(dtype)
    write_nhdr(tmp_path / "v.nhdr", volume, SPACING)
    np.testing.assert_array_equal(read_all(tmp_path), volume.astype(np.float32))


def test_voxels_in_many_files(tmp_path: Path) -> None:
    names = [f"s{number}.raw" for number in range(4)]
    for folder, said in (
        ("list", "LIST\n" + "\n".join(names)),
        ("pattern", "s%d.raw 0 3 1"),
        ("back", "s%d.raw 3 0 -1"),
    ):
        (tmp_path / folder).mkdir()
        header = nrrd_header(VOLUME, SPACING, data_file=said)
        (tmp_path / folder / "v.nhdr").write_bytes(header)
        for name, plane in zip(names, VOLUME, strict=True):
            (tmp_path / folder / name).write_bytes(plane.tobytes())
    np.testing.assert_array_equal(read_all(tmp_path), [*VOLUME[::-1], *VOLUME, *VOLUME])
    assert [each.beside for each in scan(tmp_path / "back").slices] == [(name,) for name in reversed(names)]


def test_voxels_after_other_bytes(tmp_path: Path) -> None:
    for folder, skipped in (("skip", 7), ("end", -1)):
        write_nhdr(tmp_path / folder / "v.nhdr", VOLUME, SPACING, byte_skip=skipped)
        raw = tmp_path / folder / "v.raw"
        raw.write_bytes(bytes(range(7)) + raw.read_bytes())
    np.testing.assert_array_equal(read_all(tmp_path), [*VOLUME, *VOLUME])


def test_axes_that_are_not_in_space(tmp_path: Path) -> None:
    two = np.stack([VOLUME, VOLUME + 1])
    steps = "(0.7,0,0) (0,0.9,0) (0,0,2.5) none"
    more: dict[str, Any] = {"space_directions": steps, "space_origin": "(0,0,0)", "kinds": "domain domain domain list"}
    write_nrrd(tmp_path / "4/v.nrrd", two, (*SPACING, 1), **more)
    assert {each.series for each in scan(tmp_path / "4").slices} == {"v.nrrd#0", "v.nrrd#1"}
    np.testing.assert_array_equal(read_all(tmp_path / "4"), [*VOLUME, *(VOLUME + 1)])
    colours = np.repeat(VOLUME[..., None], 3, axis=3)
    steps = f"none {steps.removesuffix(' none')}"
    write_nrrd(tmp_path / "colours/v.nrrd", colours, (1, *SPACING), space_directions=steps, space_origin=None)
    assert "several for each voxel" in refused(tmp_path / "colours")


def test_headers_that_do_not_say_how_the_patient_lies(tmp_path: Path) -> None:
    more: dict[str, Any] = {"space": None, "space_directions": None, "space_origin": None}
    write_nrrd(tmp_path / "plain/v.nrrd", VOLUME, SPACING, spacings="0.7 0.9 2.5", **more)
    write_nrrd(tmp_path / "scanner/v.nrrd", VOLUME, SPACING, space="scanner-xyz")
    write_nrrd(tmp_path / "flat/v.nrrd", VOLUME[0], SPACING[:2], spacings="0.7 0.9", **more)
    for folder in ("plain", "scanner"):
        assert notes(tmp_path / folder) == ["no-orientation"]
        assert {each.spacing_mm for each in scan(tmp_path / folder).slices} == {(0.9, 0.7)}
        np.testing.assert_array_equal(read_all(tmp_path / folder), VOLUME)
    assert [(each.position_mm, each.origin_mm) for each in scan(tmp_path / "flat").slices] == [(None, None)]
    np.testing.assert_array_equal(read_all(tmp_path / "flat"), VOLUME[:1])


def test_units_of_length(tmp_path: Path) -> None:
    write_nrrd(tmp_path / "v.nrrd", VOLUME, (0.07, 0.09, 0.25), space_units='"cm" "cm" "cm"')
    assert [each.position_mm for each in scan(tmp_path).slices] == pytest.approx([0, 2.5, 5, 7.5])
    write_nrrd(tmp_path / "v.nrrd", VOLUME, SPACING, space_units='"inch" "inch" "inch"')
    assert "lengths in 'inch', wanted mm" in refused(tmp_path)


def test_masks(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef" * 4)
    write_nrrd(tmp_path / "ct/case_0000.nrrd", VOLUME, SPACING, "gzip")
    write_nrrd(tmp_path / "labels/case.nrrd", (VOLUME > 0).astype(np.uint8), SPACING)
    options: dict[str, Any] = {"split": ["train=1"], "key": tmp_path / "key", "mask": tmp_path / "labels"}
    done = ctpatch.prepare_nrrd(tmp_path / "ct", tmp_path / "data", "set", **options)
    rows = csv_rows(done.folder / "train/train_manifest.csv")
    for row, plane in zip(rows, VOLUME, strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["mask_path"]), plane > 0)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "giant": ({"sizes": "99999 99999 99999"}, "wanted at most"),
    "more": ({"sizes": "6 5 5"}, "its header promises 300"),
    "fewer": ({"sizes": "6 5 3"}, "its header promises 180"),
    "negative": ({"sizes": "6 -5 4"}, "6 x -5 x 4 voxels"),
    "huge number": ({"sizes": f"6 5 {10**30}"}, "wanted 3 whole numbers"),
    "dimension": ({"dimension": 99}, "99 dimensions"),
    "type": ({"type": "block"}, "its type is 'block'"),
    "endian": ({"endian": None}, "wanted little or big"),
    "encoding": ({"encoding": "hex"}, "its encoding is 'hex'"),
    "nan": ({"space_directions": "(nan,0,0) (0,1,0) (0,0,1)"}, "wanted numbers"),
    "origin": ({"space_origin": "(0,inf,0)"}, "wanted numbers"),
    "flat": ({"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}, "lie in one plane"),
    "zero": ({"space_directions": "(0,0,0) (0,1,0) (0,0,1)"}, "has voxels of"),
    "two vectors": ({"space_directions": "(1,0,0) (0,1,0)"}, "wanted 3 vectors"),
    "words": ({"space_directions": "(1,0,0) (0,1,0) (0,0,1) x"}, "wanted 3 vectors"),
    "nowhere": ({"space_directions": None}, "add spacings or space directions"),
    "no space": ({"space_directions": "none none none"}, "with 0 axes in space"),
    "skip": ({"byte_skip": 3}, "skips bytes between"),
    "lines": ({"line_skip": 1}, "skips lines"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers_are_refused_and_named(tmp_path: Path, lie: str) -> None:
    changed, said = LIES[lie]
    write_nrrd(tmp_path / "v.nrrd", VOLUME, SPACING, **changed)
    assert said in refused(tmp_path)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("/etc/hostname", "is absolute"),
        ("../secret.raw", "leads to a folder above"),
        ("deep\\..\\..\\secret.raw", "leads to a folder above"),
        ("LIST\na.raw\n../secret.raw", "leads to a folder above"),
        ("LIST", "lists no files"),
        ("missing.raw", "cannot be read"),
        ("link.raw", "leads out of the source folder"),
        ("s%d.raw 1 7 1", "over 7 files"),
    ],
)
def test_headers_that_point_elsewhere_are_refused(tmp_path: Path, file: str, said: str) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    (tmp_path / "secret.raw").write_bytes(VOLUME.tobytes())
    (root / "link.raw").symlink_to(tmp_path / "secret.raw")
    (root / "v.nhdr").write_bytes(nrrd_header(VOLUME, SPACING, data_file=file))
    reason = refused(root)
    assert said in reason
    assert "secret" not in reason


def test_compressed_voxels_that_end_early_or_go_on_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.nrrd"
    header = nrrd_header(VOLUME, SPACING, encoding="gzip")
    for content, said in (
        (gzip.compress(VOLUME.tobytes() + bytes(2**20)), "goes on after the last voxel"),
        (gzip.compress(VOLUME.tobytes()[:-2]), "ends early"),
        (gzip.compress(VOLUME.tobytes())[:-9], "end early or are wrong"),
        (VOLUME.tobytes(), "end early or are wrong"),
    ):
        path.write_bytes(header + content)
        with pytest.raises(SliceError, match=rf"^v\.nrrd .*{said}"):
            read_all(tmp_path)
    write_nrrd(path, VOLUME, SPACING, "bzip2")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SliceError, match=r"^v\.nrrd is damaged"):
        read_all(tmp_path)
    path.write_bytes(nrrd_header(VOLUME, SPACING, encoding="bzip2") + b"BZh9 none")
    with pytest.raises(SliceError, match=r"^v\.nrrd is damaged: its compressed data"):
        read_all(tmp_path)
    path.write_bytes(nrrd_header(VOLUME, SPACING, encoding="gzip", sizes="4000 4000 4000") + gzip.compress(b""))
    assert "which cannot be in them" in refused(tmp_path)


def test_headers_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "HEADER_BYTES", 2**17)
    path = tmp_path / "v.nrrd"
    path.write_bytes(b"NRRD0004\ntype: short\n")
    assert "ends within its header" in refused(tmp_path)
    path.write_bytes(b"NRRD0009\ntype: short\n\n")
    assert "a version that is not known" in refused(tmp_path)
    path.write_bytes(b"NRRD0004\nsizes: 1\nsizes: 2\n\n")
    assert "its sizes twice" in refused(tmp_path)
    path.write_bytes(b"NRRD0004\nPatient Ann\n\n")
    assert "without a colon" in refused(tmp_path)
    assert "Ann" not in refused(tmp_path)
    path.write_bytes(b"NRRD0004\nsizes:" + b" 1" * 10_000 + b"\n\n")
    assert "signs in its sizes" in refused(tmp_path)
    path.write_bytes(b"NRRD0004\n" + b"# comment\n" * (2**17 // 10 + 1))
    assert "a header of 131072 bytes or more" in refused(tmp_path)
