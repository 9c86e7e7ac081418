"""Which patches come in which order: whole epochs, reproducible, whatever reads them.

Random numbers are counter-based: bit generator Philox keyed by (seed, epoch, purpose), one number for each patch, so
that neither threads nor ranks nor a resumed run can change them. The order of an epoch is that of these numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import Rule
from ctpatch.core.rules import compile_number, compile_rules
from ctpatch.errors import ConfigError
from ctpatch.format.columns import rule_values

_ORDER, _DRAW, _SYMMETRY = 1, 2, 3
_BLOCKS_TOGETHER = 16
_MAX_SEED = 2**63


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """How an epoch is drawn from a set.

    Attributes:
        shuffle: a new order each epoch; False keeps the manifest's.
        seed: 0 to 2**63 - 1; the same seed gives the same epochs.
        subset: SQL condition; only patches for which it holds are drawn.
        weight: SQL number; patches are drawn with replacement, as often as it says relative to the others.
        balance: a column (`patient_id`, `slice_index`, …); patches are drawn with replacement so that each of its
            values comes as often as every other.
        block_size: shuffle blocks of so many neighbours, and the patches of 16 blocks among each other, so that
            reads stay near each other on disk; None shuffles all.
        rank, world_size: this process draws every `world_size`-th patch of the epoch, beginning with `rank`. Ranks
            are equal in length: the last ones repeat patches from the epoch's beginning (fewer than `world_size`
            repeats in all), or with `drop_last` the epoch is cut.
        drop_last: leave out the last batch where it is not full, and the remainder that ranks cannot share.
    """

    shuffle: bool = False
    seed: int = 0
    subset: str | None = None
    weight: str | None = None
    balance: str | None = None
    block_size: int | None = None
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.seed < _MAX_SEED:
            raise ConfigError(f"seed: wanted 0 to 2**63 - 1, got {self.seed}")
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank: wanted 0 to world_size - 1, got {self.rank} of {self.world_size}")
        if self.weight is not None and self.balance is not None:
            raise ConfigError("weight and balance both decide how often a patch is drawn: give one of them")
        if (self.weight or self.balance) and self.block_size is not None:
            raise ConfigError("block_size: draws by weight or balance are not neighbours: give one of them")
        if self.block_size is not None and (self.block_size < 1 or not self.shuffle):
            raise ConfigError(f"block_size: wanted 1 or more together with shuffle, got {self.block_size}")


class Sampler:
    """The epochs of a set under some options.

    Args:
        manifest: rows of the set's manifest.
        slices: rows of its slice manifest, for `balance` by their columns.
        options: how epochs are drawn.

    Raises:
        ConfigError: a condition, weight or column cannot be used, or no patch is left.
    """

    def __init__(self, manifest: pl.DataFrame, slices: pl.DataFrame, options: SamplerOptions) -> None:
        self.options = options
        columns = rule_values(manifest)
        self._candidates = np.arange(manifest.height, dtype=np.int64)
        if options.subset is not None:
            rules = compile_rules([Rule(name="subset", condition=options.subset)])
            self._candidates = np.flatnonzero(rules.all_hits(columns)[0]).astype(np.int64)
        if not len(self._candidates):
            raise ConfigError(f"subset: no patch of {manifest.height} meets {options.subset!r}")
        weights = self._weights(manifest, slices, columns)
        self._cumulative = None if weights is None else np.cumsum(weights)

    def _weights(
        self, manifest: pl.DataFrame, slices: pl.DataFrame, columns: dict[str, NDArray[Any]]
    ) -> NDArray[np.float64] | None:
        if self.options.weight is not None:
            weights = compile_number("weight", self.options.weight)(columns)[self._candidates]
            if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
                raise ConfigError(f"weight: {self.options.weight!r} is negative, infinite or no number for some patch")
            return weights
        if self.options.balance is None:
            return None
        name = self.options.balance
        if name in manifest.columns:
            groups = manifest[name]
        elif name in slices.columns:
            joined = manifest.select("slice_index").join(
                slices.select("slice_index", name), on="slice_index", how="left", maintain_order="left"
            )
            groups = joined[name]
        else:
            raise ConfigError(f"balance: there is no column {name!r} in the manifest or the slice manifest")
        codes = groups.gather(self._candidates).rank("dense").fill_null(0).to_numpy()
        _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / counts[inverse], np.float64)

    def __len__(self) -> int:
        """Patches that this rank draws in an epoch."""
        count, world = len(self._candidates), self.options.world_size
        return count // world if self.options.drop_last else -(-count // world)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the patches that this rank draws in an epoch, in order, `(len(self),)`."""
        order = self._all_ranks(epoch)
        world = self.options.world_size
        length = len(self) * world
        if length > len(order):
            order = np.concatenate([order, np.resize(order, length - len(order))])
        return order[:length][self.options.rank :: world]

    def _all_ranks(self, epoch: int) -> NDArray[np.int64]:
        count = len(self._candidates)
        if self._cumulative is not None:
            uniform = random_uniform(self.options.seed, epoch, _DRAW, count)
            drawn = np.searchsorted(self._cumulative, uniform * self._cumulative[-1], side="right")
            drawn_patches: NDArray[np.int64] = self._candidates[np.minimum(drawn, count - 1)]
            return drawn_patches
        if not self.options.shuffle:
            return self._candidates
        keys = random_bits(self.options.seed, epoch, _ORDER, count)
        if self.options.block_size is None:
            return self._candidates[np.argsort(keys, kind="stable")]
        return self._candidates[_block_order(keys, self.options.block_size)]


def _block_order(keys: NDArray[np.uint64], block_size: int) -> NDArray[np.int64]:
    """Blocks in the order of their first keys, patches of 16 blocks at a time in the order of their own."""
    count = len(keys)
    blocks = np.arange(count) // block_size
    place = np.empty(blocks[-1] + 1, np.int64)
    place[np.argsort(keys[::block_size], kind="stable")] = np.arange(len(place))
    together = place[blocks] // _BLOCKS_TOGETHER
    order: NDArray[np.int64] = np.lexsort((keys, together))
    return order


def random_bits(seed: int, epoch: int, purpose: int, count: int) -> NDArray[np.uint64]:
    """The first `count` numbers of the stream for (seed, epoch, purpose); number i belongs to patch i."""
    # A bit generator's raw stream is fixed for ever; numpy's permutation and choice may change between versions.
    generator = np.random.Philox(key=np.array([seed, (epoch << 8) | purpose], np.uint64))
    return np.asarray(generator.random_raw(count), np.uint64)


def random_uniform(seed: int, epoch: int, purpose: int, count: int) -> NDArray[np.float64]:
    """The same as numbers in [0, 1) of 53 bits."""
    return (random_bits(seed, epoch, purpose, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@lru_cache(maxsize=4)
def symmetries(seed: int, epoch: int, count: int) -> NDArray[np.uint8]:
    """For each patch of a set one of the eight flips and rotations, by number, for an epoch."""
    return (random_bits(seed, epoch, _SYMMETRY, count) >> np.uint64(61)).astype(np.uint8)


def batch_bounds(length: int, batch_size: int, *, drop_last: bool) -> Sequence[tuple[int, int]]:
    """Where each batch begins and ends in an epoch of `length` patches."""
    stop = length - length % batch_size if drop_last else length
    return [(start, min(start + batch_size, length)) for start in range(0, stop, batch_size)]
