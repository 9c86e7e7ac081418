"""NIfTI volumes to axial slices: the front on top, the patient's right on the left, from the feet to the head."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, RangeError, SliceError
from ctpatch.prepare.readers.base import GroupKind, LeftOut, RawSlice, Scan, SeriesNote
from ctpatch.prepare.readers.nifti import GroupBy
from ctpatch.prepare.readers.nifti.header import HEADER_BYTES, AxialGrid, NiftiHeader, axial_grid, kind_of, parse_header
from ctpatch.prepare.readers.nifti.voxels import check_size, open_nifti, read_planes
from ctpatch.prepare.readers.other import other_kind
from ctpatch.prepare.readers.tree import find_files, is_apple_double, source_file, source_folder

_BIDS_SUBJECT = re.compile(r"(?:^|/)(sub-[A-Za-z0-9]+)(?=[/_.])")
_NAMED_NIFTI = re.compile(r".*\.nii(\.gz)?", re.IGNORECASE)
_LEFT_OUT = {
    "pair": ("pair-of-files", "its voxels lie in a second file (.hdr and .img); write both as one .nii"),
    None: ("not-nifti", "it is no NIfTI file"),
}
_APPLE_DOUBLE = ("apple-double", "it is what macOS leaves beside a file (AppleDouble), with no voxels in it")
_STRAIGHT_DEGREES = 0.1  # below, a slice of 400 mm is off the axial plane by less than a slice's thickness


@dataclass(frozen=True, slots=True)
class NiftiReader:
    """Reads `.nii` and `.nii.gz`, NIfTI-1 and NIfTI-2, 3-D and 4-D; files are told by their content.

    A NIfTI file names no patient. A name that begins with `sub-<label>` (BIDS), of the file or a folder above it,
    is taken for one.

    Attributes:
        group_by: what else must not be divided between splits: all files of a `folder`, or each `file`. Files that
            lie in the source folder itself are groups of their own.
        follow_links: whether links that leave the source are followed.

    Raises:
        ConfigError: an option has a value that is not known.
    """

    group_by: GroupBy = "folder"
    follow_links: bool = False

    name: str = field(default="nifti", init=False)

    def __post_init__(self) -> None:
        if self.group_by not in get_args(GroupBy):
            raise ConfigError(f"group_by: {self.group_by!r} is not known, wanted folder or file")

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find the axial slices of all volumes; headers alone are read."""
        names, left_out = find_files(root, follow_links=self.follow_links)
        scan = Scan(left_out=left_out)
        for name in names:
            try:
                self._scan_file(source_folder(root) / name, name, scan)
            except SliceError as error:
                reason = str(error).removeprefix(name).lstrip(": ")
                scan.left_out.append(LeftOut(name, "damaged", reason, fault=True))
            advance(1)
        _note_groups(scan)
        return scan

    def _scan_file(self, path: Path, name: str, scan: Scan) -> None:
        if is_apple_double(name):
            scan.left_out.append(LeftOut(name, *_APPLE_DOUBLE))
            return
        start = _first_bytes(path, name)
        kind = kind_of(start)
        other = other_kind(name, start) if kind is None else None
        if kind is None and _NAMED_NIFTI.fullmatch(name):
            raise SliceError(f"{name} is named like NIfTI and is none; {other.reason if other else 'copy it again'}")
        if kind in _LEFT_OUT:
            scan.left_out.append(other or LeftOut(name, *_LEFT_OUT[kind]))
            return
        header = parse_header(start, name)
        with open_nifti(path, name) as stream:
            check_size(path, stream, header, name)
        grid = axial_grid(header)
        group, group_kind = self._group(name)
        rows, cols, count = grid.counts
        for volume in range(header.volumes):
            series = name if header.volumes == 1 else f"{name}#{volume}"
            scan.slices += (
                RawSlice(
                    file=name,
                    item=volume * count + number,
                    shape=(rows, cols),
                    group=group,
                    group_kind=group_kind,
                    series=series,
                    order=number,
                    position_mm=grid.position(number),
                    spacing_mm=grid.spacing_mm,
                    label=series,
                    origin_mm=grid.origin(number),
                    axes=grid.cosines,
                )
                for number in range(count)
            )
            scan.notes += _notes(series, header, grid)

    def _group(self, name: str) -> tuple[str, GroupKind]:
        if subject := _BIDS_SUBJECT.search(name):
            return subject[1], "patient"
        folder = name.rpartition("/")[0]
        return (folder, "folder") if folder and self.group_by == "folder" else (name, "file")

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[NDArray[np.float32]]:
        """Read slices, in order: `(H, W)` float32 each, `stored * scl_slope + scl_inter`, which for CT is HU."""
        for file, group in groupby(slices, key=lambda each: each.file):
            rows = list(group)
            path = source_file(root, file, follow_links=self.follow_links)
            header = parse_header(_first_bytes(path, file), file)
            grid = axial_grid(header)
            with open_nifti(path, file) as stream:
                planes = read_planes(stream, header, file, grid.axes[2], [_place(grid, header, one) for one in rows])
                for one, plane in zip(rows, planes, strict=True):
                    yield _finish(plane, header, grid, f"{file}[{one.item}]")


