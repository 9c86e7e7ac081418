"""The checks: on two splits, and within one."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.fingerprint import SYMMETRIES, is_constant, symmetry_between
from ctpatch.checking.audit.look import SeenSplit
from ctpatch.checking.audit.near import near_matches
from ctpatch.checking.audit.report import MAX_KEPT, Leak, SplitSummary
from ctpatch.checking.findings import counted
from ctpatch.errors import CtPatchError
from ctpatch.format.ids import id_key

_MOST_CANDIDATES = 8
"""Different slices of one key that are compared with a slice before it is let go."""


def shared_patients(first: SeenSplit, second: SeenSplit) -> Iterator[Leak]:
    """Patients of both splits, in the order of the first."""
    mine, theirs = (_firsts(_numbered(seen, "patient_id"), "patient_id") for seen in (first, second))
    for row in mine.join(theirs, on="patient_id", how="inner", maintain_order="left").iter_rows(named=True):
        refs = first.split.slice_ref(row["at"]), second.split.slice_ref(row["at_right"])
        message = (
            f"patient {row['patient_id']!r} has {counted(row['count'], 'slice', 'slices')} in {first.split.name} and "
            f"{counted(row['count_right'], 'slice', 'slices')} in {second.split.name}"
        )
        yield Leak("patient", *refs, message, others=row["count"] - 1)


def patients_but_for_spelling(first: SeenSplit, second: SeenSplit) -> Iterator[Leak]:
    """Patients of both splits whose ids are not the same text, and the same but for spelling; see `id_key`."""
    mine, theirs = (_spelled(seen) for seen in (first, second))
    both = mine.join(theirs, on="key", how="inner", maintain_order="left_right")
    for row in both.filter(pl.col("patient_id") != pl.col("patient_id_right")).iter_rows(named=True):
        refs = first.split.slice_ref(row["at"]), second.split.slice_ref(row["at_right"])
        message = (
            f"patient {row['patient_id']!r} ({counted(row['count'], 'slice', 'slices')} in {first.split.name}) and "
            f"patient {row['patient_id_right']!r} ({counted(row['count_right'], 'slice', 'slices')} in "
            f"{second.split.name}) are the same but for spelling; write one patient's id one way"
        )
        yield Leak("patient-spelling", *refs, message, others=row["count"] - 1)


def _spelled(seen: SeenSplit) -> pl.DataFrame:
    """The first slice of each patient, with what its id comes to as `key`."""
    firsts = _firsts(_numbered(seen, "patient_id"), "patient_id")
    keys = pl.Series("key", [id_key(text) for text in firsts["patient_id"]], dtype=pl.String)
    return firsts.with_columns(keys)


def _numbered(seen: SeenSplit, column: str) -> pl.DataFrame:
    """The slices that have something in a column, with their numbers as `at`."""
    numbered = seen.split.slices.select(column, pl.int_range(pl.len(), dtype=pl.Int64).alias("at"))
    return numbered.drop_nulls(column)


def _firsts(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """The first row for each value of a column, and as `count` how many rows have it."""
    return frame.group_by(key, maintain_order=True).agg(pl.all().first(), pl.len().cast(pl.Int64).alias("count"))


def same_sources(first: SeenSplit, second: SeenSplit) -> Iterator[Leak]:
    """Slices whose `source_digest` is the same: made from one file, though perhaps by another window."""
    if not all("source_digest" in seen.split.slices.columns for seen in (first, second)):
        return
    mine, theirs = _firsts(_numbered(first, "source_digest"), "source_digest"), _numbered(second, "source_digest")
    for row in theirs.join(mine, on="source_digest", how="inner", maintain_order="left").iter_rows(named=True):
        refs = first.split.slice_ref(row["at_right"]), second.split.slice_ref(row["at"])
        message = f"both were made from the source with the digest {row['source_digest'][:64]}"
        yield Leak("same-source", *refs, message, others=row["count"] - 1)


def identical_slices(first: SeenSplit, second: SeenSplit) -> Iterator[tuple[int, Leak]]:
    """Slices of the second split with the digest of one of the first; with the second's number."""
    mine = _firsts(_varied(first.slices, "digest"), "digest")
    theirs = _varied(second.slices, "digest").sort("at", maintain_order=True)
    for row in theirs.join(mine, on="digest", how="inner", maintain_order="left").iter_rows(named=True):
        refs = first.split.slice_ref(row["at_right"]), second.split.slice_ref(row["at"])
        yield row["at"], Leak("identical-slice", *refs, _same_pixels(row), others=row["count"] - 1)


def _same_pixels(row: dict[str, Any]) -> str:
    return f"the same pixels{_of_arrays(row['array_right'], row['array'])} (digest {row['digest']})"


def _of_arrays(first: str, second: str) -> str:
    if first == second:
        return "" if first == "image" else f" of {first}"
    return f": {first} of the first is {second} of the second"


