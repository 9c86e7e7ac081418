"""A finished set in another layout, or with fewer patches; provenance and pixels stay.

What comes out is, to the byte, what a build with that layout and that rule would have made from the sources.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import BuildConfig, PatchConfig, Rule
from ctpatch.core.grid import Grid, make_grid
from ctpatch.core.label_counts import LabelCounts, read_labels, windows_with
from ctpatch.core.patches import pad_slice, paste
from ctpatch.core.rules import compile_rules, opposite
from ctpatch.cutting.cut import complete_part
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part, SliceTask, SplitPlan
from ctpatch.cutting.receipt import CutReceipt, trusted_receipt
from ctpatch.cutting.result import BuildResult
from ctpatch.cutting.rows import CutSlice, Images
from ctpatch.cutting.work import CutWork, make_set
from ctpatch.errors import FormatError, UsageError
from ctpatch.events import Listener, ignore
from ctpatch.files.atomic import given_path
from ctpatch.files.digest import json_digest
from ctpatch.format.columns import (
    digest_column,
    labels_column,
    pixels_column,
    recorded_statistics,
    rule_values,
    source_column,
)
from ctpatch.format.meta import MANIFEST_DIR, PatchMeta
from ctpatch.format.splits import SplitSource
from ctpatch.format.tables import PATCH_MANIFEST, REJECTED_PATCHES, STATUS_OK
from ctpatch.layouts import layout_of
from ctpatch.reading.patchset import PatchSet, open_set
from ctpatch.words import LayoutName
from ctpatch.work.executors.choose import AnyExecutor, as_executor
from ctpatch.work.folder import WorkFolder

_BLOCK_BYTES = 32 << 20
"""Patches are read in blocks of about this size."""

KEEP = "keep"
"""Name of the rule that `--keep` adds: it drops what the condition does not hold for."""

ConvertJob = tuple[Job, PatchSet]


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layout: LayoutName | None = None,
    keep: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    executor: AnyExecutor | None = None,
    listener: Listener = ignore,
) -> BuildResult:
    """Write a finished set again, in another layout, with fewer patches, or both.

    It is as safe to interrupt as a build. The layouts `slices` and `index` need whole slices: from a set that holds
    them, or from the data root.

    Args:
        path: the set.
        out: folder of the new set.
        layout: the new layout; None keeps the old.
        keep: SQL condition; patches for which it does not hold are dropped, on record under the rule `keep`.
        data_root: where source paths begin, for sets that do not lie in their data root.
        workers: processes that write.
        overwrite: start anew over an earlier set of ours.
        executor: what the parts are given to instead of local processes; as for `build`.
        listener: is told what happens.

    Returns:
        What was done.

    Raises:
        UsageError: there is no finished set, or `out` is the set itself.
        RuleError: the condition cannot be understood.
        OutputConflictError: `out` holds something else.
        NpyError, SourceChangedError: whole slices are needed and the sources are gone or changed.
    """
    ps = open_set(path, data_root)
    folder = given_path(out).resolve()
    if folder == ps.folder or folder.is_relative_to(ps.folder) or ps.folder.is_relative_to(folder):
        raise UsageError(f"{str(out)!r} overlaps the set that is converted; choose another folder")
    options = BuildConfig(layout=layout or ps.meta.layout, workers=workers, overwrite=overwrite)
    work = ConvertWork(_plan(ps, keep), folder, options, ps)
    return make_set(work, as_executor(executor, workers), listener, overwrite=overwrite)


def run_convert_part(shared: ConvertJob, part: Part) -> CutReceipt:
    """Do one part of a conversion, or find that it is done."""
    job, ps = shared
    return trusted_receipt(job, part, check_sources=False) or complete_part(job, part, _pieces(job, ps, part))


class ConvertWork(CutWork):
    """A set made from another set."""

    from_sources = False
    run = staticmethod(run_convert_part)
    probe = None

    def __init__(self, plan: SplitPlan, folder: Path, options: BuildConfig, ps: PatchSet) -> None:
        self._ps = ps
        super().__init__(plan, folder, options)

    def plan_digest(self) -> str:
        """Of the options and of the set's tables."""
        tables = {name: info.digest for name, info in self._ps.meta.tables.items()}
        return json_digest({"config": self.plan.config.model_dump(mode="json"), "tables": tables})

    def shared(self, folder: WorkFolder[PatchMeta]) -> ConvertJob:
        """The job, and the set."""
        del folder
        return self.job, self._ps

    def changed_sources(self, folder: Path, meta: PatchMeta) -> list[str]:
        """Whether the finished set was made from the same slices."""
        del folder
        return [] if meta.source_digest == self._ps.meta.source_digest else ["it was made from other slices"]


def _refuse_lost_windows(ps: PatchSet) -> None:
    """Raise FormatError where a window lies in no slice that was cut: it would be missing from the new set."""
    cut = ps.slices.filter(pl.col("status") == STATUS_OK)["slice_index"].implode()
    for table, frame in ((PATCH_MANIFEST, ps.manifest), (REJECTED_PATCHES, ps.rejected)):
        lost = ~frame["slice_index"].is_in(cut).fill_null(value=False)
        for at in lost.arg_true()[:1]:
            raise FormatError(
                f"{table} row {at + 2}, column slice_index: {frame['slice_index'][at]}, wanted a slice that "
                "slice_manifest.csv lists as cut; run ctpatch verify"
            )


