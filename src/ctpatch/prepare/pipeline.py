"""A preparation, from the source to the finished set: scan, pair, split, convert in parts, tables, meta."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ctpatch._version import __version__
from ctpatch.core.rounding import ROUNDING_STEPS
from ctpatch.errors import SliceError
from ctpatch.events import Notice, WorkAdvanced
from ctpatch.files.digest import array_digest, bytes_digest
from ctpatch.format.hu_values import HU_VALUES, hu_values_csv
from ctpatch.format.meta import now_utc
from ctpatch.format.prepared_meta import FORMAT_VERSION, PREPARE_META, PreparedMeta, SplitInfo
from ctpatch.format.source_manifest import split_manifest_csv
from ctpatch.format.splits import manifest_name
from ctpatch.prepare.doubts import Tallies, doubtful_notes, refuse_doubts, series_values
from ctpatch.prepare.folder import LEFT_OUT, PREPARED_SET
from ctpatch.prepare.part import PrepareJob, PreparePart, PrepareReceipt, probe_part, run_part, touched_since
from ctpatch.prepare.planning import PreparePlan
from ctpatch.prepare.privacy.calling import Calling
from ctpatch.prepare.readers import READERS, raw_format
from ctpatch.prepare.readers.base import LeftOut
from ctpatch.prepare.tally import Tally
from ctpatch.words import OnError
from ctpatch.work.folder import WorkFolder, differences
from ctpatch.work.product import Begun
from ctpatch.work.receipt import receipts_of
from ctpatch.work.run import Work

Outcome = Literal["prepared", "resumed", "complete"]
_LEFT_OUT_SCHEMA = {"file": pl.String, "array": pl.String, "kind": pl.String, "reason": pl.String}
_RESAMPLED_WITH = ("scipy",)
_NAMES_SHOWN = 5
SLICES_PER_PART = 32


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
        faults_short, left_out_short: the same in a line for each kind, with the count and the first three names; with
            `names_shown=False` without names.
    """

    folder: Path
    outcome: Outcome
    meta: PreparedMeta
    seconds: float
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    faults_short: list[str] = field(default_factory=list)
    left_out_short: list[str] = field(default_factory=list)

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
        self,
        plan: PreparePlan,
        folder: Path,
        on_error: OnError,
        calling: Calling,
        begins: Callable[[], None],
        *,
        strict: bool = False,
    ) -> None:
        self.folder = folder
        self.on_error = on_error
        names = {"splits": list(plan.tasks), "arrays": [source.array for source in plan.arrays]}
        self.begun = Begun(plan.options, plan.digest, names)
        kinds = [source.reader.name for source in plan.arrays]
        read_with = [name for kind in kinds if kind in READERS for name in raw_format(kind).packages]
        resampled_with = _RESAMPLED_WITH if plan.geometry.spacing_mm else ()
        self.software = list(dict.fromkeys([*read_with, *resampled_with]))
        self.unusable: list[LeftOut] = []
        self._plan = plan
        self._strict = strict
        self._calling = calling
        self._begins = begins
        self._said_clipped = False

    @property
    def num_tasks(self) -> int:
        """The slices of all splits."""
        return sum(map(len, self._plan.tasks.values()))

    def parts(self) -> Iterator[PreparePart]:
        """Runs of slices, none across two splits."""
        number = 0
        for tasks in self._plan.tasks.values():
            for start in range(0, len(tasks), SLICES_PER_PART):
                yield PreparePart(number, tuple(tasks[start : start + SLICES_PER_PART]))
                number += 1

    def shared(self, folder: WorkFolder[PreparedMeta]) -> PrepareJob:
        """The job."""
        return PrepareJob(
            folder=folder.folder.resolve(),
            state=folder.state.resolve(),
            path_prefix=f"prepared/{self._plan.dataset}/",
            arrays=self._plan.arrays,
            geometry=self._plan.geometry,
            plan_digest=self._plan.digest,
            on_error=self.on_error,
        )

    def starts(self) -> None:
        """Keep what must not be lost from here on: the key of the pseudonyms."""
        self._begins()

    def check_finished(self, folder: WorkFolder[PreparedMeta], meta: PreparedMeta) -> None:
        """Refuse other options, slices that are others, and files whose pixels are."""
        if meta.plan_digest != self._plan.digest:
            folder.refuse_changed(differences(meta.options, self.begun.options) or [self.others])
        folder.refuse_changed(_changed_sources(folder.folder, self._plan))

    def notices(self, receipt: PrepareReceipt) -> Iterable[Notice]:
        """Values that were clipped, once."""
        if receipt.clipped and not self._said_clipped:
            self._said_clipped = True
            yield Notice(
                "clipped",
                f"there are slices with values outside 0 to 1 by no more than {ROUNDING_STEPS} steps of float32; "
                "ctpatch takes this for rounding and clips them (said once)",
            )

    def advanced(self, receipt: PrepareReceipt) -> WorkAdvanced:
        """A part's slices."""
        return WorkAdvanced(self.task, len(receipt.rows) + len(receipt.left_out), reused=receipt.reused)

    def span(self, part: PreparePart) -> str:
        """A part; names of files of the source are left out."""
        return f"part {part.number}"

    def to_see(self) -> list[Path]:
        """One raw file of each array."""
        first = next(self._plan.all_tasks())
        return [source.folder / raw.file for source, raw in zip(self._plan.arrays, first.slices, strict=True)]

    def finish(self, folder: WorkFolder[PreparedMeta]) -> PreparedMeta:
        """Publish the tables, then the meta."""
        plan = self._plan
        files = {task.file: task.slices[0].file for task in plan.all_tasks()}
        left_out = list(plan.left_out)
        rows: dict[str, list[dict[str, Any]]] = {split: [] for split in plan.tasks}
        tallies: Tallies = {}
        for part, receipt in receipts_of(folder.state, self.parts(), PrepareReceipt):
            rows[part.tasks[0].split].extend(receipt.rows)
            for array, series, tally in receipt.tallies:
                tallies.setdefault((series, array), Tally()).add(Tally.from_plain(tally))
            for file, reason in receipt.left_out:
                left_out.append((file, "image", "unusable", reason))
                self.unusable.append(LeftOut(files[file], "unusable", reason.removeprefix("the file: "), fault=True))
        notes = [*plan.notes, *doubtful_notes(tallies)]
        if self._strict:
            refuse_doubts(notes)
        splits = {split: self._publish_manifest(folder, split, found) for split, found in rows.items() if found}
        if not splits:
            faults = "; ".join(map(self._calling.left_out, self.unusable[:_NAMES_SHOWN]))
            raise SliceError(f"none of the {self.num_tasks} slices could be used: {faults}")
        digests = Counter(row["source_digest"] for found in rows.values() for row in found)
        frame = pl.DataFrame(left_out, _LEFT_OUT_SCHEMA, orient="row")
        content = frame.sort(frame.columns).write_csv().encode()
        folder.put(LEFT_OUT, content)
        values = series_values(tallies)
        if values:
            folder.put(HU_VALUES, hu_values_csv(values))
        meta = PreparedMeta(
            format_version=FORMAT_VERSION,
            ctpatch_version=__version__,
            created=now_utc(),
            dataset=plan.dataset,
            source=plan.options["source"],
            options=plan.options,
            mapping=plan.options["mapping"],
            arrays={source.array: source.dtype for source in plan.arrays},
            splits=splits,
            grouped_by=plan.grouped_by(),
            key_id=plan.options["key_id"],
            num_left_out=dict(sorted(Counter(frame["kind"]).items())),
            left_out_digest=bytes_digest(content),
            notes=notes,
            num_identical=sum(count for count in digests.values() if count > 1),
            plan_digest=plan.digest,
        )
        meta = meta.model_validate_json(meta.to_bytes())
        folder.complete(meta.to_bytes())
        return meta

    def _publish_manifest(
        self, folder: WorkFolder[PreparedMeta], split: str, rows: Sequence[dict[str, Any]]
    ) -> SplitInfo:
        arrays = [source.array for source in self._plan.arrays[1:]]
        content = split_manifest_csv(rows, arrays, origins=True, groups="group" in rows[0])
        name = f"{split}/{manifest_name(split)}"
        folder.put(name, content)
        return SplitInfo(
            manifest=name,
            manifest_digest=bytes_digest(content),
            num_slices=len(rows),
            num_patients=len({row["patient_id"] for row in rows}),
        )


def _changed_sources(folder: Path, plan: PreparePlan) -> list[str]:
    """Sources whose pixels are no longer those on record; only files touched since are read."""
    since = (folder / PREPARE_META).stat().st_mtime_ns
    columns = ["source_digest", *(f"{source.array}_source_digest" for source in plan.arrays[1:])]
    for split, tasks in plan.tasks.items():
        touched = [task for task in tasks if touched_since(plan.arrays, task, since)]
        if not touched:
            continue
        try:
            # The bytes: polars opens no path that is no UTF-8.
            frame = pl.read_csv((folder / split / manifest_name(split)).read_bytes(), infer_schema=False)
            recorded = dict(zip(frame["index"], frame.select(columns).iter_rows(), strict=True))
        except (OSError, pl.exceptions.PolarsError) as error:
            return [f"{manifest_name(split)} cannot be read ({type(error).__name__})"]
        for task in touched:
            for place, source in enumerate(plan.arrays):
                raw = next(iter(source.reader.read(source.root, [task.slices[place]])))
                if array_digest(np.asarray(raw)) != recorded.get(str(task.index), [None] * len(columns))[place]:
                    return [f"{task.slices[place].file} has changed since it was prepared"]
    return []
