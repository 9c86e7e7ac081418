"""Making a patch set in parts: from prepared slices, or for `convert` from another set."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ctpatch.config import BuildConfig, PatchConfig
from ctpatch.cutting.changes import changed_sources
from ctpatch.cutting.cut import probe_part, run_part
from ctpatch.cutting.job import Job
from ctpatch.cutting.output import PATCH_SET
from ctpatch.cutting.plan import Part, SliceTask, SplitPlan
from ctpatch.cutting.receipt import CutReceipt
from ctpatch.cutting.result import MAX_SHOWN, BuildResult, Outcome, Totals, result_of
from ctpatch.cutting.tables import merge_parts
from ctpatch.cutting.values import sampled_every
from ctpatch.errors import FormatError
from ctpatch.events import Listener, Notice, WorkAdvanced
from ctpatch.format.meta import MANIFEST_DIR, PATCH_META, ArrayInfo, PatchMeta
from ctpatch.format.tables import PATCH_MANIFEST, SLICE_MANIFEST, read_table, schema_of
from ctpatch.layouts import layout_of
from ctpatch.words import LayoutName
from ctpatch.work.executors.base import Executor
from ctpatch.work.folder import WorkFolder, differences
from ctpatch.work.product import Begun
from ctpatch.work.run import Work, make


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
            carried=dict(plan.carried),
            counted=plan.counted,
            sampled_every=sampled_every(plan),
        )
        described = _described(plan.config, layout, plan.arrays, source.manifest_path, source.dataset, source.split)
        if plan.beside:
            described["source_paths"] = MANIFEST_DIR
        if plan.carried:
            described["carried"] = dict(plan.carried)
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

    def check_finished(self, folder: WorkFolder[PatchMeta], meta: PatchMeta) -> None:
        """Refuse other options, slices that are no longer what was cut, and a set with damaged files."""
        was = _described(meta.patch_config(), meta.layout, meta.arrays, meta.source_manifest, meta.dataset, meta.split)
        was |= {"source_paths": meta.source_paths, "carried": dict(meta.carried or {})}
        now = {"carried": {}, **self.begun.options}
        folder.refuse_changed(differences(was, now) or self.changed_sources(folder.folder, meta))
        folder.refuse_damaged(self._damage(folder.folder, meta))

    def changed_sources(self, folder: Path, meta: PatchMeta) -> list[str]:
        """Slices that are no longer what was cut."""
        return changed_sources(folder, meta, self.plan, strict=self.job.strict)

    def _damage(self, where: Path, meta: PatchMeta) -> str | None:
        """The first file that is gone, or not as long as it should be; what is in the files is left to `verify`."""
        arrays = tuple(meta.arrays)
        try:
            rows, slices = (
                read_table(where / name, schema_of(name, arrays)) for name in (PATCH_MANIFEST, SLICE_MANIFEST)
            )
        except FormatError as error:
            return error.message
        self.totals = Totals.of_finished(slices)
        files = layout_of(meta.layout).pixel_files(rows, slices, meta.arrays, meta.patch_config().patch_size)
        found = (file.damage(str(where / (file.path or "").removeprefix(meta.path_prefix))) for file in files)
        return next((damage for damage in found if damage is not None), None)

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


def cut_set(plan: SplitPlan, folder: Path, options: BuildConfig, executor: Executor, listener: Listener) -> BuildResult:
    """Cut the set of a plan in its folder, or resume it, or find that it is there."""
    work = CutWork(plan, folder, options)
    tell_outside(plan, folder, listener)
    return make_set(work, executor, listener, overwrite=options.overwrite)


def tell_outside(plan: SplitPlan, folder: Path, listener: Listener) -> None:
    """Say that a set will need a data root, where it does not lie in that of its slices."""
    root = plan.source.data_root
    if folder == root or not folder.is_relative_to(root):
        listener(
            Notice(
                "outside-data-root",
                f"{folder.name} lies outside its data root, so ctpatch cannot tell later where its source slices "
                f"are: what reads them (layout index, whole slices, predict, verify --deep) needs --data-root "
                f"{root}, in Python data_root=",
            )
        )


def make_set(work: CutWork, executor: Executor, listener: Listener, *, overwrite: bool = False) -> BuildResult:
    """Make a set in its folder, or resume it, or find that it is there."""
    started = time.perf_counter()
    made = make(work, executor, listener, overwrite=overwrite)
    outcome: Outcome = "built" if made.outcome == "made" else made.outcome
    return result_of(work.plan, work.folder, made.meta, outcome, started, work.totals)


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
