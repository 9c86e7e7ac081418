"""Which slices hold which labels, and pixels drawn among those that hold one."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError, FormatError
from ctpatch.loading.label_runs import MOST_BYTES, LabelRuns
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
        self._widths = whole.table["width"].cast(pl.Int64).to_numpy()
        self._known: dict[tuple[int, int], LabelRuns] = {}
        self._bytes = 0
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
        for group in np.unique(groups).tolist():
            mine, sums = groups == group, self._cumulative[group]
            places = np.searchsorted(sums, words[mine, 1] * sums[-1], side="right")
            slices[mine] = self._slices[group][np.minimum(places, len(sums) - 1)]
        runs = [self._runs(number, group) for number, group in zip(slices.tolist(), groups.tolist(), strict=True)]
        chosen = below(words[:, 2], np.array([each.pixels for each in runs], np.int64))
        flat = [each.pixel(number) for each, number in zip(runs, chosen.tolist(), strict=True)]
        return slices, np.stack(np.divmod(np.array(flat, np.int64), self._widths[slices]))

    def _runs(self, number: int, group: int) -> LabelRuns:
        """Where a slice holds the labels of a group."""
        found = self._known.get((number, group))
        if found is not None:
            return found
        found = LabelRuns(self._reader.whole(number), self._labels[group])
        if not found.pixels:
            raise FormatError(
                f"{self._windows.array}: {self._name(number)} holds no pixel of the labels on record for it; run "
                "ctpatch verify"
            )
        if self._bytes + found.nbytes <= MOST_BYTES:
            self._known[number, group] = found
            self._bytes += found.nbytes
        return found


def _listed(labels: NDArray[np.int64]) -> str:
    shown = np.unique(labels).tolist()
    return ", ".join(map(str, shown[:20])) + (" …" if len(shown) > 20 else "") or "none"  # noqa: PLR2004
