"""One look at every pixel: digests, keys and block means of all slices, read by as many processes as are wanted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.base import AuditedSplit, Reader, Run, Seen, digest_column
from ctpatch.checking.audit.fingerprint import FINE, Vectors, block_means, is_constant, pixel_key, vectors_of
from ctpatch.checking.audit.report import Fault
from ctpatch.events import Listener, WorkAdvanced, WorkFinished, WorkStarted
from ctpatch.files.digest import array_digest
from ctpatch.work.executors.base import Done, Failed
from ctpatch.work.executors.choose import local_executor

_RUN_SLICES = 64
_FLAT = 1e-4
"""Block means further apart than this share of the largest are no constant slice's: its pixels need no second look."""


@dataclass(frozen=True, slots=True)
class LookTask:
    """What all runs share: for each split its reader and the arrays to look at."""

    readers: tuple[Reader, ...]
    arrays: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Looked:
    """What was seen of a run's slices.

    Attributes:
        vectors: of `image`.
        digests, keys, constant: for each array, of each slice; None where it could not be seen whole.
        patches: for each array, number of the row (within the run), digest, and whether it is constant.
        faults: place of the slice and what is wrong with it; of a patch, its row instead.
        unseen: place of the slice and why it has no pixels.
        pasted: how many slices were put together from patches.
    """

    vectors: Vectors
    digests: dict[str, list[str | None]] = field(default_factory=dict)
    keys: dict[str, list[str | None]] = field(default_factory=dict)
    constant: dict[str, list[bool | None]] = field(default_factory=dict)
    patches: dict[str, list[tuple[int, str | None, bool | None]]] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)
    patch_faults: list[tuple[int, str]] = field(default_factory=list)
    unseen: list[tuple[int, str, str]] = field(default_factory=list)
    pasted: int = 0


def look_at(task: LookTask, run: Run) -> Looked:
    """Look at the slices of a run, and at their patches where no digest of them is on record."""
    reader = task.readers[run.split].begin(run)
    count = run.slices.height
    blocks = np.full((count, FINE, FINE), np.nan, np.float32)
    partly = np.zeros(count, dtype=bool)
    looked = Looked(Vectors.empty(0))
    for array in task.arrays[run.split]:
        digests: list[str | None] = [None] * count
        keys: list[str | None] = [None] * count
        constant: list[bool | None] = [None] * count
        patches: list[tuple[int, str | None, bool | None]] = []
        for place in range(count):
            seen = reader.image(place, array)
            if seen.fault is not None:
                looked.faults.append((place, f"{array}: {seen.fault}"))
            if seen.why is not None:
                looked.unseen.append((place, array, seen.why))
            if seen.image is not None:
                means = block_means(seen.image, seen.covered)
                constant[place] = _constant(seen, means)
                if seen.whole:
                    digests[place], keys[place] = array_digest(seen.image), pixel_key(seen.image)
                if array == "image":
                    blocks[place] = means
                    partly[place] = seen.covered is not None
                    looked.pasted += not seen.whole
            if seen.fault is None or seen.patches_too:
                for each in reader.patches(place, array, seen.image):
                    if each.fault is not None:
                        looked.patch_faults.append((each.row, f"{array}: {each.fault}"))
                    patches.append((each.row, each.digest, each.constant))
        looked.digests[array], looked.keys[array], looked.constant[array] = digests, keys, constant
        looked.patches[array] = patches
    looked.vectors = vectors_of(blocks, partly=partly)
    return looked


def _constant(seen: Seen, means: NDArray[np.float32]) -> bool:
    """Whether the known pixels are all equal; NaN counts as equal to NaN."""
    assert seen.image is not None
    finite = means[np.isfinite(means)]
    if finite.size and np.ptp(finite) > _FLAT * np.abs(finite).max():
        return False
    known = seen.image if seen.covered is None else seen.image[seen.covered][np.newaxis]
    return is_constant(known)


@dataclass(slots=True)
class SeenSplit:
    """A split after all its pixels were seen.

    Attributes:
        split: what it is.
        slices: a row for each slice and array: `at` (Int64), `array`, `digest`, `key` (String or null), `constant`
            (Boolean); constant ones are left out of all comparisons.
        patches: a row for each patch and array: `number` (Int64, of the row in `split.patches`), `at`, `array`,
            `digest` (String or null), `constant` (Boolean or null).
        vectors: of `image`.
        from_patches: slices that were put together from patches.
    """

    split: AuditedSplit
    slices: pl.DataFrame
    patches: pl.DataFrame
    vectors: Vectors
    from_patches: int


