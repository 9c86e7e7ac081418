"""What all of ctpatch relies on in a layout, tested by value and with reads that bypass the code under test."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from ctpatch.errors import FormatError, NpyError
from ctpatch.format.columns import path_column
from ctpatch.layouts import base, register, unregister
from ctpatch.layouts.base import Layout, PartLimits, SliceToWrite, WriterOptions
from ctpatch.testing.samples import (
    ARRAYS,
    CASES,
    INSIDE,
    PREFIX,
    SIZE,
    Image,
    Source,
    Written,
    manifest_rows,
    raw_npy,
    reference_digest,
    reference_patch,
    refused,
    same_bits,
    slice_rows,
)
from ctpatch.words import PadMode

_MARGIN = 20


@contextmanager
def registered(layout: Layout, summary: str = "made for a test") -> Iterator[Layout]:
    """Make a layout known to this process for a while."""
    register(layout, summary)
    try:
        yield layout
    finally:
        unregister(layout.name)


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
        addresses, pads = [], pad_mode != "none"
        for each in sources:
            for array, image in each.images.items():
                np.save(root / f"prepared/{each.index}_{array}.npy", image)
            # A writer must not keep what it was given: the buffers are used again.
            lent = [image.copy() for image in each.images.values()]
            around = (each.shape[0] + _MARGIN, each.shape[1] + _MARGIN)
            padded = [reference_patch(image, 0, 0, pad_mode, around) if pads else image for image in lent]
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
        rows, slices, num_bytes = manifest_rows(sources, addresses), slice_rows(sources), writer.bytes_written
        return Written(self.layout, root, rows, slices, outputs, num_bytes, addresses, sources, pad_mode, numbers)

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
        named = {path for array in ARRAYS for path in written.rows[path_column(array)]}
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
            assert wanted is None or wanted.to_list() == written.rows[path_column(array)].to_list()
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
