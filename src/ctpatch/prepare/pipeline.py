"""A preparation, from the source to the finished set: scan, pair, split, convert in parts, tables, meta."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ctpatch._version import __version__
from ctpatch.errors import SliceError
from ctpatch.events import Listener, Notice, WorkAdvanced
from ctpatch.files.digest import array_digest, bytes_digest
from ctpatch.format.meta import now_utc
from ctpatch.format.prepared_meta import FORMAT_VERSION, PREPARE_META, NoteInfo, PreparedMeta, SplitInfo
from ctpatch.prepare.folder import LEFT_OUT, PREPARED_SET, manifest_name
from ctpatch.prepare.landmarks import files_to_see, software_to_have
from ctpatch.prepare.part import PrepareJob, PreparePart, PrepareReceipt, probe_part, run_part, touched_since
from ctpatch.prepare.planning import PreparePlan
from ctpatch.words import OnError
from ctpatch.work.executors.base import Executor
from ctpatch.work.folder import WorkFolder, differences
from ctpatch.work.product import Begun
from ctpatch.work.receipt import receipts_of
from ctpatch.work.run import Work, make

Outcome = Literal["prepared", "resumed", "complete"]
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


class PrepareWork(Work[PreparePart, PrepareJob, PrepareReceipt, PreparedMeta]):
    """A prepared data set, made from raw CT."""

    product = PREPARED_SET
    task = "preparing"
    verb = "prepares"
    cure = "remove them"
    on_fault = "; --on-error skip leaves it out"
    others = "the slices in the source are others than then"
    run = staticmethod(run_part)
    probe = staticmethod(probe_part)

    def __init__(
        self, plan: PreparePlan, facts: Facts, folder: Path, on_error: OnError, begins: Callable[[], None]
    ) -> None:
        self.folder = folder
        self.on_error = on_error
        names = {"splits": list(plan.tasks), "arrays": [source.array for source in plan.arrays]}
        self.begun = Begun(plan.options, plan.digest, names)
        self.faults: list[str] = []
        self._plan = plan
        self._facts = facts
        self._begins = begins

    @property
    def num_tasks(self) -> int:
        """The slices of all splits."""
        return self._plan.num_slices

    def parts(self) -> Iterator[PreparePart]:
        """Runs of slices, none across two splits."""
        return self._plan.parts()

    def shared(self, folder: WorkFolder[PreparedMeta]) -> PrepareJob:
        """The job."""
        return PrepareJob(
            folder=folder.folder.resolve(),
            state=folder.state.resolve(),
            path_prefix=f"prepared/{self._facts.dataset}/",
            arrays=self._plan.arrays,
            geometry=self._plan.geometry,
            plan_digest=self._plan.digest,
            on_error=self.on_error,
        )

    def starts(self) -> None:
        """Keep what must not be lost from here on: the key of the pseudonyms."""
        self._begins()

    def changed(self, folder: WorkFolder[PreparedMeta], meta: PreparedMeta) -> list[str]:
        """Options that differ, slices that are others, or files whose pixels are."""
        if meta.plan_digest != self._plan.digest:
            return differences(meta.options, self.begun.options) or [self.others]
        return _changed_sources(folder.folder, self._plan)

    def advanced(self, receipt: PrepareReceipt) -> WorkAdvanced:
        """A part's slices."""
        return WorkAdvanced(self.task, len(receipt.rows) + len(receipt.left_out), reused=receipt.reused)

    def span(self, part: PreparePart) -> str:
        """A part; names of files of the source are left out."""
        return f"part {part.number}"

    def to_see(self) -> list[Path]:
        """One raw file of each array."""
        return files_to_see(self._plan)

    def to_have(self) -> list[str]:
        """What reads and resamples."""
        return software_to_have(self._plan)

    def finish(self, folder: WorkFolder[PreparedMeta]) -> PreparedMeta:
        """Publish the tables, then the meta."""
        plan, facts, faults = self._plan, self._facts, self.faults
        files = {task.file: task.slices[0].file for task in plan.all_tasks()}
        left_out = list(facts.left_out)
        rows: dict[str, list[dict[str, Any]]] = {split: [] for split in plan.tasks}
        for part, receipt in receipts_of(folder.state, plan.parts(), PrepareReceipt):
            rows[part.tasks[0].split].extend(receipt.rows)
            for file, reason in receipt.left_out:
                left_out.append(LeftOutRow(file, "image", "unusable", reason))
                faults.append(f"{files[file] if facts.names_shown else file}: {reason}")
        splits = {split: _publish_manifest(folder, plan, split, found) for split, found in rows.items() if found}
        if not splits:
            raise SliceError(f"none of the {plan.num_slices} slices could be used: {'; '.join(faults[:_NAMES_SHOWN])}")
        digests = Counter(row["source_digest"] for found in rows.values() for row in found)
        frame = pl.DataFrame(
            [[row.file, row.array, row.kind, row.reason] for row in left_out], _LEFT_OUT_SCHEMA, orient="row"
        )
        content = frame.sort(frame.columns).write_csv().encode()
        folder.put(LEFT_OUT, content)
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
        folder.put(PREPARE_META, meta.to_bytes())
        return meta


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
    """Make the set in its folder, or resume it, or find that it is there; `begun` is called where it is new."""
    started = time.perf_counter()
    folder = data_root / "prepared" / facts.dataset
    work = PrepareWork(plan, facts, folder, on_error, begun)
    made = make(work, executor, listener, overwrite=overwrite)
    outcome: Outcome = "prepared" if made.outcome == "made" else made.outcome
    return PrepareResult(folder, outcome, made.meta, time.perf_counter() - started, work.faults)


def _changed_sources(folder: Path, plan: PreparePlan) -> list[str]:
    """Sources whose pixels are no longer those on record; only files touched since are read."""
    since = (folder / PREPARE_META).stat().st_mtime_ns
    columns = ["source_digest", *(f"{source.array}_source_digest" for source in plan.arrays[1:])]
    for split, tasks in plan.tasks.items():
        touched = [task for task in tasks if touched_since(plan.arrays, task, since)]
        if not touched:
            continue
        try:
            frame = pl.read_csv(folder / manifest_name(split), infer_schema=False)
            recorded = dict(zip(frame["index"], frame.select(columns).iter_rows(), strict=True))
        except (OSError, pl.exceptions.PolarsError) as error:
            return [f"{split}_manifest.csv cannot be read ({type(error).__name__})"]
        for task in touched:
            for place, source in enumerate(plan.arrays):
                raw = next(iter(source.reader.read(source.root, [task.slices[place]])))
                if array_digest(np.asarray(raw)) != recorded.get(str(task.index), [None] * len(columns))[place]:
                    return [f"{task.slices[place].file} has changed since it was prepared"]
    return []


def _publish_manifest(
    folder: WorkFolder[PreparedMeta], plan: PreparePlan, split: str, rows: Sequence[dict[str, Any]]
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
    folder.put(name, content)
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
