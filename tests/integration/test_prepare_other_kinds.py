"""Files that no reader takes are named for what they are, with what to do."""

from pathlib import Path

import numpy as np
import pytest

from ctpatch.errors import SliceError
from ctpatch.prepare.api import prepare_dicom, prepare_nifti
from dicom_files import write_ct

FILES = {
    "nrrd": (b"NRRD0004\n# Complete NRRD file format\n", "it is NRRD; use ctpatch prepare nrrd"),
    "metaimage": (b"ObjectType = Image\nNDims = 3\n", "it is MetaImage; use ctpatch prepare metaimage"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "run git lfs pull"),
    "png": (
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "ctpatch prepare images reads PNG of 16 bits whose mapping to HU you can state",
    ),
    "tiff": (b"II*\0\x08\0\0\0", "ctpatch prepare images reads TIFF whose mapping to HU you can state"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture holds no HU"),
    "npy": (b"\x93NUMPY\1\0", "ctpatch prepare numpy reads volumes in HU"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\0\0\0", "ctpatch prepare lodopab"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("prepare", [prepare_dicom, prepare_nifti])
def test_other_kinds(prepare: object, kind: str, tmp_path: Path) -> None:
    start, said = FILES[kind]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/case").write_bytes(start + bytes(600))
    (tmp_path / "raw/zzz.raw").write_bytes(bytes(range(1, 200)) * 9)
    with pytest.raises(SliceError) as caught:
        prepare(tmp_path / "raw", tmp_path / "data", "set", key=key_in(tmp_path))  # type: ignore[operator]
    assert f"1 {kind}" in caught.value.message
    assert said in caught.value.message


def test_archives_of_arrays_are_told_by_their_name(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw/case.npz", np.zeros((2, 3, 4)))
    with pytest.raises(SliceError, match="it is an archive of NumPy arrays; ctpatch prepare numpy"):
        prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", key=key_in(tmp_path))


def key_in(folder: Path) -> Path:
    path = folder / "my.key"
    path.write_bytes(np.random.default_rng(0).bytes(32).hex().encode())
    path.chmod(0o600)
    return path


def test_each_is_sent_to_the_other_reader(tmp_path: Path) -> None:
    write_ct(tmp_path / "raw/slice", np.zeros((8, 8), np.int16))
    with pytest.raises(SliceError, match="it is DICOM; use ctpatch prepare dicom"):
        prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", key=key_in(tmp_path))


def test_ct_of_frames_that_says_nothing_of_them_is_a_fault(tmp_path: Path) -> None:
    enhanced = "1.2.840.10008.5.1.4.1.1.2.1"
    write_ct(tmp_path / "raw/slice", np.zeros((8, 8), np.int16), SOPClassUID=enhanced)
    with pytest.raises(SliceError, match="its NumberOfFrames is missing or no whole number; correct the file"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key_in(tmp_path))
