"""Batches read ahead by a thread into buffers that are used again; NumPy only.

The thread reads the next batches while the caller works on this one. The gather is a copy of memory that leaves the
interpreter free, so a thread costs nothing and no batch crosses a process border.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.layouts.reader import ArrayReader
from ctpatch.reading.options import Array, Batch, LoaderOptions, SamplerOptions
from ctpatch.reading.sampling import Sampler, batch_bounds, symmetries

Buffers: TypeAlias = dict[str, Any]
"""Memory for a batch, by array, as the caller sees it."""


@dataclass(frozen=True, slots=True)
class LoaderSource:
    """What a loader reads: arrays with their dtypes; `reader` gives one's patches, numbered as the manifest's rows."""

    arrays: dict[str, np.dtype[Any]]
    patch_size: tuple[int, int]
    manifest: pl.DataFrame
    slices: pl.DataFrame
    reader: Callable[[str], ArrayReader]


class BatchLoader(Generic[Array]):
    """Iterates over a set in batches, epoch after epoch.

    Each pass over it is one epoch, from its first batch; `set_epoch` says which comes next. A pass that was left early
    is begun anew by the next one, unless `load_state_dict` says where to go on.

    A batch is valid until the next one is asked for, unless the option `copy` is set: then it is the caller's for ever.

    Args:
        source: what is read.
        options: which patches, in which order, and how.
        rank, world_size: the share of this process.
        empty: makes memory of a shape and dtype, as the caller sees it; NumPy sees the same through `np.asarray`.
        column: the values of a column as the caller sees them.

    Raises:
        ConfigError: an option does not fit the set.
    """

    def __init__(
        self,
        source: LoaderSource,
        options: LoaderOptions[Array],
        rank: int,
        world_size: int,
        empty: Callable[[tuple[int, ...], np.dtype[Any]], Array],
        column: Callable[[NDArray[Any]], Array],
    ) -> None:
        self.options = options
        self._source = source
        self._empty, self._column = empty, column
        self._columns = {name: _numeric_column(source.manifest, name) for name in options.columns}
        self._sampler = Sampler(source.manifest, source.slices, options, rank, world_size)
        self._slots: list[Buffers] = []
        clash = [name for name in options.columns if name in source.arrays]
        if clash:
            raise ConfigError(f"columns: {clash[0]!r} is the name of an array too; read one of the two")
        self._epoch = 0
        self._next_batch = 0
        self._begin_at = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(batch_bounds(len(self._sampler), self.options.batch_size, drop_last=self.options.drop_last))

    @property
    def epoch(self) -> int:
        """The epoch that the next pass is, or the present one."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin with the first batch of an epoch at the next pass."""
        self._epoch, self._next_batch, self._begin_at = epoch, 0, 0

    def _identity(self) -> dict[str, Any]:
        """What decides the batches: a state belongs to a loader with the same."""
        return {
            **{each.name: getattr(self.options, each.name) for each in fields(SamplerOptions)},
            "world_size": self._sampler.world_size,
            "batch_size": self.options.batch_size,
            "patches": self._source.manifest.height,
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: `load_state_dict` goes on with the batch after the last one given out."""
        return {"epoch": self._epoch, "next_batch": self._next_batch, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: the next pass begins there.

        Raises:
            ConfigError: it was taken with other options, or from another set.
        """
        for name, here in self._identity().items():
            if state.get(name) != here:
                raise ConfigError(f"state: {name} was {state.get(name)!r}, this loader has {here!r}")
        self._epoch = int(state["epoch"])
        self._next_batch = self._begin_at = int(state["next_batch"])

    def __iter__(self) -> Iterator[Batch[Array]]:
        epoch, first = self._epoch, self._begin_at
        self._next_batch, self._begin_at = first, 0
        order = self._sampler.epoch(epoch)
        bounds = batch_bounds(len(order), self.options.batch_size, drop_last=self.options.drop_last)[first:]
        # Buffers that an earlier pass has given back; a pass beside another makes its own.
        slots, self._slots = self._slots, []
        slots.extend({} for _ in range(len(slots), self.options.prefetch + 2))
        try:
            with closing(self._batches(slots, [order[slice(*bound)] for bound in bounds], epoch)) as batches:
                for batch in batches:
                    self._next_batch += 1
                    yield batch
        finally:
            self._slots = slots
        self._epoch, self._next_batch = self._epoch + 1, 0

    def _batches(
        self, slots: list[Buffers], chosen: list[NDArray[np.int64]], epoch: int
    ) -> Generator[Batch[Array], None, None]:
        """The batches of a pass: one slot is with the caller, a thread fills the others."""
        if not self.options.prefetch:
            yield from (self._read(slots[0], which, epoch) for which in chosen)
            return
        free: queue.SimpleQueue[Buffers | None] = queue.SimpleQueue()
        ready: queue.SimpleQueue[Batch[Array] | BaseException] = queue.SimpleQueue()
        for slot in slots:
            free.put(slot)

        def fill() -> None:
            try:
                for which in chosen:
                    slot = free.get()
                    if slot is None:
                        return
                    ready.put(self._read(slot, which, epoch))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
                ready.put(error)

        thread = threading.Thread(target=fill, name="ctpatch-loader", daemon=True)
        thread.start()
        try:
            for slot, _ in zip(itertools.cycle(slots), chosen, strict=False):
                got = ready.get()
                if isinstance(got, BaseException):
                    raise got
                yield got
                free.put(slot)
        finally:
            free.put(None)
            thread.join()

    def _read(self, slot: Buffers, which: NDArray[np.int64], epoch: int) -> Batch[Array]:
        count, slot = len(which), {} if self.options.copy else slot
        for name, dtype in self._source.arrays.items():
            if name not in slot:
                slot[name] = self._empty((self.options.batch_size, 1, *self._source.patch_size), dtype)
            self._source.reader(name).read_into(which, np.asarray(slot[name])[:count, 0])
        batch = Batch(
            arrays={name: slot[name][:count] for name in self._source.arrays},
            columns={name: self._column(values[which]) for name, values in self._columns.items()},
            indices=which,
            epoch=epoch,
            seed=self.options.seed,
            set_size=self._source.manifest.height,
        )
        return batch if self.options.transform is None else self.options.transform(batch)


def _numeric_column(manifest: pl.DataFrame, name: str) -> NDArray[Any]:
    numeric = [column for column, kind in manifest.schema.items() if kind.is_numeric()]
    if name not in numeric:
        raise ConfigError(f"columns: there is no numeric column {name!r} in the manifest; it has {', '.join(numeric)}")
    values: NDArray[Any] = manifest[name].to_numpy()
    return values


class FlipsAndRotations:
    """The eight flips and rotations of a patch, one drawn for each patch and epoch, the same for all its arrays.

    Patches that are not square are flipped only (four ways). A transform for `BatchLoader`; works in place.
    """

    def __call__(self, batch: Batch[Array]) -> Batch[Array]:
        """Turn every patch of a batch."""
        chosen = symmetries(batch.seed, batch.epoch, batch.set_size)[batch.indices]
        for array in batch.arrays.values():
            pixels = np.asarray(array)
            square = pixels.shape[-1] == pixels.shape[-2]
            for patch, symmetry in zip(pixels, chosen.tolist(), strict=True):
                turned = apply_symmetry(patch, symmetry if square else symmetry & 3)
                if turned is not patch:
                    patch[...] = turned.copy()
        return batch


def apply_symmetry(pixels: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """One of the eight symmetries of the last two axes: bit 0 flips rows, bit 1 cols, bit 2 then swaps them."""
    if symmetry & 1:
        pixels = pixels[..., ::-1, :]
    if symmetry & 2:
        pixels = pixels[..., ::-1]
    return np.swapaxes(pixels, -1, -2) if symmetry & 4 else pixels
