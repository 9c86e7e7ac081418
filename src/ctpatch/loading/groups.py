"""Epochs of whole groups: all patches with one value of a column come as one batch."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.format.carried import Kind
from ctpatch.format.ids import without_blanks
from ctpatch.loading.options import SamplerOptions
from ctpatch.loading.sampling import Batches, Sampler, checked_epoch


class GroupSampler(Sampler):
    """The epochs of a set in groups: a rank draws groups as it would draw patches, and a batch is a group.

    Within a group, patches keep the order of the manifest. Without `shuffle`, groups come in the order of their first
    patches.

    Args:
        manifest: rows of the set's manifest.
        slices: see `Sampler`.
        options: how epochs are drawn.
        group: a column of the manifest.
        rank, world_size, kinds, allowed: see `Sampler`.

    Raises:
        ConfigError: there is no such column, a patch has no value there, or see `Sampler`.
    """

    unit = "groups"

    def __init__(
        self,
        manifest: pl.DataFrame,
        slices: pl.DataFrame,
        options: SamplerOptions,
        group: str,
        rank: int = 0,
        world_size: int = 1,
        kinds: Mapping[str, Kind] = MappingProxyType({}),
        allowed: NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__(manifest, slices, options, rank, world_size, kinds, allowed)
        if group not in manifest.columns:
            raise ConfigError(
                f"group: there is no column {group!r} of patches, nor does the set keep one of its slices; there are "
                f"{', '.join(dict.fromkeys([*manifest.columns, *kinds]))}"
            )
        values = without_blanks(manifest[group][self._candidates])
        missing = values.is_null().arg_true()
        if len(missing):
            raise ConfigError(
                f"group: {len(missing)} of {len(values)} patches have no {group}, the first is patch "
                f"{self._candidates[int(missing[0])]}, and ctpatch cannot tell which belong together; leave them "
                "out with subset="
            )
        numbers = values.rank("dense").to_numpy().astype(np.int64) - 1
        order = np.argsort(numbers, kind="stable")
        groups = np.split(self._candidates[order], np.cumsum(np.bincount(numbers))[:-1])
        self._groups = sorted(groups, key=lambda each: int(each[0]))

    @property
    def num_drawn(self) -> int:
        """Groups."""
        return len(self._groups)

    def num_batches(self, batch_size: int) -> int:
        """Groups of this rank."""
        del batch_size
        return len(self)

    @property
    def most_draws(self) -> int:
        """A number that draws of an epoch stay below: which groups are repeated differs from epoch to epoch."""
        repeated = max(len(self) * self.world_size - self.num_drawn, 0)
        return len(self._candidates) + repeated * max(map(len, self._groups))

    def batches(self, epoch: int, batch_size: int) -> Batches:
        """A group each."""
        del batch_size
        order = self._shared(self._shuffled(checked_epoch(epoch), np.arange(self.num_drawn)))
        sizes = np.array([len(self._groups[at]) for at in order.tolist()], np.int64)
        first = np.cumsum(sizes) - sizes
        return [
            (self._groups[at], np.arange(begin, begin + len(self._groups[at])))
            for at, begin in zip(order[self.rank :: self.world_size], first[self.rank :: self.world_size], strict=True)
        ]
