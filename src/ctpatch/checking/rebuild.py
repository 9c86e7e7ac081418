"""The build again: its own cutting, on a disk that compares, and what it would write into tables and meta."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from ctpatch._version import __version__
from ctpatch.checking.findings import Finding
from ctpatch.checking.pixel_checks import SlicesToCheck, wrong_statistic
from ctpatch.checking.value_checks import compare_values
from ctpatch.config import BuildConfig
from ctpatch.core.statistics.columns import STATISTICS
from ctpatch.cutting.cut import cut_slices, write_part
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part, SliceTask, plan_split
from ctpatch.cutting.receipt import CutReceipt
from ctpatch.cutting.result import Totals
from ctpatch.cutting.tables import meta_of
from ctpatch.cutting.work import CutWork
from ctpatch.files.atomic import given_path
from ctpatch.format.columns import digest_column, path_column, source_column
from ctpatch.format.meta import MANIFEST_DIR, PATCH_META
from ctpatch.format.source_manifest import Reading
from ctpatch.format.splits import find_splits
from ctpatch.format.tables import PATCH_MANIFEST, REJECTED_PATCHES, SLICE_MANIFEST, STATUS_OK
from ctpatch.layouts.base import Layout
from ctpatch.layouts.disk import ComparingDisk
from ctpatch.layouts.packed import shard_number
from ctpatch.reading.patchset import PatchSet

_KEYS = {PATCH_MANIFEST: "patch_id", REJECTED_PATCHES: "patch_id", SLICE_MANIFEST: "slice_index"}
_NOT_COMPARED = {"created", "ctpatch_version", "meta_digest", "tables", "patch_dir", "paths_relative_to"}
"""Of the meta: what says when, by which version and where, and what is compared elsewhere."""
_NAMES_OF_SOURCE = {"source_manifest", "dataset", "split", "hu"}
"""What the place of the source manifest decides; with another place given they say nothing."""
_ENDED = "its process was ended twice"
"""Of a slice whose reason says so nothing is read: it may end this process as well."""


@dataclass(frozen=True, slots=True)
class RebuildPart(SlicesToCheck):
    """One part, with the rows of its slices on record, here also those of the rejected patches."""

    part: Part
    rejected: pl.DataFrame

    @property
    def first(self) -> str:
        """Path of its first slice."""
        return self.part.tasks[0].name


Rebuilt = tuple[CutReceipt, list[Finding], bool]
"""What a part would have left, what is wrong, and whether every slice that was cut then could be cut again."""


class Rebuild:
    """A set that is built again from its sources, in thought; CtPatchError where their manifest cannot be read."""

    def __init__(self, ps: PatchSet, source: str | os.PathLike[str] | None = None) -> None:
        self._ps = ps
        manifest = ps.data_root / ps.meta.source_manifest if source is None else given_path(source)
        (found,) = find_splits([manifest], ps.data_root)
        reading = Reading(ps.arrays, ps.meta.source_paths == MANIFEST_DIR, ps.meta.carried or {})
        plan = plan_split(found, ps.config, skip_faulty=True, reading=reading)
        # A set of an earlier version has counted no labels.
        self.plan = replace(plan, uncounted=frozenset(ps.arrays) - frozenset(ps.meta.label_counts or {}))
        ended = ps.slices.filter(pl.col("reason").str.contains(_ENDED, literal=True))
        self._ended: dict[int, str] = dict(ended.select("slice_index", "reason").iter_rows())
        # Where the set lies is no matter: its paths are taken as its own meta has them.
        work = CutWork(self.plan, ps.folder, BuildConfig(layout=ps.meta.layout, on_error="skip"))
        prefix = "" if ps.layout.reads_sources else ps.meta.path_prefix
        self.job: Job = replace(work.job, path_prefix=prefix, split=ps.meta.split)
        self._receipts: dict[int, CutReceipt] = {}
        self._complete = True
        self._left_out = _NOT_COMPARED | (_NAMES_OF_SOURCE if source is not None else set())

    def parts(self) -> Iterator[RebuildPart]:
        """The parts of the build."""
        # Another version may have worded reasons otherwise.
        slices = self._ps.slices if self._ps.meta.ctpatch_version == __version__ else self._ps.slices.drop("reason")
        numbered = [frame.with_row_index("at") for frame in (slices, self._ps.manifest, self._ps.rejected)]
        for part in self._parts():
            mine = pl.Series([task.slice_index for task in part.tasks], dtype=pl.Int64).implode()
            slices, patches, rejected = (frame.filter(pl.col("slice_index").is_in(mine)) for frame in numbered)
            tasks = (replace(each, problem=self._ended.get(each.slice_index, each.problem)) for each in part.tasks)
            yield RebuildPart(slices, patches, replace(part, tasks=tuple(tasks)), rejected)

    def _parts(self) -> Iterator[Part]:
        """The parts as they were made: of this version's size, else as the shards on record tell."""
        layout = self._ps.layout
        planned = list(self.plan.parts(layout.name))
        firsts = self._ps.manifest.unique("slice_index", keep="first").select("slice_index", path_column("image"))
        shards: dict[int, str] = dict(firsts.iter_rows()) if layout.packed else {}
        pairs = {
            (part.shards.get(task.shape, -1), shards[task.slice_index])
            for part in planned
            for task in part.tasks
            if task.slice_index in shards
        }
        numbers, paths = {number for number, _ in pairs}, {path for _, path in pairs}
        if len(pairs) == len(numbers) == len(paths):
            return iter(planned)
        return self._parts_on_record(layout, shards)

    def _parts_on_record(self, layout: Layout, shards: dict[int, str]) -> Iterator[Part]:
        """The parts that the shards (a slice's file) tell of: another version may have made them larger or smaller."""
        held: dict[tuple[int, int], str] = {}

        def begins(task: SliceTask) -> bool:
            path = shards.get(task.slice_index)
            if path is None:
                return False
            alone = layout.holds_patches and bool(held) and path not in held.values()
            new = alone or held.get(task.shape, path) != path
            if new:
                held.clear()
            held[task.shape] = path
            return new

        for part in self.plan.parts(layout.name, begins):
            # A part of which no patch is kept takes a number and has no file, so numbers are taken as they are.
            found = {t.shape: shard_number(shards[t.slice_index]) for t in part.tasks if t.slice_index in shards}
            known = {shape: number for shape, number in found.items() if number is not None}
            yield replace(part, shards={**part.shards, **known})

    def add(self, rebuilt: Rebuilt) -> list[Finding]:
        """Keep what a part would have left; returns what is wrong with it."""
        receipt, findings, complete = rebuilt
        self._receipts[receipt.part] = receipt
        self._complete &= complete
        return findings

    def check_slices(self) -> Iterator[Finding]:
        """The slices on record are those of the source manifest, in its order."""
        recorded, listed = self._ps.slices["slice_index"].to_list(), self.plan.slices["slice_index"].to_list()
        known, seen = set(listed), set(recorded)
        for at, index in enumerate(recorded):
            if index not in known:
                message = f"slice_index is {index}, the source manifest lists no such slice"
                yield Finding("slices", SLICE_MANIFEST, at + 2, message)
        for index, path in self.plan.slices.select("slice_index", "src_path").iter_rows():
            if index not in seen:
                message = f"slice {index} of the source manifest ({path}) is not on record"
                yield Finding("slices", SLICE_MANIFEST, None, message)
        if known == seen and recorded != listed:
            at = next(place for place, pair in enumerate(zip(recorded, listed, strict=True)) if pair[0] != pair[1])
            message = f"slice_index is {recorded[at]}, the source manifest has {listed[at]} in this place"
            yield Finding("order", SLICE_MANIFEST, at + 2, message)

    def check_meta(self) -> Iterator[Finding]:
        """Every field of the meta is what the build would write; call it when all parts have been added.

        Where a source is not what it was, or gone, sums say nothing.
        """
        if not self._complete:
            return
        totals = Totals()
        for _, receipt in sorted(self._receipts.items()):
            totals.add(receipt)
        again = meta_of(self.job, self.plan, totals, {})
        wanted = again.model_dump(mode="json")
        seen = self._ps.meta.model_dump(mode="json")
        for name in ("values", "hu"):
            if seen[name] is None:  # a set of an earlier version has none, nor one that such a version began
                wanted.pop(name)
        if "values" in wanted:
            wanted.pop("values")
            yield from compare_values(self._ps.meta.values, again.values)
        for name, value in wanted.items():
            if name not in self._left_out and seen[name] != value:
                message = f"{name} is {seen[name]!r}, a build from these sources writes {value!r}"
                yield Finding("meta", PATCH_META, None, message)


