"""Augmentations of Kornia, on whole batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from kornia.augmentation import AugmentationSequential
from torch.nn import Module

from ctpatch.adapters.labels import is_label, refuse_rounded_labels
from ctpatch.adapters.torch_numbers import as_tensor, seed_torch, undisturbed
from ctpatch.errors import ConfigError
from ctpatch.loading.options import Array, Batch
from ctpatch.loading.transforms import InCallersThread, checked_purpose, fitted, keyed_generator


class _Kornia:
    def __init__(self, augmentation: Callable[..., Any], purpose: int) -> None:
        if not isinstance(augmentation, Module):
            raise ConfigError(
                f"from_kornia: wanted an augmentation of Kornia, got a {type(augmentation).__name__}; put several into "
                "a kornia.augmentation.AugmentationSequential"
            )
        sequence = isinstance(augmentation, AugmentationSequential)
        self._augmentation = augmentation if sequence else AugmentationSequential(augmentation)
        self._purpose = purpose

    def __call__(self, batch: Batch[Array]) -> Batch[Array]:
        # Kornia draws its numbers for the first array, and this has to be one of pixels.
        arrays = {name: np.asarray(array) for name, array in batch.arrays.items()}
        names = sorted(arrays, key=lambda name: is_label(arrays[name]))
        kinds = ["mask" if is_label(arrays[name]) else "input" for name in names]
        if kinds[0] == "mask":
            raise ConfigError(f"transform: Kornia needs an array of pixels, this loader reads {', '.join(names)} only")
        refuse_rounded_labels(arrays, "Kornia")
        seed_torch(keyed_generator(batch, int(batch.indices[0]), self._purpose))
        tensors = [as_tensor(arrays[name]).float() for name in names]
        changed = self._augmentation(*tensors, data_keys=kinds)
        found = dict(zip(names, changed if len(names) > 1 else [changed], strict=True))
        return replace(batch, arrays={name: fitted(batch, name, list(found[name].numpy())) for name in batch.arrays})


def from_kornia(augmentation: Callable[..., Any], *, purpose: int = 0) -> InCallersThread[Any]:
    """Make a transform for loaders of an augmentation of Kornia, such as `RandomAffine` or an `AugmentationSequential`.

    It gets whole batches on the CPU, arrays of pixels as "input" and labels as "mask", which Kornia moves without
    interpolation.

    The random numbers of a batch depend on the loader's seed, the epoch, the number of the first patch in the batch and
    `purpose`. So a resumed run gives the same batches, but another `batch_size`, another number of ranks or another
    order treats a patch in another way. Transforms of single patches do not depend on these.

    Args:
        augmentation: a module of `kornia.augmentation` for 2-D images.
        purpose: another number for each of several transforms of one loader.

    Returns:
        The transform. It runs in the thread that asks for the batch, since Kornia draws from torch's global random
        numbers. These are afterwards what they were before.

    Raises:
        UsageError: Kornia is not installed.
        ConfigError: it is no such module, or `purpose` no number. While the loader runs: it reads labels only, or
            values came back that the array's dtype cannot hold.
    """
    return undisturbed(_Kornia(augmentation, checked_purpose(purpose)), "Kornia")
