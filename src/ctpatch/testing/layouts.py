"""What all of ctpatch relies on in a layout, tested by value and with reads that bypass the code under test."""

import ast
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import xxhash
from numpy.typing import NDArray

from ctpatch.errors import CtPatchError, FormatError, NpyError
from ctpatch.format.meta import ArrayInfo
from ctpatch.format.tables import patch_ids
from ctpatch.layouts import base, register, unregister
from ctpatch.layouts.base import Addresses, Layout, PartLimits, PixelFile, SliceToWrite, WriterOptions
from ctpatch.layouts.reader import ArrayReader
from ctpatch.words import PadMode

Image = NDArray[Any]
SIZE = (4, 3)
PREFIX = "patches/ds/train/"
ARRAYS = {
    "image": ArrayInfo(dtype="float32", labels=False),
    "target": ArrayInfo(dtype="float32", labels=False),
    "mask": ArrayInfo(dtype="int16", labels=True),
}
_MARGIN = 20


@contextmanager
def registered(layout: Layout, summary: str = "made for a test") -> Iterator[Layout]:
    """Make a layout known to this process for a while."""
    register(layout, summary)
    try:
        yield layout
    finally:
        unregister(layout.name)


def source_index(position: int, length: int, pad_mode: PadMode) -> int | None:
    """Which pixel of an axis stands at a position, which may lie beyond it; None where that is a zero."""
    if position < length:
        return position
    if pad_mode == "reflect" and length > 1:
        position %= 2 * (length - 1)
        return position if position < length else 2 * (length - 1) - position
    return length - 1 if pad_mode in {"edge", "reflect"} else None


def reference_patch(image: Image, row: int, col: int, pad_mode: PadMode) -> Image:
    """One window, pixel by pixel."""
    patch = np.zeros(SIZE, image.dtype)
    for i in range(SIZE[0]):
        for j in range(SIZE[1]):
            there = source_index(row + i, image.shape[0], pad_mode), source_index(col + j, image.shape[1], pad_mode)
            if there[0] is not None and there[1] is not None:
                patch[i, j] = image[there]
    return patch


def reference_digest(pixels: Image) -> str:
    """The digest of an array, after the description of the format."""
    kind = pixels.dtype.newbyteorder("<").str
    said = f"{','.join(str(side) for side in pixels.shape)};{kind};".encode()
    return xxhash.xxh3_128(said + pixels.astype(kind).tobytes()).hexdigest()


@dataclass(frozen=True)
class Source:
    """A slice, and where its kept windows begin."""

    index: int
    shape: tuple[int, int]
    origins: list[tuple[int, int]]

    @property
    def images(self) -> dict[str, Image]:
        """Pixels that tell their place, other ones for each slice and array; NaN and -0 are among them."""
        count = self.shape[0] * self.shape[1]
        image = (self.index * 1000 + np.arange(count)).astype(np.float32)
        image[0] = np.nan
        image[1] = -0.0
        mask = (np.arange(count) % 251 * (1 - 2 * (self.index % 2))).astype(np.int16)
        return {
            "image": image.reshape(self.shape),
            "target": image[::-1].reshape(self.shape),
            "mask": mask.reshape(self.shape),
        }


INSIDE = [
    Source(3, (9, 8), [(0, 0), (0, 4), (2, 1), (5, 5)]),
    Source(4, (9, 8), []),  # every window dropped
    Source(5, (4, 3), [(0, 0)]),  # another shape: the patch itself
    Source(11, (9, 8), [(5, 0), (1, 2)]),
]
BEYOND = [
    # Under a stride larger than a patch a window may lie wholly beyond its slice.
    Source(0, (5, 5), [(0, 0), (4, 4), (0, 4), (3, 0), (0, 6), (7, 9)]),
    Source(1, (1, 2), [(0, 0)]),  # smaller than a patch
    Source(2, (5, 5), [(4, 0)]),
]
CASES: dict[str, tuple[PadMode, list[Source]]] = {
    "inside": ("none", INSIDE),
    "zero": ("zero", BEYOND),
    "edge": ("edge", BEYOND),
    "reflect": ("reflect", BEYOND),
}


