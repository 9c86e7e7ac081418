"""Batches read ahead by a thread; NumPy only.

The thread reads the next batches while the caller works on this one. The gather is a copy of memory that leaves the
interpreter free, so a thread costs nothing and no batch crosses a process border.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.files.forks import require_polars
from ctpatch.loading.ahead import ReadAhead
from ctpatch.loading.groups import GroupSampler
from ctpatch.loading.options import Array, Batch, LoaderOptions, SamplerOptions, whole_number
from ctpatch.loading.places import Drawn, DrawnCounts, Places
from ctpatch.loading.sampling import Sampler, checked_epoch
from ctpatch.loading.transforms import InCallersThread
from ctpatch.loading.values import ChosenMaps

Empty: TypeAlias = Callable[[tuple[int, ...], np.dtype[Any]], Array]
"""Makes memory of a shape and dtype that nobody else holds; NumPy sees it through `np.asarray`."""

Shown = TypeVar("Shown")


@dataclass(frozen=True, slots=True)
class LoaderSource:
    """What a loader reads: arrays with their dtypes, and where their pixels are.

    `slices` is only needed for `balance` by a column of it.
    """

    arrays: dict[str, np.dtype[Any]]
    fingerprint: str
    places: Places
    slices: pl.DataFrame
    chosen: ChosenMaps = field(default_factory=ChosenMaps)


@dataclass(slots=True)
class _Place:
    """Where a loader stands: the epoch, how many of its batches were given out, and where the next pass begins."""

    epoch: int
    next_batch: int = 0
    begin_at: int = 0


class BatchLoader(Generic[Array]):
    """Iterates over a set in batches, epoch after epoch.

    Each pass over it is one epoch, from its first batch; `set_epoch` says which comes next. A pass that was left early
    is begun anew by the next one, unless `load_state_dict` says where to go on.

    A batch is the caller's: its memory is used again once nothing refers to it any more, and never before.

    Several passes at a time do not disturb each other: each keeps its epoch and its place. The loader stands where the
    pass stands that gave out the last batch. After `set_epoch` and `load_state_dict`, passes that were begun before go
    on as they were, and no longer change where the loader stands.

    Args:
        source: what is read.
        options: which patches, in which order, and how.
        rank, world_size: the share of this process.
        memory: makes the memory of batches; gets how many pieces of one size are worth keeping to use them again.
        column: the values of a column as the caller sees them.

    Attributes:
        codes: for each column of texts that comes with the batches its texts; a value `i` means the text `i`, -1 none.
        maps: for each array what maps its values, under `normalize` and `hu`; `loader.maps["image"].back(output)`
            gives stored values.

    Raises:
        ConfigError: an option does not fit the set, or leaves no batch.
    """

    def __init__(
        self,
        source: LoaderSource,
        options: LoaderOptions[Array],
        rank: int,
        world_size: int,
        memory: Callable[[int], Empty[Array]],
        column: Callable[[NDArray[Any]], Array],
    ) -> None:
        self.options = options
        if options.subset or options.weight or options.balance or options.columns or options.group:
            require_polars("a loader with subset, weight, balance, columns or group")
        self._arrays, self._places, self._fingerprint = source.arrays, source.places, source.fingerprint
        self.maps, self._mapped_by = source.chosen.maps, source.chosen.identity
        self._column = column
        self.codes = source.places.codes(options.columns)
        self._columns = {name: source.places.column(name, self.codes) for name in options.columns}
        self._sampler = _sampler(source, options, rank, world_size)
        self._set_size = source.places.set_size(self._sampler.most_draws)
        clash = [name for name in options.columns if name in source.arrays]
        if clash:
            raise ConfigError(f"columns: {clash[0]!r} is the name of an array too; read one of the two")
        if not len(self):
            if options.group is not None:
                raise ConfigError(
                    f"drop_last: {self._sampler.num_drawn} groups cannot be shared by {world_size} ranks; take fewer "
                    "ranks, or leave drop_last out"
                )
            raise ConfigError(
                f"drop_last: no batch is left: this process draws {len(self._sampler)} patches in an epoch (of "
                f"{self._set_size}, world_size {world_size}), fewer than batch_size {options.batch_size}; take a "
                "smaller batch_size, or leave drop_last out"
            )
        source.places.begin(list(source.arrays))
        source.places.follow(self._sampler.candidates, self._sampler.weights)
        # A pass has one batch with the caller, one on its way, and those read ahead.
        self._empty = memory(len(source.arrays) * (min(options.prefetch, len(self)) + 2))
        self._place = _Place(0)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._sampler.num_batches(self.options.batch_size)

    @property
    def drawn(self) -> DrawnCounts:
        """What became of the windows that were drawn; all 0 where none are drawn."""
        return self._places.counts

    @property
    def epoch(self) -> int:
        """The epoch that the next pass is, or the present one."""
        return self._place.epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin with the first batch of an epoch at the next pass; a pass that was begun before goes on as it was.

        Args:
            epoch: 0 to 2**56 - 1.

        Raises:
            ConfigError: there is no such epoch.
        """
        self._place = _Place(checked_epoch(epoch))

    def _identity(self) -> dict[str, Any]:
        """What decides the batches: a state belongs to a loader with the same."""
        return {
            **{each.name: getattr(self.options, each.name) for each in fields(SamplerOptions)},
            "world_size": self._sampler.world_size,
            "batch_size": self.options.batch_size,
            "patches": self._set_size,
            "fingerprint": self._fingerprint,
            **self._chosen_while_training(),
        }

    def _chosen_while_training(self) -> dict[str, Any]:
        """What decides the batches beside the options that all loaders have, as far as it is asked for."""
        options = self.options
        chosen: dict[str, Any] = {} if options.windows is None else {"windows": options.windows.described()}
        if options.group is not None:
            chosen["group"] = options.group
        if options.context:
            chosen["context"] = [
                options.context, options.context_edge, options.context_gap, list(options.arrays_with_context)
            ]  # fmt: skip
        return {**chosen, **self._mapped_by}

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: `load_state_dict` goes on with the batch after the last one given out.

        After `set_epoch` that is the first batch of the epoch that was set, also while an earlier pass goes on.
        """
        return {"epoch": self._place.epoch, "next_batch": self._place.next_batch, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: the next pass begins there.

        Raises:
            ConfigError: it was taken with other options, or from another set, or is no state of a loader.
        """
        for name, here in self._identity().items():
            if name == "fingerprint" and name not in state:
                warnings.warn(
                    "state: it has no fingerprint, since an earlier version of ctpatch saved it: ctpatch cannot tell "
                    "whether it belongs to this set",
                    stacklevel=2,
                )
            elif state.get(name) != here:
                raise ConfigError(
                    f"state: {name} was {state.get(name)!r}, this loader has {here!r}; go on with the same set and "
                    "the same options"
                )
        for name in ("windows", "group", "context", "normalize", "hu"):
            if name in state and name not in self._identity():
                raise ConfigError(
                    f"state: {name} was {state[name]!r}, this loader has none; go on with the same options"
                )
        epoch = checked_epoch(state.get("epoch"))
        next_batch = whole_number("state: next_batch", state.get("next_batch"))
        if not 0 <= next_batch <= len(self):
            raise ConfigError(f"state: next_batch is {next_batch}, an epoch of this loader has {len(self)} batches")
        self._place = _Place(epoch, next_batch, next_batch)

    def __iter__(self) -> "Pass[Array, Batch[Array]]":
        return self.begin(_as_it_is)

    def begin(self, show: Callable[[Batch[Array]], Shown]) -> "Pass[Array, Shown]":
        """A pass that gives out what `show` makes of each batch."""
        return Pass(self._start, show)

    def _start(self) -> "_Started[Array]":
        place = self._place
        first, place.begin_at = place.begin_at, 0
        chosen = self._sampler.batches(place.epoch, self.options.batch_size)[first:]
        late = self._transformed if isinstance(self.options.transform, InCallersThread) else None
        batches = ReadAhead(partial(self._read, place.epoch), chosen, self.options.prefetch, late)
        return _Started(place, place.epoch, first, first + len(chosen), batches)

    def _read(self, epoch: int, which: tuple[NDArray[np.int64], NDArray[np.int64]]) -> Batch[Array]:
        drawn = self._places.at(epoch, *which)
        arrays: dict[str, Array] = {}
        for name, dtype in self._arrays.items():
            arrays[name] = self._read_array(name, drawn, dtype)
        batch = Batch(
            arrays=arrays,
            columns={name: self._column(values(drawn)) for name, values in self._columns.items()},
            indices=drawn.indices.copy(),  # the caller's own, like all of a batch
            epoch=epoch,
            seed=self.options.seed,
            set_size=self._set_size,
        )
        return batch if isinstance(self.options.transform, InCallersThread) else self._transformed(batch)

    def _transformed(self, batch: Batch[Array]) -> Batch[Array]:
        if self.options.transform is None:
            return batch
        changed: object = self.options.transform(batch)
        if not isinstance(changed, Batch):
            raise ConfigError(
                f"transform: it returned {'None' if changed is None else f'a {type(changed).__name__}'}, wanted the "
                "Batch; end it with `return batch`"
            )
        return changed

    def _read_array(self, name: str, drawn: Drawn, dtype: np.dtype[Any]) -> Array:
        """The patches of one array, mapped where that is asked for."""
        mapped = self.maps.get(name)
        shape = (len(drawn.indices), self._places.channels(name), *self._places.patch_size)
        factor = 1 if mapped is None else mapped.factor
        found = self._empty((shape[0], shape[1] * factor, *shape[2:]), dtype)
        out = np.asarray(found)
        pixels = out if factor == 1 else np.empty(shape, dtype)
        self._places.read(name, drawn, pixels)
        if mapped is not None:
            mapped.apply(pixels, out)
        return found


