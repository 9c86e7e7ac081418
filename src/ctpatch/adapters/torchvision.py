"""Transforms of torchvision, version 2 (`torchvision.transforms.v2`)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from ctpatch.adapters.labels import is_label, refuse_rounded_labels
from ctpatch.adapters.torch_numbers import as_tensor, seed_torch, undisturbed
from ctpatch.errors import ConfigError
from ctpatch.loading.transforms import InCallersThread, per_patch


class _Torchvision:
    def __init__(self, transform: Callable[[dict[str, Any]], Any]) -> None:
        if not callable(transform):
            raise ConfigError(f"from_torchvision: wanted a transform of torchvision, got a {type(transform).__name__}")
        self._transform = transform

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> Any:
        refuse_rounded_labels(sample, "torchvision")
        seed_torch(rng)
        changed = self._transform(
            {
                name: (tv_tensors.Mask if is_label(array) else tv_tensors.Image)(as_tensor(array))
                for name, array in sample.items()
            }
        )
        if not isinstance(changed, Mapping):
            return changed
        return {name: value.as_subclass(torch.Tensor).numpy() for name, value in changed.items()}


def from_torchvision(transform: Callable[[dict[str, Any]], Any], *, purpose: int = 0) -> InCallersThread[Any]:
    """Make a transform for loaders of a transform of `torchvision.transforms.v2`.

    It gets a dict of the arrays of a patch, `(C, H, W)` each: `tv_tensors.Image` for pixels and `tv_tensors.Mask` for
    labels, which torchvision moves without interpolation.

    Args:
        transform: the transform, such as `v2.RandomAffine(10)` or a `v2.Compose`.
        purpose: another number for each of several transforms of one loader.

    Returns:
        The transform. It runs in the thread that asks for the batch, since torchvision draws from torch's global random
        numbers. These are afterwards what they were before.

    Raises:
        UsageError: torchvision is not installed.
        ConfigError: it cannot be called; see also `ctpatch.per_patch`.
    """
    return undisturbed(per_patch(_Torchvision(transform), purpose=purpose), "torchvision")
