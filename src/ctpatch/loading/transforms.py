"""Transforms of batches: what a loader does to patches before it gives them out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.loading.options import Array, Batch, whole_number
from ctpatch.loading.sampling import symmetries

_OF_PATCHES = 32
"""In the key of random numbers; the purposes below it belong to the order of an epoch and to what it is made of."""


class FlipsAndRotations:
    """The eight flips and rotations of a patch, one drawn for each patch and epoch, the same for all its arrays.

    Patches that are not square are flipped only (four ways). A transform for loaders; works in place.
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


def keyed_generator(batch: Batch[Any], index: int, purpose: int) -> np.random.Generator:
    """Random numbers that depend on the batch's seed and epoch, a patch's number and a purpose, and on nothing else."""
    # The key says which stream, the upper words of the counter which part of it: no two parts can meet.
    key = np.array([batch.seed, (batch.epoch << 8) | _OF_PATCHES], np.uint64)
    counter = np.array([0, 0, index, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@singledispatch
def as_kind_of(array: object, pixels: NDArray[Any]) -> Any:
    """Pixels as an array of the same kind as another one; each kind but NumPy's is registered where it is known."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"arrays of {type(array).__name__} are not known; wanted NumPy arrays or torch tensors")
    return pixels


@singledispatch
def empty_like(array: object, shape: tuple[int, ...]) -> Any:
    """Memory for patches of another shape, of the same kind and dtype as an array and as quick to copy to a device."""
    return as_kind_of(array, np.empty(shape, np.asarray(array).dtype))


def checked_purpose(purpose: int) -> int:
    """A purpose as a number of a key; ConfigError where it is none."""
    if not 0 <= whole_number("purpose", purpose) < 2**63:
        raise ConfigError(f"purpose: wanted 0 to 2**63 - 1, got {purpose}")
    return int(purpose)


@dataclass(frozen=True, slots=True)
class PerPatch(Generic[Array]):
    """A transform that treats each patch on its own; `per_patch` makes it."""

    fn: Callable[[dict[str, Array], np.random.Generator], Mapping[str, Array]]
    purpose: int

    def __call__(self, batch: Batch[Array]) -> Batch[Array]:
        """Treat every patch of a batch."""
        pixels = {name: np.asarray(array) for name, array in batch.arrays.items()}
        results = [self._treated(batch, pixels, place) for place in range(len(batch.indices))]
        stacks = {name: [np.asarray(result[name]) for result in results] for name in batch.arrays}
        return replace(batch, arrays={name: fitted(batch, name, stack) for name, stack in stacks.items()})

    def _treated(self, batch: Batch[Array], pixels: dict[str, NDArray[Any]], place: int) -> Mapping[str, Array]:
        # A copy: the function may keep it, change it, or give back parts of it for another array.
        sample: dict[str, Array] = {
            name: as_kind_of(batch.arrays[name], patches[place].copy()) for name, patches in pixels.items()
        }
        index = int(batch.indices[place])
        try:
            result: object = self.fn(sample, keyed_generator(batch, index, self.purpose))
        except Exception as error:
            error.add_note(f"raised in a per_patch transform, for patch {index} in epoch {batch.epoch}")
            raise
        if not isinstance(result, Mapping) or set(result) != set(pixels):
            got = f"arrays {', '.join(map(str, result))}" if isinstance(result, Mapping) else type(result).__name__
            raise ConfigError(
                f"transform: for patch {index} the function of per_patch returned {got}, wanted a dict with the arrays "
                f"{', '.join(pixels)}; end it with `return sample`"
            )
        return result


def per_patch(
    fn: Callable[[dict[str, Array], np.random.Generator], Mapping[str, Array]], *, purpose: int = 0
) -> PerPatch[Array]:
    """Make a transform for loaders of a function that treats one patch.

    The random numbers of a patch depend on the loader's seed, the epoch, the number of the patch and `purpose`. So a
    patch is treated the same way whatever the batch size, the thread, the rank or the order, and in a resumed run.

    Args:
        fn: gets the arrays of a patch by name, `(C, H, W)` each, and a generator of its own. They are NumPy arrays from
            `ps.batches` and tensors from `ctpatch.torch.PatchLoader`, and `fn` may change them. It returns arrays of
            the same names, of either kind. Their shape may be another one, for example a crop, if it is the same for
            all patches of a batch. ctpatch rounds floats to the dtype that the array had; it never rounds labels.
        purpose: another number for each of several transforms of one loader, so that their numbers are independent;
            0 to 2**63 - 1.

    Returns:
        The transform, for the option `transform` of a loader.

    Raises:
        ConfigError: `fn` is no function, or `purpose` no such number. While the loader runs: `fn` returned no such
            arrays, arrays of several shapes in one batch, or values that their dtype cannot hold.
    """
    if not callable(fn):
        raise ConfigError(f"per_patch: wanted a function of a patch and its generator, got {type(fn).__name__}")
    return PerPatch(fn, checked_purpose(purpose))


def fitted(batch: Batch[Array], name: str, results: list[NDArray[Any]]) -> Array:
    """An array of a batch with new patches, in the batch's own memory where these have the shape of the old ones.

    Raises:
        ConfigError: a patch has no such shape, or the array's dtype cannot hold its values.
    """
    array = batch.arrays[name]
    before = np.asarray(array)
    shape = results[0].shape
    for index, result in zip(batch.indices.tolist(), results, strict=True):
        if result.ndim != 3 or not result.size:  # noqa: PLR2004 - channels, rows and cols
            raise ConfigError(f"transform: {name} of patch {index} has shape {result.shape}, wanted (C, H, W)")
        if result.shape != shape:
            raise ConfigError(
                f"transform: {name} of patch {index} has shape {result.shape}, that of patch {batch.indices[0]} in the "
                f"same batch has {shape}; wanted one shape for a whole batch: crop or pad to a fixed size"
            )
    new: Array = array if before.shape[1:] == shape else empty_like(array, (len(results), *shape))
    for index, place, result in zip(batch.indices.tolist(), np.asarray(new), results, strict=True):
        place[...] = result if result.dtype == before.dtype else _converted(name, index, result, before.dtype)
    return new


def _converted(name: str, index: int, result: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in another dtype; floats are rounded, whole numbers must be kept exactly."""
    if result.dtype.kind in "fiub":
        with np.errstate(invalid="ignore"):  # a NaN that becomes a label is found below
            values: NDArray[Any] = result.astype(dtype)
        if (dtype.kind == "f" and result.dtype.kind == "f") or np.array_equal(values, result):
            return values
    raise ConfigError(
        f"transform: {name} of patch {index} came back as {result.dtype} with values that {dtype} does not hold; "
        "labels must stay whole numbers: use nearest-neighbour interpolation for them, and leave noise to the image"
    )


@dataclass(frozen=True, slots=True)
class InCallersThread(Generic[Array]):
    """A transform that a loader runs in the thread that asks for the batch; `in_callers_thread` makes it."""

    transform: Callable[[Batch[Array]], Batch[Array]]

    def __call__(self, batch: Batch[Array]) -> Batch[Array]:
        """What the transform makes of a batch."""
        return self.transform(batch)


def in_callers_thread(transform: Callable[[Batch[Array]], Batch[Array]]) -> InCallersThread[Array]:
    """Have a loader run a transform when a batch is asked for, in the thread that asks.

    Patches are still read ahead. Use it for a transform that needs something of which a process has only one, such as
    the global random numbers of torch: in the reading thread it would disturb the training, and the other way round.

    Args:
        transform: any transform for a loader.

    Returns:
        The transform, for the option `transform` of a loader.
    """
    return InCallersThread(transform)