def _plan(ps: PatchSet, keep: str | None) -> SplitPlan:
    _refuse_lost_windows(ps)
    config = ps.config
    if keep is not None:
        taken = {rule.name for rule in config.drop}
        name = next(each for each in (KEEP, *(f"{KEEP}_{n}" for n in range(2, 1000))) if each not in taken)
        rule = opposite(Rule(name=name, condition=keep))
        compile_rules([rule]).all_hits(rule_values(ps.manifest.head(1)))  # refuses a column that the set lacks
        config = config.with_rules(rule)
    try:
        root = ps.data_root
    except UsageError:  # it cannot be told: new paths are relative to the new set
        root = ps.folder
    source = SplitSource(ps.meta.dataset, ps.meta.split, root / ps.meta.source_manifest, root)
    frame = ps.slices.select(
        "slice_index",
        "src_path",
        *map(source_column, ps.arrays[1:]),
        "patient_id",
        *(pl.lit(None, dtype=pl.Float64).alias(name) for name in ("stated_min", "stated_max")),
        "height",
        "width",
        "src_dtype",
        *(ps.meta.carried or {}),
        pl.when(pl.col("status") == STATUS_OK).then(None).otherwise(pl.col("reason")).alias("problem"),
    )
    return SplitPlan(
        source,
        config,
        frame,
        dict(ps.meta.arrays),
        beside=ps.meta.source_paths == MANIFEST_DIR,
        carried=ps.meta.carried or {},
        uncounted=frozenset(ps.arrays) - frozenset(ps.meta.label_counts or {}),
        made_from=ps.meta,
    )


def _pieces(job: Job, ps: PatchSet, part: Part) -> Iterator[CutSlice]:
    indices = pl.Series([task.slice_index for task in part.tasks], dtype=pl.Int64).implode()
    mine = pl.col("slice_index").is_in(indices)
    kept, dropped = ps.manifest.with_row_index("at").filter(mine), ps.rejected.filter(mine)
    records = {record["slice_index"]: record for record in ps.slices.filter(mine).iter_rows(named=True)}
    for task in part.tasks:
        record = records[task.slice_index]
        if record["status"] != STATUS_OK:
            yield CutSlice(task=task, reason=record["reason"])
            continue
        here = pl.col("slice_index") == task.slice_index
        yield _piece(ps, job, task, record, kept.filter(here), dropped.filter(here))


def _piece(
    ps: PatchSet, job: Job, task: SliceTask, record: dict[str, Any], kept: pl.DataFrame, dropped: pl.DataFrame
) -> CutSlice:
    grid = make_grid(*task.shape, job.config)
    windows = pl.concat([kept.drop("at"), dropped.drop("rule")], how="diagonal").sort("row", "col")
    if windows.height != len(grid):
        raise FormatError(
            f"slice {task.slice_index} has {windows.height} windows on record, its grid has {len(grid)}; "
            "run ctpatch verify"
        )
    images, padded = _pixels(ps, job, record, kept, grid)
    hits = _hits(job.config, windows, dropped)
    return CutSlice(
        task=task,
        grid=grid,
        statistics={name: windows[name].to_numpy() for name in recorded_statistics(windows)},
        hits=hits,
        bounds=(record["min"], record["max"]),
        digests=tuple(record[digest_column(array)] for array in ps.arrays),
        images=images,
        padded=padded,
        labels={
            array: _labels(record, array, image, grid, hits < 0)
            for array, image in zip(ps.arrays, padded, strict=True)
            if array in job.counted
        },
    )


def _labels(
    record: dict[str, Any], array: str, padded: NDArray[Any], grid: Grid, kept: NDArray[np.bool_]
) -> LabelCounts:
    """What is on record of a slice's labels; only windows are counted anew, which the pixels at hand suffice for."""
    above, text = record[pixels_column(array)], record[labels_column(array)]
    try:
        pixels = None if text is None else read_labels(text)
    except ValueError as error:
        raise FormatError(
            f"slice_manifest.csv, slice {record['slice_index']}, column {labels_column(array)}: {error}; run ctpatch "
            "verify"
        ) from None
    return LabelCounts(above, pixels, windows_with(padded, grid, kept, pixels or ()))


def _hits(config: PatchConfig, windows: pl.DataFrame, dropped: pl.DataFrame) -> NDArray[np.int16]:
    """For each window the rule on record, or where it was kept until now, the first that hits it now."""
    now = compile_rules(config.drop).first_hits(rule_values(windows))
    numbers = {rule.name: number for number, rule in enumerate(config.drop)}
    recorded = dict(zip(dropped["patch_id"], dropped["rule"], strict=True))
    before = np.array([numbers.get(recorded.get(patch, ""), -1) for patch in windows["patch_id"]], np.int16)
    return np.where(before >= 0, before, now)


def _pixels(ps: PatchSet, job: Job, record: dict[str, Any], kept: pl.DataFrame, grid: Grid) -> tuple[Images, Images]:
    """The slice for each array, and padded: whole where it is to be had or needed, else put together from patches."""
    if kept.height and not (ps.layout.holds_patches and layout_of(job.layout).holds_patches):
        images = tuple(
            ps.stored_slice(kept.row(0, named=True), array)
            if ps.layout.holds_slices
            else ps.sources.read(record, array)
            for array in ps.arrays
        )
        return images, tuple(pad_slice(image, grid.padded_shape, job.config.pad_mode) for image in images)
    canvases = []
    height, width = ps.patch_size
    for array in ps.arrays:
        canvas = np.zeros(grid.padded_shape, np.dtype(ps.meta.arrays[array].dtype))
        for block in kept.iter_slices(max(1, _BLOCK_BYTES // (height * width * canvas.itemsize))):
            patches = ps.read(block["at"].to_numpy(), arrays=[array])[array]
            paste(canvas, patches, block["row"].to_numpy(), block["col"].to_numpy())
        canvases.append(canvas)
    return tuple(canvas[: grid.shape[0], : grid.shape[1]] for canvas in canvases), tuple(canvases)