def raw_npy(path: Path) -> tuple[Image, int]:
    """The array in a .npy file, and where its data begin: taken apart by hand, whatever numpy would say."""
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<6s2sH", content)
    assert (magic, version) == (b"\x93NUMPY", b"\x01\x00"), f"{path} does not begin as a .npy file"
    header = ast.literal_eval(content[10 : 10 + length].decode("ascii").strip())
    assert not header["fortran_order"]
    data = content[10 + length :]
    array: Image = np.frombuffer(data, header["descr"])
    assert array.nbytes == len(data)
    return array.reshape(header["shape"]), 10 + length


@dataclass
class Written:
    """What a writer left behind."""

    layout: Layout
    root: Path
    rows: pl.DataFrame
    slices: pl.DataFrame
    outputs: list[Path]
    bytes_written: int
    addresses: list[Addresses]
    sources: list[Source]
    pad_mode: PadMode
    num_shards: int

    @property
    def folder(self) -> Path:
        """The set's folder."""
        return self.root / PREFIX

    def resolve(self, path: str) -> str:
        """Where a file named in the manifest is."""
        return str(self.root / path)

    def expected(self, array: str) -> Image:
        """All patches, `(N, h, w)`, in the order of the rows."""
        patches = [
            reference_patch(each.images[array], row, col, self.pad_mode)
            for each in self.sources
            for row, col in each.origins
        ]
        return np.array(patches, ARRAYS[array].dtype).reshape(-1, *SIZE)

    def reader(self, array: str, rows: pl.DataFrame | None = None) -> ArrayReader:
        """The layout's reader of an array, for these rows or for all."""
        addresses = self.layout.addresses(self.rows if rows is None else rows, array, ARRAYS[array].dtype)
        return self.layout.reader(addresses, self.layout.files(self.resolve), SIZE, self.pad_mode)

    def read(self, array: str = "image", which: list[int] | None = None, rows: pl.DataFrame | None = None) -> Image:
        """Patches as the layout reads them."""
        order = np.arange(self.rows.height) if which is None else np.array(which, np.int64)
        out = np.full((len(order), *SIZE), 99, ARRAYS[array].dtype)
        self.reader(array, rows).read_into(order, out)
        return out

    def pixel_files(self) -> list[PixelFile]:
        """The files that the layout says there are."""
        return list(self.layout.pixel_files(self.rows, self.slices, ARRAYS, SIZE))

    def wrong(self) -> list[tuple[int, str]]:
        """Rows and arrays whose pixels the layout finds wrong."""
        found = self.layout.wrong_pixels(self.rows, self.slices, ARRAYS, self.resolve, SIZE)
        return [(row, array) for row, array, _fault in found]

    def contents(self) -> dict[str, bytes]:
        """Every file of the set's folder."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}

    def damaged(self, number: int, *, cut: int = 0, flip: int | None = None, more: bytes = b"") -> PixelFile:
        """Harm a file: cut bytes off, change one, or put some behind; returns what the tables say of it."""
        file = self.pixel_files()[number]
        path = self.root / str(file.path)
        content = bytearray(path.read_bytes())
        if flip is not None:
            content[flip] ^= 1
        path.write_bytes(bytes(content[: len(content) - cut]) + more)
        return file


def same_bits(found: Image, wanted: Image) -> bool:
    """Same shape, dtype and bits: NaN and the sign of zero count."""
    return (found.shape, found.dtype, found.tobytes()) == (wanted.shape, wanted.dtype, wanted.tobytes())


def refused(kind: type[CtPatchError] | tuple[type[CtPatchError], ...], call: Any) -> str:
    """The message of the error that a call raises."""
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


class LayoutContract:
    """Tests of one layout: subclass it, name the class `Test…`, and set `layout`.

    Override `raw_patch` where patches do not lie in plain .npy files.

    Attributes:
        layout: the layout under test.
    """

    layout: ClassVar[Layout]

    def raw_patch(self, written: Written, row: dict[str, Any], array: str) -> Image:
        """A patch by its address, in numpy alone: what the layout's description says of its files."""
        column = "patch_path" if array == "image" else f"{array}_patch_path"
        stored, _ = raw_npy(written.root / row[column])
        if row["patch_index"] is not None:
            stored = stored[row["patch_index"]]
        if self.layout.holds_patches:
            return stored
        return reference_patch(stored, row["row"], row["col"], written.pad_mode)

    def write(
        self,
        root: Path,
        sources: list[Source],
        pad_mode: PadMode = "none",
        first_shard: int = 7,
        *,
        fault: bool = False,
    ) -> Written:
        """Write slices as a build does, into `root / PREFIX`; with `fault`, abandon them at the end."""
        folder = root / PREFIX
        for name in ("", *self.layout.folders(list(ARRAYS))):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (root / "prepared").mkdir(exist_ok=True)
        shards = self.layout.shards(list(dict.fromkeys(each.shape for each in sources if each.origins)), first_shard)
        writer = self.layout.writer(WriterOptions(folder, PREFIX, "train", SIZE, tuple(ARRAYS), shards))
        addresses = []
        for each in sources:
            for array, image in each.images.items():
                np.save(root / f"prepared/{each.index}_{array}.npy", image)
            # A writer must not keep what it was given: the buffers are used again.
            lent = [image.copy() for image in each.images.values()]
            padded = [image if pad_mode == "none" else _padded(image, pad_mode) for image in lent]
            origins = np.array(each.origins, np.int32).reshape(-1, 2)
            paths = tuple(f"prepared/{each.index}_{array}.npy" for array in ARRAYS)
            piece = SliceToWrite(each.index, paths, tuple(lent), tuple(padded), origins[:, 0], origins[:, 1])
            addresses.append(writer.write(piece))
            for image in (*lent, *padded):
                image[...] = 77
        if fault:
            writer.abandon()
            writer.abandon()
        outputs = [] if fault else [Path(each) for each in writer.finish()]
        numbers = len(set(shards.values()))
        return Written(
            self.layout, root, _rows(sources, addresses), _slices(sources), outputs, writer.bytes_written, addresses,
            sources, pad_mode, numbers,
        )  # fmt: skip

    @pytest.fixture(params=CASES)
    def written(self, tmp_path: Path, request: pytest.FixtureRequest) -> Written:
        """Slices of several shapes, written; once for each way at the border."""
        pad_mode, sources = CASES[request.param]
        return self.write(tmp_path, sources, pad_mode)

    @pytest.fixture
    def inside(self, tmp_path: Path) -> Written:
        """Slices of several shapes, written, all windows inside."""
        return self.write(tmp_path, INSIDE)

    @pytest.fixture
    def stored(self, inside: Written) -> Written:
        """The same, where the layout has files of its own."""
        if self.layout.reads_sources:
            pytest.skip(f"the layout {self.layout.name} has no files of its own")
        return inside

    # Pixels.

    @pytest.mark.parametrize("array", ARRAYS)
    def test_the_addresses_lead_to_the_pixels_in_plain_numpy(self, written: Written, array: str) -> None:
        found = np.array([self.raw_patch(written, row, array) for row in written.rows.iter_rows(named=True)])
        assert same_bits(found, written.expected(array))

    @pytest.mark.parametrize("array", ARRAYS)
    def test_the_reader_gives_the_pixels_in_the_order_asked(self, written: Written, array: str) -> None:
        wanted = written.expected(array)
        count = len(wanted)
        assert same_bits(written.read(array), wanted)
        order = [count - 1, 0, 0, *range(count)[::2], count // 2]
        assert same_bits(written.read(array, order), wanted[order])
        assert written.read(array, []).shape == (0, *SIZE)

    def test_the_reader_fills_whatever_it_is_given(self, written: Written) -> None:
        wanted = written.expected("target")
        count = len(wanted)
        wide = np.full((count, SIZE[0], SIZE[1] * 2), -1, np.float32)
        written.reader("target").read_into(np.arange(count), wide[:, :, ::2])
        np.testing.assert_array_equal(wide[:, :, ::2], wanted)
        assert (wide[:, :, 1::2] == -1).all(), "something beside it was written as well"
        for other in (np.empty((count, *SIZE), ">f4"), np.empty((count, *SIZE), np.float64)):
            written.reader("target").read_into(np.arange(count), other)
            np.testing.assert_array_equal(other, wanted)

    def test_digests_are_those_of_the_patches_or_there_are_none(self, written: Written) -> None:
        for place, array in enumerate(ARRAYS):
            found = [digest for each in written.addresses for digest in (each.digests[place] if each.digests else [])]
            wanted = [reference_digest(patch) for patch in written.expected(array)]
            assert found == (wanted if self.layout.holds_patches else [])

    # Files and names.

    def test_the_files_are_all_there_is_and_their_bytes_are_counted(self, written: Written) -> None:
        on_disk = written.contents()
        assert sorted(path.relative_to(written.folder).as_posix() for path in written.outputs) == sorted(on_disk)
        assert written.bytes_written == sum(map(len, on_disk.values()))
        named = {path for array in ARRAYS for path in written.rows[base.path_column(array)]}
        if self.layout.reads_sources:
            assert on_disk == {}
            assert all(path.startswith("prepared/") for path in named)
        else:
            assert {PREFIX + name for name in on_disk} == named

    def test_the_names_are_those_that_a_build_looks_for(self, written: Written) -> None:
        patterns = self.layout.names("train", list(ARRAYS))
        assert set(self.layout.folders(list(ARRAYS))) == set(patterns) - {""}
        for path in written.contents():
            folder, _, name = path.rpartition("/")
            assert patterns[folder].fullmatch(name), f"{path} is not among the names of the layout"
        for pattern in patterns.values():
            for foreign in ("patch_manifest.csv", "notes.npy", "test_000003_000_000.npy", "trains_00007.npy"):
                assert not pattern.fullmatch(foreign)

    def test_every_address_belongs_to_a_kept_window(self, written: Written) -> None:
        for each, addresses in zip(written.sources, written.addresses, strict=True):
            assert [len(paths) for paths in addresses.paths] == [len(each.origins)] * len(ARRAYS)
            assert (addresses.items is None) is not self.layout.packed
            assert addresses.items is None or len(addresses.items) == len(each.origins)

    def test_the_tables_say_which_paths_and_files_there_are(self, written: Written) -> None:
        for array in ARRAYS:
            wanted = self.layout.wanted_paths(written.rows, written.slices, array, PREFIX)
            assert wanted is None or wanted.to_list() == written.rows[base.path_column(array)].to_list()
        files = written.pixel_files()
        assert sorted(str(file.path) for file in files) == sorted(PREFIX + name for name in written.contents())
        for file in files:
            path = written.root / str(file.path)
            assert path.read_bytes()[: len(file.header)] == file.header
            assert file.size == path.stat().st_size
            assert (file.fault, file.damage(str(path))) == (None, None)
        if files:
            assert sum(file.patches for file in files) == written.rows.height * len(ARRAYS)

    # Planning.

    def test_the_bytes_are_known_beforehand(self, written: Written) -> None:
        planned = self.layout.pixel_bytes(
            [(1, each.shape, len(each.origins)) for each in written.sources],
            SIZE,
            [np.dtype(info.dtype) for info in ARRAYS.values()],
            lambda: written.num_shards,
        )
        assert planned == written.bytes_written

    def test_shards_are_numbered_without_a_gap_and_parts_end(self) -> None:
        shapes = [(9, 8), (4, 3), (5, 5)]
        numbers = set(self.layout.shards(shapes, 7).values())
        assert numbers == set(range(7, 7 + len(numbers)))
        assert self.layout.shards([], 7) == {}
        limits = PartLimits(slices=3, windows=30, packed_windows=30, shard_bytes=3000)
        assert not self.layout.is_full(1, 1, 1, limits)
        assert self.layout.is_full(4, 31, 3001, limits)

    # Doing it again.

    def test_the_same_again_gives_the_same_bytes(self, written: Written) -> None:
        before = written.contents()
        for path in written.outputs:
            path.write_bytes(path.read_bytes() + b"left behind by a longer one")
        again = self.write(written.root, written.sources, written.pad_mode)
        assert again.contents() == before
        assert again.addresses == written.addresses

    def test_after_a_fault_the_part_can_be_written_anew(self, tmp_path: Path) -> None:
        self.write(tmp_path, [Source(3, (9, 8), [(1, 1)]), Source(5, (4, 3), [(0, 0)])], fault=True)
        written = self.write(tmp_path, INSIDE)
        assert same_bits(written.read("mask"), written.expected("mask"))

    def test_nothing_kept_is_nothing_written(self, tmp_path: Path) -> None:
        written = self.write(tmp_path, [Source(1, (9, 8), []), Source(2, (2, 2), [])])
        assert (written.outputs, written.bytes_written, written.contents(), written.pixel_files()) == ([], 0, {}, [])
        assert [each.paths for each in written.addresses] == [[[], [], []]] * 2

    def test_cutting_in_blocks_changes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = self.write(tmp_path / "whole", INSIDE)
        monkeypatch.setattr(base, "_BLOCK_BYTES", 2 * 4 * SIZE[0] * SIZE[1])  # two patches at a time
        blocks = self.write(tmp_path / "blocks", INSIDE)
        assert blocks.addresses == whole.addresses
        assert blocks.contents() == whole.contents()

    def test_it_can_be_sent_to_another_process(self, inside: Written) -> None:
        inside.layout = pickle.loads(pickle.dumps(self.layout))  # noqa: S301 - it was made here
        assert same_bits(inside.read(), inside.expected("image"))

    # Damage.

    @pytest.mark.parametrize("damage", ["missing", "cut", "longer", "rubbish", "other", "empty"])
    def test_reading_a_damaged_file_is_an_error_that_names_it(self, inside: Written, damage: str) -> None:
        name = inside.rows["patch_path"][0]
        path = inside.root / name
        content = path.read_bytes()
        path.unlink()
        if damage == "other":
            np.save(path, np.zeros((2, 2), np.float32))
        elif damage != "missing":
            harmed = {"cut": content[:-1], "longer": content + b"\0", "rubbish": b"x" * len(content), "empty": b""}
            path.write_bytes(harmed[damage])
        message = refused((NpyError, FormatError), lambda: inside.read(which=[0]))
        assert message.startswith(name)
        assert same_bits(inside.read("mask"), inside.expected("mask")), "another array's files are whole"

    def test_a_file_of_another_dtype_is_an_error(self, inside: Written) -> None:
        name = inside.rows["mask_patch_path"][0]
        np.save(inside.root / name, raw_npy(inside.root / name)[0].astype(np.float64))
        message = refused(FormatError, lambda: inside.read("mask", [0]))
        assert message.startswith(name)
        assert "dtype float64, the set says (4, 3) of int16" in message

    @pytest.mark.parametrize("harm", [{"cut": 1}, {"more": b"\0"}])
    def test_a_file_of_another_length_is_damaged(self, stored: Written, harm: dict[str, Any]) -> None:
        for number in (0, -1):
            file = stored.damaged(number, **harm)
            damage = file.damage(stored.resolve(str(file.path)))
            assert damage is not None
            assert damage.startswith(str(file.path))
            assert stored.wrong()

    def test_a_file_that_is_gone_is_damaged(self, stored: Written) -> None:
        for number in (0, -1):
            file = stored.pixel_files()[number]
            (stored.root / str(file.path)).unlink()
            assert file.damage(stored.resolve(str(file.path))) == f"{file.path} is gone"
            assert file.array in {array for _row, array in stored.wrong()}

    def test_a_header_that_was_changed_is_not_the_one_on_record(self, stored: Written) -> None:
        for number in (0, -1):
            file = stored.damaged(number, flip=len(stored.pixel_files()[number].header) - 3)
            assert not (stored.root / str(file.path)).read_bytes().startswith(file.header)
            if self.layout.packed:
                assert file.damage(stored.resolve(str(file.path))) is not None

    def test_one_changed_bit_is_found(self, stored: Written) -> None:
        assert stored.wrong() == []
        for number in (0, -1):
            file = stored.pixel_files()[number]
            for place in (len(file.header), file.size - 1):
                stored.damaged(number, flip=place)
                wrong = stored.wrong()
                assert wrong, f"a changed bit at byte {place} of {file.path} was not found"
                assert {array for _row, array in wrong} == {file.array}
                stored.damaged(number, flip=place)
        assert stored.wrong() == []

    def test_a_file_that_was_made_a_link_is_refused(self, inside: Written, tmp_path: Path) -> None:
        path = inside.root / inside.rows["patch_path"][0]
        path.rename(tmp_path / "elsewhere.npy")
        try:
            path.symlink_to(tmp_path / "elsewhere.npy")
        except (OSError, NotImplementedError):
            pytest.skip("this system, or this user, has no symbolic links")
        if self.layout.reads_sources:  # a source slice may be a link below the data root
            assert same_bits(inside.read(), inside.expected("image"))
        else:
            assert "cannot be opened" in refused(NpyError, lambda: inside.read(which=[0]))

    # Addresses that no writer gives.

    def test_a_row_without_an_address_is_an_error(self, inside: Written) -> None:
        holes: dict[str, type[pl.DataType]] = {"patch_path": pl.String}
        if self.layout.packed:
            holes["patch_index"] = pl.Int64
        for column, kind in holes.items():
            rows = inside.rows.with_columns(pl.when(pl.col("row") > 0).then(column).otherwise(pl.lit(None, kind)))
            message = refused(FormatError, partial(inside.reader, "image", rows))
            assert message.startswith("the manifest has rows without an address (patch_path")
            assert message.endswith(f"; the layout is {self.layout.name}")

    def test_an_item_that_is_not_there_is_an_error(self, inside: Written) -> None:
        if not self.layout.packed:
            pytest.skip("a file has one item")
        for item in (-1, 1000):
            rows = inside.rows.with_columns(patch_index=pl.lit(item, pl.Int64))
            message = refused(FormatError, partial(inside.read, which=[0], rows=rows))
            assert message.startswith(inside.rows["patch_path"][0])

    @pytest.mark.parametrize("case", ["inside", "zero"])
    def test_a_window_outside_its_slice_is_an_error(self, tmp_path: Path, case: str) -> None:
        if self.layout.holds_patches:
            pytest.skip("an address is a patch")
        pad_mode, sources = CASES[case]
        written = self.write(tmp_path, sources, pad_mode)
        outside = [(-1, 0), (0, -3), (20_000, 0), (0, 2**31 - 1)]
        for row, col in [*outside, *([(6, 0), (0, 6)] if case == "inside" else [])]:
            rows = written.rows.with_columns(row=pl.lit(row, pl.Int32), col=pl.lit(col, pl.Int32))
            message = refused(FormatError, partial(written.read, which=[0], rows=rows))
            assert f"({row}, {col})" in message
            assert message.startswith(rows["patch_path"][0])

    def test_rows_that_leave_an_item_out_or_name_it_twice_are_a_fault(self, inside: Written) -> None:
        if not self.layout.packed:
            pytest.skip("a file has one item")
        for rows in (inside.rows[1:], inside.rows[[0, *range(inside.rows.height)]][:2]):
            inside.rows = rows.with_columns(slice_index=pl.int_range(pl.len()).cast(pl.Int64))
            found = [file.fault for file in inside.pixel_files()]
            assert any(fault is not None and "rows name items" in fault for fault in found)


def _padded(image: Image, pad_mode: PadMode) -> Image:
    shape = (image.shape[0] + _MARGIN, image.shape[1] + _MARGIN)
    padded = np.zeros(shape, image.dtype)
    for i in range(shape[0]):
        for j in range(shape[1]):
            there = source_index(i, image.shape[0], pad_mode), source_index(j, image.shape[1], pad_mode)
            if there[0] is not None and there[1] is not None:
                padded[i, j] = image[there]
    return padded


def _rows(sources: list[Source], addresses: list[Addresses]) -> pl.DataFrame:
    """The manifest, as far as a layout sees it."""
    places = [(each.index, row, col) for each in sources for row, col in each.origins]
    items = [item for each in addresses for item in (each.items or [])]
    columns: dict[str, Any] = {
        "slice_index": pl.Series([index for index, _, _ in places], dtype=pl.Int64),
        "row": pl.Series([row for _, row, _ in places], dtype=pl.Int32),
        "col": pl.Series([col for _, _, col in places], dtype=pl.Int32),
        "patch_index": pl.Series(items or [None] * len(places), dtype=pl.Int64),
    }
    for place, array in enumerate(ARRAYS):
        paths = [path for each in addresses for path in each.paths[place]]
        digests = [digest for each in addresses for digest in (each.digests[place] if each.digests else [])]
        columns[base.path_column(array)] = pl.Series(paths, dtype=pl.String)
        columns[base.digest_column(array)] = pl.Series(digests or [None] * len(places), dtype=pl.String)
    ids = patch_ids("train", pl.col("slice_index"), pl.col("row"), pl.col("col")).alias("patch_id")
    return pl.DataFrame(columns).with_columns(ids)


def _slices(sources: list[Source]) -> pl.DataFrame:
    """The table of slices, as far as a layout sees it."""
    return pl.DataFrame(
        [
            {
                "slice_index": each.index,
                "src_path": f"prepared/{each.index}_image.npy",
                "height": each.shape[0],
                "width": each.shape[1],
                **{f"{array}_path": f"prepared/{each.index}_{array}.npy" for array in list(ARRAYS)[1:]},
                **{base.digest_column(array): reference_digest(image) for array, image in each.images.items()},
            }
            for each in sources
        ]
    )
