"""Whether a patch set is what it says: every table, every file, every pixel."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from ctpatch.checking.findings import Finding, VerifyReport
from ctpatch.checking.pixel_checks import SlicesToCheck, check_pixels
from ctpatch.checking.rebuild import Rebuild, rebuild_part
from ctpatch.checking.table_checks import check_files, check_tables, check_unlisted
from ctpatch.checking.value_checks import check_values
from ctpatch.errors import CtPatchError, FormatError, IncompleteError, SetChangedError, UsageError
from ctpatch.events import Listener, WorkAdvanced, ignore, working
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
    source: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    executor: AnyExecutor | None = None,
    listener: Listener = ignore,
) -> VerifyReport:
    """Check a patch set: tables, ids, coordinates, ranges, files, digests, statistics computed anew.

    Args:
        path: the set's folder.
        deep: also build the set again from its sources, without writing, and compare every pixel, every cell of every
            table and every field of the meta with what that build would write.
        data_root: where source paths begin, for sets that do not lie in their data root.
        source: with `deep`, the source manifest; None takes the one on record, below the data root.
        workers: processes; None takes one for small sets and up to 8 for large ones.
        executor: what the checks of pixels are given to instead; as for `build`.
        listener: is told of progress.

    Returns:
        What was found; nothing wrong where `report.ok`.

    Raises:
        UsageError: there is no patch set, `deep` cannot tell where its sources are, or `source` is given without it.
    """
    if source is not None and not deep:
        raise UsageError("source: without deep, sources are not read; give deep as well (--deep)")
    try:
        ps = open_set(path, data_root)
    except (IncompleteError, FormatError) as error:
        report = VerifyReport(os.path.basename(os.path.abspath(path)), deep)
        incomplete = isinstance(error, IncompleteError)
        report.add([Finding("complete" if incomplete else "meta", PATCH_META, None, error.message)])
        report.status = "incomplete" if incomplete else "failed"
        return report
    ps.any_rows = True
    if deep or ps.layout.reads_sources:
        ps.data_root  # noqa: B018 - where it cannot be told, the call was wrong
    report = VerifyReport(f"{ps.meta.dataset}/{ps.meta.split}", deep)
    report.add(check_files(ps))
    try:
        report.num_patches, report.num_slices = ps.manifest.height, ps.slices.height
        report.add(check_tables(ps))
        report.add(check_values(ps))
        report.add(check_unlisted(ps))
        workers = workers or (min(os.cpu_count() or 1, _MOST_WORKERS) if len(ps.manifest) >= _WORTH_PROCESSES else 1)
        run = partial(_run, report, as_executor(executor, workers), listener)
        light = copy.copy(ps)  # without its tables, and still the set that was opened
        run(f"verify {report.name}", check_pixels, light, _runs(ps), report.add, ps.folder / PATCH_META)
        if deep:
            _verify_deep(ps, source, report, run)
        ps.refuse_other_set()
    except SetChangedError as error:
        report.add([Finding("meta", PATCH_META, None, error.message)])
    except FormatError as error:
        table = next((name for name in TABLES if error.message.startswith(name)), PATCH_MANIFEST)
        report.add([Finding("tables", table, None, error.message)])
    return report


def _verify_deep(
    ps: PatchSet, source: str | os.PathLike[str] | None, report: VerifyReport, run: Callable[..., bool]
) -> None:
    """Build the set again, and compare."""
    try:
        again = Rebuild(ps, source)
    except CtPatchError as error:
        message = f"it cannot be built again: {error.message}"
        report.add([Finding("source-manifest", ps.meta.source_manifest, None, message)])
        return
    report.add(again.check_slices())
    name, seen = f"build {report.name} again", again.plan.source.manifest
    if run(name, rebuild_part, again.job, again.parts(), lambda part: report.add(again.add(part)), seen):
        report.add(again.check_meta())


def _run(
    report: VerifyReport,
    executor: Executor,
    listener: Listener,
    task: str,
    function: Callable[[Any, Any], Any],
    shared: Any,
    items: Iterable[SlicesToCheck],
    note: Callable[[Any], None],
    seen: Path,
) -> bool:
    """Run a check on all items, in sight of `seen`, and note what it returns; returns whether none was lost."""
    whole = True
    with (
        working(listener, task, report.num_slices, "slices"),
        in_sight(executor, [seen], listener) as guard,
        ending(executor.run(guard(function), shared, items)) as outcomes,
    ):
        for outcome in outcomes:
            if isinstance(outcome, Done):
                note(outcome.result)
            elif isinstance(outcome, Failed):
                raise outcome.error
            else:
                whole = False
                message = "the process that checked from here on was ended"
                report.add([Finding("worker-lost", outcome.item.first, None, message)])
            listener(WorkAdvanced(task, outcome.item.slices.height, outcome.item.patches.height))
    return whole


def _runs(ps: PatchSet) -> Iterator[SlicesToCheck]:
    """The set's slices in runs of about as many patches each, with their rows."""
    slices = ps.slices.with_row_index("at").filter(pl.col("num_patches") + pl.col("num_windows") > 0)
    patches = ps.manifest.with_row_index("at")
    numbered = slices.with_columns((pl.col("num_windows").cum_sum() // _RUN_PATCHES).alias("run"))
    for run in numbered.partition_by("run", maintain_order=True) if slices.height else []:
        yield SlicesToCheck(run, patches.filter(pl.col("slice_index").is_in(run["slice_index"].implode())))
