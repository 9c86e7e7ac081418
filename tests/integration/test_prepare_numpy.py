"""NumPy arrays to axial slices, by the axes and the spacing that are stated."""

import io
import pickle
import zipfile
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.base import Scan
from ctpatch.prepare.readers.numpy.reader import NumpyReader
from helpers import Image, csv_rows

VOLUME = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 6)).astype(np.int16)
MM = {"x": 0.7, "y": 0.9, "z": 2.5}


def reader(axes: str = "zyx", **more: Any) -> NumpyReader:
    spacing = [MM[letter] for letter in axes.replace("-", "")]
    return NumpyReader(axes=axes, voxel_spacing=(spacing[0], spacing[1], spacing[2]), **more)


def scan(root: Path, found_by: NumpyReader) -> Scan:
    return found_by.scan(root, lambda _: None)


def read_all(root: Path, found_by: NumpyReader) -> list[Image]:
    found = scan(root, found_by)
    assert found.left_out == []
    return list(found_by.read(root, found.slices))


def refused(root: Path) -> str:
    found = scan(root, reader())
    assert not found.slices
    (left,) = found.left_out
    assert left.fault
    assert left.where not in left.reason
    return left.reason


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axes", ["".join(each) for each in permutations("xyz")])
def test_all_orders_of_axes(tmp_path: Path, axes: str, order: Any) -> None:
    turned = VOLUME.transpose(["zyx".index(letter) for letter in axes])
    np.save(tmp_path / "v.npy", np.array(turned, order=order))
    np.testing.assert_array_equal(read_all(tmp_path, reader(axes)), VOLUME)
    found = scan(tmp_path, reader(axes)).slices
    assert [each.position_mm for each in found] == [0, 2.5, 5, 7.5]
    assert {each.spacing_mm for each in found} == {(0.9, 0.7)}
    assert [each.origin_mm for each in found] == [(0, 0, z) for z in (0, 2.5, 5, 7.5)]


def test_axes_that_are_turned(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VOLUME)
    np.testing.assert_array_equal(read_all(tmp_path, reader("-zy-x")), VOLUME[::-1, :, ::-1])
    assert [each.position_mm for each in scan(tmp_path, reader("-zy-x")).slices] == [-7.5, -5, -2.5, 0]


@pytest.mark.parametrize("dtype", ["?", "u1", ">i2", "<u4", "<f2", ">f4", "<f8"])
def test_types_and_scaling(tmp_path: Path, dtype: str) -> None:
    values = (VOLUME % 100).astype(dtype)
    np.save(tmp_path / "v.npy", values)
    wanted = (values.astype(np.float64) * 2 - 1024).astype(np.float32)
    np.testing.assert_array_equal(read_all(tmp_path, reader(slope=2.0, inter=-1024.0)), wanted)


def test_the_array_of_an_archive_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "v.npz", ct=VOLUME, mask=VOLUME > 0)
    np.testing.assert_array_equal(read_all(tmp_path, reader(array_name="ct")), VOLUME)
    np.testing.assert_array_equal(read_all(tmp_path, reader(array_name="mask")), VOLUME > 0)
    assert "holds 2 arrays, wanted one; say which is meant with --array NAME" in refused(tmp_path)
    found = scan(tmp_path, reader(array_name="low"))
    assert "none of the name that --array gives" in found.left_out[0].reason


def test_masks_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef" * 4)
    for folder, values in (("ct", (VOLUME + 1024).astype(np.uint16)), ("labels", (VOLUME > 0).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "v.npy", values)
    done = ctpatch.prepare_numpy(
        tmp_path / "ct",
        tmp_path / "data",
        "set",
        axes="zyx",
        voxel_spacing=(2.5, 0.9, 0.7),
        hu_intercept=-1024,
        mask=tmp_path / "labels",
        split=["train=1"],
        key=tmp_path / "key",
    )
    rows = csv_rows(done.folder / "train/train_manifest.csv")
    for row, plane in zip(rows, VOLUME, strict=True):
        wanted = np.clip((plane.astype(np.float64) + 1024) / 4096, 0, 1).astype(np.float32)
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["path"]), wanted)
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["mask_path"]), plane > 0)
    assert done.meta.options["axes"] == "zyx"
    assert done.meta.options["voxel_spacing"] == [2.5, 0.9, 0.7]


