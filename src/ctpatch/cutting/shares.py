"""A build done in shares by commands that know nothing of each other, on one machine or many, and their merge.

Each share is every n-th part. The folder of the set is what they meet in: the first one puts the options on record,
each has a lock of its own, and the receipts say what is done. The merge finds every receipt, or names what is missing.
"""

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctpatch.config import LATER_OPTIONS, BuildConfig, PatchConfig
from ctpatch.cutting.api import plan_outputs
from ctpatch.cutting.output import PATCH_SET
from ctpatch.cutting.plan import SplitPlan, plan_split
from ctpatch.cutting.receipt import CutReceipt, counts_labels
from ctpatch.cutting.result import BuildResult, Totals, result_of
from ctpatch.cutting.work import CutWork, tell_outside
from ctpatch.errors import ConfigError, IncompleteError, OutputConflictError, SourceChangedError, UsageError
from ctpatch.events import Listener, ignore
from ctpatch.files.atomic import given_path
from ctpatch.format.meta import MANIFEST_DIR, PATCH_META, STATE_FOLDER, PatchMeta
from ctpatch.format.source_manifest import Reading
from ctpatch.format.splits import PATCHES, PREPARED, SourcePath, SplitSource
from ctpatch.format.tables import SLICE_MANIFEST, read_table, schema_of
from ctpatch.words import LayoutName, OnError
from ctpatch.work.executors.base import Executor
from ctpatch.work.executors.choose import AnyExecutor, as_executor
from ctpatch.work.folder import WorkFolder, differences
from ctpatch.work.product import Begun
from ctpatch.work.run import run_parts
from ctpatch.work.share import Share

_MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class ShareResult:
    """What the build of one share did.

    Attributes:
        folder: the patch set that is being made.
        share: which share.
        parts: how many parts the share has; `reused` of them were done before.
        num_slices, num_patches, num_skipped: slices cut, patches kept and slices left out in these parts.
        skipped: reasons of slices that were left out, the first 100.
        set_complete: whether the set was merged before, so that there was nothing to do.
        seconds: how long it took.
    """

    folder: Path
    share: Share
    parts: int
    reused: int
    num_slices: int
    num_patches: int
    num_skipped: int
    skipped: list[str]
    set_complete: bool
    seconds: float


def build_share(
    source: SourcePath | Sequence[SourcePath],
    share: str | Share,
    config: PatchConfig | None = None,
    *,
    layout: LayoutName = "files",
    arrays: str | Sequence[str] | None = None,
    keep_columns: str | Sequence[str] | None = None,
    workers: int = 1,
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    on_error: OnError = "stop",
    strict: bool = False,
    executor: AnyExecutor | None = None,
    listener: Listener = ignore,
) -> list[ShareResult]:
    """Cut one share of the parts of each split; `merge` makes them a set when all shares are done.

    Shares may be built at the same time, on machines that share the folders, in any order, and again where one was
    cut off. What is built does not depend on how many shares there are.

    Args:
        source: as for `build`.
        share: which share, as `3/16`.
        config: as for `build`, and the same in all shares, as are `layout`, `out` and `data_root`.
        layout: how patches lie on disk.
        arrays: which columns of the manifests are arrays; as for `build`, and the same in all shares.
        keep_columns: which further columns of the manifests the set keeps; the same in all shares.
        workers: processes that cut, on this machine.
        out: the set's folder.
        data_root: what paths in manifests are relative to.
        on_error: what a slice that cannot be used does.
        strict: compare digests of all sources before an earlier result is trusted.
        executor: what the parts are given to instead of local processes.
        listener: is told what happens.

    Returns:
        What was done, for each split in the order of the sources.

    Raises:
        ConfigError: there is no such share.
        OutputConflictError: the output holds something else, or a build that was begun with other options.
        OutputLockedError: another process does this share, or the whole.
        As `build`.
    """
    which = share if isinstance(share, Share) else Share.parse(share)
    options = BuildConfig(layout=layout, workers=workers, on_error=on_error, strict=strict)
    chosen = as_executor(executor, workers)
    planned = plan_outputs(source, config, options, out, data_root, arrays, keep_columns, listener)
    return [_build_share(plan, folder, which, options, chosen, listener) for plan, folder in planned]


def _build_share(
    plan: SplitPlan, folder: Path, share: Share, options: BuildConfig, executor: Executor, listener: Listener
) -> ShareResult:
    started = time.perf_counter()
    tell_outside(plan, folder, listener)
    work = CutWork(plan, folder, options)
    output = WorkFolder(folder, PATCH_SET, listener)
    totals = Totals()
    with output.held(share):
        found = output.look()
        if found.anew:
            raise OutputConflictError(
                f"{folder.name}: removing the set that was here was cut off; finish it with the same command without "
                "--share and with --overwrite, or remove the folder yourself"
            )
        if found.finished is not None:
            work.check_finished(output, found.finished)
        else:
            output.refuse_other_run(output.begin_share(work.begun, found, share), work.begun, work.others)
            run_parts(work, output, executor, listener, share, totals.add)
    return ShareResult(
        folder,
        share,
        totals.parts,
        totals.reused,
        totals.num_slices,
        totals.num_patches,
        totals.num_skipped,
        totals.skipped,
        found.finished is not None,
        time.perf_counter() - started,
    )


