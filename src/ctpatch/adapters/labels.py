"""Which arrays are labels, and what may happen to them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from ctpatch.errors import ConfigError

_EXACT = 2**24
"""Whole numbers up to this are exact as floats of 32 bits."""


def is_label(array: ArrayLike) -> bool:
    """Whether an array holds labels: pixels of images are floats in every set, labels whole numbers."""
    return np.asarray(array).dtype.kind != "f"


def refuse_rounded_labels(arrays: Mapping[str, ArrayLike], library: str) -> None:
    """Refuse labels that a library which computes in floats of 32 bits would change into others.

    Raises:
        ConfigError: there are some.
    """
    for name, array in arrays.items():
        labels = np.asarray(array)
        if labels.dtype.kind not in "iu" or labels.dtype.itemsize <= 2:  # noqa: PLR2004 - bytes: these are all exact
            continue
        low, high = int(labels.min()), int(labels.max())
        if max(-low, high) > _EXACT:
            raise ConfigError(
                f"transform: {name} has labels from {low} to {high}; {library} computes in float32, which rounds whole "
                f"numbers beyond {_EXACT}; wanted smaller labels: number them anew, or leave {name} out of the loader"
            )
