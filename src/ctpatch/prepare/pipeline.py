"""A preparation, from the source to the finished set: scan, pair, split, convert in parts, tables, meta."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ctpatch._version import __version__
from ctpatch.errors import (
    CtPatchError,
    OutputConflictError,
    SliceError,
    SourceChangedError,
    SystemFailureError,
    WorkerLostError,
)
from ctpatch.events import Listener, Notice, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.files.atomic import explain_os_error
from ctpatch.files.digest import array_digest, bytes_digest
from ctpatch.format.meta import now_utc
from ctpatch.format.prepared_meta import (
    FORMAT_VERSION,
    PREPARE_META,
    NoteInfo,
    PreparedMeta,
    SplitInfo,
)
from ctpatch.prepare.folder import LEFT_OUT, Begun, PreparedFolder, manifest_name
from ctpatch.prepare.landmarks import files_to_see, software_to_have
from ctpatch.prepare.part import (
    PrepareJob,
    PreparePart,
    PrepareReceipt,
    PrepareTask,
    probe_part,
    run_part,
    touched_since,
)
from ctpatch.prepare.planning import PreparePlan
from ctpatch.words import OnError
from ctpatch.work.executors.base import Done, Executor, Failed, ending
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.visible import in_sight
from ctpatch.work.folder import differences

Outcome = Literal["prepared", "resumed", "complete"]
_TASK = "preparing"
_LEFT_OUT_SCHEMA = {"file": pl.String, "array": pl.String, "kind": pl.String, "reason": pl.String}
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LeftOutRow:
    """A row of `left_out.csv`: pseudonym of the file, array, kind and reason."""

    file: str
    array: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is recorded beside the slices.

    Attributes:
        dataset: its name.
        source: kind of the raw files.
        mapping: from HU to [0, 1], as plain values.
        key_id: of the pseudonyms.
        left_out: before any slice was read.
        notes: what a user should know of a series.
        names_shown: whether the result calls files as the source does, or by pseudonyms.
    """

    dataset: str
    source: str
    mapping: dict[str, Any]
    key_id: str
    left_out: tuple[LeftOutRow, ...]
    notes: tuple[NoteInfo, ...]
    names_shown: bool = True


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """What a preparation did.

    Attributes:
        folder: the data set, `DATA_ROOT/prepared/<dataset>`.
        outcome: `prepared`, `resumed` (an earlier run's parts were kept) or `complete` (there was nothing to do).
        meta: the set's meta.
        seconds: how long it took.
        faults: slices that could not be used and were skipped, with the reason: by the names of their files, which
            are for the user's eyes alone, or with `names_shown=False` by their pseudonyms.
        left_out: all that was left out before any slice was read, in the same way.
    """

    folder: Path
    outcome: Outcome
    meta: PreparedMeta
    seconds: float
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every slice that was meant is in the set."""
        return not self.faults and not self.meta.num_left_out.get("unusable", 0)


@dataclass(slots=True)
class _Totals:
    """What the parts did, put together in their order."""

    receipts: dict[int, PrepareReceipt] = field(default_factory=dict)

    @property
    def reused(self) -> int:
        return sum(receipt.reused for receipt in self.receipts.values())

    def in_order(self) -> list[PrepareReceipt]:
        return [self.receipts[number] for number in sorted(self.receipts)]


def make_prepared(
    plan: PreparePlan,
    facts: Facts,
    data_root: Path,
    *,
    executor: Executor,
    on_error: OnError,
    overwrite: bool,
    listener: Listener,
    begun: Callable[[], None],
) -> PrepareResult:
    """Make the set in its folder, or go on with it, or find that it is there; `begun` is called where it is new."""
    started = time.perf_counter()
    folder = data_root / "prepared" / facts.dataset
    output = PreparedFolder(folder, listener)
    with output.held():
        now = Begun(plan.options, plan.digest, tuple(plan.tasks), tuple(source.array for source in plan.arrays))
        if output.is_clearing() or overwrite:
            output.clear()
        finished = output.finished()
        if finished is not None:
            _refuse_other_set(output, finished, now, plan)
            output.end()
            return PrepareResult(folder, "complete", finished, time.perf_counter() - started)
        earlier = output.begun()
        if earlier is not None and earlier.plan_digest != now.plan_digest and not output.has_receipts():
            output.clear()
            earlier = None
        if earlier is None:
            output.begin(now)
            begun()
        else:
            _refuse_other_run(output, earlier, now)
            output.make_folders(now)
        job = PrepareJob(
            folder=folder.resolve(),
            state=output.state.resolve(),
            path_prefix=f"prepared/{facts.dataset}/",
            arrays=plan.arrays,
            geometry=plan.geometry,
            plan_digest=plan.digest,
            on_error=on_error,
        )
        totals = _run(job, plan, executor, listener)
        meta, faults = _finish(output, plan, facts, totals)
        output.end()
        outcome: Outcome = "resumed" if totals.reused else "prepared"
        return PrepareResult(folder, outcome, meta, time.perf_counter() - started, faults)


def _refuse_other_set(output: PreparedFolder, meta: PreparedMeta, now: Begun, plan: PreparePlan) -> None:
    if meta.plan_digest != now.plan_digest:
        changed = differences(meta.options, now.options) or ["the slices in the source are others than then"]
    else:
        changed = _changed_sources(output, plan)
    if changed:
        raise OutputConflictError(
            f"{output.folder.name} holds a finished set prepared otherwise: {'; '.join(changed)}; "
            "--overwrite makes it anew, or choose another --dataset"
        )


def _refuse_other_run(output: PreparedFolder, earlier: Begun, now: Begun) -> None:
    if earlier.plan_digest == now.plan_digest:
        return
    changed = differences(earlier.options, now.options) or ["the slices in the source are others than then"]
    raise OutputConflictError(
        f"{output.folder.name} holds an unfinished preparation that was made otherwise: {'; '.join(changed)}; "
        "--overwrite starts anew, the same options as before go on, or choose another --dataset"
    )


def _changed_sources(output: PreparedFolder, plan: PreparePlan) -> list[str]:
    """Sources whose pixels are no longer those on record; only files touched since are read."""
    since = (output.folder / PREPARE_META).stat().st_mtime_ns
    columns = ["source_digest", *(f"{source.array}_source_digest" for source in plan.arrays[1:])]
    for split, tasks in plan.tasks.items():
        touched = [task for task in tasks if touched_since(plan.arrays, task, since)]
        if not touched:
            continue
        try:
            frame = pl.read_csv(output.folder / manifest_name(split), infer_schema=False)
            recorded = dict(zip(frame["index"], frame.select(columns).iter_rows(), strict=True))
        except (OSError, pl.exceptions.PolarsError) as error:
            return [f"{split}_manifest.csv cannot be read ({type(error).__name__})"]
        for task in touched:
            for place, source in enumerate(plan.arrays):
                raw = next(iter(source.reader.read(source.root, [task.slices[place]])))
                if array_digest(np.asarray(raw)) != recorded.get(str(task.index), [None] * len(columns))[place]:
                    return [f"{task.slices[place].file} has changed since it was prepared"]
    return []


def _run(job: PrepareJob, plan: PreparePlan, executor: Executor, listener: Listener) -> _Totals:
    totals = _Totals()
    lost: list[str] = []
    listener(WorkStarted(_TASK, plan.num_slices, "slices"))
    try:
        with (
            in_sight(
                executor, files_to_see(plan), listener, folder=job.state, software=software_to_have(plan)
            ) as guard,
            ending(executor.run(guard(run_part), job, plan.parts())) as outcomes,
        ):
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    receipts = [outcome.result]
                elif isinstance(outcome, Failed):
                    _raise(outcome.error, outcome.item, totals)
                else:
                    receipts = list(_isolate(job, outcome.item, lost))
                for receipt in receipts:
                    totals.receipts[receipt.part] = receipt
                    listener(WorkAdvanced(_TASK, len(receipt.rows) + len(receipt.left_out), reused=receipt.reused))
    finally:
        listener(WorkFinished(_TASK))
    if lost:
        raise WorkerLostError(
            f"{len(lost)} slice(s) end the process that prepares them, twice each: {', '.join(lost[:_NAMES_SHOWN])}; "
            "the other parts are done and kept. Check these files and the memory limit; remove them, or use "
            "--on-error skip"
        )
    return totals


def _raise(error: Exception, part: PreparePart, totals: _Totals) -> None:
    kept = f" ({len(totals.receipts)} finished parts are kept; run the same command again to go on)"
    if isinstance(error, SliceError | SourceChangedError):
        raise type(error)(f"{error.message}; --on-error skip leaves it out{kept}") from error
    if isinstance(error, CtPatchError):
        raise error
    if isinstance(error, MemoryError):
        raise SystemFailureError(f"memory ran out on part {part.number}; use fewer workers{kept}") from error
    if isinstance(error, OSError):
        raise explain_os_error(error, "working on", f"part {part.number}") from error
    raise error


def _isolate(job: PrepareJob, part: PreparePart, lost: list[str]) -> Iterator[PrepareReceipt]:
    """Find the slices of a part that end their process; with `skip`, do the part without them."""
    alone = ProcessExecutor(1)
    poisoned: set[int] = set()
    for outcome in alone.run(probe_part, job, (replace(part, tasks=(task,)) for task in part.tasks)):
        if not isinstance(outcome, Done | Failed):
            poisoned.add(outcome.item.tasks[0].index)
    names = [task.slices[0].file for task in part.tasks if task.index in poisoned]
    if job.on_error == "stop" or not poisoned:
        lost.extend(names or [f"some slice from {part.tasks[0].slices[0].file} on"])
        return
    tasks = tuple(_poisoned(task) if task.index in poisoned else task for task in part.tasks)
    for again in alone.run(run_part, job, [replace(part, tasks=tasks)]):
        if isinstance(again, Done):
            yield again.result
        elif isinstance(again, Failed):
            raise again.error
        else:
            lost.extend(names)


def _poisoned(task: PrepareTask) -> PrepareTask:
    # What is wrong is known; the file is not opened again.
    return replace(task, problem="its process was ended twice while it was read; check the file and the memory limit")


def _finish(output: PreparedFolder, plan: PreparePlan, facts: Facts, totals: _Totals) -> tuple[PreparedMeta, list[str]]:
    """Publish the tables, then the meta."""
    files = {task.file: task.slices[0].file for task in plan.all_tasks()}
    left_out = list(facts.left_out)
    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in plan.tasks}
    faults = []
    parts = {part.number: part.tasks[0].split for part in plan.parts()}
    for receipt in totals.in_order():
        rows[parts[receipt.part]].extend(receipt.rows)
        for file, reason in receipt.left_out:
            left_out.append(LeftOutRow(file, "image", "unusable", reason))
            faults.append(f"{files[file] if facts.names_shown else file}: {reason}")
    splits = {split: _publish_manifest(output, plan, split, found) for split, found in rows.items() if found}
    if not splits:
        raise SliceError(f"none of the {plan.num_slices} slices could be used: {'; '.join(faults[:_NAMES_SHOWN])}")
    digests = Counter(row["source_digest"] for found in rows.values() for row in found)
    frame = pl.DataFrame(
        [[row.file, row.array, row.kind, row.reason] for row in left_out], _LEFT_OUT_SCHEMA, orient="row"
    )
    content = frame.sort(frame.columns).write_csv().encode()
    output.put(LEFT_OUT, content)
    meta = PreparedMeta(
        format_version=FORMAT_VERSION,
        ctpatch_version=__version__,
        created=now_utc(),
        dataset=facts.dataset,
        source=facts.source,
        options=plan.options,
        mapping=facts.mapping,
        arrays={source.array: source.dtype for source in plan.arrays},
        splits=splits,
        grouped_by=plan.grouped_by(),
        key_id=facts.key_id,
        num_left_out=dict(sorted(Counter(row.kind for row in left_out).items())),
        left_out_digest=bytes_digest(content),
        notes=list(facts.notes),
        num_identical=sum(count for count in digests.values() if count > 1),
        plan_digest=plan.digest,
    )
    meta = meta.model_validate_json(meta.to_bytes())
    output.put(PREPARE_META, meta.to_bytes())
    return meta, faults


def _publish_manifest(
    output: PreparedFolder, plan: PreparePlan, split: str, rows: Sequence[dict[str, Any]]
) -> SplitInfo:
    columns: dict[str, type[pl.DataType]] = {
        "index": pl.Int64,
        "path": pl.String,
        "min": pl.Float64,
        "max": pl.Float64,
        "patient_id": pl.String,
        "series": pl.String,
        "position_mm": pl.Float64,
        "spacing_row_mm": pl.Float64,
        "spacing_col_mm": pl.Float64,
        "source_digest": pl.String,
    }
    for source in plan.arrays[1:]:
        columns |= {f"{source.array}_path": pl.String, f"{source.array}_source_digest": pl.String}
    frame = pl.DataFrame(list(rows), schema=columns, orient="row")
    content = frame.write_csv().encode()
    name = manifest_name(split)
    output.put(name, content)
    return SplitInfo(
        manifest=name,
        manifest_digest=bytes_digest(content),
        num_slices=frame.height,
        num_patients=frame["patient_id"].n_unique(),
    )


def notice_splits(plan: PreparePlan, shares: Sequence[str], listener: Listener) -> None:
    """Say where a split that was asked for stays empty, and what stands in for patients."""
    empty = [name for name in shares if name not in plan.tasks]
    if empty:
        groups = len({task.patient for task in plan.all_tasks()})
        if groups == 1:
            (filled,) = plan.tasks
            reason = (
                f"there is one patient (or what stands for one), whose hash falls into {filled}; --split {filled}=1 "
                "asks for that split alone"
            )
        else:
            reason = (
                f"the hashes of the {groups} patients (or what stands for them) put none there; take other shares or "
                "another --seed, or give the splits in a table"
            )
        listener(Notice("empty-split", f"no slices in {' and '.join(empty)}: {reason}"))
    for kind, count in plan.grouped_by().items():
        if kind != "patient":
            listener(
                Notice(
                    "no-patient",
                    f"{count} slices have no patient id: each {kind} counts as one patient when splits are made",
                )
            )
