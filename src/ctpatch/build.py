"""Plan, parts, executor, merge, manifest, meta: a build from its start to a complete set."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ctpatch.atomic import explain_os_error
from ctpatch.config import BuildConfig, LayoutName, OnError, PatchConfig
from ctpatch.errors import (
    OutputConflictError,
    SliceError,
    SourceChangedError,
    UsageError,
    WorkerLostError,
)
from ctpatch.events import Listener, WorkAdvanced, WorkFinished, WorkStarted, ignore
from ctpatch.executors.base import Done, Executor, Failed
from ctpatch.executors.choose import local_executor
from ctpatch.executors.processes import ProcessExecutor
from ctpatch.job import Job
from ctpatch.manifest import SLICE_MANIFEST, STATUS_OK, read_table, slice_schema
from ctpatch.merge import Totals, merge_parts
from ctpatch.meta import PatchMeta
from ctpatch.output import Begun, OutputFolder, differences
from ctpatch.part import cut_slices, run_part
from ctpatch.plan import Part, SplitPlan, plan_split
from ctpatch.receipt import Receipt, source_changed
from ctpatch.sources import PATCHES, SplitSource, find_splits

Outcome = Literal["built", "resumed", "complete"]
MANY_FILES = 100_000


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build of one split did.

    Attributes:
        folder: the patch set.
        outcome: `built`, `resumed` (an earlier run's parts were kept) or `complete` (there was nothing to do).
        meta: the set's meta.
        skipped: reasons of slices that were left out, at most `MAX_SKIPPED_SHOWN`.
        seconds: how long it took.
        covering_stride: the stride that would cover the whole slice; None where nothing is lost.
        windows_at_covering_stride: how many windows that would be.
        slices_without_windows: slices smaller than a patch, at most `MAX_SKIPPED_SHOWN`.
        num_without_windows: how many those are.
    """

    folder: Path
    outcome: Outcome
    meta: PatchMeta
    skipped: list[str]
    seconds: float
    covering_stride: int | tuple[int, int] | None = None
    windows_at_covering_stride: int = 0
    slices_without_windows: list[str] = field(default_factory=list)
    num_without_windows: int = 0

    @property
    def complete(self) -> bool:
        """Whether every slice of the manifest is in the set."""
        return self.meta.num_skipped == 0


def build(
    *sources: str | os.PathLike[str],
    config: PatchConfig | None = None,
    layout: LayoutName = "files",
    workers: int = 1,
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    on_error: OnError = "stop",
    overwrite: bool = False,
    strict: bool = False,
    listener: Listener = ignore,
) -> list[BuildResult]:
    """Cut the slices of splits into patch sets.

    A finished set is left alone, an unfinished one is gone on with; the bytes do not depend on the workers or on how
    often the build was cut off. With more than one worker, a script calls this under `if __name__ == "__main__":`,
    as for everything that starts processes.

    Args:
        sources: each a split's folder, a dataset's folder (all its splits) or a manifest.
        config: geometry, range and rules; None takes the defaults.
        layout: how patches lie on disk: `files`, `shards`, `slices` or `index`.
        workers: processes that cut.
        out: the set's folder (for several splits: the folder above); None takes `DATA_ROOT/patches/<dataset>/<split>`.
        data_root: what paths in manifests are relative to; None takes the folder above `prepared`.
        on_error: what a slice that cannot be used does: `stop` the build, or `skip` the slice.
        overwrite: start anew over an earlier set of ours; files that are not ours are never touched.
        strict: compare digests of all sources before an earlier result is trusted.
        listener: is told what happens; see `ctpatch.events`.

    Returns:
        What was done, for each split in the order of the sources.

    Raises:
        ConfigError, UsageError: the call makes no sense; nothing was written.
        SourceManifestError: a manifest breaks the rules of its format.
        SliceError: a slice cannot be used (with `on_error="stop"`); run again once it is mended.
        OutputConflictError: the output holds something else.
        OutputLockedError: another process writes this output.
        SystemFailureError: the system refused a read or a write.
        WorkerLostError: a slice kills the process that cuts it.
    """
    cfg = config or PatchConfig()
    options = BuildConfig(layout=layout, workers=workers, on_error=on_error, overwrite=overwrite, strict=strict)
    splits = find_splits(sources, data_root)
    folders = _output_folders(splits, out, one=_is_one_split(sources, splits))
    plans = [plan_split(source, cfg, skip_faulty=on_error == "skip") for source in splits]
    executor = local_executor(workers)
    return [
        build_split(each, folder, options, executor=executor, listener=listener)
        for each, folder in zip(plans, folders, strict=True)
    ]


def _is_one_split(sources: tuple[str | os.PathLike[str], ...], splits: list[SplitSource]) -> bool:
    """Whether the user named a single split rather than a dataset that happens to have one."""
    return len(splits) == 1 and (Path(sources[0]).is_file() or splits[0].manifest.parent == Path(sources[0]).resolve())


