"""Labels where patches overlap: each pixel takes the label of the largest weight, and no number in between.

Label 1 does not lie between 0 and 2, so class numbers have no mean. The weights of the patches that give a pixel the
same label are added up, and the label with the largest sum wins. Between sums that are equal the smallest label wins.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIE = 1e-9
"""Two sums of weights are equal where they differ by less than this share of the larger.

Rounding makes them differ by less than 1e-12 where thousands of patches overlap, in another way on each processor and
for each order of the patches. Equal sums are common: in the middle between two windows both weigh the same.
"""

_ENTRIES_AT_A_TIME = 1 << 21
"""Votes that are sorted at a time, about 40 bytes each; a slice with more of them is decided in bands of rows."""


def holds_labels(dtype: np.dtype[Any]) -> bool:
    """Whether an array of this dtype holds labels: whole numbers or booleans."""
    return dtype.kind in "bui"


def label_fill(fill: float, dtype: np.dtype[Any]) -> int | None:
    """A fill value as a label of this dtype; None where the dtype does not hold it, as NaN."""
    if not np.isfinite(fill) or int(fill) != fill:
        return None
    low, high = label_range(dtype)
    return int(fill) if low <= fill <= high else None


def label_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The smallest and the largest label that a dtype holds."""
    if dtype.kind == "b":
        return 0, 1
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


class LabelCanvas:
    """The labels of one slice. It keeps copies of the patches, since a vote is decided when all have come.

    Args:
        shape: height and width of the slice.
        weights: weights of a patch's pixels, `(h, w)`, positive.
        dtype: that of the labels, which the slice keeps.
    """

    def __init__(self, shape: tuple[int, int], weights: NDArray[np.float64], dtype: np.dtype[Any]) -> None:
        self.dtype = dtype.newbyteorder("=")
        self.channels: int | None = None
        self.origins: list[tuple[int, int]] = []
        self._shape, self._weights = shape, weights
        smallest, largest = label_range(dtype)
        self._lowest = np.full(shape, largest, self.dtype)
        self._highest = np.full(shape, smallest, self.dtype)
        self._covered = np.zeros(shape, dtype=bool)
        self._pieces: list[tuple[int, int, NDArray[Any]]] = []

    def add(self, patch: NDArray[Any], row: int, col: int) -> None:
        """Add a patch; what lies beyond the slice was padding, and is cut off."""
        height, width = self._weights.shape
        there = np.s_[row : row + height, col : col + width]
        lowest, highest = self._lowest[there], self._highest[there]
        piece = patch[: lowest.shape[0], : lowest.shape[1]].astype(self.dtype)
        np.minimum(lowest, piece, out=lowest)
        np.maximum(highest, piece, out=highest)
        self._covered[there] = True
        self._pieces.append((row, col, piece))
        self.origins.append((row, col))

    def image(self, fill: float) -> tuple[NDArray[Any], int]:
        """The slice, and how many of its pixels no patch covers; those are `fill`, which must be a label then."""
        uncovered = int(self._covered.size - np.count_nonzero(self._covered))
        image = self._lowest
        if uncovered:
            image[~self._covered] = label_fill(fill, self.dtype)
        disputed = self._covered & (self._lowest != self._highest)
        for pixels, labels, weights in self._votes(disputed):
            decided, winners = _elected(pixels, labels, weights)
            image.reshape(-1)[decided] = winners
        return image, uncovered

    def _votes(
        self, disputed: NDArray[np.bool_]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], NDArray[np.float64]]]:
        """For bands of rows: each vote's pixel, numbered row by row, its label and its weight, `(N,)` each."""
        # The order in which patches came must not show in how sums are rounded.
        pieces = sorted(self._pieces, key=lambda piece: piece[:2])
        entries = sum(piece.size for _, _, piece in pieces)
        rows = max(1, self._shape[0] * _ENTRIES_AT_A_TIME // max(entries, 1))
        for top in range(0, self._shape[0], rows):
            votes = []
            for row, col, piece in pieces:
                first, last = max(row, top), min(row + piece.shape[0], top + rows)
                if first >= last:
                    continue
                down, across = np.nonzero(disputed[first:last, col : col + piece.shape[1]])
                pixels = (down + first) * self._shape[1] + across + col
                down += first - row
                votes.append((pixels, piece[down, across], self._weights[down, across]))
            pixels, labels, weights = (np.concatenate(each) for each in zip(*votes, strict=True)) if votes else _NONE
            if len(pixels):
                yield pixels, labels, weights


_NONE = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64)


def _elected(
    pixels: NDArray[np.int64], labels: NDArray[Any], weights: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The pixels that have votes, each once, and the label of each."""
    order = np.lexsort((labels, pixels))
    pixels, labels, weights = pixels[order], labels[order], weights[order]
    runs = _begins(pixels, labels)
    sums = np.add.reduceat(weights, runs)
    pixels, labels = pixels[runs], labels[runs]
    groups = _begins(pixels)
    largest = np.repeat(np.maximum.reduceat(sums, groups), np.diff(groups, append=len(pixels)))
    winners = np.flatnonzero(sums >= largest * (1 - TIE))
    decided, first = np.unique(pixels[winners], return_index=True)  # labels ascend: the first is the smallest
    return decided, labels[winners[first]]


def _begins(*columns: NDArray[Any]) -> NDArray[np.intp]:
    """Where runs of equal rows begin."""
    changes = np.zeros(len(columns[0]), dtype=bool)
    changes[0] = True
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)
