"""Volumes to axial slices: the front on top, the patient's right on the left, from the feet to the head."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, RangeError, SliceError
from ctpatch.files.paths import Root
from ctpatch.prepare.readers.base import GroupKind, LeftOut, RawSlice, Scan, SeriesNote
from ctpatch.prepare.readers.tree import APPLE_DOUBLE, find_files, is_apple_double, source_file, source_folder
from ctpatch.prepare.readers.volume import GroupBy
from ctpatch.prepare.readers.volume.grid import AxialGrid, axial_grid
from ctpatch.prepare.readers.volume.groups import group_of, note_groups
from ctpatch.prepare.readers.volume.planes import read_planes
from ctpatch.prepare.readers.volume.stream import StoredStream, Stream
from ctpatch.prepare.readers.volume.volume import Volume

_STRAIGHT_DEGREES = 0.1  # below, a slice of 400 mm is off the axial plane by less than a slice's thickness


@dataclass(frozen=True, slots=True)
class VolumeReader(ABC):
    """Reads the axial slices of volumes; a subclass reads the headers of one format.

    Such files name no patient. A name that begins with `sub-<label>` (BIDS), of the file or a folder above it, is taken
    for one.

    Attributes:
        group_by: what else must not be divided between splits: all files of a `folder`, or each `file`. Files that
            lie in the source folder itself are groups of their own.
        follow_links: whether links that leave the source are followed.
        only: the files that are opened; None opens all.

    Raises:
        ConfigError: an option has a value that is not known.
    """

    name: ClassVar[str]

    group_by: GroupBy = "folder"
    follow_links: bool = False
    only: frozenset[str] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.group_by not in get_args(GroupBy):
            raise ConfigError(f"group_by: {self.group_by!r} is not known, wanted folder or file")

    @abstractmethod
    def describe(self, folder: Path, name: str, *, first: bool) -> Volume | LeftOut:
        """Read the header of a file below the source folder.

        Args:
            folder: the source folder.
            name: the file, relative to it.
            first: whether the file is looked at for the first time, so that its size is to be checked too.

        Returns:
            What it describes, or why it is none of this format.

        Raises:
            SliceError: the file is damaged, or its header makes no sense.
        """

    def open(self, folder: Path, name: str, volume: Volume) -> AbstractContextManager[Stream]:
        """The stream that the volume's planes are read from."""
        assert volume.stored is not None
        return StoredStream(volume.stored, self.voxel_files(folder, name, volume), name)

    def voxel_files(self, folder: Path, name: str, volume: Volume) -> tuple[Path, ...]:
        """Where the voxels are that the header in a file describes; SliceError for a link out of the source folder."""
        assert volume.stored is not None
        files = volume.stored.files
        root = Root(folder)
        if not self.follow_links and not all(map(root.holds, files)):
            raise SliceError(
                f"{name} keeps its voxels behind a link that leads out of the source folder; copy them there"
            )
        return tuple(folder / file for file in files)

    def grouped(self, name: str) -> tuple[str, GroupKind]:
        """What must not be divided between splits, and what that is."""
        return group_of(name, self.group_by)

    def called(self, name: str) -> str:
        """What the series of a file is called; files that are called the same keep their own names."""
        return name

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find the axial slices of all volumes; headers alone are read."""
        names, left_out = find_files(root, follow_links=self.follow_links)
        names = [name for name in names if self.only is None or name in self.only]
        scan = Scan(left_out=left_out)
        folder = source_folder(root)
        found: dict[str, Volume] = {}
        called = Counter(map(self.called, names))
        for name in names:
            try:
                described = self._look_at(folder, name)
                if isinstance(described, LeftOut):
                    scan.left_out.append(described)
                else:
                    grid = axial_grid(described.shape, described.affine)
                    found[name] = described
                    own = name if called[self.called(name)] > 1 else self.called(name)
                    self._add(scan, (name, own), described, grid)
            except SliceError as error:
                reason = str(error).removeprefix(name).lstrip(": ")
                scan.left_out.append(LeftOut(name, "damaged", reason, fault=True))
            advance(1)
        voxels = {file for name, volume in found.items() if volume.stored for file in volume.stored.files} - set(found)
        scan.left_out = [left for left in scan.left_out if left.where not in voxels]
        note_groups(scan)
        return scan

    def _look_at(self, folder: Path, name: str) -> Volume | LeftOut:
        if is_apple_double(name):
            return LeftOut(name, *APPLE_DOUBLE)
        return self.describe(folder, name, first=True)

    def _add(self, scan: Scan, names: tuple[str, str], found: Volume, grid: AxialGrid) -> None:
        """Add the slices of a file; `names` are its own and what its series is called."""
        name, called = names
        group, group_kind = self.grouped(name)
        rows, cols, count = grid.counts
        for volume in range(found.volumes):
            series = called if found.volumes == 1 else f"{called}#{volume}"
            scan.slices += (
                RawSlice(
                    file=name,
                    item=volume * count + number,
                    shape=(rows, cols),
                    group=group,
                    group_kind=group_kind,
                    series=series,
                    order=number,
                    position_mm=grid.position(number) if found.placed else None,
                    spacing_mm=grid.spacing_mm,
                    label=series,
                    origin_mm=grid.origin(number) if found.placed else None,
                    axes=grid.cosines,
                    beside=_beside(name, found, _stored_at(grid, number, volume), grid.axes[2]),
                )
                for number in range(count)
            )
            scan.notes += (SeriesNote(kind, series, message) for kind, message in found.notes)
            if grid.tilt_degrees > _STRAIGHT_DEGREES:
                said = f"its slices are {grid.tilt_degrees:.1f} degrees off the axial plane; they are not resampled"
                scan.notes.append(SeriesNote("oblique", series, said))

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        """Read slices, in order: `(H, W)` float32 each, `stored * slope + intercept`, which for CT is HU."""
        folder = source_folder(root)
        for file, group in groupby(slices, key=lambda each: each.file):
            rows = list(group)
            source_file(root, file, follow_links=self.follow_links)
            volume = self.describe(folder, file, first=False)
            if isinstance(volume, LeftOut):
                raise SliceError(f"{file} is no longer what it was: {volume.reason}; run the command again")
            grid = axial_grid(volume.shape, volume.affine)
            places = [_place(grid, volume, one) for one in rows]
            with self.open(folder, file, volume) as stream:
                planes = read_planes(stream, volume, file, grid.axes[2], places)
                for one, plane in zip(rows, planes, strict=True):
                    yield _finish(plane, volume, grid, f"{file}[{one.item}]")


def _stored_at(grid: AxialGrid, number: int, volume: int) -> tuple[int, int]:
    """The volume, and the number of a slice along the file's axis."""
    return volume, grid.counts[2] - 1 - number if grid.reversed_[2] else number


