"""Which patches come in which order: whole epochs, reproducible, whatever reads them.

Random numbers are counter-based: bit generator Philox keyed by (seed, epoch, purpose), one number for each patch, so
that neither threads nor ranks nor a resumed run can change them. The order of an epoch is that of these numbers.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.config import Rule
from ctpatch.core.rules import compile_number, compile_rules
from ctpatch.errors import ConfigError
from ctpatch.format.columns import rule_values
from ctpatch.reading.options import SamplerOptions

_ORDER, _DRAW, _SYMMETRY = 1, 2, 3
_BLOCKS_TOGETHER = 16


class Sampler:
    """The epochs of a set under some options.

    Args:
        manifest: rows of the set's manifest.
        slices: rows of its slice manifest, for `balance` by their columns.
        options: how epochs are drawn.
        rank, world_size: this process draws every `world_size`-th patch, beginning with `rank`.

    Raises:
        ConfigError: a condition, weight or column cannot be used, the rank is none, or no patch is left.
    """

    def __init__(
        self, manifest: pl.DataFrame, slices: pl.DataFrame, options: SamplerOptions, rank: int = 0, world_size: int = 1
    ) -> None:
        if world_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(f"rank: wanted 0 to world_size - 1, got {rank} of {world_size}")
        self.options = options
        self.rank, self.world_size = rank, world_size
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
        name = self.options.balance
        if name is None:
            return None
        if name not in manifest.columns:
            if name not in slices.columns:
                raise ConfigError(f"balance: there is no column {name!r} in the manifest or the slice manifest")
            manifest = manifest.join(
                slices.select("slice_index", name), on="slice_index", how="left", maintain_order="left"
            )
        counts = manifest[self._candidates].select(pl.len().over(name)).to_series()
        return 1.0 / counts.to_numpy()

    def __len__(self) -> int:
        """Patches that this rank draws in an epoch."""
        count, world = len(self._candidates), self.world_size
        return count // world if self.options.drop_last else -(-count // world)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Numbers of the patches that this rank draws in an epoch, in order, `(len(self),)`."""
        order = self._all_ranks(epoch)
        length = len(self) * self.world_size
        if length > len(order):
            order = np.concatenate([order, np.resize(order, length - len(order))])
        return order[:length][self.rank :: self.world_size]

    def _all_ranks(self, epoch: int) -> NDArray[np.int64]:
        count = len(self._candidates)
        if self._cumulative is not None:
            bits = random_bits(self.options.seed, epoch, _DRAW, count)
            uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1), of 53 bits
            drawn = np.searchsorted(self._cumulative, uniform * self._cumulative[-1], side="right")
            chosen: NDArray[np.int64] = np.minimum(drawn, count - 1)
            return self._candidates[chosen]
        if not self.options.shuffle:
            return self._candidates
        keys, block_size = random_bits(self.options.seed, epoch, _ORDER, count), self.options.block_size
        if block_size is None:
            return self._candidates[np.argsort(keys, kind="stable")]
        # Blocks in the order of their first keys, patches of 16 blocks at a time in the order of their own.
        place = np.argsort(np.argsort(keys[::block_size], kind="stable"))
        together = np.repeat(place // _BLOCKS_TOGETHER, block_size)[:count]
        return self._candidates[np.lexsort((keys, together))]


def random_bits(seed: int, epoch: int, purpose: int, count: int) -> NDArray[np.uint64]:
    """The first `count` numbers of the stream for (seed, epoch, purpose); number i belongs to patch i."""
    # A bit generator's raw stream is fixed for ever; numpy's permutation and choice may change between versions.
    generator = np.random.Philox(key=np.array([seed, (epoch << 8) | purpose], np.uint64))
    return np.asarray(generator.random_raw(count), np.uint64)


@lru_cache(maxsize=4)
def symmetries(seed: int, epoch: int, count: int) -> NDArray[np.uint8]:
    """For each patch of a set one of the eight flips and rotations, by number, for an epoch."""
    return (random_bits(seed, epoch, _SYMMETRY, count) >> np.uint64(61)).astype(np.uint8)


def batch_bounds(length: int, batch_size: int, *, drop_last: bool) -> Sequence[tuple[int, int]]:
    """Where each batch begins and ends in an epoch of `length` patches."""
    stop = length - length % batch_size if drop_last else length
    return [(start, min(start + batch_size, length)) for start in range(0, stop, batch_size)]
