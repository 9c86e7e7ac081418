"""The four layouts under the contract, and what is special about each."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctpatch.errors import ConfigError, FormatError
from ctpatch.files.npy import PAGE_BYTES
from ctpatch.layouts import layout_of
from ctpatch.layouts.disk import Disk
from ctpatch.layouts.files import FilesLayout
from ctpatch.layouts.packed import PackedFile
from ctpatch.layouts.whole import PixelFile
from ctpatch.testing import LayoutContract
from ctpatch.testing.samples import INSIDE, SIZE, Written, refused, same_bits
from ctpatch.words import LAYOUTS


class TestFiles(LayoutContract):
    layout = layout_of("files")

    def test_names_are_those_of_the_format(self, inside: Written) -> None:
        ids = ["train_000003_000_000", "train_000003_000_004", "train_000003_002_001", "train_000003_005_005",
               "train_000005_000_000", "train_000011_001_002", "train_000011_005_000"]  # fmt: skip
        assert sorted(inside.contents()) == sorted(
            f"{place}{each}.npy" for place in ("", "target/", "mask/") for each in ids
        )

    def test_a_patch_file_written_by_others_is_read_by_value(self, inside: Written) -> None:
        wanted = inside.expected("target")
        path = inside.root / inside.rows["target_patch_path"][0]
        for other in (np.asfortranarray(wanted[0]), wanted[0].astype(">f4")):
            np.save(path, other)
            np.testing.assert_array_equal(inside.read("target"), wanted)


class TestShards(LayoutContract):
    layout = layout_of("shards")

    def test_the_shard_as_numpy_sees_it(self, inside: Written) -> None:
        assert sorted(inside.contents()) == [
            "shards/train_00007.npy", "shards/train_00007_mask.npy", "shards/train_00007_target.npy"
        ]  # fmt: skip
        stored = np.load(inside.folder / "shards/train_00007.npy", mmap_mode="r")
        assert same_bits(np.asarray(stored), inside.expected("image"))
        assert stored.offset == PAGE_BYTES == 4096

    def test_an_empty_array_is_mapped_and_has_no_item(self, inside: Written) -> None:
        np.save(inside.root / inside.rows["patch_path"][0], np.empty((0, *SIZE), np.float32))
        assert "shape (0, 4, 3)" in refused(FormatError, lambda: inside.read(which=[0]))


class TestSlices(LayoutContract):
    layout = layout_of("slices")

    def test_each_source_pixel_is_there_once(self, inside: Written) -> None:
        assert sorted(inside.contents()) == [
            f"shards/train_0000{number}{array}.npy" for number in (7, 8) for array in ("", "_mask", "_target")
        ]
        stored = np.load(inside.folder / "shards/train_00007.npy", mmap_mode="r")
        # The slice without a kept window is not there.
        wanted = np.array([INSIDE[0].images["image"], INSIDE[3].images["image"]])
        assert same_bits(np.asarray(stored), wanted)
        assert stored.offset == 4096
        stored = np.load(inside.folder / "shards/train_00008_mask.npy")
        assert same_bits(stored, INSIDE[2].images["mask"][np.newaxis])

    def test_what_is_mapped_cannot_be_written(self, inside: Written) -> None:
        array = self.layout.files(inside.resolve).get(inside.rows["patch_path"][0])
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0, 0] = 1


class TestIndex(LayoutContract):
    layout = layout_of("index")

    def test_sources_of_any_width_and_order_are_read(self, inside: Written) -> None:
        for dtype in (">f8", ">f4", "<f2"):
            for order in (np.asfortranarray, np.ascontiguousarray):
                image = INSIDE[0].images["image"].astype(dtype)
                np.save(inside.root / "prepared/3_image.npy", order(image))
                wanted = [image[row : row + 4, col : col + 3].astype(np.float32) for row, col in INSIDE[0].origins]
                np.testing.assert_array_equal(inside.read(which=[0, 1, 2, 3]), wanted)

    def test_few_files_stay_mapped_and_all_are_read(self, inside: Written, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ctpatch.layouts.mapped.MAX_MAPPED_FILES", 2)
        files = self.layout.files(inside.resolve)
        addresses = self.layout.addresses(inside.rows, "image", "float32")
        reading = self.layout.reader(addresses, files, SIZE, "none")
        wanted = inside.expected("image")
        for kept in (2, 2, 0, 2):
            if kept == 0:
                files.close()
            else:
                out = np.empty_like(wanted)
                reading.read_into(np.arange(len(wanted)), out)
                assert same_bits(out, wanted)
            assert len(files._open) == kept


def test_every_layout_of_the_registry_is_under_the_contract() -> None:
    tested = {kind.layout.name for kind in (TestFiles, TestShards, TestSlices, TestIndex)}
    assert tested == set(LAYOUTS)
    assert all(layout_of(name).name == name for name in LAYOUTS)
    with pytest.raises(ConfigError, match="layout: must be 'files', 'shards', 'slices' or 'index', got 'zarr'"):
        layout_of("zarr")


class Careless(FilesLayout):
    """A layout that is wrong in each of the ways that have a test here."""

    def slice_bytes(self, shape: Any, windows: int, patch_size: Any, dtype: Any) -> int:
        return super().slice_bytes(shape, windows, patch_size, dtype) + 1

    def names(self, split: str, arrays: Any) -> dict[str, re.Pattern[str]]:
        return dict.fromkeys(super().names(split, arrays), re.compile(r".*\.npy"))

    def wanted_paths(self, rows: Any, slices: Any, array: str, prefix: str) -> Any:
        return super().wanted_paths(rows, slices, array, prefix + "x")

    def wrong_pixels(self, *_: Any) -> Iterator[Any]:
        return iter(())

    def reader(self, addresses: Any, files: Any, patch_size: Any, pad_mode: Any) -> Any:
        shifted = replace(addresses, paths=addresses.paths.reverse())
        return super().reader(shifted, files, patch_size, pad_mode)


@pytest.mark.parametrize(
    "check",
    [
        LayoutContract.test_the_bytes_are_known_beforehand,
        LayoutContract.test_the_names_are_those_that_a_build_looks_for,
        LayoutContract.test_the_tables_say_which_paths_and_files_there_are,
        LayoutContract.test_one_changed_bit_is_found,
        partial(LayoutContract.test_the_reader_gives_the_pixels_in_the_order_asked, array="mask"),
    ],
)
def test_the_contract_notices_what_is_wrong(tmp_path: Path, check: Any) -> None:
    class Contract(LayoutContract):
        layout = Careless()

    contract = Contract()
    with pytest.raises(AssertionError):
        check(contract, contract.write(tmp_path, INSIDE))


def test_a_file_is_looked_for_below_the_set_alone() -> None:
    for path in ("/etc/hostname", "../x.npy", "a/../../x.npy"):
        said = PixelFile(path, "image", 1, (4, 3), b"", 0).damage("/etc/hostname")
        assert said == f"{path} is no path below the set"
    assert PixelFile(None, "image", 1, (4, 3), b"", 0).damage("x") is not None
    assert PixelFile("a", "image", 1, None, b"", 0).damage("x") is not None


def test_a_packed_file_refuses_items_of_another_shape(tmp_path: Path) -> None:
    file = PackedFile(Disk(), tmp_path / "x.npy", (2, 3), np.dtype(">f4"))
    assert file.add_items(np.ones((2, 2, 3), ">f4")) == 0
    assert file.add_items(np.full((1, 2, 3), 7, ">f4")) == 2
    with pytest.raises(ValueError, match=r"items of shape \(3, 2\) do not fit a file of \(2, 3\)"):
        file.add_items(np.ones((1, 3, 2), ">f4"))
    file.close()
    stored = np.load(tmp_path / "x.npy")
    assert stored.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(stored, [np.ones((2, 3)), np.ones((2, 3)), np.full((2, 3), 7)])
