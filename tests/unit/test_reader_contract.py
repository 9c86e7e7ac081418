"""Every reader, and one of a third party's own format, is held to the same contract."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.prepare.readers import READERS
from ctpatch.prepare.readers.base import Reader
from ctpatch.prepare.readers.dicom.reader import DicomReader
from ctpatch.prepare.readers.images.reader import ImagesReader
from ctpatch.prepare.readers.lodopab.reader import LodopabReader
from ctpatch.prepare.readers.metaimage.reader import MetaimageReader
from ctpatch.prepare.readers.nifti.reader import NiftiReader
from ctpatch.prepare.readers.nrrd.reader import NrrdReader
from ctpatch.prepare.readers.numpy.reader import NumpyReader
from ctpatch.testing import RawTree, ReaderContract
from dicom_files import write_series
from grid_files import GridReader, write_grid
from lodopab_files import write_ground_truth
from volume_files import write_mha, write_nrrd


class TestDicom(ReaderContract):
    foreign_kind = "not-dicom"

    def make_reader(self) -> Reader:
        return DicomReader()

    def write_tree(self, root: Path) -> RawTree:
        images = write_series(root / "one", 3) + write_series(root / "two", 2, uid="2", seed=7)
        files = ["one/003", "one/002", "one/001", "two/002", "two/001"]
        return RawTree([stored - 1024.0 for stored in images], files, [0, 2, 4, 0, 2], (0.8, 0.8))


class TestNifti(ReaderContract):
    foreign_kind = "not-nifti"

    def make_reader(self) -> Reader:
        return NiftiReader()

    def write_tree(self, root: Path) -> RawTree:
        nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
        images, random = [], np.random.default_rng(0)
        for name in ("a.nii.gz", "b/v.nii"):
            volume = random.integers(-1000, 2000, (6, 5, 3)).astype(np.int16)  # right, front, head
            (root / name).parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(volume, np.diag([0.7, 0.9, 2.5, 1])), root / name)
            # rows run from the front to the back, columns from the right to the left
            images += [np.array([[volume[5 - col, 4 - row, k] for col in range(6)] for row in range(5)])
                       for k in range(3)]  # fmt: skip
        return RawTree(images, ["a.nii.gz"] * 3 + ["b/v.nii"] * 3, [0, 2.5, 5] * 2, (0.9, 0.7))


def stacks(count: int = 2) -> list[np.ndarray[Any, np.dtype[np.int16]]]:
    """Volumes `(z, y, x)` that run to the head, the back and the left, so that their planes are the slices."""
    return [np.random.default_rng(seed).integers(-1000, 2000, (3, 5, 6)).astype(np.int16) for seed in range(count)]


class TestMetaimage(ReaderContract):
    foreign_kind = "not-metaimage"

    def make_reader(self) -> Reader:
        return MetaimageReader()

    def write_tree(self, root: Path) -> RawTree:
        packed, plain = stacks()
        write_mha(root / "a.mha", packed, (0.7, 0.9, 2.5), packed=True)
        write_mha(root / "b/v.mha", plain, (0.7, 0.9, 2.5))
        return RawTree([*packed, *plain], ["a.mha"] * 3 + ["b/v.mha"] * 3, [0, 2.5, 5] * 2, (0.9, 0.7))


class TestNrrd(ReaderContract):
    foreign_kind = "not-nrrd"

    def make_reader(self) -> Reader:
        return NrrdReader()

    def write_tree(self, root: Path) -> RawTree:
        packings, volumes = ("gzip", "raw", "bzip2"), stacks(3)
        for packing, volume in zip(packings, volumes, strict=True):
            write_nrrd(root / f"{packing}/v.nrrd", volume, (0.7, 0.9, 2.5), packing)
        found = sorted(zip(packings, volumes, strict=True))
        files = [f"{packing}/v.nrrd" for packing, _ in found for _ in range(3)]
        return RawTree([plane for _, volume in found for plane in volume], files, [0, 2.5, 5] * 3, (0.9, 0.7))


class TestNumpy(ReaderContract):
    foreign_kind = "not-numpy"

    def make_reader(self) -> Reader:
        return NumpyReader(axes="zyx", voxel_spacing=(2.5, 0.9, 0.7))

    def write_tree(self, root: Path) -> RawTree:
        plain, stored, deflated = stacks(3)
        np.save(root / "a.npy", plain)
        np.savez(root / "b.npz", stored)
        np.savez_compressed(root / "c.npz", ct=deflated)
        files = [name for name in ("a.npy", "b.npz", "c.npz") for _ in range(3)]
        return RawTree([*plain, *stored, *deflated], files, [0, 2.5, 5] * 3, (0.9, 0.7))


class TestImages(ReaderContract):
    foreign_kind = "not-images"

    def make_reader(self) -> Reader:
        return ImagesReader(1.0, -1024.0, pixel_spacing=(0.9, 0.7), slice_spacing=2.5)

    def write_tree(self, root: Path) -> RawTree:
        image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
        stored = [each.astype(np.uint16) for volume in stacks() for each in volume + np.int16(1024)]
        pictures = [image_module.fromarray(each) for each in stored]
        (root / "p").mkdir()
        for number, picture in zip((2, 9, 10), pictures, strict=False):
            picture.save(root / f"p/{number}.png")
        pictures[3].save(root / "s.tiff", save_all=True, append_images=pictures[4:])
        files = ["p/2.png", "p/9.png", "p/10.png", *["s.tiff"] * 3]
        return RawTree([each - 1024.0 for each in stored], files, [5, 22.5, 25, 0, 2.5, 5], (0.9, 0.7))


class TestLodopab(ReaderContract):
    foreign_kind = "not-lodopab"

    def make_reader(self) -> Reader:
        return LodopabReader()

    def write_tree(self, root: Path) -> RawTree:
        pytest.importorskip("h5py", reason="h5py is not installed")
        random = np.random.default_rng(0)
        images = [random.random((362, 362), np.float32) for _ in range(3)]
        first = write_ground_truth(root, "test", 0, images[:2], rows=2)
        second = write_ground_truth(root, "train", 0, images[2:], rows=1)
        return RawTree(images, [first.name, first.name, second.name], [None] * 3, None, "mapped")


class TestGrid(ReaderContract):
    """Of a format that is not in the list."""

    foreign_kind = "not-grid"

    def make_reader(self) -> Reader:
        return GridReader()

    def write_tree(self, root: Path) -> RawTree:
        images = [np.random.default_rng(seed).integers(-900, 900, (4, 7)).astype(np.int16) for seed in range(3)]
        for name, image, position in zip(("p/9", "p/1", "q/5"), images, (-3.5, 2, 0), strict=True):
            write_grid(root / name, image, position)
        return RawTree(images, ["p/9", "p/1", "q/5"], [-3.5, 2, 0], None)


def test_every_reader_in_the_list_is_held_to_it() -> None:
    kinds = (TestDicom, TestImages, TestLodopab, TestMetaimage, TestNifti, TestNrrd, TestNumpy)
    assert {each().make_reader().name for each in kinds} == set(READERS)
