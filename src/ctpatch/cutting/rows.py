"""The rows that a part contributes to the tables, collected while its slices are cut."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.grid import Grid
from ctpatch.core.statistics.api import WindowStatistics
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part, SliceTask
from ctpatch.cutting.receipt import CutReceipt
from ctpatch.files.atomic import system_errors, write_file
from ctpatch.files.digest import bytes_digest
from ctpatch.format.columns import digest_column, path_column, source_column
from ctpatch.format.tables import (
    PATCH_MANIFEST,
    REJECTED_PATCHES,
    SLICE_MANIFEST,
    STATUS_OK,
    STATUS_SKIPPED,
    patch_ids,
    rows_to_csv,
    schema_of,
)
from ctpatch.layouts.base import Addresses


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """A row of `slice_manifest.csv`; a slice that was left out has a reason instead of numbers."""

    slice_index: int
    paths: tuple[str, ...]
    patient_id: str | None
    shape: tuple[int, int]
    src_dtype: str
    bounds: tuple[float, float] | None
    digests: tuple[str, ...]
    num_windows: int
    num_patches: int
    reason: str | None = None
    mismatch: str | None = None

    @classmethod
    def skipped(cls, task: SliceTask, reason: str) -> Self:
        """The record of a slice that was left out."""
        return cls(task.slice_index, task.paths, task.patient_id, task.shape, task.src_dtype, None, (), 0, 0, reason)


@dataclass(slots=True)
class PartRows:
    """Collects the rows of a part while its slices are cut."""

    split: str
    arrays: tuple[str, ...]
    rules: tuple[str, ...]
    started_ns: int = field(default_factory=time.time_ns)
    records: list[SliceRecord] = field(default_factory=list)
    _cut: list[int] = field(default_factory=list)
    _grids: list[Grid] = field(default_factory=list)
    _statistics: list[WindowStatistics] = field(default_factory=list)
    _hits: list[NDArray[np.int16]] = field(default_factory=list)
    _addresses: list[Addresses] = field(default_factory=list)

    def add_skipped(self, record: SliceRecord) -> None:
        """Note a slice that was left out."""
        self.records.append(record)

    def add(
        self,
        record: SliceRecord,
        grid: Grid,
        statistics: WindowStatistics,
        hits: NDArray[np.int16],
        addresses: Addresses,
    ) -> None:
        """Note a slice, all its windows, and where the kept ones went."""
        self._cut.append(len(self.records))
        self.records.append(record)
        self._grids.append(grid)
        self._statistics.append(statistics)
        self._hits.append(hits)
        self._addresses.append(addresses)

    def frames(self, job: Job) -> dict[str, pl.DataFrame]:
        """The part's rows of each table."""
        hits = self._all_hits()
        patches, rejected = self._windows(job, hits)
        return {PATCH_MANIFEST: patches, REJECTED_PATCHES: rejected, SLICE_MANIFEST: self._slices()}

    def write(self, job: Job, part: Part) -> dict[Path, str]:
        """Write the part's rows, not yet durable; returns their files with their digests."""
        written = {}
        for table, frame in self.frames(job).items():
            path = job.piece(part.number, table)
            content = rows_to_csv(frame) if frame.height else b""
            with system_errors("writing", path.name):
                write_file(str(path), [content])
            written[path] = bytes_digest(content)
        return written

    def _all_hits(self) -> NDArray[np.int16]:
        return np.concatenate(self._hits) if self._hits else np.empty(0, np.int16)

    def receipt(self, job: Job, part: Part, pixel_bytes: int, pieces: Sequence[str]) -> CutReceipt:
        """What the part did.

        Args:
            job: what all parts share.
            part: the part.
            pixel_bytes: bytes of pixel files written.
            pieces: digests of its rows, in the order of `frames`.
        """
        hits = self._all_hits()
        counts = np.bincount(hits[hits >= 0], minlength=len(self.rules))
        done = [record for record in self.records if record.reason is None]
        return CutReceipt(
            part=part.number,
            started_ns=self.started_ns,
            plan_digest=job.plan_digest,
            num_slices=len(done),
            num_skipped=len(self.records) - len(done),
            num_windows=len(hits),
            num_patches=int((hits < 0).sum()),
            dropped={rule: int(count) for rule, count in zip(self.rules, counts, strict=True)},
            covered_pixels=sum(grid.covered_pixels() for grid in self._grids),
            total_pixels=sum(record.shape[0] * record.shape[1] for record in done),
            pixel_bytes=pixel_bytes,
            sources=[(record.slice_index, list(record.digests)) for record in self.records],
            pieces=dict(zip((PATCH_MANIFEST, REJECTED_PATCHES, SLICE_MANIFEST), pieces, strict=True)),
            skipped=[record.reason for record in self.records if record.reason is not None],
            mismatches=[record.mismatch for record in self.records if record.mismatch is not None],
            converted=sorted({record.src_dtype for record in done} - {"float32"}),
            without_windows=[record.paths[0] for record in done if record.num_windows == 0],
        )

    def _windows(self, job: Job, hits: NDArray[np.int16]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows of the manifest and of the rejected patches."""
        patch_columns = schema_of(PATCH_MANIFEST, self.arrays)
        rejected_columns = schema_of(REJECTED_PATCHES, self.arrays)
        kept, dropped = hits < 0, hits >= 0
        items = [item for each in self._addresses for item in each.items or ()]
        addresses = [pl.Series("patch_index", items or [None] * int(kept.sum()), dtype=pl.Int64)]
        for place, array in enumerate(self.arrays):
            paths = [path for each in self._addresses for path in each.paths[place]]
            digests = [digest for each in self._addresses if each.digests for digest in each.digests[place]]
            addresses.append(pl.Series(path_column(array), paths, dtype=pl.String))
            addresses.append(pl.Series(digest_column(array), digests or [None] * len(paths), dtype=pl.String))
        return (
            self._rows(job, kept, patch_columns, addresses),
            self._rows(
                job, dropped, rejected_columns, [pl.Series("rule", [self.rules[hit] for hit in hits[dropped].tolist()])]
            ),
        )

    def _rows(
        self, job: Job, which: NDArray[np.bool_], schema: dict[str, type[pl.DataType]], more: list[pl.Series]
    ) -> pl.DataFrame:
        """Rows for some of the windows; columns that are not known for them are null."""
        if not which.any():
            return pl.DataFrame(schema=schema)
        places = np.repeat(self._cut, [len(grid) for grid in self._grids])[which]
        indices = np.array([record.slice_index for record in self.records], np.int64)
        columns: dict[str, Any] = {
            "slice_index": indices[places],
            "src_path": pl.Series([record.paths[0] for record in self.records], dtype=pl.String).gather(places),
        }
        for axis, name in enumerate(("row", "col")):
            columns[name] = np.concatenate([grid.origins()[axis] for grid in self._grids])[which]
        for name in self._statistics[0]:
            columns[name] = np.concatenate([each[name] for each in self._statistics])[which]
        columns |= {series.name: series for series in more}
        computed = {
            "patch_id": patch_ids(self.split, pl.col("slice_index"), pl.col("row"), pl.col("col")),
            "dtype": pl.lit(job.arrays["image"].dtype),
        }
        return pl.DataFrame(columns).select(
            computed.get(name, pl.col(name) if name in columns else pl.lit(None)).cast(kind).alias(name)
            for name, kind in schema.items()
        )

    def _slices(self) -> pl.DataFrame:
        columns: dict[str, list[Any]] = {name: [] for name in schema_of(SLICE_MANIFEST, self.arrays)}
        for record in self.records:
            low, high = record.bounds or (None, None)
            digests = record.digests or (None,) * len(self.arrays)
            row: dict[str, Any] = {
                "slice_index": record.slice_index,
                "src_path": record.paths[0],
                "height": record.shape[0],
                "width": record.shape[1],
                "src_dtype": record.src_dtype,
                "min": low,
                "max": high,
                "digest": digests[0],
                "num_windows": record.num_windows,
                "num_patches": record.num_patches,
                "status": STATUS_OK if record.reason is None else STATUS_SKIPPED,
                "reason": record.reason,
                "patient_id": record.patient_id,
            }
            for array, path, digest in zip(self.arrays[1:], record.paths[1:], digests[1:], strict=True):
                row[source_column(array)] = path
                row[digest_column(array)] = digest
            for name, value in row.items():
                columns[name].append(value)
        return pl.DataFrame(columns, schema=schema_of(SLICE_MANIFEST, self.arrays))
