"""One look at every pixel: digests, keys and block means of all slices, read by as many processes as are wanted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.base import AuditedSplit, Run, Seen, SplitPixels, known_digest
from ctpatch.checking.audit.fingerprint import FINE, Vectors, block_means, is_constant, pixel_key, vectors_of
from ctpatch.checking.audit.report import Fault
from ctpatch.events import Listener, WorkAdvanced, working
from ctpatch.files.digest import array_digest
from ctpatch.work.executors.base import Done, Failed
from ctpatch.work.executors.choose import local_executor

SLICES = {"at": pl.Int64, "array": pl.String, "digest": pl.String, "key": pl.String, "constant": pl.Boolean}
PATCHES = {"number": pl.Int64, "array": pl.String, "digest": pl.String, "constant": pl.Boolean}
_RUN_SLICES = 64
_FLAT = 1e-4
"""Block means further apart than this share of the largest are no constant slice's: its pixels need no second look."""


@dataclass(slots=True)
class Looked:
    """What was seen of a run.

    Attributes:
        vectors: of `image`, for each slice.
        slices, patches: rows of `SLICES` and `PATCHES`; digest and key are None of what could not be seen whole.
        faults, patch_faults: number of the slice or patch, and what is wrong with it.
        unseen: how many slices have no pixels, for each array and reason.
        pasted: how many slices were put together from patches.
    """

    vectors: Vectors = field(default_factory=lambda: Vectors.empty(0))
    slices: list[tuple[int, str, str | None, str | None, bool | None]] = field(default_factory=list)
    patches: list[tuple[int, str, str | None, bool | None]] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    patch_faults: list[tuple[int, str]] = field(default_factory=list)
    unseen: Counter[tuple[str, str]] = field(default_factory=Counter)
    pasted: int = 0


def look_at(splits: tuple[tuple[SplitPixels, tuple[str, ...]], ...], run: Run) -> Looked:
    """Look at the slices of a run of a split (its pixels, its arrays), and at patches without a digest on record."""
    begin, arrays = splits[run.split]
    pixels = begin(run)
    count = run.slices.height
    blocks = np.full((count, FINE, FINE), np.nan, np.float32)
    partly = np.zeros(count, dtype=bool)
    looked = Looked()
    for array in arrays:
        for place in range(count):
            seen = pixels.image(place, array)
            digest = key = constant = None
            if seen.fault is not None:
                looked.faults.append((run.start + place, f"{array}: {seen.fault}"))
            if seen.why is not None:
                looked.unseen[array, seen.why] += 1
            if seen.image is not None:
                means = block_means(seen.image, seen.covered)
                constant = _constant(seen, means)
                if seen.whole:
                    digest, key = array_digest(seen.image), pixel_key(seen.image)
                if array == "image":
                    blocks[place] = means
                    partly[place] = seen.covered is not None
                    looked.pasted += not seen.whole
            looked.slices.append((run.start + place, array, digest, key, constant))
            for row, digest, constant, fault in pixels.patches(place, array, seen.image):
                looked.patches.append((run.first_patch + row, array, digest, constant))
                if fault is not None:
                    looked.patch_faults.append((run.first_patch + row, f"{array}: {fault}"))
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
    """A split and what is seen of its pixels; complete when all runs have been added and it is finished.

    Attributes:
        split: what it is.
        vectors: of `image`.
        slices: a row for each slice and array: `at` (Int64), `array`, `digest`, `key` (String or null), `constant`
            (Boolean); constant ones are left out of all comparisons.
        patches: a row for each patch and array: `number` (Int64, of the row in `split.patches`), `at`, `array`,
            `digest` (String or null), `constant` (Boolean or null).
        unseen: as in `Looked`.
        from_patches: slices that were put together from patches.
    """

    split: AuditedSplit
    vectors: Vectors
    slices: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SLICES))
    patches: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PATCHES))
    unseen: Counter[tuple[str, str]] = field(default_factory=Counter)
    from_patches: int = 0

    def add(self, run: Run, looked: Looked) -> None:
        """Note what was seen of a run."""
        inside = slice(run.start, run.start + run.slices.height)
        self.vectors.coarse[inside] = looked.vectors.coarse
        self.vectors.detail[inside] = looked.vectors.detail
        self.vectors.usable[inside] = looked.vectors.usable
        self.from_patches += looked.pasted
        self.unseen += looked.unseen
        self.slices.vstack(pl.DataFrame(looked.slices, schema=SLICES, orient="row"), in_place=True)
        self.patches.vstack(pl.DataFrame(looked.patches, schema=PATCHES, orient="row"), in_place=True)
        self.split.faults += [Fault(self.split.slice_ref(at), message) for at, message in looked.faults]
        self.split.faults += [Fault(self.split.patch_ref(number), message) for number, message in looked.patch_faults]

    def finish(self) -> None:
        """Join what was seen with what is on record, and note what was not to be seen."""
        split = self.split
        split.faults.sort(key=lambda fault: (fault.row.row, fault.message))
        for (array, why), count in sorted(self.unseen.items()):
            split.add_not_checked(f"near-duplicates and mirrored copies of {array}", why, count)
        if self.from_patches:
            split.add_not_checked(
                "mirrored copies",
                "the source slices are not there, and their patches do not cover them; near-duplicates are looked for "
                "in what they cover",
                self.from_patches,
            )
        at, number = (pl.int_range(pl.len(), dtype=pl.Int64).alias(name) for name in ("at", "number"))
        self.slices = self._known(split.slices, self.slices, at).with_columns(pl.col("constant").fill_null(value=False))
        if split.patches is None:
            self.patches = pl.DataFrame(schema=PATCHES | {"at": pl.Int64})
        else:
            self.patches = self._known(split.patches, self.patches, number, "at")

    def _known(self, frame: pl.DataFrame, seen: pl.DataFrame, number: pl.Expr, *more: str) -> pl.DataFrame:
        """A row for each row of a table and each array: what is on record, and what was seen of it."""
        known = pl.concat(
            frame.select(
                number,
                *more,
                pl.lit(array).alias("array"),
                pl.col(known_digest(array)).alias("digest"),
                (pl.col("constant") if array == "image" else pl.lit(None, pl.Boolean)).alias("constant"),
            )
            for array in self.split.arrays
        )
        keys = [known.columns[0], "array"]
        both = known.join(seen, on=keys, how="left", suffix="_seen", maintain_order="left")
        return both.with_columns(
            pl.coalesce("digest", "digest_seen"), pl.coalesce("constant_seen", "constant").alias("constant")
        ).drop("digest_seen", "constant_seen")


def look_at_all(splits: Sequence[AuditedSplit], workers: int, listener: Listener) -> list[SeenSplit]:
    """Look at every slice of all splits."""
    found = [SeenSplit(split, Vectors.empty(split.slices.height)) for split in splits]
    runs = (run for number, split in enumerate(splits) for run in split.runs(number, _RUN_SLICES))
    task = tuple((split.pixels, split.arrays) for split in splits)
    name = "read slices"
    with working(listener, name, sum(split.slices.height for split in splits), "slices"):
        for outcome in local_executor(workers).run(look_at, task, runs):
            if isinstance(outcome, Done):
                found[outcome.item.split].add(outcome.item, outcome.result)
            elif isinstance(outcome, Failed):
                raise outcome.error
            else:
                split, message = splits[outcome.item.split], "the process that read from here on was ended"
                split.faults.append(Fault(split.slice_ref(outcome.item.start), f"{message}; these were not checked"))
            listener(WorkAdvanced(name, outcome.item.slices.height))
    for each in found:
        each.finish()
    return found
