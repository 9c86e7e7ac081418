"""What the draws of an epoch are: patches of a set, or windows of its slices; and how their pixels are read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.core.context import NO_SLICE
from ctpatch.format.carried import Kind
from ctpatch.layouts.reader import ArrayReader
from ctpatch.loading.columns import column_values
from ctpatch.loading.options import ContextOptions
from ctpatch.loading.whole import WholeSlices
from ctpatch.words import PadMode


@dataclass(frozen=True, slots=True)
class Drawn:
    """The windows of a batch.

    Attributes:
        indices: numbers of the patches, or of the draws in the epoch where windows are chosen, `(B,)`.
        slices: numbers of the slices that they are in, `(B,)`; nothing where patches are read by their numbers.
        rows, cols: where they begin, `(B,)`; likewise.
    """

    indices: NDArray[np.int64]
    slices: NDArray[np.int64]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]


@dataclass(slots=True)
class DrawnCounts:
    """What became of the windows that a loader drew, also of those that were read ahead and not given out yet.

    Attributes:
        windows: windows that were drawn for batches.
        redrawn: those of them that a rule dropped at first, so that another was drawn.
        accepted: those that a rule drops and that were taken, since each further draw was dropped as well.
    """

    windows: int = 0
    redrawn: int = 0
    accepted: int = 0


class Patches(NamedTuple):
    """The manifest, with columns of slices: their types, and what gives the texts of one."""

    table: pl.DataFrame
    kinds: Mapping[str, Kind]
    texts: Callable[[str], list[str]]


class Places(ABC):
    """What an epoch draws from.

    Attributes:
        patch_size: height and width of what is drawn.
        table: a row for each thing that can be drawn, as `subset`, `weight` and `balance` see it.
        kinds: the columns of slices that it has as well, with their types.
        texts: gives the texts of such a column, each once, sorted.
        allowed: which of these are drawn, booleans; None where all are.
        counts: what became of the windows that were drawn.
    """

    patch_size: tuple[int, int]
    table: pl.DataFrame
    kinds: Mapping[str, Kind]
    texts: Callable[[str], list[str]]
    allowed: NDArray[np.bool_] | None = None

    def __init__(self) -> None:
        self.counts = DrawnCounts()

    @abstractmethod
    def at(self, epoch: int, numbers: NDArray[np.int64], draws: NDArray[np.int64]) -> Drawn:
        """The windows of a batch.

        Args:
            epoch: which.
            numbers: rows of the table, `(B,)`.
            draws: which draws of the epoch these are, counted over all ranks, `(B,)`, increasing.
        """

    @abstractmethod
    def read(self, array: str, drawn: Drawn, out: NDArray[Any]) -> None:
        """Fill `out`, `(B, channels(array), h, w)`, with the pixels of a batch."""

    def channels(self, array: str) -> int:
        """How many images of an array come with each window."""
        del array
        return 1

    def begin(self, names: Sequence[str]) -> None:
        """Take all that is needed of tables to read some arrays: a process that is forked later needs none."""
        del names

    def follow(self, candidates: NDArray[np.int64], weights: NDArray[np.float64] | None) -> None:
        """Hear which rows of the table are drawn, and how often relative to each other."""
        del candidates, weights

    def set_size(self, draws: int) -> int:
        """A number above all `indices`, where an epoch has so many draws on all ranks."""
        del draws
        return self.table.height

    def codes(self, columns: Sequence[str]) -> dict[str, list[str]]:
        """The texts of those columns that are texts; a batch has a text as its place in the list."""
        return {name: self.texts(name) for name in columns if self.kinds.get(name) == "text"}

    def column(self, name: str, codes: Mapping[str, Sequence[str]]) -> Callable[[Drawn], NDArray[Any]]:
        """What gives a column's values for the windows of a batch; ConfigError where there is no such column."""
        values = column_values(self.table, name, codes)
        return lambda drawn: values[drawn.indices]


