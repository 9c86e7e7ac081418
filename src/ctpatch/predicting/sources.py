"""The slices that a model is given, of a patch set or of a prepared split, with their neighbours."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.context import NO_SLICE
from ctpatch.core.grid import PADDING_MODES
from ctpatch.errors import UsageError
from ctpatch.format.tables import STATUS_OK
from ctpatch.loading.values import ChosenMaps
from ctpatch.loading.whole import WholeSlices
from ctpatch.predicting.options import Options
from ctpatch.predicting.predicted_files import IMAGE
from ctpatch.reading.patchset import AnySet
from ctpatch.reading.slice_set import SliceSet
from ctpatch.reading.values import maps_for_set, maps_for_split
from ctpatch.reading.whole_slices import slices_of

Read = Callable[[int], NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Source:
    """What is predicted.

    Attributes:
        dataset, split: its names.
        fingerprint: by which it is known again.
        slices: which there are, in the order of their numbers.
        was_cut: for each slice whether windows were cut from it, so that it must not be left out, booleans `(N,)`.
        read: gives the image `(H, W)` of a slice by its `slice_index`.
        value_range: what results are clipped to.
        config: the windows where none are given.
        chosen: what maps the values that the model is given.
    """

    dataset: str
    split: str
    fingerprint: str
    slices: WholeSlices
    was_cut: NDArray[np.bool_]
    read: Read
    value_range: tuple[float, float]
    config: PatchConfig
    chosen: ChosenMaps


def source_of(given: AnySet | SliceSet, options: Options) -> Source:
    """What a set gives a prediction; ConfigError where `normalize` or `hu` cannot be used."""
    if isinstance(given, SliceSet):
        named = given.source
        return Source(
            named.dataset,
            named.split,
            given.fingerprint,
            given.whole_slices(),
            np.ones(len(given), bool),
            lambda index: given.slice(index)[IMAGE],
            PatchConfig().value_range,
            PatchConfig(pad_mode="even"),
            maps_for_split(options, [IMAGE], named),
        )
    cut = given.slices.filter(pl.col("status") == STATUS_OK)["num_windows"]
    return Source(
        given.meta.dataset,
        given.meta.split,
        given.meta.fingerprint,
        slices_of(given),
        (cut > 0).fill_null(value=False).to_numpy(),
        lambda index: given.slice(index, arrays=IMAGE),
        given.meta.value_range,
        _covering(given.config),
        maps_for_set(options, [IMAGE], given.meta, given.sources),
    )


def _covering(config: PatchConfig) -> PatchConfig:
    """The set's windows, spread so that they cover the border."""
    mode = config.pad_mode if config.pad_mode in PADDING_MODES else "even"
    return PatchConfig(patch_size=config.patch_size, stride=config.stride, pad_mode=mode)


class WithNeighbours:
    """Reads slices with their neighbours, and keeps those that the next slice of the series has as well.

    Slices that are asked for in `order` are read once each.

    Args:
        source: what is read.
        options: how many neighbours, and what is at the ends of a series.

    Attributes:
        order: the slices along their series, by their rows in the table, `(N,)`; series in the order of the table.

    Raises:
        ConfigError: neighbours cannot be told.
        UsageError: a neighbour has another size.
    """

    def __init__(self, source: Source, options: Options) -> None:
        whole = source.slices
        self._read, self._indices = source.read, whole.table["slice_index"].to_list()
        self._at = {index: number for number, index in enumerate(self._indices)}
        self._neighbours = whole.neighbours(options.context, options.context_edge, options.context_gap)
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        _refuse_other_sizes(whole, self._neighbours)
        beyond = whole.neighbours(1, "zero", options.context_gap)
        self.order = _along(beyond[:, 0], beyond[:, 2])

    def __call__(self, index: int) -> NDArray[Any]:
        """A slice by its `slice_index` and its neighbours, `(2 * context + 1, H, W)`."""
        numbers = self._neighbours[self._at[index]].tolist()
        own = self._image(self._at[index])
        return np.stack([np.zeros_like(own) if number == NO_SLICE else self._image(number) for number in numbers])

    def _image(self, number: int) -> NDArray[Any]:
        if number not in self._kept:
            self._kept[number] = self._read(self._indices[number])
        self._kept.move_to_end(number)
        while len(self._kept) > self._neighbours.shape[1]:
            self._kept.popitem(last=False)
        return self._kept[number]


def _along(before: NDArray[np.int64], after: NDArray[np.int64]) -> list[int]:
    """Slices along their series, from what is before and after each, `NO_SLICE` at the ends."""
    order: list[int] = []
    following = after.tolist()
    for at in np.flatnonzero(before == NO_SLICE).tolist():
        while at != NO_SLICE:
            order.append(at)
            at = following[at]  # noqa: PLW2901
    return order


def _refuse_other_sizes(whole: WholeSlices, neighbours: NDArray[np.int64]) -> None:
    sides = whole.table.select(pl.col("height", "width").cast(pl.Int64)).to_numpy()
    other = (sides[neighbours] != sides[:, np.newaxis]).any(axis=2) & (neighbours != NO_SLICE)
    if other.any():
        at, column = (int(each) for each in np.argwhere(other)[0])
        near = int(neighbours[at, column])
        seen, wanted = ("x".join(map(str, sides[each].tolist())) for each in (near, at))
        raise UsageError(
            f"context: {whole.called(near)} has {seen} pixels, its neighbour {whole.called(at)} has {wanted}; they "
            "cannot be channels of one image. Predict without context, or prepare the series with one size"
        )