def merge(
    path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    listener: Listener = ignore,
) -> BuildResult:
    """Make the parts that shares have cut one set: its tables and its meta, as a build by one command writes them.

    Args:
        path: the folder that the shares were built into.
        source: the source manifest; None takes the one on record, below the data root.
        data_root: what paths in the manifest are relative to; None takes the folder above `patches` or `prepared`.
        listener: is told what happens.

    Returns:
        What the set is.

    Raises:
        UsageError: nothing was begun in the folder, or the source manifest cannot be found.
        IncompleteError: shares are missing; names them and who works on them.
        SourceChangedError: the source manifest, or a slice, is not what the shares were cut from.
        OutputLockedError: another process holds the folder.
        FormatError: a receipt or a part's rows are damaged.
    """
    started = time.perf_counter()
    folder = given_path(path).resolve()
    output = WorkFolder(folder, PATCH_SET, listener)
    nothing = f"{folder.name}: nothing was begun there; build its shares first (ctpatch build … --share 1/16)"
    if not (folder / STATE_FOLDER).is_dir() and not (folder / PATCH_META).exists():
        raise UsageError(nothing)
    with output.held(beside_shares=True):
        found = output.look()
        begun = found.begun
        if found.finished is not None:
            totals = Totals.of_finished(
                read_table(folder / SLICE_MANIFEST, schema_of(SLICE_MANIFEST, tuple(found.finished.arrays)))
            )
            output.end()
            return result_of(None, folder, found.finished, "complete", started, totals)
        if begun is None:
            raise UsageError(nothing)
        plan = _plan_again(begun, folder, source, data_root)
        work = CutWork(plan, folder, BuildConfig(layout=begun.names["layout"], on_error="skip"))
        if work.begun.plan_digest != begun.plan_digest:
            changed = differences(begun.options, work.begun.options) or ["its slices are others"]
            raise SourceChangedError(
                f"{begun.options['source_manifest']} is not what the shares were cut from: {'; '.join(changed)}; "
                "restore it, or build anew into another folder"
            )
        _refuse_missing(work, output)
        meta = work.finish(output)
        return result_of(plan, folder, meta, "merged", started, work.totals)


def _plan_again(
    begun: Begun, folder: Path, source: str | os.PathLike[str] | None, data_root: str | os.PathLike[str] | None
) -> SplitPlan:
    """The plan that the shares had, from what they put on record."""
    try:
        wanted = [name for name in PatchConfig.model_fields if name in begun.options or name not in LATER_OPTIONS]
        config = PatchConfig(**{name: begun.options[name] for name in wanted})
        dataset, split, manifest = (str(begun.options[name]) for name in ("dataset", "split", "source_manifest"))
    except (KeyError, TypeError, ValueError, ConfigError):
        raise OutputConflictError(
            f"{folder.name}: the record of the build is damaged, or of another version of ctpatch; remove the folder "
            "and build its shares again"
        ) from None
    root = _data_root(folder, source, data_root)
    path = given_path(source).resolve() if source is not None else root / manifest
    if not path.is_file():
        raise UsageError(
            f"the source manifest {manifest} is not below the data root; give the manifest with --source, "
            "or the data root with --data-root"
        )
    beside = begun.options.get("source_paths") == MANIFEST_DIR
    reading = Reading(tuple(begun.names["arrays"]), beside, begun.options.get("carried") or {})
    return plan_split(SplitSource(dataset, split, path, root), config, skip_faulty=True, reading=reading)


def _data_root(folder: Path, source: str | os.PathLike[str] | None, data_root: str | os.PathLike[str] | None) -> Path:
    if data_root is not None:
        return given_path(data_root).resolve()
    places = [(given_path(source).resolve(), PREPARED)] if source is not None else []
    for place, name in (*places, (folder, PATCHES)):
        above = next((each for each in place.parents if each.name == name), None)
        if above is not None:
            return above.parent
    raise UsageError(
        f"{folder.name} does not lie below a data root; give the data root the shares were built with (--data-root)"
    )


def _refuse_missing(work: CutWork, output: WorkFolder[PatchMeta]) -> None:
    """Raise where a part has no receipt of this plan: say which shares those parts are in, and who is at work."""
    job = work.job
    missing = []
    for part in work.parts():
        receipt = CutReceipt.of_plan(job.state, part.number, job.plan_digest)
        if receipt is None or not counts_labels(job, receipt):
            missing.append(part.number)
    if not missing:
        return
    held, begun = output.shares_held(), output.shares_begun()
    counts = {share.of for share in begun}
    lines = [f"part {number}" for number in missing[:_MAX_NAMED]]
    if len(counts) == 1:
        of = counts.pop()
        shares = Counter(Share(number % of + 1, of) for number in missing)
        lines = []
        for share, count in sorted(shares.items(), key=lambda each: each[0].number)[:_MAX_NAMED]:
            state = f", held by {held[share]}" if share in held else "" if share in begun else ", not begun"
            lines.append(f"share {share} ({count} parts{state})")
    raise IncompleteError(
        f"{output.folder.name}: {len(missing)} part(s) are not done: {', '.join(lines)}; "
        "build these shares, then merge again"
    )
