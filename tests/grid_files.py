"""A raw format that nobody has: whole numbers in HU behind a word, as one folder of a reader would add it."""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import SliceError
from ctpatch.prepare.readers.base import LeftOut, RawFormat, RawSlice, Reader, Scan
from ctpatch.prepare.readers.tree import find_files, source_file, source_folder

_HEAD = struct.Struct("<4sHHf")


def write_grid(path: Path, hu: NDArray[np.int16], position_mm: float) -> None:
    """A slice `(H, W)`; the patient is the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_HEAD.pack(b"GRID", *hu.shape, position_mm) + hu.astype("<i2").tobytes())


@dataclass(frozen=True)
class GridReader:
    """Reads one slice a file, and adds a number to each pixel."""

    offset: int = 0
    name: str = "grid"

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        names, left_out = find_files(root)
        found = Scan(left_out=left_out)
        slices: list[tuple[str, float, str, tuple[int, int]]] = []
        for name in names:
            advance(1)
            content = (source_folder(root) / name).read_bytes()
            if content[:4] != b"GRID":
                found.left_out.append(LeftOut(name, "not-grid", "it does not begin with GRID"))
            elif len(content) < _HEAD.size or len(content) != _HEAD.size + 2 * _product(content):
                found.left_out.append(LeftOut(name, "damaged", "its size is not the one it promises", fault=True))
            else:
                _, rows, cols, position = _HEAD.unpack_from(content)
                slices.append((name.rpartition("/")[0], position, name, (rows, cols)))
        for order, (folder, position, name, shape) in enumerate(sorted(slices)):
            found.slices.append(
                RawSlice(name, 0, shape, folder, "folder", folder, order, position, label=f"series {folder}")
            )
        return found

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        for each in slices:
            try:
                content = source_file(root, each.file).read_bytes()
            except OSError as error:
                raise SliceError(f"{each.file}: {error.strerror}") from None
            yield np.frombuffer(content, "<i2", offset=_HEAD.size).reshape(each.shape).astype(np.float32) + self.offset


def _product(content: bytes) -> int:
    _, rows, cols, _ = _HEAD.unpack_from(content)
    return int(rows * cols)


@dataclass(frozen=True)
class Grid(RawFormat):
    """Grids of numbers.

    Attributes:
        offset: HU to add to each pixel.
    """

    name: ClassVar = "grid"
    title: ClassVar = "Slices in a format that nobody has"
    packages: ClassVar = ("numpy",)

    offset: Annotated[int, "Values and size"] = 0

    def reader(self, array: str, workers: int) -> Reader:
        assert workers >= 1
        return GridReader(0 if array == "mask" else self.offset)

    def recorded(self) -> dict[str, Any]:
        return {"offset": self.offset}


@dataclass(frozen=True)
class PlainGrid(RawFormat):
    """The same without an option of its own."""

    name: ClassVar = "plain"
    title: ClassVar = "The same without options"

    def reader(self, array: str, workers: int) -> Reader:
        assert array in {"image", "target", "mask"}
        assert workers >= 1
        return GridReader()
