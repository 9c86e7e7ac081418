"""NIfTI volumes to axial slices, held against nibabel's own reading."""

import gzip
import math
import struct
import subprocess
import sys
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="nibabel is not installed")

import nibabel as nib

import ctpatch
from ctpatch.errors import CtPatchError, RangeError, SliceError
from ctpatch.prepare.readers.base import Scan, SeriesNote
from ctpatch.prepare.readers.nifti.reader import NiftiReader
from ctpatch.prepare.readers.volume import planes
from helpers import Image, csv_rows, data_folder

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


def scan(root: Path, reader: NiftiReader | None = None) -> Scan:
    return (reader or NiftiReader()).scan(root, lambda _: None)


def read_all(root: Path, found: Scan | None = None) -> list[Image]:
    return list(NiftiReader().read(root, (found or scan(root)).slices))


def canonical_slices(path: Path) -> list[Image]:
    """What nibabel says: axes turned to right, front, head; seen from the feet, the front on top."""
    volume = nib.as_closest_canonical(nib.load(path)).get_fdata(dtype=np.float64)
    volume = volume.reshape(*volume.shape[:3], -1)
    return [
        volume[::-1, ::-1, k, t].T.astype(np.float32) for t in range(volume.shape[3]) for k in range(volume.shape[2])
    ]


def oriented(order: Sequence[int], signs: Sequence[int], spacing: Sequence[float] = (0.7, 0.9, 2.5)) -> Any:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * spacing[world]
    affine[:3, 3] = (-120.5, 33.25, 400.0)
    return affine


def save(path: Path, values: Any, affine: Any = None, slope: float | None = None, inter: float = 0) -> Path:
    image = nib.Nifti1Image(values, oriented((0, 1, 2), (-1, -1, 1)) if affine is None else affine)
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS, ids=lambda each: "".join(map(str, each)))
def test_all_axis_orders_and_flips(tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(-1000, 2000, (4, 5, 6)).astype(np.int16)
    path = save(tmp_path / "v.nii.gz", values, oriented(order, signs))
    found = scan(tmp_path)
    wanted = canonical_slices(path)
    assert [each.shape for each in found.slices] == [each.shape for each in wanted]
    for image, reference in zip(read_all(tmp_path, found), wanted, strict=True):
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, reference)
    places = [each.position_mm for each in found.slices]
    lowest = 400.0 if signs[order.index(2)] > 0 else 400.0 - 2.5 * (len(places) - 1)
    np.testing.assert_allclose(np.array(places, float), lowest + 2.5 * np.arange(len(places)))
    assert {each.spacing_mm for each in found.slices} == {(0.9, 0.7)}
    assert {each.axes for each in found.slices} == {(1, 0, 0, 0, 1, 0)}


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "f4", ">f8", "i8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_types_scaling_and_four_dimensions(tmp_path: Path, dtype: str, ending: str, version: int) -> None:
    values = np.random.default_rng(1).integers(0, 100, (5, 4, 3, 2)).astype(dtype)
    kind: Any = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = kind(values, oriented((0, 1, 2), (1, 1, -1)), dtype=values.dtype)
    image.header.set_data_dtype(values.dtype)
    path = tmp_path / f"v{ending}"
    nib.save(image, path)
    raw = gzip.decompress(path.read_bytes()) if ending.endswith("gz") else path.read_bytes()
    at, fmt = (112, "ff") if version == 1 else (176, "dd")
    raw = raw[:at] + struct.pack("<" + fmt, 1.25, -1024.5) + raw[at + struct.calcsize(fmt) :]
    path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else raw)
    found = scan(tmp_path)
    assert [(each.series, each.order, each.item) for each in found.slices] == [
        (f"v{ending}#{t}", k, 3 * t + k) for t in range(2) for k in range(3)
    ]
    for mine, wanted in zip(read_all(tmp_path, found), canonical_slices(path), strict=True):
        np.testing.assert_array_equal(mine, wanted)


def test_small_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(7 * 6 * 5, dtype=np.int16).reshape(7, 6, 5)
    for order, signs in (((0, 1, 2), (1, 1, -1)), ((2, 0, 1), (-1, 1, 1)), ((0, 2, 1), (1, -1, 1))):
        path = save(tmp_path / "v.nii.gz", values, oriented(order, signs))
        found = scan(tmp_path)
        wanted = canonical_slices(path)
        for size in (1, 100, 200):
            monkeypatch.setattr(planes, "BLOCK_BYTES", size)
            np.testing.assert_array_equal(read_all(tmp_path, found), wanted)
            some = found.slices[3:0:-1]
            for one, image in zip(some, NiftiReader().read(tmp_path, some), strict=True):
                np.testing.assert_array_equal(image, wanted[one.item])


