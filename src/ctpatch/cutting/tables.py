"""From the parts' receipts and rows to the set's tables and its meta, in part order, in bounded memory."""

import os
from contextlib import ExitStack
from pathlib import Path

import xxhash

from ctpatch._version import __version__
from ctpatch.cutting.changes import refuse_changed_sources
from ctpatch.cutting.job import Job
from ctpatch.cutting.label_totals import label_totals
from ctpatch.cutting.plan import SplitPlan
from ctpatch.cutting.receipt import CutReceipt
from ctpatch.cutting.result import Totals
from ctpatch.errors import FormatError
from ctpatch.files.atomic import end_file, open_for_writing, system_errors, write_buffers
from ctpatch.format.meta import (
    FORMAT_VERSION,
    DropRule,
    PatchMeta,
    TableInfo,
    fingerprint,
    now_utc,
    one_or_pair,
)
from ctpatch.format.prepared_meta import prepared_scale
from ctpatch.format.tables import TABLES, header_line
from ctpatch.format.value_record import ValueRecord
from ctpatch.work.folder import WorkFolder
from ctpatch.work.receipt import receipts_of

_COPY_BYTES = 1 << 20


def merge_parts(
    job: Job, plan: SplitPlan, output: WorkFolder[PatchMeta], *, from_sources: bool
) -> tuple[PatchMeta, Totals]:
    """Write the tables and then the meta; the set is complete when this returns.

    Raises:
        SourceChangedError: a source slice was changed while the build went on.
        FormatError: a receipt or a part's rows are not what they were.
        SystemFailureError: the system refused a write.
    """
    totals = Totals()
    with ExitStack() as stack:
        writers = {table: _TableWriter(job, table, stack) for table in TABLES}
        for part, receipt in receipts_of(job.state, plan.parts(job.layout), CutReceipt):
            if from_sources:
                refuse_changed_sources(job, part, receipt.sources, receipt.started_ns, strict=False)
            totals.add(receipt)
            for table, writer in writers.items():
                writer.append(job.piece(part.number, table), receipt.pieces[table])
        tables = {table: writer.finish() for table, writer in writers.items()}
    for table in TABLES:
        output.publish(table)
    meta = meta_of(job, plan, totals, tables)
    output.complete(meta.to_bytes())
    return meta, totals


class _TableWriter:
    """Puts the parts' rows of one table one behind the other, in the state folder."""

    def __init__(self, job: Job, table: str, stack: ExitStack) -> None:
        self._table, self._hasher, self._size = table, xxhash.xxh3_128(), 0
        with system_errors("writing", table):
            self._fd = open_for_writing(str(job.state / table))
        stack.callback(os.close, self._fd)
        self._write(header_line(job.schema(table)))

    def _write(self, content: bytes) -> None:
        with system_errors("writing", self._table):
            self._size += write_buffers(self._fd, [content])
        self._hasher.update(content)

    def append(self, piece: Path, digest: str) -> None:
        """Add a part's rows; raises FormatError where they are not what the receipt says."""
        hasher = xxhash.xxh3_128()
        with system_errors("reading", piece.name), piece.open("rb") as file:
            while content := file.read(_COPY_BYTES):
                hasher.update(content)
                self._write(content)
        if hasher.hexdigest() != digest:
            raise FormatError(f"{piece.name} is not what its receipt says; run the same command again")

    def finish(self) -> TableInfo:
        """Make the table durable; returns its size and digest."""
        with system_errors("making durable", self._table):
            end_file(self._fd, self._size)
            os.fsync(self._fd)
        return TableInfo(bytes=self._size, digest=self._hasher.hexdigest())


def meta_of(job: Job, plan: SplitPlan, totals: Totals, tables: dict[str, TableInfo]) -> PatchMeta:
    """The meta of a set that is made of these parts."""
    config, source_digest = plan.config, totals.sources.hexdigest()
    root = job.data_root.resolve()
    inside = job.folder != root and job.folder.is_relative_to(root)
    rules = tuple(
        DropRule(name=rule.name, condition=rule.condition, dropped=totals.dropped[rule.name]) for rule in config.drop
    )
    return PatchMeta(
        num_slices=totals.num_slices,
        num_patches=totals.num_patches,
        patch_size=one_or_pair(config.patch_size),
        stride=one_or_pair(config.stride),
        source_manifest=plan.source.manifest_path,
        patch_dir=job.folder.relative_to(root).as_posix() if inside else ".",
        created=now_utc(),
        format_version=FORMAT_VERSION,
        ctpatch_version=__version__,
        dataset=plan.source.dataset,
        split=plan.source.split,
        layout=job.layout,
        pad_mode=config.pad_mode,
        arrays=plan.arrays,
        value_range=config.value_range,
        air_level=config.air_level,
        drop_rules=rules,
        num_rejected=totals.num_windows - totals.num_patches,
        coverage=totals.covered_pixels / totals.total_pixels if totals.total_pixels else 0.0,
        fingerprint=fingerprint(config, plan.arrays, source_digest, plan.slices, job.carried),
        source_digest=source_digest,
        rules_on=config.rules_on,
        num_skipped=totals.num_skipped,
        num_windows=totals.num_windows,
        paths_relative_to="data_root" if inside else "patch_dir",
        tables=tables,
        source_paths="manifest_dir" if plan.beside else None,
        statistics=config.statistics,
        body_level=config.body_level,
        num_clipped=(totals.num_clipped or (plan.made_from and plan.made_from.num_clipped)) or None,
        values=_values(job, plan, totals),
        hu=plan.made_from.hu if plan.made_from else prepared_scale(plan.source.manifest),
        pixel_bytes=totals.pixel_bytes,
        carried=job.carried or None,
        label_counts=label_totals(job.counted, totals.labels, totals.uncounted) or None,
    )


def _values(job: Job, plan: SplitPlan, totals: Totals) -> ValueRecord | None:
    """How pixels are spread; what a set says of whole slices holds for those that are made from it."""
    if plan.made_from is None:
        return totals.values.record(plan.config, plan.arrays, job.sampled_every)
    before = plan.made_from.values
    return before and totals.values.record(plan.config, plan.arrays, job.sampled_every, before)