def test_image_target_and_mask_of_one_archive(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"0123456789abcdef" * 4)
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw/case.npz", low=VOLUME, full=VOLUME + 1, label=VOLUME > 0)
    raw = tmp_path / "raw"
    done = ctpatch.prepare_numpy(
        raw,
        tmp_path / "data",
        "set",
        axes="zyx",
        voxel_spacing=(2.5, 0.9, 0.7),
        array_name="low",
        target=raw,
        target_array="full",
        mask=raw,
        mask_array="label",
        split=["train=1"],
        key=tmp_path / "key",
    )
    rows = csv_rows(done.folder / "train/train_manifest.csv")
    assert len(rows) == 4
    for row, plane in zip(rows, VOLUME, strict=True):
        for column, values in (("path", plane), ("target_path", plane + 1)):
            wanted = np.clip((values.astype(np.float64) + 1024) / 4096, 0, 1).astype(np.float32)
            np.testing.assert_array_equal(np.load(tmp_path / "data" / row[column]), wanted)
        np.testing.assert_array_equal(np.load(tmp_path / "data" / row["mask_path"]), plane > 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "axes, voxel_spacing: a NumPy array does not say how it lies"),
        ({"axes": "zyx"}, "axes, voxel_spacing"),
        ({"voxel_spacing": (1, 1, 1)}, "axes, voxel_spacing"),
        ({"axes": "zyy", "voxel_spacing": (1, 1, 1)}, "axes: 'zyy', wanted x, y and z once each"),
        ({"axes": "z,y,x", "voxel_spacing": (1, 1, 1)}, "axes: 'z,y,x'"),
        ({"axes": "zyx", "voxel_spacing": (1, 1)}, "voxel_spacing: 1 1, wanted 3 numbers"),
        ({"axes": "zyx", "voxel_spacing": (1, 1, float("nan"))}, "voxel_spacing: 1 1 nan"),
        ({"axes": "zyx", "voxel_spacing": (1, 1, 1), "hu_slope": 0}, "hu_slope, hu_intercept: 0 and 0"),
    ],
)
def test_what_is_not_stated_is_not_guessed(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    np.save(tmp_path / "v.npy", VOLUME)
    with pytest.raises(ConfigError, match=said):
        ctpatch.prepare_numpy(tmp_path, tmp_path / "data", "set", **options)
    assert not (tmp_path / "data").exists()


class Planted:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


def test_nothing_pickled_is_loaded(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    root = tmp_path / "raw"
    root.mkdir()
    objects = np.empty((1, 1, 1), object)
    objects[0, 0, 0] = Planted(planted)
    np.save(root / "v.npy", objects, allow_pickle=True)
    assert "holds pickled objects" in refused(root)
    (root / "v.npy").unlink()
    np.savez(root / "v.npz", ct=objects)
    assert "holds pickled objects" in refused(root)
    (root / "v.npz").write_bytes(pickle.dumps(Planted(planted)))
    assert "is named like a NumPy array and is none" in refused(root)
    assert not planted.exists()


def npy_bytes(shape: tuple[int, ...], data: int) -> bytes:
    """An array of zeros, whose header promises a shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i2", "fortran_order": False, "shape": shape})
    return stream.getvalue() + bytes(data)


def archive(path: Path, content: bytes, name: str = "ct.npy", packing: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(path, "w", packing) as file:
        file.writestr(name, content)
    return bytearray(path.read_bytes())


def test_lying_arrays_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    for shape, data, said in (
        ((4, 5, 6), 239, "is cut short"),
        ((4, 5, 6), 241, "has trailing bytes"),
        ((4, 5), 40, "has 2 axes"),
        ((0, 5, 6), 0, "wanted real numbers, one or more"),
        ((1, 5000, 5000), 50_000_000, "wanted at most"),
        ((10**7, 10**7, 10**7), 0, "no file holds"),
    ):
        path.write_bytes(npy_bytes(shape, data))
        assert said in refused(tmp_path)
    np.save(path, VOLUME.astype(complex))
    assert "complex" in refused(tmp_path)


def test_lying_archives_are_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    archive(path, npy_bytes((4, 5, 6), 2**24))
    assert "whose header promises 368" in refused(tmp_path)
    archive(path, npy_bytes((4, 5, 6), 240), packing=zipfile.ZIP_BZIP2)
    assert "compressed in an unusual way" in refused(tmp_path)
    good = archive(path, npy_bytes((4, 5, 6), 240))
    at = good.rfind(b"PK\x05\x06")
    for place, value, said in (
        (at + 12, (2**24).to_bytes(4, "little"), "lists more arrays than ctpatch looks at"),
        (at, b"none", "no sound .npz archive"),
        (good.rfind(b"PK\x01\x02") + 8, b"\1", "encrypted"),
    ):
        bad = bytearray(good)
        bad[place : place + len(value)] = value
        path.write_bytes(bad)
        assert said in refused(tmp_path)
    # The list promises a volume that the packed bytes cannot hold.
    bad = archive(path, npy_bytes((2000, 2000, 2000), 10**6))
    entry = bad.rfind(b"PK\x01\x02")
    bad[entry + 24 : entry + 28] = (128 + 2 * 2000**3 & 0xFFFFFFFF).to_bytes(4, "little")
    path.write_bytes(bad)
    assert refused(tmp_path)
    archive(path, npy_bytes((1000, 1000, 1000), 2 * 10**6))
    assert "whose header promises" in refused(tmp_path)


def test_large_archives_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Archives above 4 GB have another end; here it is written for small ones too.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    np.savez(tmp_path / "v.npz", ct=VOLUME, other=VOLUME)
    content = (tmp_path / "v.npz").read_bytes()
    assert content.count(b"PK\x06\x06") == 1
    monkeypatch.undo()
    np.testing.assert_array_equal(read_all(tmp_path, reader(array_name="ct")), VOLUME)
    at = content.index(b"PK\x06\x06")
    (tmp_path / "v.npz").write_bytes(content[: at + 40] + (2**24).to_bytes(8, "little") + content[at + 48 :])
    assert "lists more arrays than ctpatch looks at" in refused(tmp_path)


def test_an_archive_that_is_damaged_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, ct=VOLUME)
    found = scan(tmp_path, reader()).slices
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(ctpatch.CtPatchError, match=r"v\.npz is damaged"):
        list(reader().read(tmp_path, found))
