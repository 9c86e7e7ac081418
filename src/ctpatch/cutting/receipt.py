"""The record that a part is complete, written last, and the rows it contributes to the tables.

Resume trusts a receipt only where its own digest holds, the plan is the same, the sources are what they were, and
every pixel written has the digest on record.
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.grid import Grid
from ctpatch.core.statistics.windows import WindowStatistics
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part, SliceTask
from ctpatch.errors import CtPatchError, SourceChangedError, SystemFailureError
from ctpatch.files.atomic import explain_os_error, system_errors, write_atomic, write_file
from ctpatch.files.digest import array_digest, bytes_digest, file_digest, json_digest
from ctpatch.files.npy import SliceBuffer
from ctpatch.format.tables import (
    PATCH_MANIFEST,
    REJECTED_PATCHES,
    SLICE_MANIFEST,
    STATUS_OK,
    STATUS_SKIPPED,
    TABLES,
    patch_ids,
    patch_schema,
    read_table,
    rejected_schema,
    rows_to_csv,
    schema_of,
    slice_schema,
)
from ctpatch.layouts import layout_of
from ctpatch.layouts.base import Addresses

_STATISTICS = ("min", "max", "mean", "std", "air_fraction")


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


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished part did.

    Attributes:
        part: its number.
        started_ns: when its first slice was read, nanoseconds since 1970.
        plan_digest: the plan it belongs to.
        num_slices, num_skipped: slices cut and left out.
        num_windows, num_patches: windows judged and kept.
        dropped: windows dropped, for each rule.
        covered_pixels, total_pixels: of the slices that were cut.
        pixel_bytes: bytes of pixel files written.
        sources: for each slice its index and the digest of each array (none where it was left out).
        pieces: digest of its rows of each table.
        skipped: reasons of slices left out.
        mismatches: slices whose stated min or max is not that of the pixels.
        converted: dtypes other than float32 that were converted.
        without_windows: slices smaller than a patch.
        reused: whether an earlier run had done the part; not on disk.
    """

    part: int
    started_ns: int
    plan_digest: str
    num_slices: int
    num_skipped: int
    num_windows: int
    num_patches: int
    dropped: dict[str, int]
    covered_pixels: int
    total_pixels: int
    pixel_bytes: int
    sources: list[tuple[int, list[str]]]
    pieces: dict[str, str]
    skipped: list[str]
    mismatches: list[str]
    converted: list[str]
    without_windows: list[str]
    reused: bool = field(default=False, compare=False)

    def to_bytes(self) -> bytes:
        """The file's content."""
        content = asdict(self)
        del content["reused"]
        return json.dumps({**content, "digest": json_digest(content)}, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self | None:
        """The receipt in a file's content, or None where it is damaged or of another version."""
        try:
            values = json.loads(content)
            stated = values.pop("digest")
            if stated != json_digest(values):
                return None
            if set(values) != {each.name for each in fields(cls)} - {"reused"}:
                return None
            return cls(**values, reused=True)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


@dataclass(slots=True)
class PartRows:
    """Collects the rows of a part while its slices are cut."""

    split: str
    arrays: tuple[str, ...]
    rules: tuple[str, ...]
    started_ns: int = field(default_factory=time.time_ns)
    records: list[SliceRecord] = field(default_factory=list)
    covered_pixels: int = 0
    _columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    _hits: list[NDArray[np.int16]] = field(default_factory=list)
    _paths: list[list[str]] = field(init=False)
    _digests: list[list[str]] = field(init=False)
    _items: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._paths = [[] for _ in self.arrays]
        self._digests = [[] for _ in self.arrays]

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
        self.records.append(record)
        self.covered_pixels += grid.covered_pixels()
        rows, cols = grid.origins()
        columns = {"slice": np.full(len(grid), len(self.records) - 1), "row": rows, "col": cols}
        columns |= {name: getattr(statistics, name) for name in _STATISTICS}
        for name, values in columns.items():
            self._columns.setdefault(name, []).append(values)
        self._hits.append(hits)
        for mine, new in zip(self._paths, addresses.paths, strict=True):
            mine.extend(new)
        for mine, new in zip(self._digests, addresses.digests, strict=False):
            mine.extend(new)
        self._items.extend(addresses.items or [])

    def finish(self, job: Job, part: Part, pixel_bytes: int) -> tuple[Receipt, list[str]]:
        """Write the part's rows; returns the receipt to write when everything is durable, and the files of rows."""
        hits = np.concatenate(self._hits) if self._hits else np.empty(0, np.int16)
        patches, rejected = self._windows(job, hits)
        tables = {PATCH_MANIFEST: patches, REJECTED_PATCHES: rejected, SLICE_MANIFEST: self._slices()}
        pieces = {}
        for table, frame in tables.items():
            path = job.piece(part.number, table)
            with system_errors("writing", path.name):
                content = rows_to_csv(frame) if frame.height else b""
                write_file(str(path), [content])
            pieces[table] = bytes_digest(content)
        counts = np.bincount(hits[hits >= 0], minlength=len(self.rules))
        done = [record for record in self.records if record.reason is None]
        receipt = Receipt(
            part=part.number,
            started_ns=self.started_ns,
            plan_digest=job.plan_digest,
            num_slices=len(done),
            num_skipped=len(self.records) - len(done),
            num_windows=len(hits),
            num_patches=int((hits < 0).sum()),
            dropped={rule: int(count) for rule, count in zip(self.rules, counts, strict=True)},
            covered_pixels=self.covered_pixels,
            total_pixels=sum(record.shape[0] * record.shape[1] for record in done),
            pixel_bytes=pixel_bytes,
            sources=[(record.slice_index, list(record.digests)) for record in self.records],
            pieces=pieces,
            skipped=[record.reason for record in self.records if record.reason is not None],
            mismatches=[record.mismatch for record in self.records if record.mismatch is not None],
            converted=sorted({record.src_dtype for record in done} - {"float32"}),
            without_windows=[record.paths[0] for record in done if record.num_windows == 0],
        )
        return receipt, [str(job.piece(part.number, table)) for table in tables]

    def _windows(self, job: Job, hits: NDArray[np.int16]) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows of the manifest and of the rejected patches."""
        patch_columns, rejected_columns = patch_schema(self.arrays), rejected_schema(self.arrays)
        kept, dropped = hits < 0, hits >= 0
        addresses = [pl.Series("patch_index", self._items or [None] * int(kept.sum()), dtype=pl.Int64)]
        for array, paths, digests in zip(self.arrays, self._paths, self._digests, strict=True):
            prefix = "" if array == "image" else f"{array}_"
            addresses.append(pl.Series(f"{prefix}patch_path", paths, dtype=pl.String))
            addresses.append(pl.Series(f"{prefix}digest", digests or [None] * len(paths), dtype=pl.String))
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
        columns: dict[str, Any] = {name: np.concatenate(values)[which] for name, values in self._columns.items()}
        slices = columns.pop("slice")
        sources = [record.paths[0] for record in self.records]
        columns["slice_index"] = np.array([record.slice_index for record in self.records], np.int64)[slices]
        columns["src_path"] = [sources[number] for number in slices.tolist()]
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
        columns: dict[str, list[Any]] = {name: [] for name in slice_schema(self.arrays)}
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
                row[f"{array}_path"] = path
                row[f"{array}_digest"] = digest
            for name, value in row.items():
                columns[name].append(value)
        return pl.DataFrame(columns, schema=slice_schema(self.arrays))


def write_receipt(job: Job, receipt: Receipt) -> None:
    """Put the receipt down: from here on the part is done."""
    write_atomic(job.receipt(receipt.part), receipt.to_bytes())


def trusted_receipt(job: Job, part: Part, *, check_sources: bool) -> Receipt | None:
    """The receipt of an earlier run where everything it says still holds, else None: the part is done again.

    Args:
        job: what all parts share.
        part: the part.
        check_sources: whether the part is made from source slices, which must be what they were.

    Raises:
        SourceChangedError: a source slice is no longer what the earlier run read.
    """
    path = job.receipt(part.number)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    receipt = Receipt.from_bytes(content)
    if receipt is None or receipt.plan_digest != job.plan_digest or receipt.num_skipped:
        return None
    if [source[0] for source in receipt.sources] != [task.slice_index for task in part.slices]:
        return None
    if check_sources:
        refuse_changed_sources(job, part, receipt, strict=job.strict)
    return receipt if _outputs_hold(job, part, receipt) else None


def refuse_changed_sources(job: Job, part: Part, receipt: Receipt, *, strict: bool) -> None:
    """Raise where a slice is no longer what its part read.

    Raises:
        SourceChangedError: names the slice.
    """
    for task, (_index, digests) in zip(part.slices, receipt.sources, strict=True):
        # A slice that was left out has no digests.
        for array, source, digest in zip(job.arrays, task.paths, digests, strict=False):
            labels = array != "image"
            if source_changed(job.data_root, source, digest, receipt.started_ns, labels=labels, strict=strict):
                raise SourceChangedError(
                    f"{source} has changed since it was cut; "
                    "--overwrite starts anew with what is there now, or restore the file"
                )


def source_changed(data_root: Path, path: str, digest: str, since_ns: int, *, labels: bool, strict: bool) -> bool:
    """Whether a source slice is no longer what it was.

    A file that was neither written nor put in place since `since_ns` (nanoseconds) is the same; its size was
    compared when its header was read. Where its times leave a doubt, or with `strict`, its pixels are read and their
    digest decides, so that a file that was only copied or touched is no change.
    """
    try:
        status = os.stat(data_root / path)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise explain_os_error(error, "looking at", path) from None
    # Where `since_ns` is still to come, the clock was ahead then, and the times since prove nothing.
    if not strict and max(status.st_mtime_ns, status.st_ctime_ns) < since_ns <= time.time_ns():
        return False
    try:
        image, _dtype = SliceBuffer().read(str(data_root / path), path, labels=labels)
    except SystemFailureError:
        raise
    except CtPatchError:
        return True
    return array_digest(image) != digest


def _outputs_hold(job: Job, part: Part, receipt: Receipt) -> bool:
    try:
        for table in TABLES:
            if file_digest(job.piece(part.number, table)) != receipt.pieces.get(table):
                return False
        rows = read_table(
            job.piece(part.number, PATCH_MANIFEST), schema_of(PATCH_MANIFEST, tuple(job.arrays)), has_header=False
        )
        slices = read_table(
            job.piece(part.number, SLICE_MANIFEST), schema_of(SLICE_MANIFEST, tuple(job.arrays)), has_header=False
        )
        layout = layout_of(job.layout)
        wrong = layout.wrong_pixels(rows, slices, job.arrays, job.resolve_patch, job.config.patch_size)
        return next(wrong, None) is None
    except (OSError, CtPatchError):
        return False
