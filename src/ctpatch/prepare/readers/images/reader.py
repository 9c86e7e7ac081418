"""Stacks of pictures to slices in HU, as they are stored; DeepLesion is known by the names of its folders."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, RangeError, SliceError
from ctpatch.prepare.readers.base import GroupKind, LeftOut, RawSlice, Scan, SeriesNote
from ctpatch.prepare.readers.images import GroupBy
from ctpatch.prepare.readers.images.pages import Pages, is_picture, look_at, open_pages, read_page
from ctpatch.prepare.readers.other import START_BYTES, other_kind
from ctpatch.prepare.readers.tree import APPLE_DOUBLE, find_files, is_apple_double, source_file, source_folder
from ctpatch.prepare.readers.volume.groups import subject_of
from ctpatch.prepare.readers.volume.stream import open_regular

_NAMED_PICTURE = re.compile(r".*\.(png|tiff?)", re.IGNORECASE)
_DEEPLESION = re.compile(r"(?:.*/)?(\d{6})_\d{2}_\d{2}/\d+\.png", re.IGNORECASE)
"""`Images_png/<patient>_<study>_<series>/<slice>.png`."""
_NUMBER = re.compile(r"(\d+)\D*$")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class ImagesReader:
    """Reads PNG of 16 bits and TIFF, a file for each slice or pages of one file.

    The pictures of a folder are one series, in the order of the numbers in their names; a file of several pages is a
    series of its own. Nothing is turned.

    Attributes:
        slope, inter: what makes HU of stored numbers, `stored * slope + inter`.
        group_by: what must not be divided between splits, where no name tells the patient: the `folder` of a slice, the
            first folder below the source (`top-folder`), or each `file` of several pages.
        pixel_spacing: millimetres between rows and between columns; None where it is not known.
        slice_spacing: millimetres between slices whose numbers follow each other; None where it is not known.
        labels: the pictures are masks, which may have 8 bits.
        follow_links: whether links that leave the source are followed.

    Raises:
        ConfigError: an option has a value that makes no sense.
    """

    slope: float
    inter: float
    group_by: GroupBy = "folder"
    pixel_spacing: tuple[float, float] | None = None
    slice_spacing: float | None = None
    labels: bool = False
    follow_links: bool = False

    name: str = field(default="images", init=False)

    def __post_init__(self) -> None:
        if self.group_by not in get_args(GroupBy):
            raise ConfigError(f"group_by: {self.group_by!r} is not known, wanted {', '.join(get_args(GroupBy))}")
        if not math.isfinite(self.slope) or self.slope == 0 or not math.isfinite(self.inter):
            raise ConfigError(
                f"hu_slope, hu_intercept: {self.slope:g} and {self.inter:g}, wanted finite, the slope not 0"
            )
        spacings = [*(self.pixel_spacing or ()), *([] if self.slice_spacing is None else [self.slice_spacing])]
        if not all(math.isfinite(each) and each > 0 for each in spacings):
            stated = " ".join(f"{each:g}" for each in spacings)
            raise ConfigError(f"pixel_spacing, slice_spacing: {stated}, wanted millimetres above 0")

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find the slices by the headers of the pictures."""
        names, left_out = find_files(root, follow_links=self.follow_links)
        scan = Scan(left_out=left_out)
        folder = source_folder(root)
        single: dict[str, list[tuple[str, Pages]]] = defaultdict(list)
        series: dict[str, list[tuple[str, Pages]]] = {}
        for name in names:
            try:
                pages = self._look_at(folder, name)
                if isinstance(pages, LeftOut):
                    scan.left_out.append(pages)
                elif pages.count > 1:
                    series[name] = [(name, pages)]
                else:
                    single[name.rpartition("/")[0] or "."].append((name, pages))
            except SliceError as error:
                reason = str(error).removeprefix(name).lstrip(": ")
                scan.left_out.append(LeftOut(name, "damaged", reason, fault=True))
            advance(1)
        for label, files in sorted({**series, **single}.items()):
            self._add(scan, label, sorted(files, key=lambda each: _natural(each[0])), folder.name)
        self._note_groups(scan)
        return scan

    def _look_at(self, folder: Path, name: str) -> Pages | LeftOut:
        if is_apple_double(name):
            return LeftOut(name, *APPLE_DOUBLE)
        with open_regular(folder / name, name) as raw:
            start = raw.read(START_BYTES)
        if not is_picture(start):
            other = other_kind(name, start)
            if _NAMED_PICTURE.fullmatch(name):
                raise SliceError(
                    f"{name} is named like a picture and is none; {other.reason if other else 'copy it again'}"
                )
            return other or LeftOut(name, "not-images", "it is no TIFF or PNG file")
        return look_at(folder / name, name, labels=self.labels)

    def _add(self, scan: Scan, label: str, files: list[tuple[str, Pages]], top: str) -> None:
        places = self._places(scan, label, files)
        slices = [(name, pages.shape, number) for name, pages in files for number in range(pages.count)]
        for order, ((name, shape, number), position) in enumerate(zip(slices, places, strict=True)):
            group, group_kind = self._group(name, label, top)
            scan.slices.append(
                RawSlice(
                    name,
                    number,
                    shape,
                    group,
                    group_kind,
                    label,
                    order,
                    position_mm=position,
                    spacing_mm=self.pixel_spacing,
                    label=label,
                )
            )

    def _places(self, scan: Scan, label: str, files: list[tuple[str, Pages]]) -> list[float | None]:
        """Positions of the slices, by the numbers of pages or those in the names; a gap in these is a gap there."""
        count = sum(pages.count for _, pages in files)
        if self.slice_spacing is None:
            return [None] * count
        numbers: list[int | None] = list(range(count))
        if count == len(files) > 1:
            found = [_NUMBER.search(name.rpartition("/")[2].rpartition(".")[0]) for name, _ in files]
            numbers = [None if each is None else int(each[1]) for each in found]
            if None in numbers or len(set(numbers)) < count or numbers != sorted(numbers, key=lambda each: each or 0):
                message = (
                    "the names of its pictures do not number them, each with a number of its own; it has no positions"
                )
                scan.notes.append(SeriesNote("no-positions", label, message))
                return [None] * count
        return [None if each is None else round(each * self.slice_spacing, 6) for each in numbers]

    def _group(self, name: str, label: str, top: str) -> tuple[str, GroupKind]:
        if deeplesion := _DEEPLESION.fullmatch(f"{top}/{name}"):
            return deeplesion[1], "patient"
        if subject := subject_of(name):
            return subject, "patient"
        if self.group_by == "file" and label == name:
            return name, "file"
        if self.group_by == "top-folder" and "/" in name:
            return name.partition("/")[0], "folder"
        return name.rpartition("/")[0] or ".", "folder"

    def _note_groups(self, scan: Scan) -> None:
        """Add a word where folders that lie in one folder count as patients of their own."""
        groups = {one.group for one in scan.slices if one.group_kind == "folder" and "/" in one.group}
        if self.group_by == "folder" and groups:
            scan.notes.append(
                f"{len(groups)} folders of pictures lie in other folders, and each counts as one patient; use "
                "--group-by top-folder where the first folder below the source is the patient"
            )

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        """Read slices, in order: `(H, W)` float32 each, `stored * slope + intercept` in HU."""
        for file, rows in groupby(slices, key=lambda each: each.file):
            path = source_file(root, file, follow_links=self.follow_links)
            with open_pages(path, file) as picture:
                for one in rows:
                    numbers = read_page(picture, one.item, labels=self.labels)
                    if numbers.shape != one.shape:
                        raise SliceError(
                            f"{file} is no longer what it was when it was looked at; run the command again"
                        )
                    image = (numbers.astype(np.float64) * self.slope + self.inter).astype(np.float32)
                    if not np.isfinite(image).all():
                        raise RangeError(
                            f"{file}[{one.item}] holds NaN or infinity, wanted finite values; fill such pixels"
                        )
                    yield image


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which `slice10` follows `slice9`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in _DIGITS.split(name)] + [(2, 0, name)]
