"""Files that no reader takes are named for what they are, with what to do."""

from pathlib import Path

import numpy as np
import pytest

from ctpatch.errors import SliceError
from ctpatch.prepare.api import prepare_dicom, prepare_nifti
from dicom_files import write_ct

FILES = {
    "nrrd": (b"NRRD0004\n# Complete NRRD file format\n", "it is NRRD; convert it to NIfTI"),
    "metaimage": (b"ObjectType = Image\nNDims = 3\n", "it is MetaImage; convert it to NIfTI"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "run git lfs pull"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture holds no HU"),
    "tiff": (b"II*\0\x08\0\0\0", "a picture holds no HU"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture holds no HU"),
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


def key_in(folder: Path) -> Path:
    path = folder / "my.key"
    path.write_bytes(np.random.default_rng(0).bytes(32).hex().encode())
    path.chmod(0o600)
    return path


def test_each_is_sent_to_the_other_reader(tmp_path: Path) -> None:
    write_ct(tmp_path / "raw/slice", np.zeros((8, 8), np.int16))
    with pytest.raises(SliceError, match="it is DICOM; use ctpatch prepare dicom"):
        prepare_nifti(tmp_path / "raw", tmp_path / "data", "set", key=key_in(tmp_path))


def test_frames_of_ct_are_to_be_written_one_by_one(tmp_path: Path) -> None:
    enhanced = "1.2.840.10008.5.1.4.1.1.2.1"
    write_ct(tmp_path / "raw/slice", np.zeros((8, 8), np.int16), SOPClassUID=enhanced)
    with pytest.raises(SliceError, match="Enhanced CT Image Storage; convert it to a file for each slice"):
        prepare_dicom(tmp_path / "raw", tmp_path / "data", "set", key=key_in(tmp_path))
