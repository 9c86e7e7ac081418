"""Whether source slices are still what a set was cut from."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ctpatch.core.rounding import without_rounding
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part, SplitPlan
from ctpatch.errors import CtPatchError, SourceChangedError, SystemFailureError
from ctpatch.files.atomic import explain_os_error
from ctpatch.files.digest import array_digest
from ctpatch.files.npy import SliceBuffer
from ctpatch.format.columns import digest_column, source_column
from ctpatch.format.meta import PatchMeta
from ctpatch.format.tables import SLICE_MANIFEST, STATUS_OK, read_table, schema_of

_MAX_CHANGES_SHOWN = 3


def refuse_changed_sources(
    job: Job, part: Part, sources: Sequence[tuple[int, list[str]]], since_ns: int, *, strict: bool
) -> None:
    """Raise SourceChangedError where a slice is no longer what its part read.

    `sources` has for each slice its index and the digest of each array; `since_ns` is when the part began to read,
    nanoseconds since 1970.
    """
    for task, (_index, digests) in zip(part.tasks, sources, strict=True):
        # A slice that was left out has no digests.
        for array, source, digest in zip(job.arrays, task.paths, digests, strict=False):
            integers = array != "image"
            values = None if job.arrays[array].labels else job.config.value_range
            if source_changed(
                job.data_root, source, digest, since_ns, integers_allowed=integers, strict=strict, value_range=values
            ):
                raise SourceChangedError(
                    f"{source} has changed since it was cut; "
                    "--overwrite starts anew with what is there now, or restore the file"
                )


def source_changed(
    data_root: Path,
    path: str,
    digest: str,
    since_ns: int,
    *,
    integers_allowed: bool,
    strict: bool,
    value_range: tuple[float, float] | None = None,
) -> bool:
    """Whether a source slice is no longer what it was.

    A file that was neither written nor put in place since `since_ns` (nanoseconds) is the same; its size was
    compared when its header was read. Where its times leave a doubt, or with `strict`, its pixels are read and their
    digest decides, so that a file that was only copied or touched is no change. An array that has a `value_range` was
    clipped to it where its values lay outside by rounding.
    """
    place = f"{data_root}/{path}"
    try:
        status = os.stat(place)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise explain_os_error(error, "looking at", path) from None
    # Where `since_ns` is still to come, the clock was ahead then, and the times since prove nothing.
    if not strict and _touched_ns(status) < since_ns <= time.time_ns():
        return False
    try:
        image, _dtype = SliceBuffer().read(place, path, integers_allowed=integers_allowed)
    except SystemFailureError:
        raise
    except CtPatchError:
        return True
    if array_digest(image) == digest:
        return False
    return value_range is None or array_digest(without_rounding(image, value_range)) != digest


def _touched_ns(status: os.stat_result) -> int:
    """When a file was written or put in place, the later of both."""
    return max(status.st_mtime_ns, status.st_ctime_ns)


def changed_sources(folder: Path, meta: PatchMeta, plan: SplitPlan, *, strict: bool) -> list[str]:
    """What makes a plan's slices others than those a finished set was cut from; nothing where they are the same."""
    arrays = tuple(meta.arrays)
    recorded = read_table(folder / SLICE_MANIFEST, schema_of(SLICE_MANIFEST, arrays, meta.slice_columns))
    since = (folder / SLICE_MANIFEST).stat().st_mtime_ns
    columns = ["slice_index", "src_path", "height", "width", "src_dtype", *map(source_column, arrays[1:])]
    columns += meta.carried or {}
    before, now = recorded.select(columns), plan.slices.select(columns)
    if not before.equals(now):
        return [_first_difference(before, now)]
    changed = []
    for row in recorded.iter_rows(named=True):
        for array in arrays:
            root, path = plan.source.data_root, row[source_column(array)]
            if row["status"] != STATUS_OK:
                if (root / path).exists() and _touched_ns(os.stat(root / path)) >= since:
                    changed.append(f"{path}, which was left out, has changed since")
            elif source_changed(
                root,
                path,
                row[digest_column(array)],
                since,
                integers_allowed=array != "image",
                strict=strict,
                value_range=None if meta.arrays[array].labels else meta.value_range,
            ):
                changed.append(f"{path} has changed since it was cut")
            if len(changed) == _MAX_CHANGES_SHOWN:
                return [*changed, "perhaps more"]
    return changed


def _first_difference(before: pl.DataFrame, now: pl.DataFrame) -> str:
    if before.height != now.height:
        return f"the source manifest listed {before.height} slices then, {now.height} now"
    for old, new in zip(before.iter_rows(named=True), now.iter_rows(named=True), strict=True):
        for name in before.columns:
            if old[name] != new[name]:
                return f"{name} of {old['src_path']} was {old[name]!r}, now {new[name]!r}"
    return "the source manifest has other columns"