def test_oblique_and_contradictory_headers_are_reported(tmp_path: Path) -> None:
    turn = math.radians(12)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    path = save(tmp_path / "v.nii", values, tilt @ oriented((0, 1, 2), (-1, -1, 1)))
    found = scan(tmp_path)
    assert [(note.kind, note.message) for note in found.notes if isinstance(note, SeriesNote)] == [
        ("oblique", "its slices are 12.0 degrees off the axial plane; they are not resampled")
    ]
    np.testing.assert_allclose(np.diff([each.position_mm or 0.0 for each in found.slices]), 2.5)
    np.testing.assert_array_equal(read_all(tmp_path, found), canonical_slices(path))
    image = nib.Nifti1Image(values, np.diag([1, 1, 1, 1]))
    image.set_qform(np.diag([-1, -1, 1, 1]), code=1)
    image.set_sform(np.diag([1, 1, 1, 1]), code=1)
    nib.save(image, path)
    assert [note.kind for note in scan(tmp_path).notes if isinstance(note, SeriesNote)] == ["two-orientations"]
    image.set_qform(None, code=0)
    image.set_sform(None, code=0)
    nib.save(image, path)
    assert [note.kind for note in scan(tmp_path).notes if isinstance(note, SeriesNote)] == ["no-orientation"]
    np.testing.assert_array_equal(read_all(tmp_path), canonical_slices(path))