def _beside(name: str, found: Volume, at: tuple[int, int], axis: int) -> tuple[str, ...]:
    """The files that hold pixels of a slice, other than the one with the header."""
    if found.stored is None or found.stored.files == (name,):
        return ()
    files = found.stored.files
    volume, number = at
    planes = found.shape[2] * found.volumes
    if axis == 2 and len(files) == planes:  # noqa: PLR2004 - a file for each slice
        return (files[volume * found.shape[2] + number],)
    return files


def _place(grid: AxialGrid, volume: Volume, one: RawSlice) -> tuple[int, int]:
    rows, cols, count = grid.counts
    if one.shape != (rows, cols) or not 0 <= one.item < count * volume.volumes:
        raise SliceError(f"{one.file} is no longer what it was when it was looked at; run the command again")
    number_of_volume, number = divmod(one.item, count)
    return _stored_at(grid, number, number_of_volume)


def _finish(plane: NDArray[Any], volume: Volume, grid: AxialGrid, name: str) -> NDArray[np.float32]:
    """Turn a plane `(later axis, earlier axis)` of stored numbers to a slice."""
    rows_axis, cols_axis, _ = grid.axes
    turned = plane if rows_axis > cols_axis else plane.T
    turned = turned[:: -1 if grid.reversed_[0] else 1, :: -1 if grid.reversed_[1] else 1]
    with np.errstate(over="ignore", invalid="ignore"):
        values = turned.astype(np.float64)
        values *= volume.slope
        values += volume.inter
        image = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(image).all():
        raise RangeError(f"{name} holds NaN or infinity, wanted finite values; fill such voxels, with -1024 for air")
    return image
