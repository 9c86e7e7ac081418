"""Slices to write in a test, what is then on disk, and references that share no code with ctpatch."""

import ast
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xxhash
from numpy.typing import NDArray

from ctpatch.errors import CtPatchError
from ctpatch.format.columns import digest_column, path_column
from ctpatch.format.meta import ArrayInfo
from ctpatch.format.tables import patch_ids
from ctpatch.layouts.base import Addresses, Layout
from ctpatch.layouts.reader import ArrayReader
from ctpatch.layouts.whole import PixelFile
from ctpatch.words import PadMode

Image = NDArray[Any]
SIZE = (4, 3)
PREFIX = "patches/ds/train/"
ARRAYS = {
    "image": ArrayInfo(dtype="float32", labels=False),
    "target": ArrayInfo(dtype="float32", labels=False),
    "mask": ArrayInfo(dtype="int16", labels=True),
}


def source_index(position: int, length: int, pad_mode: PadMode) -> int | None:
    """Which pixel of an axis stands at a position, which may lie beyond it; None where that is a zero."""
    if position < length:
        return position
    if pad_mode == "reflect" and length > 1:
        position %= 2 * (length - 1)
        return position if position < length else 2 * (length - 1) - position
    return length - 1 if pad_mode in {"edge", "reflect"} else None


def reference_patch(image: Image, row: int, col: int, pad_mode: PadMode, size: tuple[int, int] = SIZE) -> Image:
    """One window, pixel by pixel."""
    patch = np.zeros(size, image.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
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


def manifest_rows(sources: list[Source], addresses: list[Addresses]) -> pl.DataFrame:
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
        columns[path_column(array)] = pl.Series(paths, dtype=pl.String)
        columns[digest_column(array)] = pl.Series(digests or [None] * len(places), dtype=pl.String)
    ids = patch_ids("train", pl.col("slice_index"), pl.col("row"), pl.col("col")).alias("patch_id")
    return pl.DataFrame(columns).with_columns(ids)


def slice_rows(sources: list[Source]) -> pl.DataFrame:
    """The table of slices, as far as a layout sees it."""
    return pl.DataFrame(
        [
            {
                "slice_index": each.index,
                "src_path": f"prepared/{each.index}_image.npy",
                "height": each.shape[0],
                "width": each.shape[1],
                **{f"{array}_path": f"prepared/{each.index}_{array}.npy" for array in list(ARRAYS)[1:]},
                **{digest_column(array): reference_digest(image) for array, image in each.images.items()},
            }
            for each in sources
        ]
    )
