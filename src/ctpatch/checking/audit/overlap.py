"""Patches of one slice in two splits whose windows overlap, though no window of the one is a window of the other.

Two rows are about one slice where their paths lead to the same file. Where that file is not at hand, rows that name
the same path, or at least the same number of a slice, are about one slice if pixels of overlapping windows agree.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.checking.audit.base import AuditedSplit
from ctpatch.checking.audit.fingerprint import is_constant
from ctpatch.checking.audit.look import SeenSplit
from ctpatch.checking.audit.report import Leak, RowRef
from ctpatch.checking.findings import counted
from ctpatch.files.paths import PathError, plain_path

_MOST_COMPARED = 8
"""Pairs of overlapping windows whose pixels are compared before two slices are let go: the first may be air."""


@dataclass(slots=True)
class _Windows:
    """The windows of one slice in a split: numbers of its patches, and where they begin and end, each `(n,)`.

    A slice without patches is one window that ends nowhere; its number is -1.
    """

    split: AuditedSplit
    at: int
    numbers: NDArray[np.int64]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    bottoms: NDArray[np.int64]
    rights: NDArray[np.int64]

    def ref(self, place: int) -> RowRef:
        """The row of a window: that of its patch, or of the whole slice."""
        number = int(self.numbers[place])
        return self.split.slice_ref(self.at) if number < 0 else self.split.patch_ref(number)

    def pixels(self, place: int) -> NDArray[Any] | None:
        """The pixels of a window, where they can be read."""
        number = int(self.numbers[place])
        return self.split.whole_slice(self.at, "image") if number < 0 else self.split.patch_pixels(self.at, number)

    def origin(self, place: int) -> tuple[int, int]:
        """Where a window begins."""
        return int(self.rows[place]), int(self.cols[place])


def overlapping_patches(first: SeenSplit, second: SeenSplit, explained: NDArray[np.bool_]) -> Iterator[Leak]:
    """Slices of the second split with patches that overlap patches of the same slice in the first, one leak each.

    `explained` are the slices of the second split that are findings themselves: all their patches are. What cannot be
    told is noted as not checked.
    """
    if first.split.patches is None and second.split.patches is None:
        return
    unlike = 0
    for at, other, sure in _same_slices(first.split, second.split):
        if explained[other]:
            continue
        mine, theirs = _windows(first.split, at), _windows(second.split, other)
        pairs = _overlapping(mine, theirs)
        if not pairs:
            continue
        if not sure:
            agree = _pixels_agree(mine, theirs, pairs)
            unlike += agree is False and first.split.slices["path"][at] is not None
            if not agree:
                continue
        yield _leak(mine, theirs, pairs)
    if unlike:
        second.split.add_not_checked(
            f"patches that overlap those of {first.split.name}",
            "the paths of their slices are the same in both, the slices are not there, and the pixels differ, so they "
            "are taken for other slices",
            unlike,
        )


def _leak(mine: _Windows, theirs: _Windows, pairs: list[tuple[int, int]]) -> Leak:
    place, other = pairs[0]
    named = f"{counted(len(pairs), 'window', 'windows')} of a slice in {theirs.split.name}"
    if mine.numbers[place] < 0:
        message = f"{named} from a slice that is whole in {mine.split.name}"
    elif theirs.numbers[other] < 0:
        message = f"a slice that is whole in {theirs.split.name} has windows in {mine.split.name}"
    else:
        message = (
            f"{named} with pixels of windows of the same slice in {mine.split.name}: "
            f"that at {theirs.origin(other)} overlaps that at {mine.origin(place)}"
        )
    return Leak("overlapping-patch", mine.ref(place), theirs.ref(other), message)


def _same_slices(first: AuditedSplit, second: AuditedSplit) -> Iterator[tuple[int, int, bool]]:
    """Slices of two splits that are one, or may be: their numbers, and whether it is sure; in the second's order."""
    mine, theirs = _keys(first), _keys(second)
    found: dict[int, tuple[int, bool]] = {}
    for key in ("file", "text", "number"):
        one, other = (frame.drop_nulls(key).unique(key, keep="first", maintain_order=True) for frame in (mine, theirs))
        both = other.join(one, on=key, how="inner", maintain_order="left", suffix="_first")
        if key == "number":
            both = both.filter(pl.col("text").is_null() | pl.col("text_first").is_null())
        for row in both.iter_rows(named=True):
            sure = key == "file" and os.path.isfile(row["file"])
            if row["at"] not in found or (sure and not found[row["at"]][1]):
                found[row["at"]] = row["at_first"], sure
    for other_at, (at, sure) in sorted(found.items()):
        yield at, other_at, sure