def mirrored_slices(first: SeenSplit, second: SeenSplit) -> Iterator[tuple[int, Leak]]:
    """Slices of the second split that are one of the first mirrored or turned, to the bit; with the second's number."""
    theirs = _varied(second.slices, "key").sort("at", maintain_order=True)
    groups = _varied(first.slices, "key").unique(["key", "digest"], keep="first", maintain_order=True)
    groups = groups.group_by("key", maintain_order=True).agg(pl.col("at", "array", "digest"))
    for row in theirs.join(groups, on="key", how="inner", maintain_order="left").iter_rows(named=True):
        if row["digest"] in row["digest_right"]:
            # An identical slice, and told as such.
            continue
        for at, array in islice(zip(row["at_right"], row["array_right"], strict=True), _MOST_CANDIDATES):
            symmetry = _symmetry(first, at, array, second, row["at"], row["array"])
            if symmetry:
                refs, how = (first.split.slice_ref(at), second.split.slice_ref(row["at"])), SYMMETRIES[symmetry]
                message = f"the same pixels{_of_arrays(array, row['array'])}, {how}"
                yield row["at"], Leak("mirrored-slice", *refs, message, symmetry=how)
                break


def _varied(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """Slices or patches that are not constant, as far as is known, and have something in a column."""
    return frame.filter(~pl.col("constant").fill_null(value=False)).drop_nulls(column)


def _symmetry(first: SeenSplit, at: int, array: str, second: SeenSplit, other: int, other_array: str) -> int | None:
    image, wanted = first.split.whole_slice(at, array), second.split.whole_slice(other, other_array)
    return None if image is None or wanted is None else symmetry_between(wanted, image)


def near_slices(first: SeenSplit, second: SeenSplit, **options: Any) -> tuple[list[Leak], int]:
    """Near-duplicates, and the number of pairs that are alike by the correlation alone; see `near_matches`."""
    matches, alike = near_matches(first.vectors, second.vectors, **options)
    leaks = []
    for at, other, symmetry, correlation, detail, others in matches:
        how = SYMMETRIES[symmetry] if symmetry else None
        refs = first.split.slice_ref(other), second.split.slice_ref(at)
        message = f"correlation {correlation:.4f}, detail {detail:.3f}{f', {how}' if how else ''}"
        leaks.append(Leak("near-slice", *refs, message, round(correlation, 4), round(detail, 3), how, others))
    return leaks, alike


def identical_patches(first: SeenSplit, second: SeenSplit, explained: NDArray[np.bool_]) -> tuple[list[Leak], int, int]:
    """Patches of the second split with the digest of one of the first.

    `explained` are the slices of the second split that are findings themselves. Returns the leaks, at most `MAX_KEPT`;
    how many more there are; and how many the slices explain.
    """
    mine = _firsts(_varied(first.patches, "digest"), "digest")
    theirs = _varied(second.patches, "digest").sort("number", maintain_order=True)
    found = theirs.join(mine, on="digest", how="inner", maintain_order="left")
    slices = pl.Series("explained", explained).gather(found["at"].cast(pl.UInt32))
    implied = int(slices.sum())
    leaks: list[Leak] = []
    more = 0
    flat: dict[str, bool] = {}
    for row in found.filter(~slices).iter_rows(named=True):
        if _is_flat(second, row, flat):
            continue
        if len(leaks) >= MAX_KEPT:
            more += 1
            continue
        refs = first.split.patch_ref(row["number_right"]), second.split.patch_ref(row["number"])
        leaks.append(Leak("identical-patch", *refs, _same_pixels(row), others=row["count"] - 1))
    return leaks, more, implied


def _is_flat(seen: SeenSplit, row: dict[str, Any], known: dict[str, bool]) -> bool:
    """Whether a patch is constant, where its table does not say so: it is read, once for each digest."""
    rows, ps = seen.split.patches, seen.split.ps
    if row["constant"] is not None or row["constant_right"] is not None or rows is None or ps is None:
        return False
    digest, number, array = row["digest"], row["number"], row["array"]
    if digest not in known:
        patch = np.empty((1, *ps.patch_size), np.dtype(ps.meta.arrays[array].dtype))
        try:
            ps.reader_for(rows[number : number + 1], array).read_into(np.array([0]), patch)
            known[digest] = is_constant(patch[0])
        except CtPatchError:
            known[digest] = False
    return known[digest]


def summary_of(seen: SeenSplit) -> SplitSummary:
    """What a split holds, with its own duplicates."""
    split = seen.split
    images, patches = (frame.filter(pl.col("array") == "image") for frame in (seen.slices, seen.patches))
    digests, varied = _varied(images, "digest"), _varied(patches, "digest")
    patients = split.slices["patient_id"].drop_nulls()
    return SplitSummary(
        name=split.name,
        folder=split.folder,
        kind=split.kind,
        layout=split.ps.meta.layout if split.ps else None,
        arrays=split.arrays,
        slices=split.slices.height if split.slice_level else 0,
        patches=None if split.patches is None else split.patches.height,
        patients=patients.n_unique() if len(patients) else None,
        constant_slices=int(images["constant"].sum()),
        constant_patches=int(patches["constant"].sum() or 0),
        duplicate_slices=digests.height - digests["digest"].n_unique(),
        mirrored_slices=_mirrored_within(seen, _varied(images, "key")),
        duplicate_patches=varied.height - varied["digest"].n_unique(),
        from_patches=seen.from_patches,
    )


def _mirrored_within(seen: SeenSplit, images: pl.DataFrame) -> int:
    """Slices that repeat an earlier one of the split mirrored or turned, to the bit."""
    distinct = images.unique("digest", keep="first", maintain_order=True)
    repeated = distinct.filter(pl.col("key").is_duplicated())
    count = 0
    for group in repeated.partition_by("key", maintain_order=True) if repeated.height else []:
        first, *later = group["at"].to_list()
        count += sum(_symmetry(seen, first, "image", seen, at, "image") is not None for at in later)
    return count
