"""Batches read ahead by threads into buffers that are used again; NumPy only.

One thread reads the next batches while the caller works on this one. The gather is a copy of memory that leaves the
interpreter free, so a thread costs nothing and no batch crosses a process border.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.files.memory import empty_buffer
from ctpatch.layouts.reader import ArrayReader
from ctpatch.reading.options import Array, Batch, LoaderOptions, SamplerOptions
from ctpatch.reading.sampling import Sampler, batch_bounds, symmetries


@dataclass(frozen=True, slots=True)
class LoaderSource:
    """What a loader reads.

    Attributes:
        arrays: the arrays to read, with their dtypes.
        patch_size: height and width of a patch.
        manifest: a row for each patch.
        slices: a row for each slice.
        reader: gives the reader of an array, whose patches are numbered as the manifest's rows.
    """

    arrays: dict[str, np.dtype[Any]]
    patch_size: tuple[int, int]
    manifest: pl.DataFrame
    slices: pl.DataFrame
    reader: Callable[[str], ArrayReader]


Seen_co = TypeVar("Seen_co", covariant=True)


class Buffers(Protocol[Seen_co]):
    """Makes the memory that batches are read into, and what the caller sees of it."""

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Seen_co]:
        """A buffer as NumPy sees it, and as the caller does; both share the memory."""
        ...

    def column(self, values: NDArray[Any]) -> Seen_co:
        """The values of a column as the caller sees them."""
        ...


class NumpyBuffers:
    """Plain arrays."""

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """A new array, twice."""
        buffer = empty_buffer(shape, dtype)
        return buffer, buffer

    def column(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values themselves."""
        return values


@dataclass(slots=True)
class _Slot:
    memory: dict[str, NDArray[Any]] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)


class BatchLoader(Generic[Array]):
    """Iterates over a set in batches, epoch after epoch.

    Each pass over it is one epoch, from its first batch; `set_epoch` says which comes next. A pass that was left early
    is begun anew by the next one, unless `load_state_dict` says where to go on.

    A batch is valid until the next one is asked for, unless the option `copy` is set: then it is the caller's for ever.

    Args:
        source: what is read.
        options: which patches, in which order, and how.
        rank, world_size: the share of this process.
        buffers: makes the memory.

    Raises:
        ConfigError: an option does not fit the set.
    """

    def __init__(
        self,
        source: LoaderSource,
        options: LoaderOptions[Array],
        rank: int,
        world_size: int,
        buffers: Buffers[Array],
    ) -> None:
        self.options = options
        self._source = source
        self._buffers = buffers
        self._columns = {name: _numeric_column(source.manifest, name) for name in options.columns}
        self._sampler = Sampler(source.manifest, source.slices, options, rank, world_size)
        self._slots: list[_Slot] = []
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
        """Where the loader stands: `load_state_dict` goes on with the batch behind the last one given out."""
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
        slots.extend(_Slot() for _ in range(len(slots), self.options.prefetch + 2))

        def read(slot: _Slot, bound: tuple[int, int]) -> Batch[Array]:
            return self._read(_Slot() if self.options.copy else slot, order[slice(*bound)], epoch)

        ahead = _ReadAhead(slots, read, bounds) if self.options.prefetch else None
        try:
            for bound in bounds:
                batch = read(slots[0], bound) if ahead is None else ahead.take()
                self._next_batch += 1
                yield batch
        finally:
            if ahead is not None:
                ahead.close()
            self._slots = slots
        self._epoch, self._next_batch = self._epoch + 1, 0

    def _read(self, slot: _Slot, which: NDArray[np.int64], epoch: int) -> Batch[Array]:
        count = len(which)
        for name, dtype in self._source.arrays.items():
            if name not in slot.memory:
                shape = (self.options.batch_size, 1, *self._source.patch_size)
                slot.memory[name], slot.seen[name] = self._buffers.make(shape, dtype)
            self._source.reader(name).read_into(which, slot.memory[name][:count, 0])
        batch = Batch(
            arrays={name: slot.seen[name][:count] for name in self._source.arrays},
            columns={name: self._buffers.column(values[which]) for name, values in self._columns.items()},
            indices=which,
            epoch=epoch,
            seed=self.options.seed,
            set_size=self._source.manifest.height,
        )
        return batch if self.options.transform is None else self.options.transform(batch)


class _ReadAhead(Generic[Array]):
    """A thread fills slots from a ring; one is with the caller, one is being filled, the others wait."""

    def __init__(
        self,
        slots: Iterable[_Slot],
        read: Callable[[_Slot, tuple[int, int]], Batch[Array]],
        bounds: Iterable[tuple[int, int]],
    ) -> None:
        self._free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[_Slot, Batch[Array]] | BaseException] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)
        self._held: _Slot | None = None
        self._thread = threading.Thread(target=self._fill, args=(read, bounds), name="ctpatch-loader", daemon=True)
        self._thread.start()

    def _fill(self, read: Callable[[_Slot, tuple[int, int]], Batch[Array]], bounds: Iterable[tuple[int, int]]) -> None:
        try:
            for bound in bounds:
                slot = self._free.get()
                if slot is None:
                    return
                self._ready.put((slot, read(slot, bound)))
        except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
            self._ready.put(error)

    def take(self) -> Batch[Array]:
        """The next batch; the one before is the thread's again."""
        got = self._ready.get()
        if self._held is not None:
            self._free.put(self._held)
            self._held = None
        if isinstance(got, BaseException):
            raise got
        self._held, batch = got
        return batch

    def close(self) -> None:
        """End the thread."""
        self._free.put(None)
        self._thread.join()


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
