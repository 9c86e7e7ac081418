"""MetaImage volumes to axial slices: every way to keep the voxels, and headers that lie."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import Scan
from ctpatch.prepare.readers.metaimage.reader import MetaimageReader
from helpers import Image, csv_rows
from volume_files import met_header, write_mha, write_mhd

VOLUME = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 6)).astype(np.int16)
SPACING = (0.7, 0.9, 2.5)


def scan(root: Path) -> Scan:
    return MetaimageReader().scan(root, lambda _: None)


def read_all(root: Path) -> list[Image]:
    found = scan(root)
    assert found.left_out == []
    return list(MetaimageReader().read(root, found.slices))


def refused(root: Path) -> str:
    """The reason why the one header is refused, and nothing read."""
    found = scan(root)
    assert not found.slices
    (left,) = [each for each in found.left_out if each.fault]
    assert left.kind == "damaged"
    assert left.where not in left.reason
    return left.reason


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "my.key"
    path.write_bytes(b"0123456789abcdef" * 4)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "<u2", ">i4", "<f4", ">f8"])
def test_types_and_byte_orders(tmp_path: Path, dtype: str) -> None:
    volume = (VOLUME % 100).astype(dtype)
    write_mhd(tmp_path / "v.mhd", volume, SPACING)
    np.testing.assert_array_equal(read_all(tmp_path), volume.astype(np.float32))


def test_voxels_in_many_files(tmp_path: Path) -> None:
    for folder, said in (("list", "LIST"), ("pattern", "s%02d.raw 9 12 1")):
        (tmp_path / folder).mkdir()
        for number, plane in enumerate(VOLUME, 9):
            (tmp_path / folder / f"s{number:02}.raw").write_bytes(plane.tobytes())
        header = met_header(VOLUME, SPACING, said)
        names = "".join(f"s{number:02}.raw\n" for number in range(9, 13)) if said == "LIST" else ""
        (tmp_path / folder / "v.mhd").write_bytes(header + names.encode())
    found = scan(tmp_path)
    assert found.left_out == []
    assert [each.beside for each in found.slices[:4]] == [(f"list/s{number:02}.raw",) for number in range(9, 13)]
    np.testing.assert_array_equal(read_all(tmp_path), [*VOLUME, *VOLUME])
    # Across the slices of the file every one of its files is read for each slice.
    turned = met_header(VOLUME, SPACING, "LIST", TransformMatrix="0 0 1 0 1 0 1 0 0")
    (tmp_path / "list/v.mhd").write_bytes(turned + "".join(f"s{number:02}.raw\n" for number in range(9, 13)).encode())
    found = scan(tmp_path / "list")
    assert {len(each.beside) for each in found.slices} == {4}
    np.testing.assert_array_equal(read_all(tmp_path / "list"), VOLUME.transpose(2, 1, 0))


def test_voxels_after_other_bytes(tmp_path: Path) -> None:
    for folder, skipped in (("skip", 7), ("end", -1)):
        write_mhd(tmp_path / folder / "v.mhd", VOLUME, SPACING, HeaderSize=skipped)
        raw = tmp_path / folder / "v.raw"
        raw.write_bytes(bytes(range(7)) + raw.read_bytes())
    np.testing.assert_array_equal(read_all(tmp_path), [*VOLUME, *VOLUME])


def test_four_dimensions_are_volumes_and_two_are_a_slice(tmp_path: Path) -> None:
    write_mha(tmp_path / "4.mha", np.stack([VOLUME, VOLUME + 1]), (*SPACING, 1.0))
    write_mha(tmp_path / "2.mha", VOLUME[0], SPACING[:2])
    found = scan(tmp_path)
    assert [each.series for each in found.slices] == ["2.mha", *["4.mha#0"] * 4, *["4.mha#1"] * 4]
    assert [each.position_mm for each in found.slices] == [None, *[0, 2.5, 5, 7.5] * 2]
    np.testing.assert_array_equal(read_all(tmp_path), [VOLUME[0], *VOLUME, *(VOLUME + 1)])


def test_a_header_without_a_matrix_is_reported(tmp_path: Path) -> None:
    write_mha(tmp_path / "v.mha", VOLUME, SPACING, TransformMatrix=None, Offset=None)
    (note,) = scan(tmp_path).notes
    assert not isinstance(note, str)
    assert (note.kind, note.series) == ("no-orientation", "v.mha")
    np.testing.assert_array_equal(read_all(tmp_path), VOLUME)


def test_luna16_is_known_by_its_names(tmp_path: Path, key: Path) -> None:
    one, two = (f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{number}" for number in (1001, 2002))
    for name in (f"subset0/{one}", f"subset0/{two}", "other/1.2.3.4.5.6.7", "other/scan"):
        write_mhd(tmp_path / f"raw/{name}.mhd", VOLUME, SPACING, f"{name.rpartition('/')[2]}.raw")
        write_mhd(tmp_path / f"lungs/{name.rpartition('/')[2]}.mhd", VOLUME, SPACING, "v.raw")
    groups = {each.file: (each.group, each.group_kind, each.series) for each in scan(tmp_path / "raw").slices}
    assert groups == {
        f"subset0/{one}.mhd": (one, "series", one),
        f"subset0/{two}.mhd": (two, "series", two),
        "other/1.2.3.4.5.6.7.mhd": ("other", "folder", "other/1.2.3.4.5.6.7.mhd"),
        "other/scan.mhd": ("other", "folder", "other/scan.mhd"),
    }
    # The lungs have a folder of their own: the same series there are the same groups.
    lungs = {each.group for each in scan(tmp_path / "lungs").slices}
    assert {one, two} < lungs
    options: dict[str, Any] = {"split": ["train=1"], "key": key, "match_by": "position"}
    done = ctpatch.prepare_metaimage(
        tmp_path / "raw/subset0", tmp_path / "data", "set", mask=tmp_path / "lungs", **options
    )
    assert done.meta.splits["train"].num_slices == 8
    # One series under two paths of a tree stays two stacks.
    write_mha(tmp_path / f"raw/seg-lungs-LUNA16/{one}.mha", VOLUME, SPACING)
    twice = {each.series for each in scan(tmp_path / "raw").slices if each.group == one}
    assert twice == {f"subset0/{one}.mhd", f"seg-lungs-LUNA16/{one}.mha"}


def test_masks_and_pairs(tmp_path: Path, key: Path) -> None:
    for case in ("a", "b"):
        write_mha(tmp_path / f"ct/{case}_0000.mha", VOLUME, SPACING)
        write_mha(tmp_path / f"labels/{case}.mha", (VOLUME > 0).astype(np.uint8), SPACING)
    options: dict[str, Any] = {"split": ["train=1"], "key": key}
    done = ctpatch.prepare_metaimage(tmp_path / "ct", tmp_path / "data", "set", mask=tmp_path / "labels", **options)
    assert done.meta.arrays == {"image": "float32", "mask": "int16"}
    rows = csv_rows(done.folder / "train/train_manifest.csv")
    assert len(rows) == 8
    for row, plane in zip(rows, [*VOLUME, *VOLUME], strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["mask_path"]), plane > 0)
        wanted = np.clip((plane.astype(np.float64) + 1024) / 4096, 0, 1).astype(np.float32)
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["path"]), wanted)


def test_another_file_of_voxels_is_noticed(tmp_path: Path, key: Path) -> None:
    write_mhd(tmp_path / "raw/v.mhd", VOLUME, SPACING)
    options: dict[str, Any] = {"split": ["train=1"], "key": key}
    first = ctpatch.prepare_metaimage(tmp_path / "raw", tmp_path / "data", "set", **options)
    assert ctpatch.prepare_metaimage(tmp_path / "raw", tmp_path / "data", "set", **options).outcome == "complete"
    (tmp_path / "raw/v.raw").write_bytes((VOLUME + 1).tobytes())
    later = (first.folder / "prepare_meta.json").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "raw/v.raw", ns=(later, later))
    with pytest.raises(ctpatch.CtPatchError, match="has changed since it was prepared"):
        ctpatch.prepare_metaimage(tmp_path / "raw", tmp_path / "data", "set", **options)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "giant": ({"DimSize": "99999 99999 99999"}, "wanted at most"),
    "more": ({"DimSize": "6 5 5"}, "for voxels, its header promises 300"),
    "fewer": ({"DimSize": "6 5 3"}, "for voxels, its header promises 180"),
    "negative": ({"DimSize": "6 -5 4"}, "6 x -5 x 4 voxels"),
    "no numbers": ({"DimSize": "6 5 four"}, "wanted 3 whole numbers"),
    "underscore": ({"DimSize": "6 5 0_4"}, "wanted 3 whole numbers"),
    "five": ({"NDims": 5}, "5 dimensions"),
    "nan spacing": ({"ElementSpacing": "0.7 nan 2.5"}, "wanted 3 numbers"),
    "endless spacing": ({"ElementSpacing": "0.7 1e999 2.5"}, "wanted 3 numbers"),
    "no spacing": ({"ElementSpacing": None}, "add ElementSpacing"),
    "spacing 0": ({"ElementSpacing": "0 1 1"}, "wanted millimetres above 0"),
    "far apart": ({"ElementSpacing": "1 1 1e9"}, "has voxels of"),
    "nan matrix": ({"TransformMatrix": "nan 0 0 0 1 0 0 0 1"}, "wanted 9 numbers"),
    "flat": ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "lie in one plane"),
    "stretched": ({"TransformMatrix": "2 0 0 0 1 0 0 0 1"}, "axes of length 2 x 1 x 1"),
    "offset": ({"Offset": "1 2"}, "wanted 3 numbers"),
    "type": ({"ElementType": "MET_STRING"}, "wanted one of MET_CHAR"),
    "vectors": ({"ElementNumberOfChannels": 3}, "3 values a voxel"),
    "text": ({"BinaryData": False}, "as text"),
    "scaled": ({"ElementToIntensityFunctionSlope": 2}, "some programs apply"),
    "no flag": ({"CompressedData": "maybe"}, "wanted True or False"),
    "two names": ({"Position": "1 1 1"}, "its Offset twice"),
    "packed": ({"CompressedData": True, "CompressedDataSize": 7}, "its header promises 7"),
    "skipped": ({"HeaderSize": 3}, "for voxels that follow the header"),
    "tube": ({"ObjectType": "Tube"}, "wanted Image"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers_are_refused_and_named(tmp_path: Path, lie: str) -> None:
    fields, said = LIES[lie]
    write_mha(tmp_path / "v.mha", VOLUME, SPACING, **fields)
    assert said in refused(tmp_path)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("/etc/hostname", "is absolute"),
        ("C:\\voxels.raw", "is absolute"),
        ("../secret.raw", "leads to a folder above"),
        ("deep/../../secret.raw", "leads to a folder above"),
        ("..\\secret.raw", "leads to a folder above"),
        ("%s.raw 1 4 1", "cannot be read"),
        ("s%d%d.raw 1 4 1", "by a pattern that is none"),
        ("s%02d.raw 1 4 0", "by a pattern that is none"),
        ("s%d.raw 1 900000000 1", "more than 100000 files"),
        ("missing.raw", "cannot be read"),
        ("link.raw", "leads out of the source folder"),
        ("", "is no plain path"),
    ],
)
def test_headers_that_point_elsewhere_are_refused(tmp_path: Path, file: str, said: str) -> None:
    root = tmp_path / "raw"
    root.mkdir()
    (tmp_path / "secret.raw").write_bytes(VOLUME.tobytes())
    (root / "link.raw").symlink_to(tmp_path / "secret.raw")
    (root / "v.mhd").write_bytes(met_header(VOLUME, SPACING, file))
    reason = refused(root)
    assert said in reason
    assert "secret" not in reason


def test_a_list_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.mhd").write_bytes(met_header(VOLUME, SPACING, "LIST") + b"a.raw\n../b.raw\n")
    assert "leads to a folder above" in refused(tmp_path)
    (tmp_path / "v.mhd").write_bytes(met_header(VOLUME, SPACING, "LIST") + b"a.raw\n" * 100_002)
    assert "lists more than 100000 files" in refused(tmp_path)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes")
    os.mkfifo(tmp_path / "v.raw")
    (tmp_path / "v.mhd").write_bytes(met_header(VOLUME, SPACING, "v.raw"))
    assert "is not a regular file" in refused(tmp_path)


def test_compressed_voxels_that_end_early_or_go_on_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mha"
    header = met_header(VOLUME, SPACING, CompressedData=True)
    for content, said in (
        (zlib.compress(VOLUME.tobytes() + bytes(2**20)), "goes on after the last voxel"),
        (zlib.compress(VOLUME.tobytes()[:-2]), "ends early"),
        (zlib.compress(VOLUME.tobytes())[:-1], "end early or are wrong"),
        (zlib.compress(VOLUME.tobytes()) + b"more", "end early or are wrong"),
        (VOLUME.tobytes(), "end early or are wrong"),
    ):
        path.write_bytes(header + content)
        with pytest.raises(SliceError, match=rf"^v\.mha .*{said}"):
            read_all(tmp_path)
    path.write_bytes(met_header(VOLUME, SPACING, CompressedData=True, DimSize="4000 4000 4000") + zlib.compress(b""))
    assert "which cannot be in them" in refused(tmp_path)


def test_headers_of_other_kinds_and_long_ones(tmp_path: Path) -> None:
    path = tmp_path / "v.mhd"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    assert "run git lfs pull" in refused(tmp_path)
    path.write_bytes(b"ObjectType = Image\n" + b"Comment = x\n" * 10_000)
    assert "header of more than" in refused(tmp_path)
    path.write_bytes(b"ObjectType = Image\nPatient Ann\n")
    reason = refused(tmp_path)
    assert "not 'name = value'" in reason
    assert "Ann" not in reason


def test_the_command_line_prepares_it(tmp_path: Path, key: Path) -> None:
    from ctpatch.cli.app import main

    write_mhd(tmp_path / "raw/v.mhd", VOLUME, SPACING)
    words = ["prepare", "metaimage", str(tmp_path / "raw"), "--out", str(tmp_path / "data"), "--dataset", "set"]
    assert main([*words, "--split", "train=1", "--key", str(key), "--group-by", "file"]) == 0
    meta = json.loads((tmp_path / "data/prepared/set/prepare_meta.json").read_bytes())
    assert (meta["source"], meta["options"]["group_by"]) == ("metaimage", "file")
