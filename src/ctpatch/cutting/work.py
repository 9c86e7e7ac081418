"""Making a patch set in parts: from prepared slices, or for `convert` from another set."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ctpatch.config import BuildConfig, PatchConfig
from ctpatch.cutting.changes import changed_sources
from ctpatch.cutting.cut import probe_part, run_part
from ctpatch.cutting.job import Job
from ctpatch.cutting.output import PATCH_SET
from ctpatch.cutting.plan import Part, SliceTask, SplitPlan
from ctpatch.cutting.receipt import CutReceipt
from ctpatch.cutting.tables import MAX_SHOWN, Totals, merge_parts, totals_of_set
from ctpatch.events import Listener, Notice, WorkAdvanced
from ctpatch.format.meta import MANIFEST_DIR, PATCH_META, ArrayInfo, PatchMeta
from ctpatch.layouts import layout_of
from ctpatch.words import LayoutName
from ctpatch.work.executors.base import Executor
from ctpatch.work.folder import WorkFolder, differences
from ctpatch.work.product import Begun
from ctpatch.work.run import Work, make

Outcome = Literal["built", "resumed", "complete", "merged"]


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


class CutWork(Work[Part, Any, CutReceipt, PatchMeta]):
    """A patch set, cut from prepared slices."""

    product = PATCH_SET
    verb = "cuts"
    cure = "remove their rows"
    others = "the source slices listed then are others, or have other shapes"
    from_sources = True
    run: Callable[[Any, Part], CutReceipt] = staticmethod(run_part)
    probe: Callable[[Any, Part], int] | None = staticmethod(probe_part)

    def __init__(self, plan: SplitPlan, folder: Path, options: BuildConfig) -> None:
        source, layout = plan.source, options.layout
        place, root = folder.resolve(), source.data_root.resolve()
        inside = place != root and place.is_relative_to(root) and not layout_of(layout).reads_sources
        self.plan = plan
        self.folder = folder
        self.task = source.name
        self.on_error = options.on_error
        self.job = Job(
            data_root=source.data_root,
            folder=place,
            path_prefix=f"{place.relative_to(root).as_posix()}/" if inside else "",
            split=source.split,
            config=plan.config,
            layout=layout,
            arrays=plan.arrays,
            plan_digest=f"{self.plan_digest()}-{layout}",
            on_error=options.on_error,
            strict=options.strict,
        )
        described = _described(plan.config, layout, plan.arrays, source.manifest_path, source.dataset, source.split)
        if plan.beside:
            described["source_paths"] = MANIFEST_DIR
        names = {"split": source.split, "layout": layout, "arrays": list(plan.arrays)}
        self.begun = Begun(described, self.job.plan_digest, names)
        self.totals = Totals()
        self._said: set[str] = set()
        self._mismatches = 0

    def plan_digest(self) -> str:
        """What an earlier, unfinished run must agree with."""
        return self.plan.digest()

    @property
    def num_tasks(self) -> int:
        """The slices."""
        return self.plan.slices.height

    def parts(self) -> Iterator[Part]:
        """Runs of slices."""
        return self.plan.parts(self.job.layout)

    def shared(self, folder: WorkFolder[PatchMeta]) -> Any:
        """The job."""
        del folder
        return self.job

    def poisoned(self, task: SliceTask) -> SliceTask:
        """A slice with the problem that it ends its process."""
        problem = f"{task.name}: its process was ended twice while it was cut; check the file and the memory limit"
        return replace(task, problem=problem)

    def changed(self, folder: WorkFolder[PatchMeta], meta: PatchMeta) -> list[str]:
        """Options that differ, else slices that are no longer what was cut."""
        was = _described(meta.patch_config(), meta.layout, meta.arrays, meta.source_manifest, meta.dataset, meta.split)
        was["source_paths"] = meta.source_paths
        return differences(was, self.begun.options) or self.changed_sources(folder.folder, meta)

    def changed_sources(self, folder: Path, meta: PatchMeta) -> list[str]:
        """Slices that are no longer what was cut."""
        return changed_sources(folder, meta, self.plan, strict=self.job.strict)

    def damage(self, folder: WorkFolder[PatchMeta], meta: PatchMeta) -> str | None:
        """Pixel files that are gone or cut short."""
        return PATCH_SET.first_damage(folder.folder, meta)

    def notices(self, receipt: CutReceipt) -> Iterable[Notice]:
        """Dtypes that are converted, values that are clipped, and slices whose stated range is not their pixels'."""
        for dtype in receipt.converted:
            if dtype not in self._said:
                self._said.add(dtype)
                yield Notice("converted", f"slices of {dtype} are converted to float32 (said once)")
        if receipt.clipped and "clipped" not in self._said:
            self._said.add("clipped")
            yield Notice("clipped", f"{receipt.clipped[0]} (said once; num_clipped in {PATCH_META} counts such slices)")
        for mismatch in receipt.mismatches[: MAX_SHOWN - self._mismatches]:
            yield Notice("stated-range", mismatch)
        self._mismatches = min(MAX_SHOWN, self._mismatches + len(receipt.mismatches))

    def advanced(self, receipt: CutReceipt) -> WorkAdvanced:
        """A part's slices and patches."""
        return WorkAdvanced(self.task, len(receipt.sources), receipt.num_patches, receipt.reused)

    def finish(self, folder: WorkFolder[PatchMeta]) -> PatchMeta:
        """The three tables and the meta."""
        meta, self.totals = merge_parts(self.job, self.plan, folder, from_sources=self.from_sources)
        return meta

    def to_see(self) -> list[Path]:
        """The source manifest."""
        return [self.plan.source.manifest] if self.from_sources else []


def make_set(work: CutWork, executor: Executor, listener: Listener, *, overwrite: bool = False) -> BuildResult:
    """Make a set in its folder, or resume it, or find that it is there."""
    started = time.perf_counter()
    made = make(work, executor, listener, overwrite=overwrite)
    totals = totals_of_set(work.folder, made.meta) if made.outcome == "complete" else work.totals
    outcome: Outcome = "built" if made.outcome == "made" else made.outcome
    return result_of(work.plan, work.folder, made.meta, outcome, started, totals)


def result_of(
    plan: SplitPlan | None, folder: Path, meta: PatchMeta, outcome: Outcome, started: float, totals: Totals
) -> BuildResult:
    """What a build that came to this end did; where there is no plan any more, the windows are those of the set."""
    return BuildResult(
        folder=folder,
        outcome=outcome,
        meta=meta,
        seconds=time.perf_counter() - started,
        skipped=totals.skipped,
        covering_stride=plan.covering_stride if plan else None,
        planned_windows=plan.num_windows if plan else meta.num_windows,
        windows_at_covering_stride=plan.windows_at_covering_stride() if plan else meta.num_windows,
        slices_without_windows=totals.without_windows,
        num_without_windows=totals.num_without_windows,
    )


def _described(
    config: PatchConfig, layout: LayoutName, arrays: dict[str, ArrayInfo], manifest: str, dataset: str, split: str
) -> dict[str, Any]:
    """What decides a set, planned or finished, as plain values that can be compared and shown."""
    return {
        **config.model_dump(mode="json"),
        "layout": layout,
        "arrays": {name: info.dtype for name, info in arrays.items()},
        "source_manifest": manifest,
        "dataset": dataset,
        "split": split,
    }