class PatchPlaces(Places):
    """Patches as the set has them."""

    def __init__(self, patches: Patches, reader: Callable[[str], ArrayReader], patch_size: tuple[int, int]) -> None:
        super().__init__()
        self.table, self.kinds, self.texts = patches
        self._reader, self.patch_size = reader, patch_size

    def begin(self, names: Sequence[str]) -> None:
        """Make the readers."""
        for name in names:
            self._reader(name)

    def at(self, epoch: int, numbers: NDArray[np.int64], draws: NDArray[np.int64]) -> Drawn:
        """The patches of these numbers."""
        del epoch, draws
        nothing = np.empty(0, np.int64)
        return Drawn(numbers, nothing, nothing, nothing)

    def read(self, array: str, drawn: Drawn, out: NDArray[Any]) -> None:
        """Read the patches."""
        self._reader(array).read_into(drawn.indices, out[:, 0])


class SlicePlaces(Places):
    """Windows of whole slices, with the neighbours of their slices where these are asked for."""

    def __init__(
        self,
        whole: WholeSlices,
        context: ContextOptions,
        patch_size: tuple[int, int],
        pad_mode: PadMode | None = None,
    ) -> None:
        super().__init__()
        self.patch_size, self._pad_mode = patch_size, pad_mode
        self._whole = whole
        self._context = context
        reach = context.context
        self._neighbours = (
            whole.neighbours(reach, context.context_edge, context.context_gap)
            if reach
            else np.arange(whole.table.height, dtype=np.int64)[:, np.newaxis]
        )
        self._complete = ~(self._neighbours == NO_SLICE).any(axis=1)

    def _allowed_slices(self) -> NDArray[np.bool_]:
        """Slices in which windows are drawn."""
        drops = self._context.context and self._context.context_edge == "drop"
        return self._whole.drawn & self._complete if drops else self._whole.drawn

    def begin(self, names: Sequence[str]) -> None:
        """Make the readers."""
        for name in names:
            self._whole.reader(name)

    def channels(self, array: str) -> int:
        """One for each slice."""
        return self._neighbours.shape[1] if array in self._context.arrays_with_context else 1

    def read(self, array: str, drawn: Drawn, out: NDArray[Any]) -> None:
        """Read the same window of each slice and its neighbours."""
        reader, count = self._whole.reader(array), out.shape[1]
        if count == 1:
            reader.read_windows(drawn.slices, drawn.rows, drawn.cols, out[:, 0], self._pad_mode)
            return
        slices = self._neighbours[drawn.slices].ravel()
        rows, cols = np.repeat(drawn.rows, count), np.repeat(drawn.cols, count)
        images = out.reshape(-1, *self.patch_size)
        there = slices != NO_SLICE
        if there.all():
            reader.read_windows(slices, rows, cols, images, self._pad_mode)
            return
        read = np.empty((int(there.sum()), *self.patch_size), out.dtype)
        reader.read_windows(slices[there], rows[there], cols[there], read, self._pad_mode)
        images[there], images[~there] = read, 0


class GridPlaces(SlicePlaces):
    """The windows of a set's patches, read from whole slices."""

    def __init__(
        self, patches: Patches, whole: WholeSlices, context: ContextOptions, patch_size: tuple[int, int]
    ) -> None:
        super().__init__(whole, context, patch_size)
        self.table, self.kinds, self.texts = patches
        manifest = patches.table
        numbers = pl.DataFrame({"slice_index": whole.table["slice_index"]}).with_row_index("number")
        joined = manifest.select("slice_index").join(numbers, on="slice_index", how="left", maintain_order="left")
        self._slices = joined["number"].cast(pl.Int64).to_numpy()
        self._rows, self._cols = (manifest[side].cast(pl.Int64).to_numpy() for side in ("row", "col"))
        self.allowed = self._allowed_slices()[self._slices]

    def at(self, epoch: int, numbers: NDArray[np.int64], draws: NDArray[np.int64]) -> Drawn:
        """The windows of these patches."""
        del epoch, draws
        return Drawn(numbers, self._slices[numbers], self._rows[numbers], self._cols[numbers])
