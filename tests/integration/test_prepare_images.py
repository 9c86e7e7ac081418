"""Stacks of TIFF and PNG pictures to slices in HU, by the mapping that is stated."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from PIL import Image as Pictures

import ctpatch
from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.base import Scan, SeriesNote
from ctpatch.prepare.readers.images.reader import ImagesReader
from helpers import Image, csv_rows

HU = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 6)).astype(np.int16)


def scan(root: Path, reader: ImagesReader) -> Scan:
    return reader.scan(root, lambda _: None)


def read_all(root: Path, reader: ImagesReader) -> list[Image]:
    found = scan(root, reader)
    assert found.left_out == []
    return list(reader.read(root, found.slices))


def save(path: Path, *pages: Any, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *more = [Pictures.fromarray(page) for page in pages]
    if more:
        options |= {"save_all": True, "append_images": more}
    first.save(path, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, palette: bytes = b"") -> bytes:
    """A PNG written byte by byte."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    plte = png_chunk(b"PLTE", palette) if palette else b""
    return b"\x89PNG\r\n\x1a\n" + head + plte + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", ["u2", "i4", "f4"])
def test_pages_of_tiff(tmp_path: Path, dtype: str, compression: str | None) -> None:
    stored = (HU.astype(np.int32) + 1024).astype(dtype)
    save(tmp_path / "v.tif", *stored, compression=compression)
    reader = ImagesReader(2.0, -2048.0, slice_spacing=2.5)
    np.testing.assert_array_equal(read_all(tmp_path, reader), 2 * HU.astype(np.float32))
    found = scan(tmp_path, reader).slices
    assert [(each.series, each.item, each.position_mm) for each in found] == [
        ("v.tif", number, 2.5 * number) for number in range(4)
    ]


@pytest.mark.parametrize("stored", ["<u2", ">u2", "<i2", ">i2", "<u4", "<i4", ">i4", "<f4", ">f4"])
def test_files_of_tifffile(tmp_path: Path, stored: str) -> None:
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    order: Any = stored[0]
    dtype = stored[1:]
    values = (np.abs(HU) if dtype[0] == "u" else HU).astype(dtype)
    if dtype == "u4":
        values += np.uint32(2**31)
    tifffile.imwrite(tmp_path / "v.tif", values, photometric="minisblack", byteorder=order)
    np.testing.assert_array_equal(read_all(tmp_path, ImagesReader(1.0, 0.0)), values.astype(np.float32))


def test_deeplesion_is_known_by_its_names(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef" * 4)
    root = tmp_path / "Images_png"
    for folder in ("000001_01_01", "000001_02_01", "000007_01_03"):
        for number, plane in zip((9, 10, 103), HU, strict=False):
            save(root / folder / f"{number:03}.png", (plane.astype(np.int32) + 32768).astype(np.uint16))
    options: dict[str, Any] = {"split": ["train=1"], "key": tmp_path / "key"}
    done = ctpatch.prepare_images(root, tmp_path / "data", "set", hu_preset="deeplesion", **options)
    rows = csv_rows(done.folder / "train/train_manifest.csv")
    assert len({row["patient_id"] for row in rows}) == 2
    assert len({row["series"] for row in rows}) == 3
    wanted = np.clip((HU[:3].astype(np.float64) + 1024) / 4096, 0, 1).astype(np.float32)
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["path"]), wanted[number % 3])
    assert done.meta.options["hu_intercept"] == -32768
    # One series alone, given as the source, is of the same patient.
    (one,) = {each.group for each in scan(root / "000007_01_03", ImagesReader(1.0, 0.0)).slices}
    assert one == "000007"