def _first_bytes(path: Path, name: str) -> bytes:
    with open_nifti(path, name) as stream:
        return stream.read(HEADER_BYTES)


def _place(grid: AxialGrid, header: NiftiHeader, one: RawSlice) -> tuple[int, int]:
    """The volume, and the number along the file's axis."""
    rows, cols, count = grid.counts
    if one.shape != (rows, cols) or not 0 <= one.item < count * header.volumes:
        raise SliceError(f"{one.file} is no longer what it was when it was looked at; run the command again")
    volume, number = divmod(one.item, count)
    return volume, count - 1 - number if grid.reversed_[2] else number


def _finish(plane: NDArray[Any], header: NiftiHeader, grid: AxialGrid, name: str) -> NDArray[np.float32]:
    """Turn a plane `(later axis, earlier axis)` of stored numbers to a slice."""
    rows_axis, cols_axis, _ = grid.axes
    turned = plane if rows_axis > cols_axis else plane.T
    turned = turned[:: -1 if grid.reversed_[0] else 1, :: -1 if grid.reversed_[1] else 1]
    with np.errstate(over="ignore", invalid="ignore"):
        values = turned.astype(np.float64)
        values *= header.slope
        values += header.inter
        image = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(image).all():
        raise RangeError(f"{name} holds NaN or infinity, wanted finite values; fill such voxels, with -1024 for air")
    return image


def _notes(series: str, header: NiftiHeader, grid: AxialGrid) -> Iterator[SeriesNote]:
    if header.orientation == "none":
        message = "its header does not say how it lies; voxels are taken to run to the left, the front and the head"
        yield SeriesNote("no-orientation", series, message)
    if header.disagreements:
        message = f"its sform and qform disagree: {', '.join(header.disagreements)}; the sform is used, check it"
        yield SeriesNote("two-orientations", series, message)
    if header.idle_intercept is not None:
        message = (
            f"its scl_inter is {header.idle_intercept:g} and its scl_slope 0, with which the format applies neither; "
            "write a slope of 1 if the intercept is meant"
        )
        yield SeriesNote("no-slope", series, message)
    if grid.tilt_degrees > _STRAIGHT_DEGREES:
        message = f"its slices are {grid.tilt_degrees:.1f} degrees off the axial plane; they are not resampled"
        yield SeriesNote("oblique", series, message)


def _note_groups(scan: Scan) -> None:
    files = {(one.group, one.file) for one in scan.slices if one.group_kind == "folder"}
    many = sum(count > 1 for count in Counter(group for group, _ in files).values())
    if many:
        folders = "1 folder has" if many == 1 else f"{many} folders have"
        scan.notes.append(
            f"{folders} several files, which count as one patient, who is in one split alone; use --group-by file "
            "where each is another patient"
        )
