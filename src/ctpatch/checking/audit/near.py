"""Near-duplicates between two splits: all pairs, as blocked matrix products."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ctpatch.checking.audit.fingerprint import COARSE, FINE, SYMMETRIES, Vectors, permutation

_SECOND_BLOCK = 1024
_FIRST_BLOCK = 4096
"""1024 x 4096 correlations are 16 MB: large enough for the matrix product, small enough for the cache's sake."""


class NearMatch(NamedTuple):
    """A slice of the second split and the slice of the first that is most like it, under one of the symmetries.

    `others` is how many further slices of the first split are near-duplicates of it.
    """

    second: int
    first: int
    symmetry: int
    correlation: float
    detail: float
    others: int


_BEST = np.dtype([("first", "i8"), ("symmetry", "i8"), ("correlation", "f4"), ("detail", "f4"), ("others", "i8")])
"""What `NearMatch` says of a slice of the second split, so far; `others` is -1 where none matches."""


def near_matches(
    first: Vectors,
    second: Vectors,
    *,
    threshold: float,
    detail_threshold: float,
    leave_out: NDArray[np.bool_] | None = None,
    advance: Callable[[int], None] = lambda _slices: None,
) -> tuple[list[NearMatch], int]:
    """Compare every slice of the second split with every slice of the first, under all eight symmetries.

    Two slices are alike from the correlation `threshold` on, and count from `detail_threshold` on. Slices of the second
    split to `leave_out` are not compared; `advance` is told how many are done. Returns the best match of each slice of
    the second split that has one, in their order (of equals the first slice and symmetry), and the number of pairs that
    are alike by the correlation alone.
    """
    rows = np.flatnonzero(second.usable if leave_out is None else second.usable & ~leave_out)
    columns = np.flatnonzero(first.usable)
    best = np.zeros(len(second.usable), _BEST)
    best["correlation"], best["others"] = -np.inf, -1
    alike = 0
    for block in _blocks(rows, _SECOND_BLOCK):
        for other in _blocks(columns, _FIRST_BLOCK):
            alike += _compare(first, second, other, block, threshold, detail_threshold, best)
        advance(len(block))
    found = np.flatnonzero(best["others"] >= 0)
    return [NearMatch(at, *match) for at, match in zip(found.tolist(), best[found].tolist(), strict=True)], alike


def _blocks(numbers: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    return (numbers[start : start + size] for start in range(0, len(numbers), size))


def _compare(
    first: Vectors,
    second: Vectors,
    columns: NDArray[np.intp],
    rows: NDArray[np.intp],
    threshold: float,
    detail_threshold: float,
    best: NDArray[np.void],
) -> int:
    """Compare two blocks; returns the number of pairs that are alike by the correlation alone."""
    wanted = first.coarse[columns].T
    some = second.coarse[rows]
    near, alike = np.zeros((2, len(rows), len(columns)), dtype=bool)
    for symmetry in range(len(SYMMETRIES)):
        # The first split's slice is the one that is turned: permuting both sides of a product is permuting one back.
        correlation = some[:, _inverse(symmetry, COARSE)] @ wanted
        if correlation.max() < threshold:
            continue
        hits = correlation >= threshold
        # Only rows and columns with a hit: few where slices differ, all where they do not, but never pair by pair.
        across, down = np.flatnonzero(hits.any(axis=1)), np.flatnonzero(hits.any(axis=0))
        inner = np.ix_(across, down)
        turned = second.detail[rows[across]][:, _inverse(symmetry, FINE)].astype(np.float32)
        detail = turned @ first.detail[columns[down]].astype(np.float32).T
        good = hits[inner] & (detail >= detail_threshold)
        _improve(best, rows[across], columns[down], symmetry, np.where(good, correlation[inner], -np.inf), detail)
        near[inner] |= good
        alike |= hits
    if not alike.any():
        return 0
    best["others"][rows] += near.sum(axis=1)
    return int((alike & ~near).sum())


def _improve(
    best: NDArray[np.void],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    symmetry: int,
    correlation: NDArray[Any],
    detail: NDArray[np.float32],
) -> None:
    places = correlation.argmax(axis=1)
    highest = correlation[np.arange(len(rows)), places]
    better = highest > best["correlation"][rows]
    improved = rows[better]
    best["correlation"][improved] = highest[better]
    best["detail"][improved] = detail[np.arange(len(rows)), places][better]
    best["first"][improved] = columns[places[better]]
    best["symmetry"][improved] = symmetry


def _inverse(symmetry: int, side: int) -> NDArray[np.intp]:
    """The permutation that turns blocks back."""
    return np.argsort(permutation(symmetry, side))
