"""The rows that a part contributes to the tables, collected while its slices are cut."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from math import prod
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.grid import Grid
from ctpatch.core.label_counts import LabelCounts
from ctpatch.core.statistics.api import WindowStatistics
from ctpatch.cutting.job import Job
from ctpatch.cutting.label_totals import LabelSums, add_labels
from ctpatch.cutting.plan import Part, SliceTask
from ctpatch.cutting.receipt import CutReceipt
from ctpatch.cutting.values import PartValues
from ctpatch.files.atomic import system_errors, write_file
from ctpatch.files.digest import bytes_digest
from ctpatch.format.columns import digest_column, labels_column, path_column, pixels_column, source_column
from ctpatch.format.tables import (
    PATCH_MANIFEST,
    REJECTED_PATCHES,
    SLICE_MANIFEST,
    STATUS_OK,
    STATUS_SKIPPED,
    rows_to_csv,
    slice_id,
    window_id,
)
from ctpatch.layouts.base import Addresses, SliceToWrite

_NO_WINDOWS = Grid((0, 0), (0, 0), (), (), (0, 0))
Images = tuple[NDArray[Any], ...]


@dataclass(slots=True, kw_only=True)
class CutSlice:
    """A slice that was read, checked and judged; one that was left out has a reason instead of all else.

    Attributes:
        task: the slice.
        reason: why it was left out.
        grid: its windows.
        statistics: of all windows.
        hits: for each window the number of the rule that drops it, or -1.
        bounds: its smallest and largest pixel.
        digests: of each array.
        images, padded: its pixels, for each array.
        labels: what each array of labels holds.
        array_bounds: the same for each array; none where the slice is not whole.
        mismatch: how its pixels are not what the source manifest states.
        clipped: which of its values lay outside the range by rounding, and were clipped; None where none did.
    """

    task: SliceTask
    reason: str | None = None
    grid: Grid = _NO_WINDOWS
    statistics: WindowStatistics = field(default_factory=dict)
    hits: NDArray[np.int16] = field(default_factory=lambda: np.empty(0, np.int16))
    bounds: tuple[float | None, float | None] = (None, None)
    digests: tuple[str, ...] = ()
    images: Images = ()
    padded: Images = ()
    labels: Mapping[str, LabelCounts] = field(default_factory=dict)
    array_bounds: Sequence[tuple[float, float]] = ()
    mismatch: str | None = None
    clipped: str | None = None

    def kept(self) -> SliceToWrite:
        """Its pixels and the windows that no rule drops."""
        rows, cols = (origins[self.hits < 0] for origins in self.grid.origins())
        return SliceToWrite(self.task.slice_index, self.task.paths, self.images, self.padded, rows, cols)


@dataclass(slots=True)
class PartRows:
    """Collects the rows of a part while its slices are cut."""

    job: Job
    part: Part
    started_ns: int = field(default_factory=time.time_ns)
    _slices: list[CutSlice] = field(default_factory=list)
    _addresses: list[Addresses] = field(default_factory=list)
    _values: PartValues = field(init=False)

    def __post_init__(self) -> None:
        self._values = PartValues(self.job)

    def add(self, piece: CutSlice, addresses: Addresses | None) -> None:
        """Note a slice, all its windows, and where the kept ones went, and let go of its pixels.

        A slice that was left out has no addresses.
        """
        if piece.reason is None:
            self._values.add(piece)
        piece.images = piece.padded = ()
        self._slices.append(piece)
        if addresses is not None:
            self._addresses.append(addresses)

    def frames(self) -> dict[str, pl.DataFrame]:
        """The part's rows of each table."""
        hits = self._hits()
        rules = [self.job.config.drop[hit].name for hit in hits[hits >= 0].tolist()]
        return {
            PATCH_MANIFEST: self._windows(PATCH_MANIFEST, hits < 0, self._address_columns()),
            REJECTED_PATCHES: self._windows(REJECTED_PATCHES, hits >= 0, {"rule": rules}),
            SLICE_MANIFEST: self._slice_rows(),
        }

    def write(self) -> dict[str, str]:
        """Write the part's rows, not yet durable; returns the digest for each table."""
        digests = {}
        for table, frame in self.frames().items():
            path = self.job.piece(self.part.number, table)
            content = rows_to_csv(frame) if frame.height else b""
            with system_errors("writing", path.name):
                write_file(str(path), [content])
            digests[table] = bytes_digest(content)
        return digests

    def receipt(self, pixel_bytes: int, pieces: dict[str, str]) -> CutReceipt:
        """What the part did: bytes of pixel files written, and the digest of its rows of each table."""
        hits, rules = self._hits(), [rule.name for rule in self.job.config.drop]
        counts = np.bincount(hits[hits >= 0], minlength=len(rules)).tolist()
        done = [piece for piece in self._slices if piece.reason is None]
        return CutReceipt(
            part=self.part.number,
            started_ns=self.started_ns,
            plan_digest=self.job.plan_digest,
            num_slices=len(done),
            num_skipped=len(self._slices) - len(done),
            num_windows=len(hits),
            num_patches=int((hits < 0).sum()),
            dropped=dict(zip(rules, counts, strict=True)),
            covered_pixels=sum(piece.grid.covered_pixels() for piece in done),
            total_pixels=sum(prod(piece.task.shape) for piece in done),
            pixel_bytes=pixel_bytes,
            sources=[(piece.task.slice_index, list(piece.digests)) for piece in self._slices],
            pieces=pieces,
            skipped=[piece.reason for piece in self._slices if piece.reason is not None],
            mismatches=[piece.mismatch for piece in done if piece.mismatch is not None],
            converted=sorted({piece.task.src_dtype for piece in done} - {"float32"}),
            clipped=[piece.clipped for piece in done if piece.clipped is not None],
            values=self._values.on_record(done, hits < 0),
            without_windows=[piece.task.name for piece in done if not len(piece.grid)],
            labels=self._label_rows(done),
            uncounted=[[piece.labels[array].pixels for piece in done].count(None) for array in self.job.counted],
        )

    def _label_rows(self, done: Sequence[CutSlice]) -> dict[str, list[tuple[int, int, int, int]]]:
        """For each array of labels: each label with its pixels, the slices and the kept windows that hold it."""
        rows = {}
        for array in self.job.counted:
            sums: LabelSums = {}
            for piece in done:
                add_labels(sums, piece.labels[array].rows())
            rows[array] = [(label, *sums[label]) for label in sorted(sums)]
        return rows

    def _hits(self) -> NDArray[np.int16]:
        return np.concatenate([piece.hits for piece in self._slices])

    def _address_columns(self) -> dict[str, list[Any]]:
        """Columns of the kept windows; those that the layout leaves empty are not among them."""
        columns: dict[str, list[Any]] = {"patch_index": [item for each in self._addresses for item in each.items or ()]}
        for place, array in enumerate(self.job.arrays):
            digests = (each.digests[place] for each in self._addresses if each.digests)
            columns[path_column(array)] = [path for each in self._addresses for path in each.paths[place]]
            columns[digest_column(array)] = [digest for each in digests for digest in each]
        return {name: values for name, values in columns.items() if values}

    def _windows(self, table: str, which: NDArray[np.bool_], more: dict[str, list[Any]]) -> pl.DataFrame:
        """Rows for some of the windows; columns that are not known for them are null."""
        schema = self.job.schema(table)
        if not which.any():
            return pl.DataFrame(schema=schema)
        counts = [len(piece.grid) for piece in self._slices]
        places = np.repeat(np.arange(len(counts)), counts)[which]
        names = [piece.task.name for piece in self._slices]
        columns: dict[str, Any] = {
            "patch_id": list(compress(self._patch_ids(), which.tolist())),
            "slice_index": np.array([piece.task.slice_index for piece in self._slices], np.int64)[places],
            "src_path": [names[place] for place in places.tolist()],
        }
        for axis, name in enumerate(("row", "col")):
            columns[name] = np.concatenate([piece.grid.origins()[axis] for piece in self._slices])[which]
        statistics = [piece.statistics for piece in self._slices if piece.reason is None]
        for name in statistics[0]:
            columns[name] = np.concatenate([each[name] for each in statistics])[which]
        columns |= more
        constants = {"dtype": self.job.arrays["image"].dtype}
        return pl.DataFrame(
            [
                pl.Series(name, columns[name], kind)
                if name in columns
                else pl.Series(name, [constants.get(name)], kind).new_from_index(0, len(places))
                for name, kind in schema.items()
            ]
        )

    def _patch_ids(self) -> Iterator[str]:
        """The ids of all windows."""
        grids = {piece.grid for piece in self._slices}
        ends = {grid: [window_id(row, col) for row, col in grid] for grid in grids}
        for piece in self._slices:
            start = slice_id(self.job.split, piece.task.slice_index)
            yield from (start + end for end in ends[piece.grid])

    def _slice_rows(self) -> pl.DataFrame:
        arrays, pieces = tuple(self.job.arrays), self._slices
        tasks, failed = [piece.task for piece in pieces], [piece.reason is not None for piece in pieces]
        columns: dict[str, list[Any]] = {
            "slice_index": [task.slice_index for task in tasks],
            "height": [task.shape[0] for task in tasks],
            "width": [task.shape[1] for task in tasks],
            "src_dtype": [task.src_dtype for task in tasks],
            "min": [piece.bounds[0] for piece in pieces],
            "max": [piece.bounds[1] for piece in pieces],
            "num_windows": [len(piece.hits) for piece in pieces],
            "num_patches": [np.count_nonzero(piece.hits < 0) for piece in pieces],
            "status": [STATUS_SKIPPED if each else STATUS_OK for each in failed],
            "reason": [piece.reason for piece in pieces],
            "patient_id": [task.patient_id for task in tasks],
        }
        for place, array in enumerate(arrays):
            columns[source_column(array)] = [task.paths[place] for task in tasks]
            columns[digest_column(array)] = [piece.digests[place] if piece.digests else None for piece in pieces]
        for array in self.job.counted:
            found = [piece.labels.get(array) for piece in pieces]
            columns[pixels_column(array)] = [each and each.above for each in found]
            columns[labels_column(array)] = [each and each.text() for each in found]
        for place, name in enumerate(self.job.carried):
            columns[name] = [task.carried[place] for task in tasks]
        return pl.DataFrame(columns, self.job.schema(SLICE_MANIFEST))