def _keys(split: AuditedSplit) -> pl.DataFrame:
    """For each slice (`at`) the file that its path leads to, the path as a text, and its number in the split."""
    root = None if split.root is None else os.path.realpath(split.root)
    files: list[str | None] = []
    texts: list[str | None] = []
    for path in split.slices["path"]:
        try:
            plain = plain_path(path)
        except PathError:
            files.append(None)
            texts.append(path.replace("\\", "/") if path else None)  # of another machine, perhaps
            continue
        files.append(None if root is None else os.path.join(root, plain))
        texts.append(plain)
    numbers = split.slices["slice_index"].cast(pl.String) if "slice_index" in split.slices.columns else None
    return pl.DataFrame(
        {
            "at": pl.int_range(split.slices.height, dtype=pl.Int64, eager=True),
            "file": pl.Series(files, dtype=pl.String),
            "text": pl.Series(texts, dtype=pl.String),
            "number": pl.Series([None] * split.slices.height, dtype=pl.String) if numbers is None else numbers,
        }
    )


def _windows(split: AuditedSplit, at: int) -> _Windows:
    if split.patches is None:
        none, far = np.zeros(1, np.int64), np.full(1, np.iinfo(np.int64).max)
        return _Windows(split, at, none - 1, none, none, far, far)
    first, last = np.searchsorted(split.patches["at"].to_numpy(), [at, at + 1]).tolist()
    numbers = np.arange(first, last, dtype=np.int64)
    mine = split.patches[first:last]
    if not {"row", "col"} <= set(mine.columns):
        return _Windows(split, at, *np.empty((5, 0), np.int64))
    known = (mine["row"].is_not_null() & mine["col"].is_not_null()).to_numpy()
    sizes = np.zeros((last - first, 2), np.int64)
    for place in np.flatnonzero(known):
        if split.ps is not None:
            sizes[place] = split.ps.patch_size
        elif (patch := split.patch_pixels(at, first + int(place))) is not None:
            sizes[place] = patch.shape
    known &= (sizes > 0).all(axis=1)
    rows, cols = (mine[name].fill_null(0).cast(pl.Int64).to_numpy()[known] for name in ("row", "col"))
    return _Windows(split, at, numbers[known], rows, cols, rows + sizes[known, 0], cols + sizes[known, 1])


def _overlapping(first: _Windows, second: _Windows) -> list[tuple[int, int]]:
    """Places of overlapping windows: for each of the second's the first of the first's that it overlaps."""
    pairs = []
    for place in range(len(second.numbers)):
        hits = (first.rows < second.bottoms[place]) & (second.rows[place] < first.bottoms)
        hits &= (first.cols < second.rights[place]) & (second.cols[place] < first.rights)
        if hits.any():
            pairs.append((int(hits.argmax()), place))
    return pairs


def _pixels_agree(first: _Windows, second: _Windows, pairs: list[tuple[int, int]]) -> bool | None:
    """Whether overlapping windows hold the same pixels where they overlap; None where that cannot be told."""
    for place, other in islice(pairs, _MOST_COMPARED):
        patch, wanted = first.pixels(place), second.pixels(other)
        if patch is None or wanted is None:
            continue
        (row, col), (other_row, other_col) = first.origin(place), second.origin(other)
        top, left = max(row, other_row), max(col, other_col)
        bottom = min(row + patch.shape[0], other_row + wanted.shape[0])
        right = min(col + patch.shape[1], other_col + wanted.shape[1])
        one = patch[top - row : bottom - row, left - col : right - col]
        two = wanted[top - other_row : bottom - other_row, left - other_col : right - other_col]
        if not one.size or not two.size or (is_constant(one) and is_constant(two)):
            continue
        return bool(np.array_equal(one, two))
    return None
