"""Which patches come in which order: whole epochs, reproducible, whatever reads them.

Random numbers are counter-based: bit generator Philox keyed by (seed, epoch, purpose), one number for each patch, so
that neither threads nor ranks nor a resumed run can change them. The order of an epoch is that of these numbers.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import Rule
from ctpatch.core.rules import compile_number, compile_rules
from ctpatch.errors import ConfigError
from ctpatch.format.carried import Kind
from ctpatch.format.ids import without_blanks
from ctpatch.loading.columns import further_names, row_values
from ctpatch.loading.options import SamplerOptions, whole_number

_ORDER, _DRAW, _SYMMETRY = 1, 2, 3
ORIGIN, LABEL = 4, 5
"""Purposes of the numbers that windows are chosen with."""
WORDS = 4
"""Numbers of 64 bits in a block of Philox: each draw has a block of its own."""
_BLOCKS_TOGETHER = 16
_ONE_OF_53_BITS = 2.0**-53
_EPOCHS = 2**56
"""An epoch shares 64 bits of the key with the purpose of its random numbers, which takes 8."""


Batches: TypeAlias = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""For each batch the rows that it draws, `(B,)`, and which draws of the epoch, over all ranks, these are."""


class Sampler:
    """The epochs of a set under some options.

    Args:
        manifest: rows of the set's manifest.
        slices: rows of its slice manifest, for `balance` by their columns.
        options: how epochs are drawn.
        rank, world_size: this process draws every `world_size`-th patch, beginning with `rank`.
        kinds: the columns of slices that `manifest` has as well, with their types.
        allowed: which rows may be drawn, booleans; None allows all.

    Raises:
        ConfigError: a condition, weight or column cannot be used, the rank is none, or no patch is left.

    Attributes:
        unit: what messages call that which ranks share.
    """

    unit = "patches"

    def __init__(
        self,
        manifest: pl.DataFrame,
        slices: pl.DataFrame,
        options: SamplerOptions,
        rank: int = 0,
        world_size: int = 1,
        kinds: Mapping[str, Kind] = MappingProxyType({}),
        allowed: NDArray[np.bool_] | None = None,
    ) -> None:
        rank, world_size = whole_number("rank", rank), whole_number("world_size", world_size)
        if world_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(f"rank: wanted 0 to world_size - 1, got {rank} of {world_size}")
        if not manifest.height:
            raise ConfigError("the set has no patches: its rules dropped every window; build it with other rules")
        self.options = options
        self.rank, self.world_size = rank, world_size
        self._candidates = np.arange(manifest.height, dtype=np.int64) if allowed is None else np.flatnonzero(allowed)
        if not len(self._candidates):
            raise ConfigError("context_edge: 'drop' leaves nothing, since no slice has all its neighbours")
        if options.subset is not None:
            rules = compile_rules([Rule(name="subset", condition=options.subset)], further_names(kinds))
            self._candidates = self._candidates[rules.all_hits(row_values(manifest, kinds))[0][self._candidates]]
            if not len(self._candidates):
                raise ConfigError(f"subset: no patch of {manifest.height} meets {options.subset!r}")
        self.weights = self._weights(manifest, slices, kinds)
        self._cumulative = None if self.weights is None else np.cumsum(self.weights)

    @property
    def candidates(self) -> NDArray[np.int64]:
        """Rows that are drawn; `weights` says how often, None where all alike."""
        return self._candidates

    def _weights(
        self, manifest: pl.DataFrame, slices: pl.DataFrame, kinds: Mapping[str, Kind]
    ) -> NDArray[np.float64] | None:
        if self.options.weight is not None:
            number = compile_number("weight", self.options.weight, further_names(kinds))
            weights = number(row_values(manifest, kinds))[self._candidates]
            return _summable(weights, self.options.weight, self._candidates)
        name = self.options.balance
        if name is None:
            return None
        if name not in manifest.columns:
            if name not in slices.columns:
                raise ConfigError(f"balance: there is no column {name!r} in the manifest or the slice manifest")
            manifest = manifest.join(
                slices.select("slice_index", name), on="slice_index", how="left", maintain_order="left"
            )
        manifest = manifest.with_columns(without_blanks(manifest[name]))
        counts = manifest[self._candidates].select(pl.len().over(name)).to_series()
        return 1.0 / counts.to_numpy()

    @property
    def num_drawn(self) -> int:
        """What ranks share in an epoch."""
        return len(self._candidates)

    def __len__(self) -> int:
        """How much of this, patches or groups, this rank draws in an epoch."""
        count, world = self.num_drawn, self.world_size
        return count // world if self.options.drop_last else -(-count // world)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the patches that this rank draws in an epoch, in order, `(len(self),)`.

        Raises:
            ConfigError: there is no such epoch.
        """
        return self._shared(self._all_ranks(checked_epoch(epoch)))[self.rank :: self.world_size]

    def _shared(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """An order that all ranks share evenly: begun again at its end, or cut."""
        length = len(self) * self.world_size
        if length > len(order):
            order = np.concatenate([order, np.resize(order, length - len(order))])
        return order[:length]

    def num_batches(self, batch_size: int) -> int:
        """Batches of this rank in an epoch."""
        return len(batch_bounds(len(self), batch_size, drop_last=self.options.drop_last))

    @property
    def most_draws(self) -> int:
        """A number that draws of an epoch, over all ranks, stay below."""
        return len(self) * self.world_size

    def batches(self, epoch: int, batch_size: int) -> Batches:
        """The batches of this rank in an epoch; ConfigError where there is no such epoch."""
        order = self.epoch(epoch)
        draws = np.arange(len(order), dtype=np.int64) * self.world_size + self.rank
        bounds = batch_bounds(len(order), batch_size, drop_last=self.options.drop_last)
        return [(order[slice(*bound)], draws[slice(*bound)]) for bound in bounds]

    def _all_ranks(self, epoch: int) -> NDArray[np.int64]:
        count = len(self._candidates)
        if self._cumulative is not None:
            bits = random_bits(self.options.seed, epoch, _DRAW, count)
            uniform = (bits >> np.uint64(11)).astype(np.float64) * _ONE_OF_53_BITS
            drawn = np.searchsorted(self._cumulative, uniform * self._cumulative[-1], side="right")
            chosen: NDArray[np.int64] = np.minimum(drawn, count - 1)
            return self._candidates[chosen]
        return self._shuffled(epoch, self._candidates)

    def _shuffled(self, epoch: int, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """These in the order of an epoch."""
        count = len(which)
        if not self.options.shuffle:
            return which
        keys, block_size = random_bits(self.options.seed, epoch, _ORDER, count), self.options.block_size
        if block_size is None:
            return which[np.argsort(keys, kind="stable")]
        # Blocks in the order of their first keys, patches of 16 blocks at a time in the order of their own.
        place = np.argsort(np.argsort(keys[::block_size], kind="stable"))
        together = np.repeat(place // _BLOCKS_TOGETHER, block_size)[:count]
        return which[np.lexsort((keys, together))]


def checked_epoch(epoch: object) -> int:
    """The number of an epoch; ConfigError where there is none of that number."""
    number = whole_number("epoch", epoch)
    if not 0 <= number < _EPOCHS:
        raise ConfigError(f"epoch: wanted 0 to 2**56 - 1, got {number}")
    return number


def _summable(weights: NDArray[np.float64], expression: str, patches: NDArray[np.int64]) -> NDArray[np.float64]:
    """The weights of some patches, on a scale on which their sum is finite and differences are kept."""
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        at = int(wrong.argmax())
        raise ConfigError(
            f"weight: {expression!r} is {weights[at]} for patch {patches[at]}, and negative, infinite or no number for "
            f"{int(wrong.sum())} of {len(patches)} patches; wanted 0 or more for each"
        )
    largest = weights.max()
    if largest == 0:
        raise ConfigError(f"weight: {expression!r} is 0 for each of {len(patches)} patches; wanted more for some")
    # A power of two, which changes no digit: the draws are those of the weights as they are, wherever these can be
    # summed.
    return np.ldexp(weights, -int(np.frexp(largest)[1]))


def random_bits(seed: int, epoch: int, purpose: int, count: int) -> NDArray[np.uint64]:
    """The first `count` numbers of the stream for (seed, epoch, purpose); number i belongs to patch i."""
    # A bit generator's raw stream is fixed for ever; numpy's permutation and choice may change between versions.
    generator = np.random.Philox(key=np.array([seed, (epoch << 8) | purpose], np.uint64))
    return np.asarray(generator.random_raw(count), np.uint64)


def draw_words(seed: int, epoch: int, purpose: int, draws: NDArray[np.int64], attempt: int = 0) -> NDArray[np.float64]:
    """For each draw of an epoch, by its number, `WORDS` numbers in [0, 1), `(len(draws), WORDS)`.

    They depend on (seed, epoch, purpose, draw, attempt) and on nothing else.
    """
    if not len(draws):
        return np.empty((0, WORDS))
    first = int(draws.min())
    key = np.array([seed, (epoch << 8) | purpose], np.uint64)
    blocks = np.random.Philox(key=key, counter=np.array([first, attempt, 0, 0], np.uint64))
    words = np.asarray(blocks.random_raw((int(draws.max()) - first + 1) * WORDS), np.uint64).reshape(-1, WORDS)
    return (words[draws - first] >> np.uint64(11)).astype(np.float64) * _ONE_OF_53_BITS


def below(share: NDArray[np.float64], counts: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Whole numbers from 0 to `counts` - 1, each as likely, from numbers in [0, 1)."""
    chosen: NDArray[np.int64] = np.minimum((share * counts).astype(np.int64), np.asarray(counts) - 1)
    return chosen


@lru_cache(maxsize=4)
def symmetries(seed: int, epoch: int, count: int) -> NDArray[np.uint8]:
    """For each patch of a set one of the eight flips and rotations, by number, for an epoch."""
    return (random_bits(seed, epoch, _SYMMETRY, count) >> np.uint64(61)).astype(np.uint8)


def batch_bounds(length: int, batch_size: int, *, drop_last: bool) -> Sequence[tuple[int, int]]:
    """Where each batch begins and ends in an epoch of `length` patches."""
    stop = length - length % batch_size if drop_last else length
    return [(start, min(start + batch_size, length)) for start in range(0, stop, batch_size)]
