"""What a layout is, and what its writer is given and gives back."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.patches import cut
from ctpatch.errors import CtPatchError, FormatError
from ctpatch.files.digest import array_digest
from ctpatch.files.guard import NO_GUARD, Guard
from ctpatch.files.memory import Slabs
from ctpatch.files.npy import header_bytes
from ctpatch.format.columns import digest_column, path_column
from ctpatch.format.meta import ArrayInfo
from ctpatch.layouts.disk import Disk
from ctpatch.layouts.mapped import MappedFiles
from ctpatch.layouts.reader import ArrayAddresses, ArrayReader
from ctpatch.layouts.whole import PixelFile, WrongPixels
from ctpatch.words import PadMode

_BLOCK_BYTES = 32 << 20
"""Patches of one slice are cut in blocks of about this size, so that memory does not depend on the stride."""

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PartLimits:
    """How large a part of a build may become; one slice alone may have more.

    Attributes:
        slices, windows: where each patch has a file of its own, or none.
        packed_windows: where many share a file.
        shard_bytes: of one array in a shard, 4 bytes for each pixel.
    """

    slices: int = 64
    windows: int = 16_384
    packed_windows: int = 65_536
    shard_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """Where and under which names a part is written.

    Attributes:
        folder: the patch set's folder.
        path_prefix: what stands before a path in the manifest: `patches/<dataset>/<split>/`, or nothing.
        split: begins every name.
        patch_size: height and width in pixels.
        arrays: `image` and those beside it.
        shards: number of the shard for slices of a shape, where the layout has shards.
        disk: what files are written with; one that compares writes nothing.
    """

    folder: Path
    path_prefix: str
    split: str
    patch_size: Shape
    arrays: tuple[str, ...]
    shards: dict[Shape, int]
    disk: Disk = field(default_factory=Disk)


@dataclass(frozen=True, slots=True)
class SliceToWrite:
    """One slice with the windows that are kept.

    Attributes:
        slice_index: number of the slice.
        src_paths: its source files, one for each array.
        images: the slice as it was read, `(H, W)`, for each array.
        padded: the same, padded so that every window lies inside.
        rows, cols: origins of the kept windows.
    """

    slice_index: int
    src_paths: tuple[str, ...]
    images: tuple[NDArray[Any], ...]
    padded: tuple[NDArray[Any], ...]
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]


@dataclass(slots=True)
class Addresses:
    """Where the kept patches of a slice went.

    Attributes:
        paths: for each array the file of each patch.
        items: the item in that file for each patch, or None where a file holds one image.
        digests: for each array the digest of each patch, or empty where the layout has none.
    """

    paths: list[list[str]]
    items: list[int] | None
    digests: list[list[str]] = field(default_factory=list)


class PartWriter(Protocol):
    """Writes the patches of one part; a new one for each part. What is not `write` is right where it writes nothing."""

    @property
    def bytes_written(self) -> int:
        """Bytes written so far."""
        return 0

    @abstractmethod
    def write(self, piece: SliceToWrite) -> Addresses:
        """Write the kept patches of a slice."""

    def finish(self) -> list[str]:
        """End the part's files; returns them, not yet durable."""
        return []

    def abandon(self) -> None:
        """Let go of open files after a fault."""
        return


