"""What rules would drop, without writing anything."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ctpatch.config import BuildConfig
from ctpatch.core.rules import compile_rules
from ctpatch.cutting.cut import cut_slices, rule_columns
from ctpatch.cutting.job import Job
from ctpatch.cutting.label_totals import LabelSums, add_labels, label_totals
from ctpatch.cutting.plan import Part, SplitPlan
from ctpatch.cutting.work import CutWork
from ctpatch.errors import WorkerLostError
from ctpatch.events import Listener, WorkAdvanced, WorkFinished, WorkStarted, ignore
from ctpatch.format.meta import LabelTotals
from ctpatch.words import OnError
from ctpatch.work.executors.base import Done, Failed
from ctpatch.work.executors.choose import local_executor


@dataclass(slots=True)
class RulePreview:
    """What the rules of a plan would do.

    Attributes:
        windows: how many were judged.
        kept: how many no rule hits.
        first: for each rule how many windows it would be on record for (the first that hits).
        alone: for each rule how many windows it would drop if it were the only one.
        skipped: slices that cannot be used.
        labels, uncounted: for each array of labels what its slices hold; see `CutReceipt`.
    """

    windows: int = 0
    kept: int = 0
    first: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    labels: dict[str, LabelSums] = field(default_factory=dict)
    uncounted: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain values, for programs."""
        counts = {array: totals.model_dump(mode="json") for array, totals in self.label_counts().items()}
        mine = {name: value for name, value in asdict(self).items() if name not in {"labels", "uncounted"}}
        return mine | {"first": dict(self.first), "alone": dict(self.alone), "label_counts": counts}

    def label_counts(self) -> dict[str, LabelTotals]:
        """What each array of labels holds; the windows are those that no rule hits."""
        return label_totals(list(self.labels), self.labels, self.uncounted)

    def add(self, other: "RulePreview") -> None:
        """Add what another run of slices gave."""
        self.windows += other.windows
        self.kept += other.kept
        self.first.update(other.first)
        self.alone.update(other.alone)
        self.skipped.extend(other.skipped)
        for array, sums in other.labels.items():
            add_labels(self.labels.setdefault(array, {}), ((label, *counts) for label, counts in sums.items()))
        self.uncounted.update(other.uncounted)


def preview_rules(
    plan: SplitPlan, *, workers: int = 1, on_error: OnError = "stop", listener: Listener = ignore
) -> RulePreview:
    """Read all slices of a plan and count what each rule would drop; writes nothing.

    Raises:
        SliceError: a slice cannot be used (with `on_error="stop"`).
    """
    job = CutWork(plan, Path(), BuildConfig(layout="index", on_error=on_error)).job
    total = RulePreview()
    task = f"plan {plan.source.name}"
    listener(WorkStarted(task, plan.slices.height, "slices"))
    try:
        for outcome in local_executor(workers).run(_preview_part, job, plan.parts("index")):
            if isinstance(outcome, Failed):
                raise outcome.error
            if not isinstance(outcome, Done):
                raise WorkerLostError(
                    f"the process that read {outcome.item.tasks[0].name} and those behind it was ended twice; "
                    "check these files and the memory limit"
                )
            total.add(outcome.result)
            listener(WorkAdvanced(task, len(outcome.item.tasks), outcome.result.windows))
    finally:
        listener(WorkFinished(task))
    return total


def _preview_part(job: Job, part: Part) -> RulePreview:
    rules = compile_rules(job.config.drop)
    found = RulePreview(labels={array: {} for array in job.counted})
    for piece in cut_slices(job, part):
        if piece.reason is not None:
            found.skipped.append(piece.reason)
            continue
        found.windows += len(piece.grid)
        found.kept += int((piece.hits < 0).sum())
        for array, counts in piece.labels.items():
            found.uncounted[array] += counts.pixels is None
            add_labels(found.labels[array], counts.rows())
        if rules.names:
            every = rules.all_hits(rule_columns(piece.task.slice_index, piece.grid, piece.statistics))
            for number, name in enumerate(rules.names):
                found.first[name] += int((piece.hits == number).sum())
                found.alone[name] += int(every[number].sum())
    return found
