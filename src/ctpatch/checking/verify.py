"""Whether a patch set is what it says: every table, every file, every pixel."""

import os
from collections.abc import Iterator

import polars as pl

from ctpatch.checking.findings import Finding, VerifyReport
from ctpatch.checking.pixel_checks import PixelTask, SlicesToCheck, check_pixels
from ctpatch.checking.table_checks import check_files, check_tables, check_unlisted
from ctpatch.errors import FormatError, IncompleteError
from ctpatch.events import Listener, WorkAdvanced, WorkFinished, WorkStarted, ignore
from ctpatch.format.meta import PATCH_META
from ctpatch.format.tables import PATCH_MANIFEST, TABLES
from ctpatch.reading.patchset import PatchSet, open_set
from ctpatch.work.executors.base import Done, Executor, Failed, ending
from ctpatch.work.executors.choose import AnyExecutor, as_executor
from ctpatch.work.executors.visible import in_sight

_RUN_PATCHES = 1024
_WORTH_PROCESSES = 20_000
_MOST_WORKERS = 8


def verify(
    path: str | os.PathLike[str],
    *,
    deep: bool = False,
    data_root: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    executor: AnyExecutor | None = None,
    listener: Listener = ignore,
) -> VerifyReport:
    """Check a patch set: tables, ids, coordinates, ranges, files, digests, statistics computed anew.

    Args:
        path: the set's folder.
        deep: also cut each patch again from its source and compare bits.
        data_root: where source paths begin, for sets that do not lie in their data root.
        workers: processes; None takes one for small sets and up to 8 for large ones.
        executor: what the checks of pixels are given to instead; as for `build`.
        listener: is told of progress.

    Returns:
        What was found; nothing wrong where `report.ok`.

    Raises:
        UsageError: there is no patch set, or `deep` cannot tell where its sources are.
    """
    try:
        ps = open_set(path, data_root)
    except IncompleteError as error:
        report = VerifyReport(os.path.basename(os.path.abspath(path)), deep)
        report.add([Finding("complete", PATCH_META, None, error.message)])
        report.status = "incomplete"
        return report
    except FormatError as error:
        report = VerifyReport(os.path.basename(os.path.abspath(path)), deep)
        report.add([Finding("meta", PATCH_META, None, error.message)])
        return report
    if deep or ps.layout.reads_sources:
        _ = ps.data_root
    report = VerifyReport(f"{ps.meta.dataset}/{ps.meta.split}", deep)
    report.add(check_files(ps))
    try:
        report.num_patches, report.num_slices = ps.manifest.height, ps.slices.height
        report.add(check_tables(ps))
        report.add(check_unlisted(ps))
        chosen = as_executor(executor, workers or _workers_for(report.num_patches))
        _verify_pixels(ps, report, chosen, listener)
    except FormatError as error:
        table = next((name for name in TABLES if error.message.startswith(name)), PATCH_MANIFEST)
        report.add([Finding("tables", table, None, error.message)])
    return report


def _workers_for(patches: int) -> int:
    return min(os.cpu_count() or 1, _MOST_WORKERS) if patches >= _WORTH_PROCESSES else 1


def _verify_pixels(ps: PatchSet, report: VerifyReport, executor: Executor, listener: Listener) -> None:
    task = f"verify {report.name}"
    listener(WorkStarted(task, report.num_slices, "slices"))
    try:
        light = PatchSet(ps.folder, ps.data_root if report.deep or ps.layout.reads_sources else None)
        seen = [ps.folder / PATCH_META]
        with (
            in_sight(executor, seen, listener) as guard,
            ending(executor.run(guard(check_pixels), PixelTask(light, report.deep), _runs(ps))) as outcomes,
        ):
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    report.add(outcome.result)
                elif isinstance(outcome, Failed):
                    raise outcome.error
                else:
                    first = outcome.item.slices["src_path"][0]
                    report.add([Finding("worker-lost", first, None, "the process that checked from here on was ended")])
                listener(WorkAdvanced(task, outcome.item.slices.height, outcome.item.patches.height))
    finally:
        listener(WorkFinished(task))


def _runs(ps: PatchSet) -> Iterator[SlicesToCheck]:
    """The set's slices in runs of about as many patches each, with their rows."""
    slices = ps.slices.with_row_index("at").filter(pl.col("num_patches") + pl.col("num_windows") > 0)
    patches = ps.manifest.with_row_index("at")
    rejected = ps.rejected.with_row_index("at")
    numbered = slices.with_columns((pl.col("num_windows").cum_sum() // _RUN_PATCHES).alias("run"))
    for run in numbered.partition_by("run", maintain_order=True) if slices.height else []:
        indices = run["slice_index"].implode()
        yield SlicesToCheck(
            run,
            patches.filter(pl.col("slice_index").is_in(indices)),
            rejected.filter(pl.col("slice_index").is_in(indices)),
        )
