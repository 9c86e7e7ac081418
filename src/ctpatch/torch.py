"""PyTorch on top of a patch set: a map-style dataset, and a loader that reads ahead with threads.

The only module that imports torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from typing_extensions import TypeVar

from ctpatch.core.mapping import ValueMap
from ctpatch.errors import ConfigError
from ctpatch.files.atomic import given_path
from ctpatch.format.meta import PATCH_META
from ctpatch.loading.batches import Pass
from ctpatch.loading.options import Batch, LoaderOptions, takes
from ctpatch.loading.places import DrawnCounts
from ctpatch.loading.pool import Pool
from ctpatch.loading.transforms import FlipsAndRotations, as_kind_of, empty_like, in_callers_thread, per_patch
from ctpatch.loading.windows import RandomWindows
from ctpatch.reading.asked import Names, SetPath, named_arrays
from ctpatch.reading.patchset import AnySet, PatchSet, open_set
from ctpatch.reading.slice_set import SliceSet

__all__ = ["FlipsAndRotations", "PatchDataset", "PatchLoader", "in_callers_thread", "per_patch"]

TensorsByName: TypeAlias = dict[str, torch.Tensor]
Sample_co = TypeVar("Sample_co", bound=torch.Tensor | TensorsByName, default=torch.Tensor, covariant=True)


def _as_set(source: AnySet | SetPath) -> AnySet:
    return source if isinstance(source, PatchSet) else open_set(source)


def _as_slices(source: AnySet | SliceSet | SetPath, windows: RandomWindows | None) -> AnySet | SliceSet:
    """A set; or where windows are drawn and the folder is no patch set, the slices of a prepared split."""
    if isinstance(source, SliceSet):
        return source
    if windows is None or isinstance(source, PatchSet) or (given_path(source) / PATCH_META).is_file():
        return _as_set(source)
    return SliceSet(source)


def _stands_alone(ps: AnySet | SliceSet, arrays: str | Sequence[str] | None) -> bool:
    """Whether pixels come as a tensor: one array, unless the set was opened with a list."""
    return len([arrays] if isinstance(arrays, str) else arrays) == 1 if arrays else ps.reads_one


class PatchDataset(Dataset[Sample_co], Generic[Sample_co]):
    """A patch set for `torch.utils.data.DataLoader`.

    A sample is `(1, H, W)`, float32 (labels in their own dtype); a dict of such where the set has several arrays.
    With `num_workers=0` a DataLoader asks for whole batches (`__getitems__`), which are read in one go.

    Workers need no table: what they need of the manifest comes with the dataset, as NumPy arrays, whether they are
    forked or started afresh.

    Args:
        source: a patch set, or its folder.
        arrays: which arrays, or the name of one; None takes all.

    Raises:
        ValueError: there is no such array.
    """

    @overload
    def __init__(
        self: "PatchDataset[torch.Tensor]", source: PatchSet | SetPath, arrays: str | tuple[str] | None = None
    ) -> None: ...
    @overload
    def __init__(
        self: "PatchDataset[TensorsByName]", source: AnySet | SetPath, arrays: Names | None = None
    ) -> None: ...
    def __init__(self, source: AnySet | SetPath, arrays: str | Sequence[str] | None = None) -> None:
        self.ps = _as_set(source)
        self._arrays = named_arrays(arrays or None, self.ps.selected, self.ps.arrays)
        self._alone = _stands_alone(self.ps, arrays)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"readers": self.ps.readers(self._arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        readers = state.pop("readers")
        self.__dict__.update(state)
        self.ps.take_readers(readers)

    def __len__(self) -> int:
        return len(self.ps)

    def __getitem__(self, index: int) -> Sample_co:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample_co]:
        """The samples of a batch, in the order asked."""
        read = self.ps.read(indices, arrays=self._arrays)
        stacks = {name: torch.from_numpy(patches).unsqueeze(1) for name, patches in read.items()}
        samples: list[Any] = [{name: stack[at] for name, stack in stacks.items()} for at in range(len(indices))]
        return list(next(iter(stacks.values()))) if self._alone else samples


class _Memory:
    """Memory of tensors, used again once nothing refers to a tensor any more.

    Where this process uses CUDA, memory is pinned, so that copies to the device run during the work. It is torch's own
    then: torch knows of copies under way, and uses memory again only after them.
    """

    def __init__(self, kept: int) -> None:
        self._pool = Pool(kept)

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
        if _uses_cuda():
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return torch.empty(shape, dtype=kind, pin_memory=True)
        return torch.from_numpy(self._pool(shape, dtype))


def _uses_cuda() -> bool:
    initialized: Callable[[], bool] = torch.cuda.is_initialized
    return initialized()


@as_kind_of.register
def _(_: torch.Tensor, pixels: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(pixels)


@empty_like.register
def _(array: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.empty(shape, dtype=array.dtype, pin_memory=_uses_cuda())


@dataclass(frozen=True)
class _From:
    """Where a loader reads: the first of its options, the only one that has no default.

    Attributes:
        source: a patch set, or its folder; with `windows` also a prepared split (`ctpatch.open_slices`), or its
            folder.
    """

    source: AnySet | SliceSet | SetPath


@dataclass(frozen=True, kw_only=True)
class TorchOptions(LoaderOptions[torch.Tensor], _From):
    """Options of a `PatchLoader`.

    Attributes:
        rank, world_size: the share of this process, every `world_size`-th patch beginning with `rank`; None takes
            them from `torch.distributed` where it is initialised.
    """

    rank: int | None = None
    world_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class OneTensor(TorchOptions):
    """Options with which a batch is a tensor."""

    source: PatchSet | SliceSet | SetPath = field(kw_only=False)
    columns: tuple[()] = ()
    arrays: str | tuple[str] | None = None


@dataclass(frozen=True, kw_only=True)
class SeveralTensors(TorchOptions):
    """Options with which a batch is a dict: columns, several arrays, or a set that was opened with a list of arrays."""


class PatchLoader(Generic[Sample_co]):
    """Batches of a patch set as tensors `(B, C, H, W)`, read ahead by a thread; C is 1, or more with `context`.

    A batch is a tensor; a dict of tensors where the set has several arrays or `columns` are asked for. It is yours: its
    memory is used again once nothing refers to it any more, neither a tensor nor a view, an array or a graph.
    Each pass is one epoch: every patch once, in an order that depends on `seed` and epoch alone; or with `windows` the
    windows that are drawn for it.

    Several passes at a time do not disturb each other. The loader stands where the pass stands that gave out the last
    batch; after `set_epoch` and `load_state_dict`, earlier passes go on and no longer change that.
    """

    @overload
    @takes(OneTensor)
    def __init__(self: "PatchLoader[torch.Tensor]", options: OneTensor) -> None: ...
    @overload
    @takes(SeveralTensors)
    def __init__(self: "PatchLoader[TensorsByName]", options: SeveralTensors) -> None: ...
    @takes(TorchOptions)
    def __init__(self, options: TorchOptions) -> None:
        """Make a loader.

        Raises:
            ConfigError: an option makes no sense, or leaves no batch.
        """
        ps = _as_slices(options.source, options.windows)
        self._alone = _stands_alone(ps, options.arrays) and not options.columns
        self._loader = ps.loader(options, *_share(options.rank, options.world_size), _Memory, torch.from_numpy)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._loader)

    @property
    def codes(self) -> dict[str, list[str]]:
        """For each column of texts that comes with the batches its texts; a value `i` means the text `i`, -1 none."""
        return self._loader.codes

    def __iter__(self) -> Pass[torch.Tensor, Sample_co]:
        return self._loader.begin(self._shown)

    def _shown(self, batch: Batch[torch.Tensor]) -> Any:
        together = {**batch.arrays, **batch.columns}
        return next(iter(together.values())) if self._alone else together

    @property
    def maps(self) -> Mapping[str, ValueMap]:
        """For each array what maps its values, under `normalize` and `hu`; `.back(output)` gives stored values."""
        return self._loader.maps

    @property
    def drawn(self) -> DrawnCounts:
        """What became of the windows that were drawn; all 0 where none are drawn."""
        return self._loader.drawn

    def set_epoch(self, epoch: int) -> None:
        """Begin with the first batch of an epoch at the next pass; a pass that was begun before goes on as it was.

        Args:
            epoch: 0 to 2**56 - 1.

        Raises:
            ConfigError: there is no such epoch.
        """
        self._loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as plain values; `load_state_dict` goes on with the next batch.

        After `set_epoch` that is the first batch of the epoch that was set, also while an earlier pass goes on.
        """
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ConfigError: it was taken with other options, or from another set, or is no state of a loader.
        """
        self._loader.load_state_dict(state)


def _share(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ConfigError("rank and world_size go together: give both or neither")
    if rank is not None and world_size is not None:
        return rank, world_size
    distributed = torch.distributed
    alone = not (distributed.is_available() and distributed.is_initialized())
    return (0, 1) if alone else (distributed.get_rank(), distributed.get_world_size())
