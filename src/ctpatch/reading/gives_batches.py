"""What gives batches: patch sets, and slices of prepared splits."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.loading.batches import BatchLoader, Empty, LoaderSource
from ctpatch.loading.options import Array, LoaderOptions, NumpyOptions, takes
from ctpatch.loading.pool import Pool


class GivesBatches(ABC):
    """Gives loaders of what `source_for` says."""

    @abstractmethod
    def source_for(self, options: LoaderOptions[Any]) -> LoaderSource:
        """What a loader reads under some options."""

    @takes(NumpyOptions)
    def batches(self, options: NumpyOptions) -> BatchLoader[NDArray[Any]]:
        """Batches as NumPy arrays, read ahead by a thread; the options of `ctpatch.torch.PatchLoader`, without torch.

        A batch is the caller's: its memory is used again once nothing refers to it any more, and never before. The
        slices of a prepared split need `windows`.

        Returns:
            A loader: each pass over it is one epoch of `Batch`es, beginning with `epoch`.

        Raises:
            ConfigError: an option makes no sense, or leaves no batch.
        """
        loader = self.loader(options, options.rank, options.world_size, Pool, np.asarray)
        loader.set_epoch(options.epoch)
        return loader

    def loader(
        self,
        options: LoaderOptions[Array],
        rank: int,
        world_size: int,
        memory: Callable[[int], Empty[Array]],
        column: Callable[[NDArray[Any]], Array],
    ) -> BatchLoader[Array]:
        """Batches in memory of another kind; `batches` gives NumPy arrays."""
        return BatchLoader(self.source_for(options), options, rank, world_size, memory, column)
