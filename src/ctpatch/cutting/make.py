"""Making a set in a folder, whatever it is made from: hold the folder, run the parts, merge, finish."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ctpatch.config import BuildConfig
from ctpatch.cutting.job import Job, Share
from ctpatch.cutting.output import Begun, OutputFolder
from ctpatch.cutting.plan import Part, SplitPlan
from ctpatch.cutting.receipt import Receipt
from ctpatch.cutting.tables import Totals, merge_parts, totals_of_set
from ctpatch.errors import OutputConflictError, SliceError, SourceChangedError, SystemFailureError, WorkerLostError
from ctpatch.events import Listener, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.files.atomic import explain_os_error
from ctpatch.format.meta import PatchMeta
from ctpatch.layouts import layout_of
from ctpatch.words import LayoutName
from ctpatch.work.executors.base import Done, Executor, Failed, ending
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.visible import in_sight
from ctpatch.work.folder import differences

Shared = TypeVar("Shared")
Outcome = Literal["built", "resumed", "complete", "merged"]


@dataclass(frozen=True, slots=True)
class Recipe(Generic[Shared]):
    """How one set is made.

    Attributes:
        plan: the slices, the windows and the parts.
        plan_digest: what an earlier, unfinished run must agree with.
        share: makes what all parts share, from the job.
        run: does one part.
        changed: what makes a finished set in the folder another one; nothing where it is the same.
        from_sources: whether parts are made from source slices, which must not change meanwhile.
        probe: reads one part without writing, to find a slice that ends its process; None where that cannot be told.
    """

    plan: SplitPlan
    plan_digest: str
    share: Callable[[Job], Shared]
    run: Callable[[Shared, Part], Receipt]
    changed: Callable[[OutputFolder, PatchMeta], list[str]]
    from_sources: bool
    probe: Callable[[Shared, Part], int] | None


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build of one split did.

    Attributes:
        folder: the patch set.
        outcome: `built`, `resumed` (an earlier run's parts were kept), `complete` (there was nothing to do) or `merged`
            (from shares).
        meta: the set's meta.
        seconds: how long it took.
        skipped: reasons of slices that were left out, the first 100.
        covering_stride: the stride that would cover the whole slice; None where nothing is lost.
        planned_windows: windows of all slices listed, before any was left out.
        windows_at_covering_stride: how many that would be at the covering stride.
        slices_without_windows: slices smaller than a patch, the first 100.
        num_without_windows: how many those are.
    """

    folder: Path
    outcome: Outcome
    meta: PatchMeta
    seconds: float
    skipped: list[str] = field(default_factory=list)
    covering_stride: int | tuple[int, int] | None = None
    planned_windows: int = 0
    windows_at_covering_stride: int = 0
    slices_without_windows: list[str] = field(default_factory=list)
    num_without_windows: int = 0

    @property
    def complete(self) -> bool:
        """Whether every slice of the manifest is in the set."""
        return self.meta.num_skipped == 0


def describe_plan(plan: SplitPlan, layout: LayoutName) -> dict[str, Any]:
    """What decides a set, as plain values that can be compared and shown."""
    return {
        **plan.config.model_dump(mode="json"),
        "layout": layout,
        "arrays": {name: info.dtype for name, info in plan.arrays.items()},
        "source_manifest": plan.source.manifest_path,
        "dataset": plan.source.dataset,
        "split": plan.source.split,
    }


def describe_meta(meta: PatchMeta) -> dict[str, Any]:
    """The same of a finished set."""
    return {
        **meta.patch_config().model_dump(mode="json"),
        "layout": meta.layout,
        "arrays": {name: info.dtype for name, info in meta.arrays.items()},
        "source_manifest": meta.source_manifest,
        "dataset": meta.dataset,
        "split": meta.split,
    }


def make_set(
    recipe: Recipe[Any], folder: Path, options: BuildConfig, executor: Executor, listener: Listener
) -> BuildResult:
    """Make a set in a folder, or go on with it, or find that it is there."""
    started = time.perf_counter()
    plan = recipe.plan
    output = OutputFolder(folder, listener)
    with output.held():
        job = job_of(recipe, output, options)
        begun = begun_of(plan, job)
        if output.is_clearing() or options.overwrite:
            output.clear(begun)
        finished = output.finished()
        if finished is not None:
            refuse_other_set(output, finished, recipe, options.layout)
            output.end()
            return result_of(plan, folder, finished, "complete", started, totals_of_set(folder, finished))
        earlier = output.begun()
        if earlier is not None and earlier.plan_digest != begun.plan_digest and not output.has_receipts():
            # What was begun with other options came to nothing: no work is lost by starting anew.
            output.clear(begun)
            earlier = None
        if earlier is None:
            output.begin(begun)
        else:
            refuse_other_build(output, earlier, begun)
            output.make_folders(begun)
        reused = run_parts(job, recipe, executor, listener).reused
        meta, totals = merge_parts(job, plan, output, from_sources=recipe.from_sources)
        output.end()
        return result_of(plan, folder, meta, "resumed" if reused else "built", started, totals)


def begun_of(plan: SplitPlan, job: Job) -> Begun:
    """What is put on record when a build begins."""
    return Begun(describe_plan(plan, job.layout), job.plan_digest, plan.source.split, job.layout, tuple(plan.arrays))