def test_pictures_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    stored = (HU.astype(np.int32) + 1024).astype(np.uint16)
    for number, plane in zip((2, 9, 10, 12), stored, strict=True):
        save(tmp_path / f"a/slice{number}.png", plane)
    reader = ImagesReader(1.0, -1024.0, pixel_spacing=(0.9, 0.7), slice_spacing=3.0)
    np.testing.assert_array_equal(read_all(tmp_path, reader), HU)
    found = scan(tmp_path, reader).slices
    assert [each.position_mm for each in found] == [6, 27, 30, 36]
    assert {each.spacing_mm for each in found} == {(0.9, 0.7)}
    save(tmp_path / "a/last.png", stored[0])
    found_again = scan(tmp_path, reader)
    assert {each.position_mm for each in found_again.slices} == {None}
    assert [note.kind for note in found_again.notes if isinstance(note, SeriesNote)] == ["no-positions"]


def test_groups(tmp_path: Path) -> None:
    plane = HU[0].astype(np.uint16)
    for name in ("ann/s1/1.png", "ann/s2/1.png", "sub-07/1.png", "1.png", "bob/v.tif"):
        save(tmp_path / name, *([plane, plane] if name.endswith("tif") else [plane]))

    def groups(group_by: Any) -> dict[str, tuple[str, str]]:
        found = scan(tmp_path, ImagesReader(1.0, 0.0, group_by)).slices
        return {each.file: (each.group, each.group_kind) for each in found}

    usual = {
        "ann/s1/1.png": ("ann/s1", "folder"),
        "ann/s2/1.png": ("ann/s2", "folder"),
        "sub-07/1.png": ("sub-07", "patient"),
        "1.png": (".", "folder"),
        "bob/v.tif": ("bob", "folder"),
    }
    assert groups("folder") == usual
    assert groups("file") == usual | {"bob/v.tif": ("bob/v.tif", "file")}
    tops = {"ann/s1/1.png": ("ann", "folder"), "ann/s2/1.png": ("ann", "folder")}
    assert groups("top-folder") == usual | tops
    said = [note for note in scan(tmp_path, ImagesReader(1.0, 0.0)).notes if isinstance(note, str)]
    assert len(said) == 1
    assert said[0].startswith("2 folders of pictures lie in other folders")


def test_masks_keep_their_numbers_whatever_the_picture(tmp_path: Path) -> None:
    labels = (np.arange(30).reshape(5, 6) % 4).astype(np.uint8)
    listed = Pictures.fromarray(labels)
    listed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    listed.save(tmp_path / "palette.png")  # Pillow packs four numbers to a byte
    save(tmp_path / "grey.png", labels)
    save(tmp_path / "wide.png", labels.astype(np.uint16))
    save(tmp_path / "grey.tif", labels)
    reader = ImagesReader(1.0, 0.0, labels=True)
    for image in read_all(tmp_path, reader):
        np.testing.assert_array_equal(image, labels)
    (tmp_path / "bits.png").write_bytes(png(2, 1, 4, 0, b"\0\x12"))
    (left,) = scan(tmp_path, reader).left_out
    assert "4 bits a pixel" in left.reason
    for path in tmp_path.iterdir():
        path.unlink()
    save(tmp_path / "two.png", labels > 1)
    np.testing.assert_array_equal(read_all(tmp_path, reader), [labels > 1])