def test_groups_are_subjects_then_folders_then_files(tmp_path: Path) -> None:
    values = np.zeros((3, 3, 1), np.int16)
    for name in ("sub-07/ses-1/ct.nii", "sub-07_ct.nii", "s0001/ct.nii", "s0001/seg.nii", "alone.nii", "a/sub.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / name, values)
    (tmp_path / "notes.txt").write_text("no volume")
    found = scan(tmp_path)
    assert {each.file: (each.group, each.group_kind) for each in found.slices} == {
        "sub-07/ses-1/ct.nii": ("sub-07", "patient"),
        "sub-07_ct.nii": ("sub-07", "patient"),
        "s0001/ct.nii": ("s0001", "folder"),
        "s0001/seg.nii": ("s0001", "folder"),
        "alone.nii": ("alone.nii", "file"),
        "a/sub.nii": ("a", "folder"),
    }
    assert [
        note
        for note in found.notes
        if isinstance(note, str) and "1 folder has several files, which count as one" in note
    ]
    assert [(each.where, each.kind, each.fault) for each in found.left_out] == [("notes.txt", "not-nifti", False)]
    by_file = {each.group for each in scan(tmp_path, NiftiReader(group_by="file")).slices}
    assert {"s0001/ct.nii", "s0001/seg.nii"} < by_file


def patched(path: Path, at: int, fmt: str, *values: float) -> Path:
    packed = path.name.endswith(".gz")
    raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    raw = raw[:at] + struct.pack("<" + fmt, *values) + raw[at + struct.calcsize("<" + fmt) :]
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


LIES = {
    "giant": (40, "8h", (3, 32767, 32767, 32767, 1, 1, 1, 1), "wanted at most"),
    "more": (40, "8h", (3, 4, 5, 7, 1, 1, 1, 1), "its header promises"),
    "fewer": (40, "8h", (3, 4, 5, 5, 1, 1, 1, 1), "its header promises"),
    "negative": (40, "8h", (3, 4, -5, 6, 1, 1, 1, 1), "says it has 4 x -5 x 6 voxels"),
    "none": (40, "8h", (3, 4, 0, 6, 1, 1, 1, 1), "says it has 4 x 0 x 6 voxels"),
    "five": (40, "8h", (5, 4, 5, 3, 1, 2, 1, 1), "wanted 2 to 4 dimensions"),
    "colours": (70, "h", (128,), "holds colours"),
    "complex": (70, "h", (32,), "holds complex numbers"),
    "no type": (70, "h", (77,), "damaged header"),
    "far": (108, "f", (1e30,), "its header promises"),
    "before": (108, "f", (4.0,), "begin at byte 4"),
    "nowhere": (108, "f", (math.nan,), "begin at byte nan"),
    "nan place": (280, "4f", (math.nan,) * 4, "affine is not finite"),
    "flat": (280, "12f", (1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0), "voxels of"),
    "one plane": (280, "12f", (1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0), "lie in one plane"),
    "unit": (123, "b", (7,), "unknown unit"),
}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("lie", LIES)
def test_lying_headers_are_refused_and_named(tmp_path: Path, lie: str, ending: str) -> None:
    at, fmt, values, seen = LIES[lie]
    patched(save(tmp_path / f"v{ending}", np.zeros((4, 5, 6), np.int16)), at, fmt, *values)
    found = scan(tmp_path)
    assert not found.slices
    (left,) = found.left_out
    assert (left.where, left.kind, left.fault) == (f"v{ending}", "damaged", True)
    assert seen in left.reason or "cannot be in it" in left.reason
    assert "v.nii" not in left.reason


def test_damaged_files_are_refused_when_they_are_read(tmp_path: Path) -> None:
    path = save(tmp_path / "v.nii.gz", np.random.default_rng(0).integers(0, 9999, (40, 40, 9)).astype(np.int16))
    found = scan(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good[:-8] + bytes(4) + good[-4:])  # the checksum
    with pytest.raises(SliceError, match=r"^v\.nii\.gz is damaged"):
        read_all(tmp_path, found)
    path.write_bytes(good[: len(good) // 2] + good[-4:])
    with pytest.raises(SliceError, match=r"^v\.nii\.gz is damaged"):
        read_all(tmp_path, found)
    path.write_bytes(b"\x1f\x8bgarbage")
    assert [each.kind for each in scan(tmp_path).left_out] == ["damaged"]
    save(tmp_path / "v.nii", np.full((3, 3, 2), np.nan, np.float32))
    path.unlink()
    with pytest.raises(RangeError, match=r"v\.nii\[0\] holds NaN"):
        read_all(tmp_path)


def bomb(path: Path, dims: tuple[int, int, int], order: tuple[int, ...], megabytes: int) -> None:
    """A header, then zeros, packed to a two-hundredth."""
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), oriented(order, (1, 1, 1))).header
    header["dim"][:4] = (3, *dims)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(megabytes):
            file.write(bytes(2**20))


_READ = """
import sys
from pathlib import Path
from ctpatch.prepare.readers.nifti.reader import NiftiReader
reader, root = NiftiReader(), Path(sys.argv[1])
found = reader.scan(root, lambda _: None)
print(sum(1 for _ in reader.read(root, found.slices)))
print(*[each.reason for each in found.left_out])
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured through /proc")
@pytest.mark.parametrize(
    ("dims", "order", "count", "seen"),
    [((64, 64, 20), (0, 1, 2), 0, "more than"), ((512, 512, 960), (2, 0, 1), 512, "")],
    ids=["beyond the header", "across the slices"],
)
def test_bombs_do_not_fill_the_memory(
    tmp_path: Path, dims: tuple[int, int, int], order: tuple[int, ...], count: int, seen: str
) -> None:
    bomb(tmp_path / "v.nii.gz", dims, order, 480)
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    slices, reasons, kilobytes = done.stdout.splitlines()
    assert int(slices) == count
    assert seen in reasons
    assert int(kilobytes) < 400 * 1024


def test_real_volume_goes_through(tmp_path: Path) -> None:
    source = data_folder() / "totalseg_nifti"
    if not source.is_dir():
        pytest.skip("no totalseg_nifti: set CTPATCH_DATA to the folder that holds it")
    np.testing.assert_array_equal(read_all(source), canonical_slices(source / "example_ct_sm.nii.gz"))
    ctpatch.prepare_nifti(source, tmp_path, "ts", split=["train=1"], key=tmp_path.parent / "key", new_key=True)
    rows = csv_rows(tmp_path / "prepared" / "ts" / "train" / "train_manifest.csv")
    assert len(rows) == 30
    places = [float(row["position_mm"]) for row in rows]
    assert places == sorted(places)
    images = [np.load(tmp_path / row["path"]) for row in rows]
    assert {image.shape for image in images} == {(101, 122)}
    assert all(0 <= float(image.min()) <= float(image.max()) <= 1 for image in images)


def test_errors_are_ours(tmp_path: Path) -> None:
    with pytest.raises(CtPatchError, match="does not exist"):
        scan(tmp_path / "nothing")
    with pytest.raises(CtPatchError, match="group_by: 'patient' is not known"):
        NiftiReader(group_by="patient")  # type: ignore[arg-type]