def job_of(recipe: Recipe[Any], output: OutputFolder, options: BuildConfig) -> Job:
    """What the parts of a set share."""
    plan = recipe.plan
    folder = output.folder.resolve()
    root = plan.source.data_root.resolve()
    inside = folder != root and folder.is_relative_to(root)
    writes_pixels = not layout_of(options.layout).reads_sources
    return Job(
        data_root=plan.source.data_root,
        folder=folder,
        state=output.state.resolve(),
        path_prefix=f"{folder.relative_to(root).as_posix()}/" if inside and writes_pixels else "",
        split=plan.source.split,
        config=plan.config,
        layout=options.layout,
        arrays=plan.arrays,
        plan_digest=f"{recipe.plan_digest}-{options.layout}",
        on_error=options.on_error,
        strict=options.strict,
    )


def refuse_other_set(output: OutputFolder, meta: PatchMeta, recipe: Recipe[Any], layout: LayoutName) -> None:
    """Raise where the finished set in the folder is not what this run would make."""
    changed = differences(describe_meta(meta), describe_plan(recipe.plan, layout))
    changed = changed or recipe.changed(output, meta)
    if changed:
        raise OutputConflictError(
            f"{output.folder.name} holds a finished set made otherwise: {'; '.join(changed)}; "
            "--overwrite makes it anew, or choose another --out"
        )
    damage = output.first_damage(meta)
    if damage is not None:
        raise OutputConflictError(
            f"{output.folder.name} holds a finished set that is damaged: {damage}; restore the file, or make the set "
            "anew with --overwrite"
        )


def refuse_other_build(output: OutputFolder, earlier: Begun, now: Begun) -> None:
    """Raise where the unfinished build in the folder is not the one that this run goes on with."""
    if earlier.plan_digest == now.plan_digest:
        return
    changed = differences(earlier.options, now.options) or [
        "the source slices listed then are others, or have other shapes"
    ]
    raise OutputConflictError(
        f"{output.folder.name} holds an unfinished build that was made otherwise: {'; '.join(changed)}; "
        "--overwrite starts anew, the same options as before go on, or choose another --out"
    )


def run_parts(
    job: Job, recipe: Recipe[Any], executor: Executor, listener: Listener, share: Share | None = None
) -> Totals:
    """Run the parts that an earlier run has not done; their receipts and rows are then in the state folder.

    Returns:
        Sums over the parts, those of an earlier run among them.
    """
    totals = Totals()
    plan, task = recipe.plan, recipe.plan.source.name
    number = plan.slices.height
    if share is not None:
        task = f"{task} {share}"
        number = sum(len(part.slices) for part in plan.parts(job.layout) if share.takes(part.number))
    parts = (part for part in plan.parts(job.layout) if share is None or share.takes(part.number))
    shared = recipe.share(job)
    seen = [plan.source.manifest] if recipe.from_sources else []
    lost: list[str] = []
    listener(WorkStarted(task, number, "slices"))
    try:
        with (
            in_sight(executor, seen, listener, folder=job.state) as guard,
            ending(executor.run(guard(recipe.run), shared, parts)) as outcomes,
        ):
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    _note(outcome.result, totals, task, listener)
                elif isinstance(outcome, Failed):
                    _raise(outcome.error, job, outcome.item, totals)
                else:
                    for receipt in _isolate(job, recipe, shared, outcome.item, lost):
                        _note(receipt, totals, task, listener)
    finally:
        listener(WorkFinished(task))
    if lost:
        raise WorkerLostError(
            f"{len(lost)} slice(s) end the process that cuts them, twice each: {', '.join(lost[:5])}; the other "
            "parts are done and kept. Check these files and the memory limit; remove their rows, or use --on-error skip"
        )
    return totals


def _note(receipt: Receipt, totals: Totals, task: str, listener: Listener) -> None:
    for notice in totals.add(receipt):
        listener(notice)
    listener(WorkAdvanced(task, len(receipt.sources), receipt.num_patches, receipt.reused))


def _raise(error: Exception, job: Job, part: Part, totals: Totals) -> None:
    kept = f" ({totals.parts} finished parts are kept; run the same command again to go on)" if totals.parts else ""
    if isinstance(error, SliceError | SourceChangedError):
        raise type(error)(f"{error.message}{kept}") from error
    if isinstance(error, MemoryError):
        raise SystemFailureError(
            f"memory ran out on part {part.number} of {job.split}, from {part.slices[0].paths[0]} to "
            f"{part.slices[-1].paths[0]}; use fewer workers or raise the limit, then run the same command again{kept}"
        ) from error
    if isinstance(error, OSError):
        raise explain_os_error(error, "working on", f"part {part.number} of {job.split}") from error
    raise error


def _isolate(job: Job, recipe: Recipe[Any], shared: Any, part: Part, lost: list[str]) -> Iterator[Receipt]:
    """Find the slices of a part that end their process; with `skip`, do the part without them."""
    alone = ProcessExecutor(1)
    poisoned: set[int] = set()
    if recipe.probe is not None:
        single = (replace(part, slices=(task,)) for task in part.slices)
        for outcome in alone.run(recipe.probe, shared, single):
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
    for again in alone.run(recipe.run, shared, [replace(part, slices=tasks)]):
        if isinstance(again, Done):
            yield again.result
        elif isinstance(again, Failed):
            raise again.error
        else:
            lost.extend(names)


def result_of(
    plan: SplitPlan, folder: Path, meta: PatchMeta, outcome: Outcome, started: float, totals: Totals
) -> BuildResult:
    """What a build that came to this end did."""
    return BuildResult(
        folder=folder,
        outcome=outcome,
        meta=meta,
        seconds=time.perf_counter() - started,
        skipped=totals.skipped,
        covering_stride=plan.covering_stride,
        planned_windows=plan.num_windows,
        windows_at_covering_stride=plan.windows_at_covering_stride(),
        slices_without_windows=totals.without_windows,
        num_without_windows=totals.num_without_windows,
    )