def _sampler(source: LoaderSource, options: LoaderOptions[Any], rank: int, world_size: int) -> Sampler:
    """What draws patches, or groups of them."""
    places = source.places
    shared = rank, world_size, places.kinds, places.allowed
    if options.group is None:
        return Sampler(places.table, source.slices, options, *shared)
    return GroupSampler(places.table, source.slices, options, options.group, *shared)


def _as_it_is(batch: Batch[Array]) -> Batch[Array]:
    return batch


@dataclass(slots=True)
class _Started(Generic[Array]):
    """A pass that was begun: the place that it moves, its epoch, the batches given out, their number, and the rest."""

    place: _Place
    epoch: int
    given: int
    number: int
    batches: ReadAhead[tuple[NDArray[np.int64], NDArray[np.int64]], Batch[Array]]


class Pass(Generic[Array, Shown]):
    """One pass over a loader: an iterator over an epoch, which begins when its first batch is asked for.

    In a process that was forked after that, it raises UsageError.
    """

    def __init__(self, start: Callable[[], _Started[Array]], show: Callable[[Batch[Array]], Shown]) -> None:
        self._start = start
        self._show = show
        self._started: _Started[Array] | None = None
        self._ended = False

    def __iter__(self) -> "Pass[Array, Shown]":
        return self

    def __next__(self) -> Shown:
        if self._ended:
            raise StopIteration
        if self._started is None:
            self._started = self._start()
        run = self._started
        try:
            batch = next(run.batches)
        except StopIteration:
            if run.given == run.number:  # else a batch could not be read, and the epoch is not complete
                run.place.epoch, run.place.next_batch = run.epoch + 1, 0
            self._ended = True
            raise
        run.given += 1
        run.place.epoch, run.place.next_batch = run.epoch, run.given
        return self._show(batch)

    def close(self) -> None:
        """End the pass where it stands, and its thread."""
        self._ended = True
        if self._started is not None:
            self._started.batches.close()