def rebuild_part(job: Job, item: RebuildPart) -> Rebuilt:
    """Cut a part again and compare all of it with what is there; nothing is written."""
    disk = ComparingDisk()
    rows, writer, _ = write_part(job, item.part, cut_slices(job, item.part), disk)
    built = rows.frames()
    findings: list[Finding] = []
    # Slices that were cut and cannot be cut again to the same.
    lost: list[int] = []
    cut_then = {row["slice_index"]: row for row in item.slices.iter_rows(named=True) if row["status"] == STATUS_OK}
    for row in built[SLICE_MANIFEST].iter_rows(named=True):
        index = row["slice_index"]
        faults = _source_faults(job, cut_then[index], row) if index in cut_then else []
        if faults:
            lost.append(index)
            concerned = int((item.patches["slice_index"] == index).sum())
            findings += (Finding("source", path, None, fault, patches=concerned) for path, fault in faults)
    # All else that differs of these slices follows from that.
    here = ~pl.col("slice_index").is_in(pl.Series(lost, dtype=pl.Int64).implode())
    stored = {PATCH_MANIFEST: item.patches, REJECTED_PATCHES: item.rejected, SLICE_MANIFEST: item.slices}
    for table, frame in built.items():
        findings += _compare_table(table, frame.filter(here), stored[table].filter(here), job)
    findings += _compare_pixels(job, built[PATCH_MANIFEST].filter(here), item.patches, disk)
    return rows.receipt(writer.bytes_written, {}), findings, not lost


