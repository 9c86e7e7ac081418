"""Whole slices, of a patch set or of a prepared split, as windows are chosen in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.context import ContextEdge, ContextGap, find_fault, neighbours
from ctpatch.errors import ConfigError
from ctpatch.format.carried import Kind
from ctpatch.words import PadMode

SERIES, POSITION = "series", "position_mm"
"""Columns that say where a slice lies."""


class LabelCounts(NamedTuple):
    """How many pixels of a slice hold a label: an entry for each pair that there is, `(M,)` each."""

    slices: NDArray[np.int64]
    labels: NDArray[np.int64]
    pixels: NDArray[np.int64]


class SliceReader(Protocol):
    """Reads one array of whole slices, by their numbers in the table."""

    def read_windows(
        self,
        which: NDArray[np.int64],
        rows: NDArray[np.integer],
        cols: NDArray[np.integer],
        out: NDArray[Any],
        pad_mode: PadMode | None = None,
    ) -> None:
        """Fill `out`, `(len(which), h, w)`, with the windows of these slices that begin at `(rows, cols)`.

        What hangs over the border of a slice is padded as `pad_mode` says, or as the set was cut.
        """

    def whole(self, number: int) -> NDArray[Any]:
        """A whole slice `(H, W)`, not to be written to."""


class JoinedReader:
    """Several readers as one.

    Args:
        readers: what reads.
        of: for each slice the number of its reader, `(N,)`.
        numbers: for each slice its number there, `(N,)`.
    """

    def __init__(self, readers: Sequence[SliceReader], of: NDArray[np.int64], numbers: NDArray[np.int64]) -> None:
        self._readers, self._of, self._numbers = list(readers), of, numbers

    def read_windows(
        self,
        which: NDArray[np.int64],
        rows: NDArray[np.integer],
        cols: NDArray[np.integer],
        out: NDArray[Any],
        pad_mode: PadMode | None = None,
    ) -> None:
        """See `SliceReader`."""
        of, numbers = self._of[which], self._numbers[which]
        for at in np.unique(of).tolist():
            mine = of == at
            if mine.all():
                self._readers[at].read_windows(numbers, rows, cols, out, pad_mode)
                continue
            part = np.empty((int(mine.sum()), *out.shape[1:]), out.dtype)
            self._readers[at].read_windows(numbers[mine], rows[mine], cols[mine], part, pad_mode)
            out[mine] = part

    def whole(self, number: int) -> NDArray[Any]:
        """See `SliceReader`."""
        return self._readers[int(self._of[number])].whole(int(self._numbers[number]))


@dataclass(frozen=True, slots=True)
class WholeSlices:
    """Slices in which windows are chosen.

    Attributes:
        name: what messages call the set.
        table: a row for each slice: `slice_index`, `height`, `width`, `patient_id` and what else is known of it.
        drawn: slices in which windows are chosen; the others are there as neighbours only; booleans `(N,)`.
        names: what messages call each slice: its path in the data root.
        labels: the arrays that hold labels.
        config: options that the set was cut with, for rules; None where it was not cut.
        kinds: the columns of the table that `subset`, `weight`, `balance` and `columns` can name, with their types.
        texts: gives the texts of such a column, each once, sorted.
        reader: reads an array.
        known_counts: label pixels of each slice that are on record for an array of labels; None where none are.
    """

    name: str
    table: pl.DataFrame
    drawn: NDArray[np.bool_]
    names: pl.Series
    labels: frozenset[str]
    config: PatchConfig | None
    kinds: Mapping[str, Kind]
    texts: Callable[[str], list[str]]
    reader: Callable[[str], SliceReader]
    known_counts: Callable[[str], LabelCounts | None] = lambda _array: None

    def called(self, number: int) -> str:
        """What messages call a slice."""
        return f"slice {self.table['slice_index'][number]} ({self.names[number]})"

    def neighbours(self, reach: int, edge: ContextEdge, gap: ContextGap) -> NDArray[np.int64]:
        """For each slice its neighbours in its series, see `ctpatch.core.context.neighbours`.

        Raises:
            ConfigError: neighbours cannot be told, and `gap` is `refuse`.
        """
        has_places = SERIES in self.table.columns and POSITION in self.table.columns
        count = self.table.height
        if not has_places and gap == "refuse":
            raise ConfigError(
                f"context: {self.name} has no columns {SERIES} and {POSITION}, so ctpatch cannot tell which slices are "
                "neighbours. Prepare the slices from raw CT with ctpatch prepare and build the set again; or give "
                "context_gap='ignore', which takes the slices of a patient as neighbours in the order of the manifest"
            )
        named = SERIES if has_places else "patient_id"
        texts = self.table[named]
        if has_places and gap == "ignore":
            texts = texts.fill_null(self.table["patient_id"].cast(pl.String))
        codes = texts.rank("dense").fill_null(0).cast(pl.Int64).to_numpy() - 1
        positions = (
            self.table[POSITION].cast(pl.Float64).fill_null(float("nan")).to_numpy()
            if has_places
            else np.full(count, np.nan)
        )
        if gap == "refuse" and (fault := find_fault(codes, positions)) is not None:
            more = f" ({fault.count:,} such places in the set)" if fault.count > 1 else ""
            raise ConfigError(
                f"context: {self.called(fault.at)} {fault.why}{more}, so ctpatch cannot tell its neighbours. Give "
                "context_gap='end' to take such a place for an end of the series, or 'ignore' to take the next slice "
                "in the order of the table whatever its distance"
            )
        return neighbours(codes, positions, reach, edge, gaps_end=gap == "end")
