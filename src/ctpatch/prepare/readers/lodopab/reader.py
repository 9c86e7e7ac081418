"""LoDoPaB-CT's HDF5 files to slices: ground truth, and low-dose images by filtered back-projection.

Facts of the data set: J. Leuschner et al., LoDoPaB-CT, Scientific Data 8, 109 (2021), and its technical reference.
Sample n of a split lies in file n // 128, row n % 128. Images are stored transposed, `(col, row)`, and have no unit of
length of their own: 26 cm stand for the side of each, whatever the pixels measured. The detector covers the diagonal
of that square with 513 bins; 1000 angles lie in the middles of as many equal parts of half a turn.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.rounding import is_rounding, shown_number
from ctpatch.errors import ConfigError, RangeError, SliceError, SourceManifestError
from ctpatch.files.atomic import system_errors
from ctpatch.prepare.readers.base import GroupKind, LeftOut, RawSlice, Scan, SeriesNote
from ctpatch.prepare.readers.lodopab import FilterName
from ctpatch.prepare.readers.lodopab.fbp import ParallelBeam, check_filter, filtered_back_projection
from ctpatch.prepare.readers.lodopab.hdf5_safety import HdfArray, open_array
from ctpatch.prepare.readers.tree import find_files, source_file, source_folder

Kind = Literal["ground_truth", "observation"]
Image = NDArray[np.float32]

ROWS_IN_A_FILE = 128
SIDE = 362
PUBLISHED_LENGTHS = {"train": 35820, "validation": 3522, "test": 3553, "challenge": 3678}
"""Slices of each split. What files hold beyond them is HDF5 fill."""

_SIDE_MM = 260.0
GEOMETRY = ParallelBeam(
    pixels=SIDE, pixel_mm=_SIDE_MM / SIDE, bins=513, pitch_mm=_SIDE_MM * math.sqrt(2.0) / 513, angles=1000
)
_SHAPES: dict[Kind, tuple[int, int]] = {"ground_truth": (SIDE, SIDE), "observation": (1000, 513)}
_VALUES = (0.0, 1.0)
_MM_PER_M = 1000.0  # observations are integrals along metres

_DATA_NAME = re.compile(r"(ground_truth|observation)_(train|validation|test|challenge)_(\d{3})\.hdf5")
_PATIENT = re.compile(rb"\d{1,9}")
_MAX_LIST_BYTES = 4 * 2**20
_CSV_NAME = re.compile(r"patient_ids_rand_(train|validation|test|challenge)\.csv")


def is_lodopab(name: str) -> bool:
    """Whether the name of a file is one of the data set's."""
    base = name.rpartition("/")[2]
    return _DATA_NAME.fullmatch(base) is not None or _CSV_NAME.fullmatch(base) is not None


def is_observation(name: str) -> bool:
    """Whether the name of a file is that of low-dose observations."""
    found = _DATA_NAME.fullmatch(name.rpartition("/")[2])
    return found is not None and found[1] == "observation"


@dataclass(slots=True)
class _Split:
    """What there is of one split: files by their number, and the patients."""

    files: dict[str, dict[int, str]] = field(default_factory=lambda: {kind: {} for kind in _SHAPES})
    patients: list[str] | None = None


