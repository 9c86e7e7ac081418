"""One contract for all four layouts: the pixels by value, with reads in plain numpy that bypass the code under test."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
import xxhash
from ctpatch.layouts.integrity import wrong_patches, wrong_stored_slices
from ctpatch.layouts.reading import ArrayReader, MappedFiles, addresses_of
from ctpatch.layouts.writing import make_writer
from numpy.typing import NDArray

from ctpatch.errors import CtPatchError, FormatError, NpyError
from ctpatch.format.meta import ArrayInfo
from ctpatch.layouts import base, reading
from ctpatch.layouts.base import Addresses, SliceToWrite, WriterOptions, folders_of
from ctpatch.layouts.packed import PackedFile
from ctpatch.words import LayoutName, PadMode

LAYOUTS: tuple[LayoutName, ...] = get_args(LayoutName)
PADS: dict[PadMode, Any] = {"zero": "constant", "edge": "edge", "reflect": "reflect"}
ARRAYS = ("image", "lung_mask")
DTYPES = {"image": "float32", "lung_mask": "uint8"}
SIZE = (4, 3)
PREFIX = "patches/ds/train/"
Image = NDArray[Any]


@dataclass
class Source:
    """A slice with its windows, and what its patches must be."""

    index: int
    images: dict[str, Image]
    origins: list[tuple[int, int]]

    def expected(self, array: str, pad_mode: PadMode) -> list[Image]:
        image = self.images[array]
        if pad_mode in PADS:
            image = np.pad(image, ((0, 30), (0, 30)), mode=PADS[pad_mode])
        patches = [image[row : row + SIZE[0], col : col + SIZE[1]] for row, col in self.origins]
        assert all(patch.shape == SIZE for patch in patches)
        return patches


def source(index: int, shape: tuple[int, int], origins: list[tuple[int, int]]) -> Source:
    count = shape[0] * shape[1]
    image = (index * 1000 + np.arange(count, dtype=np.float32)).reshape(shape)
    return Source(
        index, {"image": image, "lung_mask": (np.arange(count) % 251).astype(np.uint8).reshape(shape)}, origins
    )


INSIDE = [
    source(3, (9, 8), [(0, 0), (0, 4), (2, 1), (5, 5)]),
    source(4, (9, 8), []),  # every window dropped
    source(5, (4, 3), [(0, 0)]),  # another shape: the patch itself
    source(11, (9, 8), [(5, 0), (1, 2)]),
]
BEYOND = [
    # under a stride larger than a patch a window may lie wholly beyond its slice
    source(0, (5, 5), [(0, 0), (4, 4), (0, 4), (3, 0), (0, 6), (7, 9)]),
    source(1, (1, 2), [(0, 0)]),  # smaller than a patch
    source(2, (5, 5), [(4, 0)]),
]


@dataclass
class Written:
    """What a writer left behind."""

    root: Path
    layout: LayoutName
    frame: pl.DataFrame
    outputs: list[Path]
    bytes_written: int
    addresses: list[Addresses]
    sources: list[Source]
    pad_mode: PadMode
    cases: list[tuple[Source, int]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / PREFIX

    def resolve(self, path: str) -> str:
        return str(self.root / path)

    def expected(self, array: str) -> Image:
        patches = [patch for each in self.sources for patch in each.expected(array, self.pad_mode)]
        return np.array(patches, DTYPES[array])

    def reader(self, array: str, frame: pl.DataFrame | None = None) -> ArrayReader:
        addresses = addresses_of(self.frame if frame is None else frame, self.layout, array, DTYPES[array])
        files = MappedFiles(self.resolve, follow_links=self.layout == "index")
        return ArrayReader(addresses, files, self.resolve, SIZE, self.pad_mode)

    def read(self, array: str = "image", which: list[int] | None = None, frame: pl.DataFrame | None = None) -> Image:
        order = np.arange(self.frame.height) if which is None else np.array(which, np.int64)
        out = np.full((len(order), *SIZE), 99, DTYPES[array])
        self.reader(array, frame).read_into(order, out)
        return out


def padded(image: Image, pad_mode: PadMode) -> Image:
    return np.pad(image, ((0, 20), (0, 20)), mode=PADS[pad_mode]) if pad_mode in PADS else image


def write(
    root: Path, layout: LayoutName, sources: list[Source], pad_mode: PadMode = "none", first_shard: int = 7
) -> Written:
    folder = root / PREFIX
    folder.mkdir(parents=True, exist_ok=True)
    for name in folders_of(layout, ARRAYS):
        (folder / name).mkdir(exist_ok=True)
    shapes = list(dict.fromkeys(each.images["image"].shape for each in sources if each.origins))
    step = layout == "slices"
    shards = {shape: first_shard + place * step for place, shape in enumerate(shapes)}
    shards = shards if layout in {"shards", "slices"} else {}
    writer = make_writer(layout, WriterOptions(folder, PREFIX, "train", SIZE, ARRAYS, shards))
    addresses = []
    for each in sources:
        for array, image in each.images.items():
            (root / "prepared").mkdir(exist_ok=True)
            np.save(root / f"prepared/{each.index}_{array}.npy", image)
        # a writer must not keep what it was given: the buffers are used again
        lent = [image.copy() for image in each.images.values()]
        lent_padded = [padded(image, pad_mode) for image in lent]
        addresses.append(
            writer.write(
                SliceToWrite(
                    each.index,
                    tuple(f"prepared/{each.index}_{array}.npy" for array in ARRAYS),
                    tuple(lent),
                    tuple(lent_padded),
                    np.array([row for row, _ in each.origins], np.int32),
                    np.array([col for _, col in each.origins], np.int32),
                )
            )
        )
        for image in (*lent, *lent_padded):
            image[...] = 77
    outputs = [Path(each) for each in writer.finish()]
    places = [place for each in sources for place in each.origins]
    items = [item for each in addresses for item in (each.items or [])]
    frame = pl.DataFrame(
        {
            "patch_path": [path for each in addresses for path in each.paths[0]],
            "lung_mask_patch_path": [path for each in addresses for path in each.paths[1]],
            "patch_index": items or [None] * len(places),
            "row": [row for row, _ in places],
            "col": [col for _, col in places],
            "slice_index": [each.index for each in sources for _ in each.origins],
        },
        schema={
            "patch_path": pl.String, "lung_mask_patch_path": pl.String, "patch_index": pl.Int64, "row": pl.Int32,
            "col": pl.Int32, "slice_index": pl.Int64,
        },
    )  # fmt: skip
    return Written(root, layout, frame, outputs, writer.bytes_written, addresses, sources, pad_mode)


def raw_patch(written: Written, row: dict[str, Any], array: str) -> Image:
    """A patch by its address, as the description of the format says, in numpy alone."""
    column = "patch_path" if array == "image" else f"{array}_patch_path"
    stored: Image = np.load(written.root / row[column], allow_pickle=False)
    if written.layout in {"shards", "slices"}:
        stored = stored[row["patch_index"]]
    if written.layout in {"slices", "index"}:
        stored = np.pad(stored, ((0, 30), (0, 30)), mode=PADS.get(written.pad_mode, "constant"))
        stored = stored[row["row"] : row["row"] + SIZE[0], row["col"] : row["col"] + SIZE[1]]
    return stored


SETS: list[tuple[PadMode, list[Source]]] = [
    ("none", INSIDE), ("shift", INSIDE), ("zero", BEYOND), ("edge", BEYOND), ("reflect", BEYOND)
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
class TestContract:
    @pytest.fixture(params=SETS, ids=[mode for mode, _ in SETS])
    def written(self, tmp_path: Path, layout: LayoutName, request: pytest.FixtureRequest) -> Written:
        pad_mode, sources = request.param
        return write(tmp_path, layout, sources, pad_mode)

    @pytest.mark.parametrize("array", ARRAYS)
    def test_the_addresses_lead_to_the_pixels_in_plain_numpy(self, written: Written, array: str) -> None:
        rows = list(written.frame.iter_rows(named=True))
        found = np.array([raw_patch(written, row, array) for row in rows])
        assert found.dtype == np.dtype(DTYPES[array])
        np.testing.assert_array_equal(found, written.expected(array))

    @pytest.mark.parametrize("array", ARRAYS)
    def test_the_reader_gives_the_pixels_in_the_order_asked(self, written: Written, array: str) -> None:
        wanted = written.expected(array)
        found = written.read(array)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
        count = len(wanted)
        order = [count - 1, 0, 0, *range(count)[::2], count // 2]
        np.testing.assert_array_equal(written.read(array, order), wanted[order])
        assert written.read(array, []).shape == (0, *SIZE)

    def test_the_reader_fills_whatever_it_is_given(self, written: Written) -> None:
        wanted = written.expected("image")
        count = len(wanted)
        wide = np.full((count, SIZE[0], SIZE[1] * 2), -1, np.float32)
        written.reader("image").read_into(np.arange(count), wide[:, :, ::2])
        np.testing.assert_array_equal(wide[:, :, ::2], wanted)
        assert (wide[:, :, 1::2] == -1).all()  # and nothing beside it
        for other in (np.empty((count, *SIZE), ">f4"), np.empty((count, *SIZE), np.float64)):
            written.reader("image").read_into(np.arange(count), other)
            np.testing.assert_array_equal(other, wanted)

    def test_digests_are_those_of_the_patches_or_there_are_none(self, written: Written) -> None:
        for place, array in enumerate(ARRAYS):
            found = [digest for each in written.addresses for digest in (each.digests[place] if each.digests else [])]
            kind = {"image": "<f4", "lung_mask": "|u1"}[array]
            wanted = [
                xxhash.xxh3_128(f"4,3;{kind};".encode() + patch.astype(kind).tobytes()).hexdigest()
                for patch in written.expected(array)
            ]
            assert found == (wanted if written.layout in {"files", "shards"} else [])

    def test_the_files_are_all_there_is_and_their_bytes_are_counted(self, written: Written) -> None:
        on_disk = {path for path in written.folder.rglob("*") if path.is_file()}
        assert set(written.outputs) == on_disk
        assert len(written.outputs) == len(on_disk)
        assert written.bytes_written == sum(path.stat().st_size for path in on_disk)
        named = {*written.frame["patch_path"], *written.frame["lung_mask_patch_path"]}
        if written.layout == "index":
            assert on_disk == set()
            assert all(path.startswith("prepared/") for path in named)
        else:
            assert {str(path.relative_to(written.root).as_posix()) for path in on_disk} == named

    def test_every_address_belongs_to_a_kept_window(self, written: Written) -> None:
        for each, addresses in zip(written.sources, written.addresses, strict=True):
            assert [len(paths) for paths in addresses.paths] == [len(each.origins)] * len(ARRAYS)
            assert (addresses.items is None) is (written.layout in {"files", "index"})
            assert addresses.items is None or len(addresses.items) == len(each.origins)

    def test_the_same_again_gives_the_same_bytes(self, tmp_path: Path, written: Written) -> None:
        before = {path: path.read_bytes() for path in written.outputs}
        for path in written.outputs:
            path.write_bytes(path.read_bytes() + b"left behind by a longer one")
        again = write(tmp_path, written.layout, written.sources, written.pad_mode)
        assert {path: path.read_bytes() for path in again.outputs} == before

    def test_nothing_kept_is_nothing_written(self, tmp_path: Path, layout: LayoutName) -> None:
        written = write(tmp_path, layout, [source(1, (9, 8), []), source(2, (2, 2), [])])
        assert written.outputs == []
        assert written.bytes_written == 0
        assert [each.paths for each in written.addresses] == [[[], []], [[], []]]
        assert written.frame.height == 0
        assert [path for path in written.folder.rglob("*") if path.is_file()] == []

    def test_cutting_in_blocks_changes_nothing(
        self, tmp_path: Path, layout: LayoutName, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = write(tmp_path / "whole", layout, INSIDE)
        monkeypatch.setattr(base, "_BLOCK_BYTES", 2 * 4 * SIZE[0] * SIZE[1])  # two patches at a time
        blocks = write(tmp_path / "blocks", layout, INSIDE)
        assert blocks.addresses == whole.addresses
        assert contents(blocks) == contents(whole)

    def test_after_a_fault_the_part_can_be_written_anew(self, tmp_path: Path, layout: LayoutName) -> None:
        folder = tmp_path / PREFIX
        for name in ("", *folders_of(layout, ARRAYS)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        shards = {(9, 8): 7, (4, 3): 8 if layout == "slices" else 7}
        writer = make_writer(layout, WriterOptions(folder, PREFIX, "train", SIZE, ARRAYS, shards))
        images = tuple(np.full((9, 8), 5, DTYPES[array]) for array in ARRAYS)
        origin = np.array([0], np.int32)
        writer.write(SliceToWrite(99, ("a", "b"), images, images, origin, origin))
        writer.abandon()
        writer.abandon()
        written = write(tmp_path, layout, INSIDE)
        np.testing.assert_array_equal(written.read(), written.expected("image"))

    @pytest.mark.parametrize("damage", ["missing", "cut", "longer", "rubbish", "other", "empty"])
    def test_a_damaged_file_is_an_error_that_names_it(self, tmp_path: Path, layout: LayoutName, damage: str) -> None:
        written = write(tmp_path, layout, INSIDE)
        name = written.frame["patch_path"][0]
        path = written.root / name
        content = path.read_bytes()
        path.unlink()
        if damage == "other":
            np.save(path, np.zeros((2, 2), np.float32))
        elif damage != "missing":
            path.write_bytes(
                {"cut": content[:-1], "longer": content + b"\0", "rubbish": b"x" * len(content), "empty": b""}[damage]
            )
        message = fault(FormatError if damage == "other" else NpyError, lambda: written.read(which=[0]))
        assert message.startswith(name)
        said = {"missing": "is missing", "cut": "is cut short", "longer": "has trailing bytes", "rubbish": "not a .npy",
                "other": "(2, 2)", "empty": "is empty"}  # fmt: skip
        assert said[damage] in message
        np.testing.assert_array_equal(written.read("lung_mask"), written.expected("lung_mask"))

    def test_a_file_of_another_dtype_is_an_error(self, tmp_path: Path, layout: LayoutName) -> None:
        written = write(tmp_path, layout, INSIDE)
        name = written.frame["lung_mask_patch_path"][0]
        np.save(written.root / name, np.load(written.root / name).astype(np.float64))
        message = fault(FormatError, lambda: written.read("lung_mask", [0]))
        assert message.startswith(name)
        assert "dtype float64, the set says (4, 3) of uint8" in message

    def test_a_file_of_the_set_that_was_made_a_link_is_refused(self, tmp_path: Path, layout: LayoutName) -> None:
        written = write(tmp_path, layout, INSIDE)
        path = written.root / written.frame["patch_path"][0]
        path.rename(tmp_path / "elsewhere.npy")
        try:
            path.symlink_to(tmp_path / "elsewhere.npy")
        except (OSError, NotImplementedError):
            pytest.skip("this system, or this user, has no symbolic links")
        if not hasattr(os, "O_NOFOLLOW"):
            pytest.skip("this system cannot refuse links on opening")
        if layout == "index":  # a source slice may be a link below the data root
            np.testing.assert_array_equal(written.read(), written.expected("image"))
        else:
            assert "cannot be opened" in fault(NpyError, lambda: written.read(which=[0]))

    def test_a_row_without_an_address_is_an_error(self, tmp_path: Path, layout: LayoutName) -> None:
        written = write(tmp_path, layout, INSIDE)
        holes = {"patch_path": pl.String, "patch_index": pl.Int64}
        for column, kind in holes.items():
            if column == "patch_index" and layout in {"files", "index"}:
                continue
            frame = written.frame.with_columns(pl.when(pl.col("row") > 0).then(column).otherwise(pl.lit(None, kind)))
            message = fault(FormatError, partial(written.reader, "image", frame))
            assert message.startswith("the manifest has rows without an address (patch_path")
            assert message.endswith(f"; the layout is {layout}")
            assert column in message


def contents(written: Written) -> dict[str, bytes]:
    return {path.relative_to(written.folder).as_posix(): path.read_bytes() for path in written.outputs}


def fault(error: type[CtPatchError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert caught.value.exit_status == 1
    return str(caught.value)


@pytest.mark.parametrize("layout", ["slices", "index"])
def test_a_window_outside_its_slice_is_an_error(tmp_path: Path, layout: LayoutName) -> None:
    written = write(tmp_path, layout, INSIDE)
    for row, col in [(6, 0), (0, 6), (-4, 0), (0, -3), (-9, -8), (100, 100)]:
        moved = written.frame.with_columns(row=pl.lit(row, pl.Int32), col=pl.lit(col, pl.Int32))
        message = fault(FormatError, partial(written.read, which=[0], frame=moved))
        assert f"({row}, {col})" in message
        assert moved["patch_path"][0] in message


@pytest.mark.parametrize("layout", ["slices", "index"])
def test_under_padding_a_window_that_no_grid_has_is_an_error(tmp_path: Path, layout: LayoutName) -> None:
    written = write(tmp_path, layout, BEYOND, "zero")
    for row, col in [(-1, 0), (0, -1), (20_000, 0), (0, 2**31 - 1)]:
        moved = written.frame.with_columns(row=pl.lit(row, pl.Int32), col=pl.lit(col, pl.Int32))
        assert f"({row}, {col})" in fault(FormatError, partial(written.read, which=[0], frame=moved))


@pytest.mark.parametrize("layout", ["shards", "slices"])
def test_an_item_that_is_not_there_is_an_error(tmp_path: Path, layout: LayoutName) -> None:
    written = write(tmp_path, layout, INSIDE)
    for item in (-1, 1000):
        frame = written.frame.with_columns(patch_index=pl.lit(item, pl.Int64))
        message = fault(FormatError, partial(written.read, which=[0], frame=frame))
        assert message.startswith(written.frame["patch_path"][0])


def test_names_are_those_of_the_format(tmp_path: Path) -> None:
    def names(layout: LayoutName) -> list[str]:
        written = write(tmp_path / layout, layout, INSIDE)
        return sorted(path.relative_to(written.folder).as_posix() for path in written.outputs)

    ids = ["train_000003_000_000", "train_000003_000_004", "train_000003_002_001", "train_000003_005_005",
           "train_000005_000_000", "train_000011_001_002", "train_000011_005_000"]  # fmt: skip
    assert names("files") == sorted([*(f"{each}.npy" for each in ids), *(f"lung_mask/{each}.npy" for each in ids)])
    assert names("shards") == ["shards/train_00007.npy", "shards/train_00007_lung_mask.npy"]
    assert names("slices") == [
        "shards/train_00007.npy", "shards/train_00007_lung_mask.npy",
        "shards/train_00008.npy", "shards/train_00008_lung_mask.npy",
    ]  # fmt: skip
    assert names("index") == []


def test_what_the_packed_files_hold_as_numpy_sees_them(tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", "shards", INSIDE)
    stored = np.load(shards.folder / "shards/train_00007.npy", mmap_mode="r")
    np.testing.assert_array_equal(stored, shards.expected("image"))
    assert stored.offset == 4096
    slices = write(tmp_path / "slices", "slices", INSIDE)
    stored = np.load(slices.folder / "shards/train_00007.npy", mmap_mode="r")
    # each source pixel once; the slice without a kept window is not there
    np.testing.assert_array_equal(stored, [INSIDE[0].images["image"], INSIDE[3].images["image"]])
    assert stored.offset == 4096
    stored = np.load(slices.folder / "shards/train_00008_lung_mask.npy")
    np.testing.assert_array_equal(stored, [INSIDE[2].images["lung_mask"]])


def test_index_reads_sources_of_any_width_and_order(tmp_path: Path) -> None:
    written = write(tmp_path, "index", INSIDE)
    path = written.root / "prepared/3_image.npy"
    for dtype in (">f8", ">f4", "<f2"):
        for order in (np.asfortranarray, np.ascontiguousarray):
            np.save(path, order(INSIDE[0].images["image"].astype(dtype)))
            wanted = np.array(INSIDE[0].expected("image", "none")).astype(dtype).astype(np.float32)
            np.testing.assert_array_equal(written.read(which=[0, 1, 2, 3]), wanted)


def test_a_patch_file_written_by_others_is_read_by_value(tmp_path: Path) -> None:
    written = write(tmp_path, "files", INSIDE)
    wanted = written.expected("image")
    path = written.root / written.frame["patch_path"][0]
    np.save(path, np.asfortranarray(wanted[0]))
    np.testing.assert_array_equal(written.read(), wanted)
    np.save(path, wanted[0].astype(">f4"))
    np.testing.assert_array_equal(written.read(), wanted)


def test_few_files_stay_mapped_and_all_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_MAPPED_FILES", 2)
    written = write(tmp_path, "index", INSIDE)
    files = MappedFiles(written.resolve, follow_links=True)
    addresses = addresses_of(written.frame, "index", "image", "float32")
    reader = ArrayReader(addresses, files, written.resolve, SIZE, "none")
    wanted = written.expected("image")
    out = np.empty_like(wanted)
    for _ in range(2):
        reader.read_into(np.arange(len(wanted)), out)
        np.testing.assert_array_equal(out, wanted)
        assert len(files._open) == 2
    files.close()
    assert len(files._open) == 0
    reader.read_into(np.arange(len(wanted)), out)
    np.testing.assert_array_equal(out, wanted)


def test_what_is_mapped_cannot_be_written(tmp_path: Path) -> None:
    written = write(tmp_path, "slices", INSIDE)
    array = MappedFiles(written.resolve, follow_links=False).get(written.frame["patch_path"][0])
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0, 0] = 1


def test_an_empty_array_is_mapped_and_has_no_item(tmp_path: Path) -> None:
    written = write(tmp_path, "shards", INSIDE)
    np.save(written.root / written.frame["patch_path"][0], np.empty((0, *SIZE), np.float32))
    assert "shape (0, 4, 3)" in fault(FormatError, lambda: written.read(which=[0]))


def test_a_packed_file_refuses_items_of_another_shape(tmp_path: Path) -> None:
    file = PackedFile(tmp_path / "x.npy", (2, 3), np.dtype(">f4"))
    assert file.append(np.ones((2, 2, 3), ">f4")) == 0
    assert file.append(np.full((1, 2, 3), 7, ">f4")) == 2
    with pytest.raises(ValueError, match=r"items of shape \(3, 2\) do not fit a file of \(2, 3\)"):
        file.append(np.ones((1, 3, 2), ">f4"))
    file.close()
    stored = np.load(tmp_path / "x.npy")
    assert stored.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(stored, [np.ones((2, 3)), np.ones((2, 3)), np.full((2, 3), 7)])


def with_digests(written: Written) -> pl.DataFrame:
    columns = [
        pl.Series(
            "digest" if array == "image" else f"{array}_digest",
            [digest for each in written.addresses for digest in each.digests[place]],
        )
        for place, array in enumerate(ARRAYS)
    ]
    return written.frame.with_columns(columns)


INFOS = {"image": ArrayInfo(dtype="float32", labels=False), "lung_mask": ArrayInfo(dtype="uint8", labels=True)}


@pytest.mark.parametrize("layout", ["files", "shards"])
def test_one_changed_bit_of_a_patch_is_found(tmp_path: Path, layout: LayoutName) -> None:
    from ctpatch.config import PatchConfig

    written = write(tmp_path, layout, INSIDE)
    rows = with_digests(written)
    cfg = PatchConfig(patch_size=SIZE)
    assert wrong_patches(rows, layout, INFOS, written.resolve, cfg) == []
    row = 2
    path = written.root / rows["lung_mask_patch_path"][row]
    content = bytearray(path.read_bytes())
    begin = len(content) - 12 if layout == "files" else 4096 + 12 * rows["patch_index"][row]
    content[begin + 5] ^= 1
    path.write_bytes(content)
    (wrong,) = wrong_patches(rows, layout, INFOS, written.resolve, cfg)
    assert (wrong.row, wrong.array) == (row, "lung_mask")
    assert f"on record is {rows['lung_mask_digest'][row]}" in wrong.fault


def test_one_changed_bit_of_a_stored_slice_is_found(tmp_path: Path) -> None:
    written = write(tmp_path, "slices", INSIDE)
    slices = pl.DataFrame(
        [
            {"slice_index": each.index}
            | {
                column: xxhash.xxh3_128(
                    f"{','.join(map(str, image.shape))};{np.dtype(image.dtype).str};".encode() + image.tobytes()
                ).hexdigest()
                for column, image in zip(("digest", "lung_mask_digest"), each.images.values(), strict=True)
            }
            for each in INSIDE
        ]
    )
    assert wrong_stored_slices(written.frame, slices, INFOS, written.resolve) == []
    path = written.folder / "shards/train_00007.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 128  # the sign of the last pixel of the second slice
    path.write_bytes(content)
    (wrong,) = wrong_stored_slices(written.frame, slices, INFOS, written.resolve)
    assert (written.frame["slice_index"][wrong.row], wrong.array) == (11, "image")
    assert "its slice has the digest" in wrong.fault
