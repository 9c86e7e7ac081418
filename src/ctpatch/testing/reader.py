"""What every reader of raw CT is held to: all slices, in order, by value, and no file that spoils another."""

import os
import pickle
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.errors import CtPatchError, SliceError
from ctpatch.prepare.readers.base import RawSlice, Reader, Scan, Unit, observed

Place = tuple[str, int]
Images = dict[Place, NDArray[Any]]


@dataclass(frozen=True)
class RawTree:
    """What was written for a test, by anything but the reader: two files of slices or more, and nothing else.

    Attributes:
        images: what is to be read, in the order in which it is to be found: `(H, W)` each, in `unit`.
        files: the file of each image, by its name below the root, with `/`.
        positions_mm: the place of each along the normal; None where the format does not say.
        spacing_mm: of pixel centres, `(row, col)`; None where the format does not say.
        unit: `HU`, or `mapped` for values in [0, 1].
        tolerance: how far a pixel may be off; 0 for a format that stores its numbers.
    """

    images: Sequence[NDArray[Any]]
    files: Sequence[str]
    positions_mm: Sequence[float | None]
    spacing_mm: tuple[float, float] | None
    unit: Unit = "HU"
    tolerance: float = 0.0


class ReaderContract(ABC):
    """Tests of a `Reader`; a subclass gives the reader and writes the files."""

    foreign_kind: str
    """By which kind a file of anything else is left out: `not-dicom`."""

    @abstractmethod
    def make_reader(self) -> Reader:
        """The reader."""

    @abstractmethod
    def write_tree(self, root: Path) -> RawTree:
        """Write slices below a folder with an independent library, or byte by byte, and say what they hold."""

    @pytest.fixture
    def reader(self) -> Reader:
        """The reader under test."""
        return self.make_reader()

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """The folder of raw files."""
        folder = tmp_path / "raw"
        folder.mkdir()
        return folder

    @pytest.fixture
    def tree(self, root: Path) -> RawTree:
        """What the folder holds."""
        return self.write_tree(root)

    def test_all_slices_are_found_in_order(self, reader: Reader, root: Path, tree: RawTree) -> None:
        found = _scan(reader, root)
        assert found.left_out == []
        assert [each.file for each in found.slices] == list(tree.files)
        assert [each.shape for each in found.slices] == [image.shape for image in tree.images]
        assert [each.position_mm for each in found.slices] == pytest.approx(list(tree.positions_mm))
        for each in found.slices:
            assert each.unit == tree.unit
            assert each.spacing_mm == (None if tree.spacing_mm is None else pytest.approx(tree.spacing_mm))
            assert each.group
        for series in {each.series for each in found.slices}:
            orders = [each.order for each in found.slices if each.series == series]
            assert orders == sorted(set(orders))

    def test_each_file_counts_for_progress(self, reader: Reader, root: Path, tree: RawTree) -> None:
        steps: list[int] = []
        reader.scan(root, steps.append)
        assert sum(steps) == sum(path.is_file() for path in root.rglob("*"))
        assert len(set(tree.files)) > 1

    def test_pixels_are_those_that_were_written(self, reader: Reader, root: Path, tree: RawTree) -> None:
        slices = _scan(reader, root).slices
        for image, wanted in zip(reader.read(root, slices), tree.images, strict=True):
            _assert_same(image, wanted, tree.tolerance)
        for each, wanted in reversed(list(zip(slices, tree.images, strict=True))):
            (image,) = reader.read(root, [each])
            _assert_same(image, wanted, tree.tolerance)

    def test_what_is_observed_are_the_same_pixels(self, reader: Reader, root: Path, tree: RawTree) -> None:
        slices = _scan(reader, root).slices
        for seen, wanted in zip(observed(reader, root, slices), tree.images, strict=True):
            _assert_same(seen.image, wanted, tree.tolerance)
            assert (seen.padding is None) == (seen.padding_hu is None)
            if seen.padding is not None:
                assert seen.padding.shape == wanted.shape
                assert seen.padding.dtype.kind == "b"

    def test_a_file_can_be_the_source(self, reader: Reader, root: Path, tree: RawTree) -> None:
        file = tree.files[-1]
        slices = _scan(reader, root / file).slices
        wanted = [image for image, name in zip(tree.images, tree.files, strict=True) if name == file]
        for image, other in zip(reader.read(root / file, slices), wanted, strict=True):
            _assert_same(image, other, tree.tolerance)

    def test_another_process_reads_the_same(self, reader: Reader, root: Path, tree: RawTree) -> None:
        found = _scan(reader, root)
        copy, slices = pickle.loads(pickle.dumps((reader, found.slices)))  # noqa: S301 - our own bytes
        assert (copy, slices) == (reader, found.slices)
        assert hash(copy) == hash(reader)
        for image, wanted in zip(copy.read(root, slices), tree.images, strict=True):
            _assert_same(image, wanted, tree.tolerance)

    def test_scanning_again_finds_the_same(self, reader: Reader, root: Path, tree: RawTree) -> None:
        first = _scan(reader, root)
        assert len(first.slices) == len(tree.images)
        assert _scan(reader, root) == first
        assert _scan(self.make_reader(), root) == first

    def test_other_files_are_left_out_by_kind(self, reader: Reader, root: Path, tree: RawTree) -> None:
        wanted = _by_place(reader, root, tree)
        others = {"notes.txt": b"no slice\n" * 50, "deep/er/empty.raw": b"", "noise.bin": bytes(range(256)) * 20}
        for name, content in others.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        found = _scan(reader, root)
        assert _kinds(found) == dict.fromkeys(others, (self.foreign_kind, False))
        assert all(Path(each.where).name not in each.reason for each in found.left_out)
        _assert_read(reader, root, found.slices, wanted)

    def test_links_and_pipes_lead_nowhere(self, reader: Reader, root: Path, tree: RawTree) -> None:
        wanted = _by_place(reader, root, tree)
        outside = root.parent / "outside"
        shutil.copytree(root, outside)
        kinds = {"folder": ("outside-link", False), "gone": ("broken-link", True), "file": ("outside-link", False)}
        try:
            (root / "folder").symlink_to(outside, target_is_directory=True)
            (root / "file").symlink_to(outside / tree.files[0])
            (root / "gone").symlink_to(root / "nothing")
        except (OSError, NotImplementedError):
            pytest.skip("this system, or this user, has no symbolic links")
        if sys.platform != "win32":
            os.mkfifo(root / "pipe")
            kinds["pipe"] = ("no-file", False)
        found = _scan(reader, root)
        assert _kinds(found) == kinds
        _assert_read(reader, root, found.slices, wanted)

    def test_a_file_that_is_cut_is_named_and_spoils_no_other(self, reader: Reader, root: Path, tree: RawTree) -> None:
        wanted = _by_place(reader, root, tree)
        cut = tree.files[0]
        content = (root / cut).read_bytes()
        for length in sorted({len(content) * share // 64 for share in range(1, 64, 3)} | {len(content) - 1}):
            (root / cut).write_bytes(content[:length])
            found = _scan(reader, root)
            _assert_others_read(reader, root, found, wanted, cut)
            read = _read_or_named(reader, root, found, cut)
            assert len(read) < tree.files.count(cut) or length > len(content) // 2
            for place, image in read.items():
                _assert_same(image, wanted[place], tree.tolerance)

    def test_wrong_bytes_end_in_a_sentence(self, reader: Reader, root: Path, tree: RawTree) -> None:
        wanted = _by_place(reader, root, tree)
        spoiled = tree.files[0]
        content = (root / spoiled).read_bytes()
        random = np.random.default_rng(0)
        for _ in range(30):
            noise = bytearray(content)
            for place in random.integers(0, min(len(content), 2048), 6):
                noise[place] = int(random.integers(256))
            (root / spoiled).write_bytes(noise)
            found = _scan(reader, root)
            _assert_others_read(reader, root, found, wanted, spoiled)
            for image in _read_or_named(reader, root, found, spoiled).values():
                assert image.dtype == np.float32
                assert np.isfinite(image).all()

    def test_a_file_that_goes_away_is_refused(self, reader: Reader, root: Path, tree: RawTree) -> None:
        slices = _scan(reader, root).slices
        (root / tree.files[0]).unlink()
        with pytest.raises(CtPatchError, match=Path(tree.files[0]).name):
            list(reader.read(root, slices[:1]))


def _scan(reader: Reader, root: Path) -> Scan:
    return reader.scan(root, lambda _count: None)


def _kinds(found: Scan) -> dict[str, tuple[str, bool]]:
    """Kind and fault of what is left out, by name."""
    return {each.where: (each.kind, each.fault) for each in found.left_out}


def _place(one: RawSlice) -> Place:
    return one.file, one.item


def _by_place(reader: Reader, root: Path, tree: RawTree) -> Images:
    """What was written, by file and number in it, while all files are whole."""
    return dict(zip(map(_place, _scan(reader, root).slices), tree.images, strict=True))


def _assert_read(reader: Reader, root: Path, slices: Sequence[RawSlice], wanted: Images) -> None:
    """These slices are there, each once, with these pixels."""
    assert sorted(map(_place, slices)) == sorted(wanted)
    for one, image in zip(slices, reader.read(root, slices), strict=True):
        _assert_same(image, wanted[_place(one)], 0)


def _assert_others_read(reader: Reader, root: Path, found: Scan, wanted: Images, file: str) -> None:
    slices = [each for each in found.slices if each.file != file]
    _assert_read(reader, root, slices, {place: image for place, image in wanted.items() if place[0] != file})


def _read_or_named(reader: Reader, root: Path, found: Scan, file: str) -> Images:
    """What can be read of a file; where nothing can, it is left out or refused by its name."""
    images: Images = {}
    slices = [each for each in found.slices if each.file == file]
    if not slices:
        assert file in {each.where.partition("[")[0] for each in found.left_out}
    for each in slices:
        try:
            (images[_place(each)],) = reader.read(root, [each])
        except SliceError as error:
            assert error.message.startswith(file)  # noqa: PT017 - to refuse it is as right as to read it
    return images


def _assert_same(image: NDArray[Any], wanted: NDArray[Any], tolerance: float) -> None:
    assert image.dtype == np.float32
    assert image.shape == wanted.shape
    np.testing.assert_allclose(image, wanted.astype(np.float32), rtol=0, atol=tolerance)
