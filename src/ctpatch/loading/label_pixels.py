"""Which slices hold which labels, and pixels drawn among those that hold one."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, FormatError
from ctpatch.loading.sampling import LABEL, below, draw_words
from ctpatch.loading.whole import LabelCounts, WholeSlices
from ctpatch.loading.windows import LabelWindows


def count_labels(whole: WholeSlices, array: str, which: NDArray[np.int64]) -> LabelCounts:
    """Count the labels but 0 of some slices by reading them."""
    reader = whole.reader(array)
    found = [(at, *np.unique(reader.whole(at), return_counts=True)) for at in which.tolist()]
    slices = np.repeat([at for at, _, _ in found], [len(labels) for _, labels, _ in found]).astype(np.int64)
    labels, pixels = (
        np.concatenate([each[place] for each in found]).astype(np.int64) if found else np.empty(0, np.int64)
        for place in (1, 2)
    )
    held = labels != 0
    return LabelCounts(slices[held], labels[held], pixels[held])


class LabelPixels:
    """Draws pixels that hold a label.

    Args:
        whole: the slices.
        windows: which labels, of which array.
        seed: of the draws.
        weight_of_slice: how often each slice is drawn relative to its label pixels; 0 leaves it out.
        balance: a column of the slices of which each value comes as often as every other.

    Raises:
        ConfigError: there is no such array, it holds no labels, or no pixel that may be drawn has a label.
    """

    def __init__(
        self,
        whole: WholeSlices,
        windows: LabelWindows,
        seed: int,
        weight_of_slice: NDArray[np.float64],
        balance: str | None,
    ) -> None:
        if windows.array not in whole.labels:
            known = ", ".join(sorted(whole.labels)) or "none"
            raise ConfigError(f"array: {windows.array!r} is no array of labels; {whole.name} has {known}")
        self._windows, self._seed = windows, seed
        self._reader, self._name = whole.reader(windows.array), whole.called
        which = np.flatnonzero(weight_of_slice > 0)
        counts = whole.known_counts(windows.array)
        counts = count_labels(whole, windows.array, which) if counts is None else counts
        wanted = self._groups(counts, whole.name)
        self._labels: list[tuple[int, ...]] = []
        self._slices: list[NDArray[np.int64]] = []
        self._cumulative: list[NDArray[np.float64]] = []
        for labels in wanted:
            mine = np.isin(counts.labels, labels)
            pixels = weight_of_slice * np.bincount(counts.slices[mine], counts.pixels[mine], whole.table.height)
            if balance is not None:
                groups = whole.table[balance].cast(pl.String).fill_null("").rank("dense").to_numpy().astype(np.int64)
                total = np.bincount(groups, pixels)[groups]
                pixels = np.divide(pixels, total, out=np.zeros_like(pixels), where=total > 0)
            slices = np.flatnonzero(pixels > 0)
            if len(slices):
                self._labels.append(labels)
                self._slices.append(slices)
                self._cumulative.append(np.cumsum(pixels[slices]))
        if not self._labels:
            asked = "" if isinstance(windows.labels, str) else f" of {list(windows.labels)}"
            raise ConfigError(
                f"labels: no pixel of {windows.array!r} in the {len(which)} slices that are drawn holds a label{asked} "
                f"other than 0; labels that {whole.name} has there: {_listed(counts.labels)}"
            )

    def _groups(self, counts: LabelCounts, name: str) -> list[tuple[int, ...]]:
        """The labels that are drawn together, for each group that is drawn as often as every other."""
        there = tuple(np.unique(counts.labels).tolist())
        asked = self._windows.labels
        if asked == "balanced":
            return [(label,) for label in there]
        if isinstance(asked, str):
            return [there]
        missing = [int(label) for label in asked if int(label) not in there]
        if missing:
            raise ConfigError(
                f"labels: no pixel of {self._windows.array!r} in {name} holds {missing[0]}; it has "
                f"{_listed(counts.labels)}"
            )
        return [tuple(int(label) for label in asked)]

    def slots(self, size: int) -> NDArray[np.bool_]:
        """Which windows of a batch of this size hold a label: the share, spread evenly."""
        places = np.arange(size) * self._windows.in_batch(size)
        held: NDArray[np.bool_] = (places + self._windows.in_batch(size)) // size > places // size
        return held

    def draw(self, epoch: int, draws: NDArray[np.int64], attempt: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A pixel that holds a label for each of some draws: its slice `(B,)`, and its row and column `(2, B)`."""
        words = draw_words(self._seed, epoch, LABEL, draws, attempt)
        groups = below(words[:, 0], len(self._labels))
        slices = np.empty(len(draws), np.int64)
        pixels = np.empty((2, len(draws)), np.int64)
        for at, group in enumerate(groups.tolist()):
            sums = self._cumulative[group]
            place = min(int(np.searchsorted(sums, words[at, 1] * sums[-1], side="right")), len(sums) - 1)
            slices[at] = self._slices[group][place]
            mask = self._reader.whole(int(slices[at]))
            held = np.flatnonzero(np.isin(mask, np.array(self._labels[group]).astype(mask.dtype)))
            if not len(held):
                raise FormatError(
                    f"{self._windows.array}: {self._name(slices[at])} holds no pixel of the labels on record for it; "
                    "run ctpatch verify"
                )
            chosen = held[below(words[at : at + 1, 2], len(held))[0]]
            pixels[:, at] = divmod(int(chosen), mask.shape[1])
        return slices, pixels


def _listed(labels: NDArray[np.int64]) -> str:
    shown = np.unique(labels).tolist()
    return ", ".join(map(str, shown[:20])) + (" …" if len(shown) > 20 else "") or "none"  # noqa: PLR2004
