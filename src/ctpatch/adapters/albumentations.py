"""Transforms of Albumentations."""

import random
import warnings
from typing import Any

import albumentations
import numpy as np
from numpy.typing import NDArray

from ctpatch.adapters.copies import OwnCopies
from ctpatch.adapters.labels import is_label
from ctpatch.errors import ConfigError
from ctpatch.loading.transforms import PerPatch, per_patch

_OPENCV_LABELS = {"uint8", "int16", "uint16"}
"""Dtypes of labels that OpenCV can move."""


class _Albumentations:
    def __init__(self, transform: Any) -> None:
        if not isinstance(transform, albumentations.BasicTransform | albumentations.BaseCompose):
            raise ConfigError(
                f"from_albumentations: wanted a transform of Albumentations, got a {type(transform).__name__}; put "
                "several into an albumentations.Compose"
            )
        whole = isinstance(transform, albumentations.Compose)
        self._copies = OwnCopies(transform if whole else albumentations.Compose([transform]))

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> Any:
        pipeline = self._copies.get()
        keys = _keys(sample)
        pipeline.add_targets({key: key.partition("_")[0] for key in keys.values() if key != "image"})
        pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))  # noqa: S311 - not for secrets
        changed = pipeline(**{keys[name]: _channels_last(name, array) for name, array in sample.items()})
        return {name: _channels_first(name, changed[key]) for name, key in keys.items()}


def _keys(sample: dict[str, Any]) -> dict[str, str]:
    """Names for Albumentations, which say what an array is; one has to be called image."""
    keys = {name: f"mask_{name}" if is_label(array) else f"image_{name}" for name, array in sample.items()}
    first = next((name for name, key in keys.items() if key.startswith("image_")), None)
    if first is None:
        raise ConfigError(f"transform: Albumentations needs an array of pixels, wanted one next to {', '.join(sample)}")
    return keys | {first: "image"}


def _channels_last(name: str, array: Any) -> NDArray[Any]:
    pixels: NDArray[Any] = np.ascontiguousarray(np.moveaxis(np.asarray(array), 0, -1))
    if not is_label(pixels):
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            warnings.warn(
                f"{name} has values from {low:g} to {high:g}: many transforms of Albumentations clip floats to 0 to 1; "
                "give it the set's own values and normalise after it, or leave those transforms out",
                stacklevel=2,
            )
        return pixels
    if pixels.dtype.name not in _OPENCV_LABELS:
        pixels = pixels.astype(np.uint8 if pixels.dtype.kind == "b" else np.float64)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _channels_first(name: str, pixels: object) -> NDArray[Any]:
    if not isinstance(pixels, np.ndarray):
        raise ConfigError(
            f"transform: Albumentations returned a {type(pixels).__name__} for {name}, wanted a NumPy array; leave "
            "ToTensorV2 out, the loader makes tensors"
        )
    return np.moveaxis(pixels[..., None] if pixels.ndim == 2 else pixels, -1, 0)  # noqa: PLR2004 - rows and cols


def from_albumentations(transform: Any, *, purpose: int = 0) -> PerPatch[Any]:
    """Make a transform for loaders of a transform of Albumentations, such as `HorizontalFlip` or a `Compose`.

    It gets the arrays of a patch as `(H, W, C)`. Pixels are images and labels are masks, which Albumentations moves
    without interpolation. Many of its transforms clip floats to 0 to 1; ctpatch warns where values lie outside.

    Args:
        transform: the transform, without `ToTensorV2`. ctpatch works on copies of it.
        purpose: another number for each of several transforms of one loader.

    Returns:
        The transform. It runs in the thread that reads ahead.

    Raises:
        UsageError: Albumentations is not installed.
        ConfigError: it is no transform of Albumentations, or the loader reads labels only; see also
            `ctpatch.per_patch`.
    """
    return per_patch(_Albumentations(transform), purpose=purpose)
