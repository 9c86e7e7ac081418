"""Batches read ahead by threads into buffers that are used again; NumPy only.

One thread reads the next batches while the caller works on this one. The gather is a copy of memory that leaves the
interpreter free, so a thread costs nothing and no batch crosses a process border.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.files.memory import empty_buffer
from ctpatch.format.meta import PatchMeta
from ctpatch.reading.sampling import Sampler, SamplerOptions, batch_bounds, symmetries

Array = TypeVar("Array")


@dataclass(slots=True)
class Batch(Generic[Array]):
    """One batch.

    Attributes:
        arrays: for each array of the set its patches `(B, 1, H, W)`.
        columns: for each column asked for its values `(B,)`.
        indices: numbers of the patches in the set, `(B,)`.
        epoch, seed: where the batch belongs, for transforms that need random numbers of their own.
        set_size: patches in the whole set.
    """

    arrays: dict[str, Array]
    columns: dict[str, Array]
    indices: NDArray[np.int64]
    epoch: int
    seed: int
    set_size: int


Transform = Callable[[Batch[Any]], Batch[Any]]


class Readable(Protocol):
    """What a loader needs of a patch set."""

    meta: PatchMeta

    def __len__(self) -> int: ...

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays."""
        ...

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch."""
        ...

    @property
    def manifest(self) -> pl.DataFrame:
        """A row for each patch."""
        ...

    @property
    def slices(self) -> pl.DataFrame:
        """A row for each slice."""
        ...

    def read(self, indices: Any, out: Any = None, *, arrays: Sequence[str] | None = None) -> Any:
        """Patches in the order asked."""
        ...


class Buffers(Protocol):
    """Makes the memory that batches are read into, and what the caller sees of it."""

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Any]:
        """A buffer as NumPy sees it, and as the caller does; both share the memory."""
        ...

    def column(self, values: NDArray[Any]) -> Any:
        """The values of a column as the caller sees them."""
        ...


class NumpyBuffers:
    """Plain arrays."""

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Any]:
        """A new array, twice."""
        buffer = empty_buffer(shape, dtype)
        return buffer, buffer

    def column(self, values: NDArray[Any]) -> Any:
        """The values themselves."""
        return values


@dataclass(slots=True)
class _Slot:
    memory: dict[str, NDArray[Any]] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)


class BatchLoader:
    """Iterates over a set in batches, epoch after epoch.

    Each pass over it is one epoch, from its first batch; `set_epoch` says which comes next. A pass that was left early
    is begun anew by the next one, unless `load_state_dict` says where to go on.

    A batch is valid until the next one is asked for, unless `copy` is set: then it is the caller's for ever.

    Args:
        ps: the set.
        batch_size: patches in a batch.
        options: which patches, in which order.
        prefetch: batches read ahead; 0 reads when asked.
        arrays: which arrays; None takes all.
        columns: numeric columns of the manifest that come with each batch.
        transform: is given each batch in the reading thread and returns what the caller gets.
        copy: give each batch memory of its own instead of reusing buffers.
        buffers: makes the memory.
    """

    def __init__(
        self,
        ps: Readable,
        batch_size: int,
        options: SamplerOptions,
        *,
        prefetch: int = 2,
        arrays: Sequence[str] | None = None,
        columns: Sequence[str] = (),
        transform: Transform | None = None,
        copy: bool = False,
        buffers: Buffers | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size: wanted 1 or more, got {batch_size}")
        if prefetch < 0:
            raise ConfigError(f"prefetch: wanted 0 or more, got {prefetch}")
        unknown = [name for name in arrays or () if name not in ps.arrays]
        if unknown:
            raise ConfigError(f"arrays: there is no array {unknown[0]!r}; the set has {', '.join(ps.arrays)}")
        self.ps = ps
        self.batch_size = batch_size
        self.options = options
        self.prefetch = prefetch
        self.arrays = tuple(arrays or ps.arrays)
        self.transform = transform
        self.copy = copy
        self._buffers: Buffers = buffers or NumpyBuffers()
        self._columns = {name: _numeric_column(ps.manifest, name) for name in columns}
        self._sampler = Sampler(ps.manifest, ps.slices, options)
        self._slots: list[_Slot] = []
        clash = [name for name in columns if name in self.arrays]
        if clash:
            raise ConfigError(f"columns: {clash[0]!r} is the name of an array too; read one of the two")
        self._epoch = 0
        self._next_batch = 0
        self._begin_at = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(batch_bounds(len(self._sampler), self.batch_size, drop_last=self.options.drop_last))

    @property
    def epoch(self) -> int:
        """The epoch that the next pass is, or the present one."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin with the first batch of an epoch at the next pass."""
        self._epoch, self._next_batch, self._begin_at = epoch, 0, 0

    def _identity(self) -> dict[str, Any]:
        """What decides the batches: a state belongs to a loader with the same."""
        options = asdict(self.options)
        del options["rank"]
        return {**options, "batch_size": self.batch_size, "patches": len(self.ps)}

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

    def __iter__(self) -> Iterator[Batch[Any]]:
        order = self._sampler.epoch(self._epoch)
        bounds = batch_bounds(len(order), self.batch_size, drop_last=self.options.drop_last)
        first, self._begin_at = self._begin_at, 0
        self._next_batch = first
        for batch in self._batches(order, bounds[first:]):
            self._next_batch += 1
            yield batch
        self._epoch, self._next_batch = self._epoch + 1, 0

    def _batches(self, order: NDArray[np.int64], bounds: Sequence[tuple[int, int]]) -> Iterator[Batch[Any]]:
        epoch = self._epoch
        if self.prefetch == 0:
            slot = _Slot()
            for start, stop in bounds:
                yield self._read(_Slot() if self.copy else slot, order[start:stop], epoch)
            return
        yield from self._read_ahead(order, bounds, epoch)

    def _read_ahead(
        self, order: NDArray[np.int64], bounds: Sequence[tuple[int, int]], epoch: int
    ) -> Iterator[Batch[Any]]:
        """A thread fills slots from a ring; one is with the caller, one is being filled, the others wait."""
        free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        ready: queue.SimpleQueue[tuple[_Slot, Batch[Any]] | BaseException | None] = queue.SimpleQueue()
        while len(self._slots) < self.prefetch + 2:
            self._slots.append(_Slot())
        slots, self._slots = self._slots, []
        for slot in slots:
            free.put(slot)

        def fill() -> None:
            try:
                for start, stop in bounds:
                    taken = free.get()
                    if taken is None:
                        return
                    ready.put((taken, self._read(_Slot() if self.copy else taken, order[start:stop], epoch)))
                ready.put(None)
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who raises it
                ready.put(error)

        thread = threading.Thread(target=fill, name="ctpatch-loader", daemon=True)
        thread.start()
        held: _Slot | None = None
        try:
            while True:
                got = ready.get()
                if held is not None:
                    free.put(held)
                    held = None
                if got is None:
                    return
                if isinstance(got, BaseException):
                    raise got
                held, batch = got
                yield batch
        finally:
            free.put(None)
            thread.join()
            self._slots = slots

    def _read(self, slot: _Slot, which: NDArray[np.int64], epoch: int) -> Batch[Any]:
        count = len(which)
        height, width = self.ps.patch_size
        for name in self.arrays:
            if name not in slot.memory:
                shape = (self.batch_size, 1, height, width)
                slot.memory[name], slot.seen[name] = self._buffers.make(
                    shape, np.dtype(self.ps.meta.arrays[name].dtype)
                )
        out = {name: slot.memory[name][:count, 0] for name in self.arrays}
        self.ps.read(which, out=out, arrays=self.arrays)
        batch = Batch(
            arrays={name: slot.seen[name][:count] for name in self.arrays},
            columns={name: self._buffers.column(values[which]) for name, values in self._columns.items()},
            indices=which,
            epoch=epoch,
            seed=self.options.seed,
            set_size=len(self.ps),
        )
        return batch if self.transform is None else self.transform(batch)


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

    def __call__(self, batch: Batch[Any]) -> Batch[Any]:
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