def test_masks_are_paired_by_path(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef" * 4)
    save(tmp_path / "ct/a/v.tif", *(HU.astype(np.int32) + 1024).astype(np.uint16))
    save(tmp_path / "labels/a/v.tif", *(HU > 0).astype(np.uint8))
    options: dict[str, Any] = {"split": ["train=1"], "key": tmp_path / "key", "mask": tmp_path / "labels"}
    done = ctpatch.prepare_images(tmp_path / "ct", tmp_path / "data", "set", hu_intercept=-1024, **options)
    for row, plane in zip(csv_rows(done.folder / "train/train_manifest.csv"), HU, strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["mask_path"]), plane > 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "hu_intercept: a picture does not say what HU"),
        ({"hu_slope": 2.0}, "hu_intercept: a picture does not say"),
        ({"hu_preset": "deeplesion", "hu_intercept": 0}, "leave hu_slope and hu_intercept out"),
        ({"hu_preset": "luna"}, "'luna' is not known, wanted one of deeplesion"),
        ({"hu_intercept": float("nan")}, "wanted finite"),
        ({"hu_intercept": 0, "hu_slope": 0}, "the slope not 0"),
        ({"hu_intercept": 0, "pixel_spacing": (1, -1)}, "wanted millimetres above 0"),
        ({"hu_intercept": 0, "slice_spacing": float("inf")}, "wanted millimetres above 0"),
        ({"hu_intercept": 0, "group_by": "patient"}, "'patient' is not known"),
    ],
)
def test_what_is_not_stated_is_not_guessed(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    save(tmp_path / "raw/1.png", HU[0].astype(np.uint16))
    with pytest.raises(ConfigError, match=said):
        ctpatch.prepare_images(tmp_path / "raw", tmp_path / "data", "set", **options)
    assert not (tmp_path / "data").exists()


def test_pictures_to_look_at_are_left_out_by_kind(tmp_path: Path) -> None:
    save(tmp_path / "grey.png", HU[0].astype(np.uint8))
    save(tmp_path / "grey.tif", HU[0].astype(np.uint8))
    save(tmp_path / "colour.png", np.zeros((4, 4, 3), np.uint8))
    save(tmp_path / "colour.tif", np.zeros((4, 4, 3), np.uint8))
    found = scan(tmp_path, ImagesReader(1.0, 0.0))
    assert {each.where: (each.kind, each.fault) for each in found.left_out} == {
        "grey.png": ("8-bit", False),
        "grey.tif": ("8-bit", False),
        "colour.png": ("colour", False),
        "colour.tif": ("colour", False),
    }


def test_lying_pictures_are_refused_and_named(tmp_path: Path) -> None:
    def refused() -> str:
        found = scan(tmp_path, ImagesReader(1.0, 0.0))
        assert not found.slices
        (left,) = found.left_out
        assert left.fault
        (path,) = tmp_path.iterdir()
        path.unlink()
        return left.reason

    (tmp_path / "v.png").write_bytes(png(60_000, 60_000, 16, 0, b""))
    assert "more pixels than any slice, wanted at most 4096" in refused()
    (tmp_path / "v.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "is damaged" in refused()
    (tmp_path / "v.png").write_bytes(png(5000, 10, 16, 0, b""))
    assert "10x5000 pixels, wanted at most 4096" in refused()
    (tmp_path / "v.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "run git lfs pull" in refused()
    save(tmp_path / "v.tif", HU[0].astype(np.uint16), tiffinfo={262: 0})
    assert "has white as 0" in refused()
    save(tmp_path / "v.tif", HU[0].astype(np.uint16), HU[0, :3].astype(np.uint16))
    assert "pages of different sizes" in refused()


def test_a_picture_that_holds_less_or_more_than_it_says(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + plane.astype(">u2").tobytes() for plane in HU[0])
    reader = ImagesReader(1.0, 0.0)
    path = tmp_path / "v.png"
    path.write_bytes(png(6, 5, 16, 0, rows))
    np.testing.assert_array_equal(read_all(tmp_path, reader)[0], HU[0].astype(np.uint16))
    path.write_bytes(png(6, 5, 16, 0, rows[:20]))
    with pytest.raises(ctpatch.CtPatchError, match=r"^v\.png is damaged"):
        read_all(tmp_path, reader)
    path.write_bytes(png(6, 5, 16, 0, rows + bytes(2**26)))
    np.testing.assert_array_equal(read_all(tmp_path, reader)[0], HU[0].astype(np.uint16))
    save(tmp_path / "f.tif", np.full((3, 3), np.nan, np.float32))
    path.unlink()
    with pytest.raises(ctpatch.CtPatchError, match=r"^f\.tif\[0\] holds NaN"):
        read_all(tmp_path, reader)
