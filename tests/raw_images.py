"""A reader of slices in memory, and a part of them, where a test is about what becomes of pixels."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctpatch.prepare.part import PreparePart, PrepareTask
from ctpatch.prepare.readers.base import RawSlice, Scan
from helpers import Image


@dataclass(frozen=True)
class Images:
    """Gives the image whose number is the slice's item."""

    images: tuple[Image, ...]
    name: str = "images"

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        raise AssertionError(f"a part reads what was found before; it never scans {root} with {advance}")

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[Image]:
        assert root.is_dir()
        for each in slices:
            yield self.images[each.item].copy()


def part_of(
    images: tuple[Image, ...], shape: tuple[int, int], spacing: tuple[float, float] | None = None, **raw: Any
) -> PreparePart:
    """One part of all images, planned as slices of `shape`; `raw` is what a raw slice says besides."""
    tasks = (
        PrepareTask(
            index=number,
            split="train",
            slices=(
                RawSlice(
                    "raw",
                    number,
                    (image.shape[0], image.shape[1]),
                    "group-of-it",
                    "file",
                    "series-of-it",
                    number,
                    **raw,
                ),
            ),
            shape=shape,
            patient="P",
            series="S",
            file="F",
            spacing_mm=spacing,
        )
        for number, image in enumerate(images)
    )
    return PreparePart(0, tuple(tasks))
