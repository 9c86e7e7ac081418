"""Transforms of TorchIO."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torchio

from ctpatch.adapters.labels import is_label, refuse_rounded_labels
from ctpatch.adapters.torch_numbers import as_tensor, seed_torch, undisturbed
from ctpatch.errors import ConfigError
from ctpatch.loading.transforms import InCallersThread, per_patch


class _TorchIO:
    def __init__(self, transform: Callable[[Any], Any]) -> None:
        if not callable(transform):
            raise ConfigError(f"from_torchio: wanted a transform of TorchIO, got a {type(transform).__name__}")
        self._transform = transform

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> Any:
        refuse_rounded_labels(sample, "TorchIO")
        seed_torch(rng)
        images = {
            name: (torchio.LabelMap if is_label(array) else torchio.ScalarImage)(tensor=as_tensor(array)[..., None])
            for name, array in sample.items()
        }
        changed = self._transform(torchio.Subject(images))
        return {name: changed[name].data.squeeze(-1).numpy() for name in sample if name in changed}


def from_torchio(transform: Callable[[Any], Any], *, purpose: int = 0) -> InCallersThread[Any]:
    """Make a transform for loaders of a transform of TorchIO, such as `RandomAffine` or a `Compose`.

    A patch becomes a `Subject` of 2-D images `(C, H, W, 1)` with a spacing of 1: axis 0 is rows, axis 1 columns. Labels
    are `LabelMap`s, which TorchIO moves without interpolation.

    Args:
        transform: the transform.
        purpose: another number for each of several transforms of one loader.

    Returns:
        The transform. It runs in the thread that asks for the batch, since TorchIO draws from torch's global random
        numbers. These are afterwards what they were before.

    Raises:
        UsageError: TorchIO is not installed.
        ConfigError: it cannot be called; see also `ctpatch.per_patch`.
    """
    return undisturbed(per_patch(_TorchIO(transform), purpose=purpose), "TorchIO")