def _source_faults(job: Job, before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str]]:
    """Sources of a slice that was cut and that are gone, unusable, or no longer what was cut, and what is wrong."""
    cure = "restore it or build again"
    paths = {array: now[source_column(array)] for array in job.arrays}
    gone = [path for path in paths.values() if not os.path.lexists(job.data_root / path)]
    if gone:
        why = "is gone: it is not in the data root; restore it, or give the data root it is in (--data-root)"
        return [(path, f"{path} {why}") for path in gone]
    if now["status"] != STATUS_OK:
        return [(paths["image"], now["reason"])]
    return [
        (path, f"{path} is no longer what the patches were cut from; {cure}")
        for array, path in paths.items()
        if now[digest_column(array)] != before[digest_column(array)]
    ]


def _compare_table(table: str, built: pl.DataFrame, stored: pl.DataFrame, job: Job) -> Iterator[Finding]:
    """Each row of a table is there, and each cell of it is what the build writes."""
    key = _KEYS[table]
    for at, value in stored.join(built, on=key, how="anti").select("at", key).iter_rows():
        yield Finding("rows", table, at + 2, f"{key} is {value!r}, a build from these sources writes no such row")
    for value in built.join(stored, on=key, how="anti", maintain_order="left")[key]:
        yield Finding("rows", table, None, f"a build from these sources writes a row {value!r}, which is not there")
    both = stored.join(built, on=key, how="inner", suffix=" built", maintain_order="left")
    for name in (column for column in built.columns if column in stored.columns and column != key):
        seen, wanted = both[name], both[f"{name} built"]
        wrong = seen.ne_missing(wanted)
        if name in STATISTICS and table != SLICE_MANIFEST:
            wrong = wrong & pl.Series(wrong_statistic(name, both, wanted.to_numpy(), job.config.patch_size))
            if STATISTICS[name].since is not None and not STATISTICS[name].opt_in:
                wrong = wrong & seen.is_not_null()  # a set of an earlier version has none
        check = "statistics" if name in STATISTICS else "rows"
        for place in wrong.arg_true():
            message = f"{name} is {seen[place]!r}, a build from these sources writes {wanted[place]!r}"
            yield Finding(check, table, both["at"][place] + 2, message)


def _compare_pixels(job: Job, built: pl.DataFrame, stored: pl.DataFrame, disk: ComparingDisk) -> Iterator[Finding]:
    """What the disk found to be otherwise, with the patches that it concerns; missing files are found elsewhere."""
    rows = dict(stored.select("patch_id", "at").iter_rows())
    for full, number in dict.fromkeys(disk.differing):
        path = job.path_prefix + Path(full).relative_to(job.folder).as_posix()
        for array in job.arrays:
            here = built.filter(pl.col(path_column(array)) == path)
            if number is not None:
                here = here.filter(pl.col("patch_index") == number)
            for patch, row, col in here.select("patch_id", "row", "col").iter_rows():
                message = f"the patch of {array} is not what its source has at ({row}, {col})"
                at = rows.get(patch)
                yield Finding("source", PATCH_MANIFEST, None if at is None else at + 2, message)