class Layout(ABC):
    """How patches lie on disk, said once for all that plan, write, read and check them.

    It has no state, and can be sent to another process. What is not overridden is right for .npy files that the
    manifest names; `ctpatch.testing.LayoutContract` tests the whole.

    In all methods `rows` are rows of the manifest and `slices` those of the table of slices, `patch_size` is height and
    width in pixels, `resolve` says where a file named in the manifest is, and `prefix` is what stands before its path
    there.

    Attributes:
        name: as options and metas call it.
        holds_patches: an address is a patch, and each has a digest on record.
        holds_slices: an address is a window in a whole slice that the set holds. With neither, it is a window in a
            source slice, and the set holds no pixels.
        packed: a file holds several items, and an address names one.
        data_offset: byte of a file at which its data begin; None puts them right behind the header.
    """

    name: ClassVar[str]
    holds_patches: ClassVar[bool] = False
    holds_slices: ClassVar[bool] = False
    packed: ClassVar[bool] = False
    data_offset: ClassVar[int | None] = None

    @property
    def reads_sources(self) -> bool:
        """Whether pixels come from the source slices."""
        return not (self.holds_patches or self.holds_slices)

    @property
    def has_file_for_each_patch(self) -> bool:
        """Whether there are as many files as patches, for each array."""
        return self.holds_patches and not self.packed

    # Planning.

    @abstractmethod
    def names(self, split: str, arrays: Sequence[str]) -> dict[str, re.Pattern[str]]:
        """What the pixel files of a split are called, for each folder they may lie in (`""`: the set's own).

        Whatever has such a name there is taken for the set's: a build refuses or removes it.
        """

    def folders(self, arrays: Sequence[str]) -> list[str]:
        """The folders to be made in the set's folder."""
        return [folder for folder in self.names("", arrays) if folder]

    @abstractmethod
    def slice_bytes(self, shape: Shape, windows: int, patch_size: Shape, dtype: np.dtype[Any]) -> int:
        """Bytes that a slice of which so many windows are kept adds to the pixel files of an array."""

    def is_full(self, slices: int, windows: int, size: int, limits: PartLimits) -> bool:
        """Whether a part of so many slices, windows and bytes (of an array of 4 bytes) is more than one should do."""
        del size
        return slices > limits.slices or windows > limits.windows

    def shards(self, shapes: Sequence[Shape], first: int) -> dict[Shape, int]:
        """Numbers, from `first` on, of the files that slices with windows, of these shapes, go to in one part."""
        del shapes, first
        return {}

    def pixel_bytes(
        self,
        counts: Iterable[tuple[int, Shape, int]],
        patch_size: Shape,
        dtypes: Sequence[np.dtype[Any]],
        shards: Callable[[], int],
    ) -> int:
        """Bytes of all pixel files of a set of which every window is kept, with what stands before `data_offset`.

        Args:
            counts: for each shape how many slices have it, the shape, and how many windows each has.
            patch_size: of the set.
            dtypes: one for each array.
            shards: counts the numbers that `shards` gives in all parts.
        """
        heads = shards() * len(dtypes) * self.data_offset if self.data_offset else 0
        return heads + sum(
            slices * self.slice_bytes(shape, windows, patch_size, dtype)
            for slices, shape, windows in counts
            for dtype in dtypes
        )

    # Writing and reading.

    @abstractmethod
    def writer(self, options: WriterOptions) -> PartWriter:
        """A new writer for one part."""

    def addresses(self, rows: pl.DataFrame, array: str, dtype: str) -> ArrayAddresses:
        """The addresses in rows of the manifest; FormatError where one that the layout needs is missing."""
        column = path_column(array)
        windows = not self.holds_patches
        items = rows["patch_index"]
        needed = [column, *(["patch_index"] if self.packed else []), *(["row", "col"] if windows else [])]
        if any(rows[name].has_nulls() for name in needed):
            raise FormatError(
                f"the manifest has rows without an address ({', '.join(needed)}); the layout is {self.name}"
            )
        if self.packed and bool((items < 0).any()):
            at = int((items < 0).arg_true()[0])
            raise FormatError(f"{rows[column][at]}: the manifest asks for item {items[at]} of it; wanted 0 or more")
        return ArrayAddresses(
            rows[column],
            items.to_numpy() if self.packed else np.full(rows.height, -1, np.int64),
            rows["row"].to_numpy() if windows else None,
            rows["col"].to_numpy() if windows else None,
            np.dtype(dtype),
        )

    def files(self, resolve: Callable[[str], str], slabs: Slabs | None = None, guard: Guard = NO_GUARD) -> MappedFiles:
        """What opens the set's files, or reads them into `slabs` and keeps them; only source slices may be links.

        `guard` says of each file that was opened whether the set is still the same.
        """
        return MappedFiles(resolve, follow_links=self.reads_sources, slabs=slabs, guard=guard)

    def reader(
        self, addresses: ArrayAddresses, files: MappedFiles, patch_size: Shape, pad_mode: PadMode
    ) -> ArrayReader:
        """What reads the patches at these addresses."""
        return ArrayReader(addresses, files, patch_size, pad_mode)

    # Checking.

    def wanted_paths(self, rows: pl.DataFrame, slices: pl.DataFrame, array: str, prefix: str) -> pl.Series | None:
        """The path of an array that each row must have; None where the tables do not say."""
        del rows, slices, array, prefix
        return None

    def pixel_files(
        self, rows: pl.DataFrame, slices: pl.DataFrame, arrays: Mapping[str, ArrayInfo], patch_size: Shape
    ) -> Iterator[PixelFile]:
        """The pixel files that a set must have, after its tables: of each array, in the order of the manifest.

        Every item of a file is named, once; or for whole slices by the rows of one slice.
        """
        if self.reads_sources:
            return
        shapes = slices.unique("slice_index").select("slice_index", "height", "width")
        held = rows.join(shapes, on="slice_index", how="left", maintain_order="left")
        for array, info in arrays.items():
            grouped = held.group_by(path_column(array), maintain_order=True).agg(
                pl.col("patch_index").n_unique().alias("items"),
                pl.col("patch_index").min().alias("first"),
                pl.col("patch_index").max().alias("last"),
                pl.len().alias("rows"),
                pl.struct("slice_index", "patch_index").n_unique().alias("pairs"),
                pl.col("height").first(),
                pl.col("width").first(),
            )
            for path, items, first, last, count, pairs, height, width in grouped.iter_rows():
                item = patch_size if self.holds_patches else (height, width)
                shape = None if None in item else (items, *item)
                once = count if self.holds_patches else pairs
                wrong = path is None or first != 0 or last != items - 1 or once != items
                fault = f"{count} rows name items {first} to {last}, {items} different" if wrong else None
                yield self.pixel_file(path, array, count, shape, np.dtype(info.dtype), fault)

    def pixel_file(
        self,
        path: str | None,
        array: str,
        patches: int,
        shape: tuple[int, ...] | None,
        dtype: np.dtype[Any],
        fault: str | None = None,
    ) -> PixelFile:
        """A .npy file of the layout that holds an array of this shape."""
        header = b"" if shape is None else header_bytes(shape, dtype, self.data_offset)
        size = 0 if shape is None else len(header) + prod(shape) * dtype.itemsize
        return PixelFile(path, array, patches, shape, header, size, fault)

    def wrong_pixels(
        self,
        rows: pl.DataFrame,
        slices: pl.DataFrame,
        arrays: Mapping[str, ArrayInfo],
        resolve: Callable[[str], str],
        patch_size: Shape,
    ) -> Iterator[WrongPixels]:
        """What the set holds that is missing, damaged, or not what the digests on record say."""
        if self.reads_sources:
            return
        files = self.files(resolve)
        numbered = rows.with_row_index("at")
        digests = [digest_column(array) for array in arrays]
        if self.holds_slices:
            once = numbered.unique("slice_index", keep="first", maintain_order=True).drop(digests)
            known = slices.select("slice_index", *digests)
            numbered = once.join(known, on="slice_index", how="left", maintain_order="left")
        for (array, info), column in zip(arrays.items(), digests, strict=True):
            reader = self.reader(self.addresses(rows, array, info.dtype), files, patch_size, "none")
            patch = np.empty((1, *patch_size), np.dtype(info.dtype))
            for at, path, item, digest in numbered.select("at", path_column(array), "patch_index", column).iter_rows():
                try:
                    if self.holds_patches:
                        reader.read_into(np.array([at]), patch)
                    actual = array_digest(patch[0] if self.holds_patches else files.item(path, item))
                except CtPatchError as error:
                    yield WrongPixels(at, array, error.message)
                    continue
                if actual != digest:
                    yield WrongPixels(at, array, f"its pixels have the digest {actual}, on record is {digest}")


def patch_blocks(piece: SliceToWrite, size: Shape) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
    """The kept patches of a slice in blocks: which of them, and for each array `(n, h, w)`."""
    largest = max(image.dtype.itemsize for image in piece.padded) * size[0] * size[1]
    step = max(1, _BLOCK_BYTES // largest)
    for start in range(0, len(piece.rows), step):
        which = slice(start, min(start + step, len(piece.rows)))
        yield which, [cut(image, piece.rows[which], piece.cols[which], size) for image in piece.padded]
