"""PyTorch on top of a patch set: a map-style dataset, and a loader that reads ahead with threads.

The only module that imports torch.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ctpatch.errors import ConfigError
from ctpatch.reading.batches import Batch, BatchLoader, FlipsAndRotations
from ctpatch.reading.patchset import PatchSet, open_set
from ctpatch.reading.sampling import SamplerOptions

__all__ = ["FlipsAndRotations", "PatchDataset", "PatchLoader"]

Sample: TypeAlias = torch.Tensor | dict[str, torch.Tensor]
TorchTransform: TypeAlias = Callable[[Batch[torch.Tensor]], Batch[torch.Tensor]]


def _as_set(source: PatchSet | str | os.PathLike[str]) -> PatchSet:
    return source if isinstance(source, PatchSet) else open_set(source)


class PatchDataset(Dataset[Sample]):
    """A patch set for `torch.utils.data.DataLoader`.

    A sample is `(1, H, W)`, float32 (labels in their own dtype); a dict of such where the set has several arrays.
    With `num_workers=0` a DataLoader asks for whole batches (`__getitems__`), which are read in one go.

    Args:
        source: a patch set, or its folder.
        arrays: which arrays; None takes all.
    """

    def __init__(self, source: PatchSet | str | os.PathLike[str], arrays: Sequence[str] | None = None) -> None:
        self.ps = _as_set(source)
        self._arrays = tuple(arrays or self.ps.arrays)

    def __len__(self) -> int:
        return len(self.ps)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples of a batch, in the order asked."""
        read = self.ps.read(indices, arrays=self._arrays)
        stacks = {name: torch.from_numpy(patches).unsqueeze(1) for name, patches in read.items()}
        if len(stacks) == 1:
            return list(next(iter(stacks.values())))
        return [{name: stack[at] for name, stack in stacks.items()} for at in range(len(indices))]


class _TorchBuffers:
    """Tensors whose memory NumPy fills; pinned where CUDA is there, so that copies to it run beside the work."""

    def __init__(self) -> None:
        self._pin = torch.cuda.is_available()

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Any]:
        """A buffer as NumPy sees it and as a tensor."""
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        tensor = torch.empty(shape, dtype=kind, pin_memory=self._pin)
        return tensor.numpy(), tensor

    def column(self, values: NDArray[Any]) -> Any:
        """The values of a column as a tensor."""
        return torch.from_numpy(np.ascontiguousarray(values))


class PatchLoader:
    """Batches of a patch set as tensors `(B, 1, H, W)`, read ahead by a thread into buffers that are used again.

    A batch is a tensor; a dict of tensors where the set has several arrays or `columns` are asked for. It is valid
    until the next one is asked for; keep it longer with `copy=True` (or by `.clone()`, or by moving it to a device).
    Each pass is one epoch: every patch once, in an order that depends on `seed` and epoch alone.

    Args:
        source: a patch set, or its folder.
        batch_size: patches in a batch.
        shuffle: a new order each epoch.
        seed: of the order and of transforms.
        drop_last: leave out the last batch where it is not full.
        prefetch: batches read ahead; 0 reads when asked.
        columns: numeric columns of the manifest that come with each batch (`row`, `std`, `slice_index`, …).
        arrays: which arrays; None takes all.
        transform: is given each `Batch` of tensors in the reading thread and returns it; `FlipsAndRotations()` is one.
        subset, weight, balance, block_size: see `ctpatch.reading.sampling.SamplerOptions`.
        rank, world_size: the share of this process; None takes them from `torch.distributed` where it is initialised.
        copy: give each batch memory of its own.

    Raises:
        ConfigError: an option makes no sense.
    """

    def __init__(
        self,
        source: PatchSet | str | os.PathLike[str],
        batch_size: int = 64,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        prefetch: int = 2,
        columns: Sequence[str] = (),
        arrays: Sequence[str] | None = None,
        transform: TorchTransform | None = None,
        subset: str | None = None,
        weight: str | None = None,
        balance: str | None = None,
        block_size: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        copy: bool = False,
    ) -> None:
        here, world = _share(rank, world_size)
        options = SamplerOptions(
            shuffle=shuffle,
            seed=seed,
            subset=subset,
            weight=weight,
            balance=balance,
            block_size=block_size,
            rank=here,
            world_size=world,
            drop_last=drop_last,
        )
        self._loader = BatchLoader(
            _as_set(source),
            batch_size,
            options,
            prefetch=prefetch,
            arrays=arrays,
            columns=columns,
            transform=transform,
            copy=copy,
            buffers=_TorchBuffers(),
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            together = {**batch.arrays, **batch.columns}
            yield next(iter(together.values())) if len(together) == 1 else together

    def set_epoch(self, epoch: int) -> None:
        """Begin with the first batch of an epoch at the next pass."""
        self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands; `load_state_dict` goes on with the next batch."""
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ConfigError: it was taken with other options, or from another set.
        """
        self._loader.load_state_dict(state)


def _share(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ConfigError("rank and world_size go together: give both or neither")
    if rank is not None and world_size is not None:
        return rank, world_size
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
