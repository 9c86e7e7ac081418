"""From prepared slices to patch sets: which splits, which folders, what has changed since."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ctpatch.config import BuildConfig, PatchConfig
from ctpatch.cutting.output import carried_before
from ctpatch.cutting.plan import SplitPlan, plan_split
from ctpatch.cutting.result import BuildResult
from ctpatch.cutting.work import cut_set
from ctpatch.errors import UsageError
from ctpatch.events import Listener, Notice, ignore
from ctpatch.files.atomic import given_path
from ctpatch.format.carried import kept_columns
from ctpatch.format.manifest_columns import array_names
from ctpatch.format.source_manifest import Reading
from ctpatch.format.splits import SourcePath, as_sources, find_splits
from ctpatch.words import LayoutName, OnError
from ctpatch.work.executors.choose import AnyExecutor, as_executor


def build(
    source: SourcePath | Sequence[SourcePath],
    config: PatchConfig | None = None,
    *,
    layout: LayoutName = "files",
    arrays: str | Sequence[str] | None = None,
    keep_columns: str | Sequence[str] | None = None,
    workers: int = 1,
    out: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    on_error: OnError = "stop",
    overwrite: bool = False,
    strict: bool = False,
    executor: AnyExecutor | None = None,
    listener: Listener = ignore,
) -> list[BuildResult]:
    """Cut the slices of splits into patch sets.

    ctpatch leaves a finished set alone and resumes an unfinished one; the bytes do not depend on the workers or on how
    often the build was cut off. With more than one worker, a script calls this under `if __name__ == "__main__":`,
    as for everything that starts processes.

    Args:
        source: a split's folder, a dataset's folder (all its splits) or a manifest; or a list of such.
        config: geometry, range and rules; None takes the defaults.
        layout: how patches lie on disk: `files`, `shards`, `slices` or `index`, or one that was registered.
        arrays: which columns of the manifests are arrays, as `image,target` or a list; None takes those that they have.
        keep_columns: which further columns of the manifests the set keeps, as `series,dose` or a list; `none` keeps
            none. A type can follow a name: `dose:float64`, `site:text`. None keeps all further columns of a split that
            `prepare` wrote, and none of others; a build that was begun keeps those it was begun with.
        workers: processes that cut, on this machine.
        out: the set's folder (for several splits: the folder above); None takes `DATA_ROOT/patches/<dataset>/<split>`.
        data_root: what paths in manifests are relative to; None takes the folder above `prepared`.
        on_error: what a slice that cannot be used does: `stop` the build, or `skip` the slice.
        overwrite: start anew over an earlier set of ours; files that are not ours are never touched.
        strict: compare digests of all sources before an earlier result is trusted.
        executor: what the parts are given to instead of local processes: a dask `Client`, or any
            `concurrent.futures.Executor`; its workers need the same files under the same paths.
        listener: is told what happens; see `ctpatch.events`.

    Returns:
        What was done, for each split in the order of the sources.

    Raises:
        ConfigError, UsageError: the call makes no sense; nothing was written.
        SourceManifestError: a manifest breaks the rules of its format.
        SliceError: a slice cannot be used (with `on_error="stop"`); run again once it is fixed.
        OutputConflictError: the output holds something else.
        OutputLockedError: another process writes this output.
        SystemFailureError: the system refused a read or a write.
        WorkerLostError: a slice kills the process that cuts it.
    """
    options = BuildConfig(layout=layout, workers=workers, on_error=on_error, overwrite=overwrite, strict=strict)
    chosen = as_executor(executor, workers)
    planned = plan_outputs(source, config, options, out, data_root, arrays, keep_columns, listener)
    for each, _ in planned:
        if hint := each.many_files_hint(layout):
            listener(Notice("many-files", hint))
    return [cut_set(each, folder, options, chosen, listener) for each, folder in planned]


def plan_outputs(
    source: SourcePath | Sequence[SourcePath],
    config: PatchConfig | None,
    options: BuildConfig,
    out: str | os.PathLike[str] | None,
    data_root: str | os.PathLike[str] | None,
    arrays: str | Sequence[str] | None,
    keep_columns: str | Sequence[str] | None,
    listener: Listener,
) -> list[tuple[SplitPlan, Path]]:
    """The plan of each split that is meant, and the folder its set goes to; see `build`."""
    sources = as_sources(source)
    splits = find_splits(sources, data_root)
    # Whether the user named a single split rather than a dataset that happens to have one.
    first = Path(sources[0])
    one = len(splits) == 1 and (first.is_file() or splits[0].manifest.parent == first.resolve())
    base = None if out is None else given_path(out).resolve()
    folders = [each.patches() if base is None else base if one else base / each.split for each in splits]
    if len(set(folders)) < len(folders):
        raise UsageError("two splits would be written into one folder; build them one by one with an --out each")
    for each, folder in zip(splits, folders, strict=True):
        if folder.resolve() == each.manifest.parent:
            raise UsageError(f"--out is the folder of the slices of {each.name}; choose another one for the patches")
    skip, cfg = options.on_error == "skip", config or PatchConfig()
    reading, kept = Reading(arrays=array_names(arrays)), kept_columns(keep_columns)
    planned = []
    for each, folder in zip(splits, folders, strict=True):
        decided = kept is not None or options.overwrite or not each.is_prepared
        now = replace(reading, carried=kept if decided else carried_before(folder))
        planned.append((plan_split(each, cfg, skip_faulty=skip, reading=now, listener=listener), folder))
    return planned