@dataclass(frozen=True, slots=True)
class LodopabReader:
    """Reads the unpacked files of LoDoPaB-CT: two of them, one for each kind, make pairs by `series` and `order`.

    Attributes:
        kind: `ground_truth`, or `observation`: the low-dose images, reconstructed and clipped to [0, 1].
        keep_orientation: leave images as they are stored, the patient on the side, rather than upright.
        filter_name, frequency_scaling: of the filtered back-projection.
        follow_links: whether links that leave the source are followed.

    Raises:
        ConfigError: an option has a value that is not known.
    """

    kind: Kind = "ground_truth"
    keep_orientation: bool = False
    filter_name: FilterName = "hann"
    frequency_scaling: float = 1.0
    follow_links: bool = False

    name: str = field(default="lodopab", init=False)

    def __post_init__(self) -> None:
        if self.kind not in _SHAPES:
            raise ConfigError(f"kind: {self.kind!r} is not known, wanted ground_truth or observation")
        check_filter(self.filter_name, self.frequency_scaling)

    def scan(self, root: Path, advance: Callable[[int], None]) -> Scan:
        """Find the slices of all splits, in the order of their sample numbers."""
        names, left_out = find_files(root, follow_links=self.follow_links)
        scan = Scan(left_out=left_out)
        splits = _splits(root, names, scan, advance)
        for split, found in sorted(splits.items()):
            self._scan_split(root, split, found, scan)
        if not any(found.files[self.kind] for found in splits.values()):
            scan.notes.append(
                f"no {self.kind} file of LoDoPaB-CT was found; wanted {self.kind}_<split>_<number>.hdf5, unpacked"
            )
        return scan

    def _scan_split(self, root: Path, split: str, found: _Split, scan: Scan) -> None:
        files = found.files[self.kind]
        if not files:
            return
        before = len(scan.slices)
        ends = PUBLISHED_LENGTHS[split] if found.patients is None else len(found.patients)
        no_patient = ("no-patient", f"the list of patients ends after {ends} rows; copy the list again")
        for number, file in sorted(files.items()):
            try:
                rows = self._valid_rows(root, split, number, found, scan)
            except SliceError as error:
                scan.left_out.append(LeftOut(file, "damaged", str(error).removeprefix(file).lstrip(": "), fault=True))
                continue
            first = number * ROWS_IN_A_FILE
            listed = min(rows, max(ends - first, 0))
            scan.slices += (_slice(split, file, row, first + row, found.patients) for row in range(listed))
            scan.left_out += (LeftOut(f"{file}[{row}]", *no_patient, fault=True) for row in range(listed, rows))
        scan.notes += _notes(split, sorted(files), found, len(scan.slices) - before)

    def _valid_rows(self, root: Path, split: str, number: int, found: _Split, scan: Scan) -> int:
        """Count the rows of a file that are slices, and note those that are fill."""
        file = found.files[self.kind][number]
        with self._opened(root, file, self.kind) as array:
            stored = array.shape[0]
            rows = min(stored, max(PUBLISHED_LENGTHS[split] - number * ROWS_IN_A_FILE, 0))
            if self.kind == "ground_truth":
                rows = min(rows, self._observed(root, found.files["observation"].get(number), rows))
                if number == max(found.files["ground_truth"]):
                    while rows and not array.rows(rows - 1, rows).any():
                        rows -= 1
        if rows < stored:
            reason = f"rows {rows} to {stored - 1} lie behind the split's last slice"
            scan.left_out.append(LeftOut(file, "fill", reason))
        return rows

    def _observed(self, root: Path, file: str | None, rows: int) -> int:
        """Rows of the file of observations beside; `rows` where there is none that can be read."""
        if file is None:
            return rows
        try:
            with self._opened(root, file, "observation") as array:
                return array.shape[0]
        except SliceError:
            return rows

    def _opened(self, root: Path, file: str, kind: Kind) -> AbstractContextManager[HdfArray]:
        path = source_file(root, file, follow_links=self.follow_links)
        return open_array(path, file, "data", (None, *_SHAPES[kind]))

    def read(self, root: Path, slices: Iterable[RawSlice]) -> Iterator[Image]:
        """Read slices, in order: `(362, 362)` float32 in [0, 1] each; ground truth outside it raises RangeError."""
        for file, rows in groupby(slices, key=lambda each: each.file):
            with self._opened(root, file, self.kind) as array:
                for one in rows:
                    yield self._finish(array.row(one.item), f"{file}[{one.item}]")

    def _finish(self, stored: Image, name: str) -> Image:
        """Bring a row, `(362, 362)` or `(1000, 513)`, to a slice."""
        low, high = float(stored.min()), float(stored.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise RangeError(f"{name} holds NaN or infinity; download or copy the file again")
        if self.kind == "observation":
            sinogram = stored * np.float32(_MM_PER_M)
            upright = filtered_back_projection(sinogram, GEOMETRY, self.filter_name, self.frequency_scaling)
            np.clip(upright, 0.0, 1.0, out=upright)
        elif not is_rounding(low, high, _VALUES):
            low_text, high_text = shown_number(stored.min()), shown_number(stored.max())
            raise RangeError(f"{name} reaches from {low_text} to {high_text}, wanted LoDoPaB-CT's [0, 1]")
        else:
            upright = stored.T
        return np.ascontiguousarray(upright.T if self.keep_orientation else upright)


def _splits(root: Path, names: list[str], scan: Scan, advance: Callable[[int], None]) -> dict[str, _Split]:
    splits: dict[str, _Split] = defaultdict(_Split)
    for name in names:
        advance(1)
        base = name.rpartition("/")[2]
        twice = LeftOut(name, "duplicate", "a file of the same name stands before it")
        if data := _DATA_NAME.fullmatch(base):
            if splits[data[2]].files[data[1]].setdefault(int(data[3]), name) != name:
                scan.left_out.append(twice)
        elif listed := _CSV_NAME.fullmatch(base):
            if splits[listed[1]].patients is not None:
                scan.left_out.append(twice)
            else:
                splits[listed[1]].patients = _read_patients(source_folder(root) / name, base)
        elif base.endswith(".zip"):
            scan.left_out.append(LeftOut(name, "packed", "it is a zip archive; unpack it first"))
        else:
            scan.left_out.append(LeftOut(name, "not-lodopab", "its name is none of the data set"))
    return splits


def _slice(split: str, file: str, row: int, sample: int, patients: list[str] | None) -> RawSlice:
    kind: GroupKind = "series" if patients is None else "patient"
    group = split if patients is None else patients[sample]
    return RawSlice(file, row, (SIDE, SIDE), group, kind, split, sample, unit="mapped", split=split, label=split)


def _notes(split: str, numbers: list[int], found: _Split, kept: int) -> Iterator[SeriesNote]:
    missing = sorted(set(range(numbers[-1])) - set(numbers))
    if missing:
        shown = ", ".join(f"{number:03d}" for number in missing[:10]) + (" …" if len(missing) > 10 else "")  # noqa: PLR2004
        yield SeriesNote("missing-files", split, f"files {shown} are not there")
    if kept < PUBLISHED_LENGTHS[split]:
        message = f"{kept} of the {PUBLISHED_LENGTHS[split]} slices published are there"
        yield SeriesNote("incomplete", split, message)
    if found.patients is None:
        message = "there is no list of its patients, so all of it counts as one group"
        yield SeriesNote("no-patients", split, message)


def _read_patients(path: Path, name: str) -> list[str]:
    """The number of each sample's patient, without leading zeros: one a line, in the order of the samples."""
    with system_errors("reading", name), path.open("rb") as file:
        content = file.read(_MAX_LIST_BYTES + 1)
    if len(content) > _MAX_LIST_BYTES:
        raise SourceManifestError(
            f"{name} has more than {_MAX_LIST_BYTES} bytes, wanted one number a line; copy it again"
        )
    patients = []
    for row, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not _PATIENT.fullmatch(line.strip()):
            seen = ascii(line[:40].decode("latin1"))
            raise SourceManifestError(f"{name} row {row}: {seen}, wanted a patient's number alone; copy it again")
        patients.append(str(int(line)))
    return patients