def _output_folders(splits: list[SplitSource], out: str | os.PathLike[str] | None, *, one: bool) -> list[Path]:
    folders = []
    for source in splits:
        if out is not None:
            base = Path(out).resolve()
            folders.append(base if one else base / source.split)
            continue
        wanted = source.data_root / PATCHES / source.dataset / source.split
        if not wanted.resolve().is_relative_to(source.data_root.resolve()):
            raise UsageError(
                f"{PATCHES}/{source.name} leaves the data root through a link; "
                "name the folder you mean with --out, or remove the link"
            )
        folders.append(wanted)
    if len(set(folders)) < len(folders):
        raise UsageError("two splits would be written into one folder; build them one by one with an --out each")
    return folders


def describe(plan: SplitPlan, layout: LayoutName) -> dict[str, Any]:
    """What decides a set, as plain values that can be compared and shown."""
    return {
        **plan.config.model_dump(mode="json"),
        "layout": layout,
        "arrays": {name: info.dtype for name, info in plan.arrays.items()},
        "source_manifest": plan.source.manifest_path,
        "dataset": plan.source.dataset,
        "split": plan.source.split,
    }


def _describe_meta(meta: PatchMeta) -> dict[str, Any]:
    return {
        **meta.patch_config().model_dump(mode="json"),
        "layout": meta.layout,
        "arrays": {name: info.dtype for name, info in meta.arrays.items()},
        "source_manifest": meta.source_manifest,
        "dataset": meta.dataset,
        "split": meta.split,
    }


def build_split(
    plan: SplitPlan,
    folder: Path,
    options: BuildConfig,
    *,
    executor: Executor | None = None,
    listener: Listener = ignore,
) -> BuildResult:
    """Build one split as planned, into a folder; see `build`."""
    started = time.perf_counter()
    output = OutputFolder(folder, listener)
    with output.held():
        if output.is_clearing() or options.overwrite:
            output.clear()
        finished = output.finished()
        if finished is not None:
            _refuse_other_set(output, finished, plan, options)
            output.end()
            return _result(plan, output, finished, "complete", started, [], [], 0)
        job = _job(plan, folder, output, options)
        begun = Begun(
            describe(plan, options.layout), job.plan_digest, plan.source.split, options.layout, tuple(plan.arrays)
        )
        earlier = output.begun()
        if earlier is None:
            output.begin(begun)
        else:
            _refuse_other_build(output, earlier, begun)
            output.make_folders(begun)
        reused = _run(job, plan, executor or local_executor(options.workers), listener)
        meta, totals = merge_parts(job, plan, output)
        output.end()
        return _result(
            plan,
            output,
            meta,
            "resumed" if reused else "built",
            started,
            totals.skipped,
            totals.without_windows,
            totals.num_without_windows,
        )


def _job(plan: SplitPlan, folder: Path, output: OutputFolder, options: BuildConfig) -> Job:
    root = plan.source.data_root
    inside = folder.resolve().is_relative_to(root.resolve())
    prefix = f"{folder.resolve().relative_to(root.resolve()).as_posix()}/" if inside else ""
    if options.layout == "index":
        prefix = ""
    return Job(
        data_root=root,
        folder=folder.resolve(),
        state=output.state.resolve(),
        path_prefix=prefix,
        split=plan.source.split,
        config=plan.config,
        layout=options.layout,
        arrays=plan.arrays,
        plan_digest=plan.digest() + options.layout,
        on_error=options.on_error,
        strict=options.strict,
    )


def _refuse_other_set(output: OutputFolder, meta: PatchMeta, plan: SplitPlan, options: BuildConfig) -> None:
    """Raise where the finished set in the folder is not what this build would make."""
    changed = differences(_describe_meta(meta), describe(plan, options.layout))
    if not changed:
        changed = _changed_sources(output, meta, plan, strict=options.strict)
    if changed:
        raise OutputConflictError(
            f"{output.folder.name} holds a finished set made otherwise: {'; '.join(changed)}; "
            "--overwrite makes it anew, or choose another --out"
        )


def _changed_sources(output: OutputFolder, meta: PatchMeta, plan: SplitPlan, *, strict: bool) -> list[str]:
    arrays = tuple(meta.arrays)
    recorded = read_table(output.folder / SLICE_MANIFEST, slice_schema(arrays))
    since = (output.folder / SLICE_MANIFEST).stat().st_mtime_ns
    columns = ["slice_index", "src_path", *(f"{array}_path" for array in arrays[1:])]
    if not recorded.select(columns).equals(plan.slices.select(columns)):
        return [
            f"the source manifest listed {recorded.height} slices then, {plan.slices.height} now, or in another order"
        ]
    changed = []
    for row in recorded.iter_rows(named=True):
        for array in arrays:
            prefix = "" if array == "image" else f"{array}_"
            path = row[f"{array}_path" if prefix else "src_path"]
            if row["status"] != STATUS_OK:
                status = os.stat(plan.source.data_root / path) if (plan.source.data_root / path).exists() else None
                if status is not None and max(status.st_mtime_ns, status.st_ctime_ns) >= since:
                    changed.append(f"{path}, which was left out, has changed since")
            elif source_changed(
                plan.source.data_root, path, None, row[f"{prefix}digest"], since, labels=array != "image", strict=strict
            ):
                changed.append(f"{path} has changed since it was cut")
            if len(changed) == _MAX_CHANGES_SHOWN:
                return [*changed, "perhaps more"]
    return changed


