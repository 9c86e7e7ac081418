"""Dictionary transforms of MONAI."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from monai.transforms import Randomizable
from monai.transforms import Transform as MonaiTransform
from monai.utils.type_conversion import convert_to_numpy

from ctpatch.adapters.copies import OwnCopies
from ctpatch.adapters.labels import refuse_rounded_labels
from ctpatch.errors import ConfigError
from ctpatch.loading.transforms import PerPatch, per_patch


class _Monai:
    def __init__(self, transform: Callable[[dict[str, Any]], Any]) -> None:
        if not isinstance(transform, MonaiTransform):
            raise ConfigError(
                f"from_monai: wanted a transform of MONAI, got a {type(transform).__name__}, to which ctpatch cannot "
                "give random numbers; put functions into a monai.transforms.Compose"
            )
        self._copies = OwnCopies(transform)

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> Any:
        refuse_rounded_labels(sample, "MONAI")
        transform = self._copies.get()
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=int(rng.integers(2**32)))
        changed = transform(dict(sample))
        if not isinstance(changed, Mapping):
            return changed
        # What MONAI adds, such as the corner of a crop, is left out.
        return {name: convert_to_numpy(value) for name, value in changed.items() if name in sample}


def from_monai(transform: Callable[[dict[str, Any]], Any], *, purpose: int = 0) -> PerPatch[Any]:
    """Make a transform for loaders of a dictionary transform of MONAI, such as `RandAffined` or a `Compose`.

    It gets a dict of the arrays of a patch, `(C, H, W)` each, under the names that they have in the set. Say `mode` for
    each key, with "nearest" for labels: MONAI cannot tell labels from pixels.

    Args:
        transform: the transform. It returns one dict, so crops take `num_samples=1` and are of the `Rand...Cropd` that
            return no list. ctpatch works on copies of it.
        purpose: another number for each of several transforms of one loader.

    Returns:
        The transform. It runs in the thread that reads ahead.

    Raises:
        UsageError: MONAI is not installed.
        ConfigError: it is no transform of MONAI; see also `ctpatch.per_patch`.
    """
    return per_patch(_Monai(transform), purpose=purpose)