@dataclass(slots=True)
class _Gathered:
    """Everything that was seen of a split, as it comes."""

    split: AuditedSplit
    vectors: Vectors
    columns: dict[str, dict[str, list[object]]]
    patches: list[pl.DataFrame] = field(default_factory=list)
    unseen: dict[tuple[str, str], int] = field(default_factory=dict)
    pasted: int = 0

    @classmethod
    def begin(cls, split: AuditedSplit) -> "_Gathered":
        count = split.slices.height
        columns: dict[str, dict[str, list[object]]] = {
            array: {"digest": [None] * count, "key": [None] * count, "constant": [None] * count}
            for array in split.arrays
        }
        return cls(split, Vectors.empty(count), columns)

    def add(self, run: Run, looked: Looked) -> None:
        inside = slice(run.start, run.start + run.slices.height)
        self.vectors.coarse[inside] = looked.vectors.coarse
        self.vectors.detail[inside] = looked.vectors.detail
        self.vectors.usable[inside] = looked.vectors.usable
        self.pasted += looked.pasted
        for array, columns in self.columns.items():
            columns["digest"][inside] = looked.digests[array]
            columns["key"][inside] = looked.keys[array]
            columns["constant"][inside] = looked.constant[array]
            if looked.patches[array]:
                schema = {"number": pl.Int64, "digest": pl.String, "constant": pl.Boolean}
                rows = pl.DataFrame(looked.patches[array], schema=schema, orient="row")
                rows = rows.with_columns(pl.col("number") + run.first_patch, pl.lit(array).alias("array"))
                self.patches.append(rows)
        for place, message in looked.faults:
            self.split.faults.append(Fault(self.split.slice_ref(run.start + place), message))
        for row, message in looked.patch_faults:
            self.split.faults.append(Fault(self.split.patch_ref(run.first_patch + row), message))
        for _place, array, why in looked.unseen:
            self.unseen[array, why] = self.unseen.get((array, why), 0) + 1

    def lose(self, run: Run) -> None:
        first = self.split.slice_ref(run.start)
        self.split.faults.append(Fault(first, "the process that read from here on was ended; these were not checked"))

    def finish(self) -> SeenSplit:
        split = self.split
        slices = []
        for array in split.arrays:
            recorded = split.slices[digest_column(array)] if split.digests_on_record else None
            frame = pl.DataFrame(
                {"at": range(split.slices.height), "array": [array] * split.slices.height, **self.columns[array]},
                schema={
                    "at": pl.Int64, "array": pl.String, "digest": pl.String, "key": pl.String, "constant": pl.Boolean,
                },
            )  # fmt: skip
            if recorded is not None:
                frame = frame.with_columns(recorded.alias("digest"))
            if array == "image" and split.kind == "patches":
                on_record = (split.slices["min"] == split.slices["max"]).alias("on_record")
                frame = frame.with_columns(pl.col("constant").fill_null(on_record))
            slices.append(frame.with_columns(pl.col("constant").fill_null(value=False)))
        for (array, why), count in sorted(self.unseen.items()):
            split.add_not_checked(f"near-duplicates and mirrored copies of {array}", why, count)
        if self.pasted:
            split.add_not_checked(
                "mirrored copies",
                "the source slices are not there, and their patches do not cover them; near-duplicates are looked for "
                "in what they cover",
                self.pasted,
            )
        return SeenSplit(split, pl.concat(slices), self._patches(), self.vectors, self.pasted)

    def _patches(self) -> pl.DataFrame:
        schema = {"number": pl.Int64, "at": pl.Int64, "array": pl.String, "digest": pl.String, "constant": pl.Boolean}
        frame = self.split.patches
        if frame is None:
            return pl.DataFrame(schema=schema)
        numbered = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("number"))
        every = [
            numbered.select(
                "number", "at", pl.lit(array).alias("array"), pl.col(digest_column(array)).alias("digest"),
                (pl.col("constant") if array == "image" else pl.lit(None, pl.Boolean)).alias("constant"),
            )
            for array in self.split.arrays
        ]  # fmt: skip
        known = pl.concat(every)
        if not self.patches:
            return known
        computed = pl.concat(self.patches)
        both = known.join(computed, on=["number", "array"], how="left", suffix="_seen", maintain_order="left")
        return both.select(
            "number", "at", "array", pl.coalesce("digest", "digest_seen").alias("digest"),
            pl.coalesce("constant", "constant_seen").alias("constant"),
        )  # fmt: skip


def look_at_all(splits: Sequence[AuditedSplit], workers: int, listener: Listener) -> list[SeenSplit]:
    """Look at every slice of all splits."""
    gathered = [_Gathered.begin(split) for split in splits]
    task = LookTask(tuple(split.reader for split in splits), tuple(split.arrays for split in splits))
    name = "read slices"
    listener(WorkStarted(name, sum(split.slices.height for split in splits), "slices"))
    try:
        for outcome in local_executor(workers).run(look_at, task, _runs(splits)):
            if isinstance(outcome, Done):
                gathered[outcome.item.split].add(outcome.item, outcome.result)
            elif isinstance(outcome, Failed):
                raise outcome.error
            else:
                gathered[outcome.item.split].lose(outcome.item)
            listener(WorkAdvanced(name, outcome.item.slices.height))
    finally:
        listener(WorkFinished(name))
    for split in splits:
        split.faults.sort(key=lambda fault: (fault.row.row, fault.message))
    return [each.finish() for each in gathered]


def _runs(splits: Sequence[AuditedSplit]) -> Iterator[Run]:
    for number, split in enumerate(splits):
        yield from split.runs(number, _RUN_SLICES)