_MAX_CHANGES_SHOWN = 3


def _refuse_other_build(output: OutputFolder, earlier: Begun, now: Begun) -> None:
    if earlier.plan_digest == now.plan_digest:
        return
    changed = differences(earlier.options, now.options) or [
        "the source slices listed then are others, or have other shapes"
    ]
    raise OutputConflictError(
        f"{output.folder.name} holds an unfinished build that was made otherwise: {'; '.join(changed)}; "
        "--overwrite starts anew, the same options as before go on, or choose another --out"
    )


def _run(job: Job, plan: SplitPlan, executor: Executor, listener: Listener) -> int:
    """Run all parts that an earlier run has not done; their receipts and rows are then in the state folder.

    Returns how many parts an earlier run had done.
    """
    totals = Totals()
    task = plan.source.name
    listener(WorkStarted(task, plan.slices.height, "slices"))
    lost: list[str] = []
    try:
        for outcome in executor.run(run_part, job, plan.parts(job.layout)):
            if isinstance(outcome, Done):
                _note(outcome.result, totals, task, listener)
            elif isinstance(outcome, Failed):
                _raise(outcome.error, job, outcome.item, totals)
            else:
                for receipt in _isolate(job, outcome.item, executor, lost):
                    _note(receipt, totals, task, listener)
    finally:
        listener(WorkFinished(task))
    if lost:
        raise WorkerLostError(
            f"{len(lost)} slice(s) end the process that cuts them, twice each: {', '.join(lost[:5])}; the other "
            "parts are done and kept. Check these files and the memory limit; remove their rows, or use --on-error skip"
        )
    return totals.reused


def _note(receipt: Receipt, totals: Totals, task: str, listener: Listener) -> None:
    for notice in totals.add(receipt):
        listener(notice)
    listener(WorkAdvanced(task, len(receipt.sources), receipt.num_patches, receipt.reused))


def _raise(error: Exception, job: Job, part: Part, totals: Totals) -> None:
    kept = f" ({totals.parts} finished parts are kept; run the same command again to go on)" if totals.parts else ""
    if isinstance(error, SliceError | SourceChangedError):
        raise type(error)(f"{error.message}{kept}") from error
    if isinstance(error, OSError):
        raise explain_os_error(error, "working on", f"part {part.number} of {job.split}") from error
    raise error


def _isolate(job: Job, part: Part, executor: Executor, lost: list[str]) -> Iterator[Receipt]:
    """Find the slices of a part that end their process; with `skip`, do the part without them."""
    poisoned: set[int] = set()
    alone: Iterable[Part] = (replace(part, slices=(task,)) for task in part.slices)
    for outcome in ProcessExecutor(1).run(_probe, job, alone):
        if not isinstance(outcome, Done | Failed):
            poisoned.add(outcome.item.slices[0].slice_index)
    names = [task.paths[0] for task in part.slices if task.slice_index in poisoned]
    if job.on_error == "stop" or not poisoned:
        lost.extend(names or [f"some slice from {part.slices[0].paths[0]} to {part.slices[-1].paths[0]}"])
        return
    problem = "its process was ended twice while it was cut; check the file and the memory limit"
    tasks = tuple(
        replace(task, problem=f"{task.paths[0]}: {problem}") if task.slice_index in poisoned else task
        for task in part.slices
    )
    for again in executor.run(run_part, job, [replace(part, slices=tasks)]):
        if isinstance(again, Done):
            yield again.result
        else:
            lost.extend(names)


def _probe(job: Job, part: Part) -> int:
    """Read and judge slices without writing anything."""
    return sum(1 for _ in cut_slices(job, part))


def _result(
    plan: SplitPlan,
    output: OutputFolder,
    meta: PatchMeta,
    outcome: Outcome,
    started: float,
    skipped: list[str],
    without_windows: list[str],
    num_without_windows: int,
) -> BuildResult:
    return BuildResult(
        folder=output.folder,
        outcome=outcome,
        meta=meta,
        skipped=skipped,
        seconds=time.perf_counter() - started,
        covering_stride=plan.covering_stride,
        windows_at_covering_stride=plan.windows_at_covering_stride(),
        slices_without_windows=without_windows,
        num_without_windows=num_without_windows,
    )
