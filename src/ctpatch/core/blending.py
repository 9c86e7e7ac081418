"""How patches of one slice are put on each other: the weights of a patch's pixels, and the sum of weighted pixels.

Every window function is positive everywhere and sums are divided by the sum of weights, so that constant patches
give a constant slice, borders included. Sums are float64: with weights from 1e-8 to 1 and values of one size, the
result is off by less than 1e-7 of that size, before it is rounded to float32.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.labels import LabelCanvas, holds_labels, label_fill

WindowName = Literal["hann", "gaussian", "uniform"]
WINDOWS: tuple[WindowName, ...] = ("hann", "gaussian", "uniform")

GAUSSIAN_SIGMA = 0.125
"""Standard deviation of the Gaussian window, as a share of the patch's side: the usual choice for sliding windows."""

MAX_CLASSES = 256
"""Floats that are all whole and of at most so many values may be class numbers; rounded HU have more values."""

_FRACTION = 1e-6
"""A mean is no whole number where it is off by more than this: more than rounding, less than any weight makes."""


@lru_cache(maxsize=32)
def window_weights(size: tuple[int, int], window: WindowName) -> NDArray[np.float64]:
    """Weights of a patch's pixels, `size`, float64, positive everywhere, largest in the middle; read-only.

    `uniform` is 1. `hann` is `sin(pi (i + 1/2) / n) ** 2` along each axis (half a pixel in, so that it is not 0 at the
    edge). `gaussian` is `exp(-(i - (n - 1) / 2) ** 2 / (2 s ** 2))` with `s = n / 8`.

    Raises:
        ValueError: there is no window of that name.
    """
    weights = np.multiply.outer(_side_weights(size[0], window), _side_weights(size[1], window))
    weights.flags.writeable = False
    return weights


def _side_weights(length: int, window: WindowName) -> NDArray[np.float64]:
    at = np.arange(length, dtype=np.float64)
    if window == "uniform":
        return np.ones(length)
    if window == "hann":
        return np.sin(np.pi * (at + 0.5) / length) ** 2
    if window == "gaussian":
        return np.exp(-(((at - (length - 1) / 2) / (GAUSSIAN_SIGMA * length)) ** 2) / 2)
    raise ValueError(f"window {window!r} is not known; windows are {', '.join(WINDOWS)}")


@lru_cache(maxsize=8)
def weights_of_grid(
    origins: tuple[tuple[int, int], ...], shape: tuple[int, int], size: tuple[int, int], window: WindowName
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The sum of the weights on each pixel of a slice, and where there is any; the slices of a set mostly share it."""
    total = np.zeros(shape, np.float64)
    weights = window_weights(size, window)
    for row, col in origins:
        total[row : row + size[0], col : col + size[1]] += weights[: shape[0] - row, : shape[1] - col]
    covered = total > 0
    total.flags.writeable = covered.flags.writeable = False
    return total, covered


class MeanCanvas:
    """The sum of weighted pixels of one slice, and what was added to it.

    Args:
        shape: height and width of the slice.
        size: height and width of a patch.
        window: how a patch's pixels weigh where patches overlap.
        dtype: that of the patches.
        channels: patches are `(C, h, w)`, the slice is `(C, H, W)`; None for patches `(h, w)`.
        argmax: channels are class scores; the slice is the number of the class with the largest mean, of equal ones the
            first.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        size: tuple[int, int],
        window: WindowName,
        dtype: np.dtype[Any],
        channels: int | None = None,
        *,
        argmax: bool = False,
    ) -> None:
        self.dtype = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        self.channels = channels
        self.origins: list[tuple[int, int]] = []
        self._shape, self._size, self._window, self._argmax = shape, size, window, argmax
        self._weights = window_weights(size, window)
        lead = () if channels is None else (channels,)
        self._sum = np.zeros((*lead, *shape), np.float64)
        self._product = np.empty((*lead, *size), np.float64)
        # Scores may be whole numbers, and are no class numbers.
        self._classes: set[float] | None = None if argmax else set()

    def add(self, patch: NDArray[Any], row: int, col: int) -> None:
        """Add a patch; what lies beyond the slice was padding, and is cut off."""
        there = self._sum[..., row : row + self._size[0], col : col + self._size[1]]
        inside = np.s_[..., : there.shape[-2], : there.shape[-1]]
        if self._window == "uniform":
            there += patch[inside]
        else:
            # Two steps, and the second without a change of dtype, take 60% of the time of one with it.
            product = self._product[inside]
            np.copyto(product, patch[inside])
            product *= self._weights[inside]
            there += product
        self.origins.append((row, col))
        if self._classes is not None:  # until the first patch that shows that these are no class numbers
            whole = bool((patch == np.rint(patch)).all())
            self._classes = self._classes | set(np.unique(patch).tolist()) if whole else None
            if self._classes is not None and len(self._classes) > MAX_CLASSES:
                self._classes = None

    def image(self, fill: float) -> tuple[NDArray[Any], int]:
        """The slice, and how many of its pixels no patch covers; those are `fill`, which is a label for classes."""
        weights, covered = weights_of_grid(tuple(sorted(self.origins)), self._shape, self._size, self._window)
        uncovered = int(covered.size - np.count_nonzero(covered))
        if self._argmax:
            # Each channel is divided by the same weights, which changes no order.
            dtype = class_dtype(len(self._sum))
            classes = self._sum.argmax(axis=0).astype(dtype)
            if uncovered:
                classes[~covered] = label_fill(fill, dtype)
            return classes, uncovered
        if uncovered:
            image = np.full(self._sum.shape, fill, self.dtype)
            np.divide(self._sum, weights, out=image, where=covered, casting="same_kind")
        else:
            image = np.divide(self._sum, weights, out=np.empty(self._sum.shape, self.dtype), casting="same_kind")
        if self._classes is not None:
            warn_of_class_numbers(image[..., covered], len(self._classes))
        return image, uncovered


def warn_of_class_numbers(means: NDArray[Any], kinds: int) -> None:
    """Warn where means of whole numbers, of which there are so many different ones, are none themselves."""
    parted = int(np.count_nonzero(np.abs(means - np.rint(means)) > _FRACTION))
    if parted:
        warnings.warn(
            f"the patches hold only whole numbers ({kinds} different ones), as class numbers do, but are floats: "
            f"{parted} pixels are now a mean of several. If they are labels, give them as whole numbers, for example "
            "with .astype('uint8') or .long(): then no label is averaged",
            UserWarning,
            stacklevel=5,
        )


class LabelChannels:
    """Labels in several channels, as of organs that overlap: each channel is voted on by itself.

    Args:
        channels: the canvas of each channel.
    """

    def __init__(self, channels: Sequence[LabelCanvas]) -> None:
        self.dtype, self.channels = channels[0].dtype, len(channels)
        self._each = channels

    @property
    def origins(self) -> list[tuple[int, int]]:
        """Where patches were added."""
        return self._each[0].origins

    def add(self, patch: NDArray[Any], row: int, col: int) -> None:
        """Add a patch `(C, h, w)`."""
        for canvas, labels in zip(self._each, patch, strict=True):
            canvas.add(labels, row, col)

    def image(self, fill: float) -> tuple[NDArray[Any], int]:
        """The slice `(C, H, W)`, and how many of its pixels no patch covers."""
        made = [canvas.image(fill) for canvas in self._each]
        return np.stack([image for image, _ in made]), made[0][1]


Canvas = MeanCanvas | LabelCanvas | LabelChannels


def class_dtype(classes: int) -> np.dtype[Any]:
    """The dtype of class numbers."""
    return np.dtype(np.uint8 if classes <= MAX_CLASSES else np.int32)


def new_canvas(
    shape: tuple[int, int],
    size: tuple[int, int],
    window: WindowName,
    dtype: np.dtype[Any],
    channels: int | None = None,
    *,
    argmax: bool = False,
) -> Canvas:
    """What the patches of one slice are put on; arguments as those of `MeanCanvas`."""
    if holds_labels(dtype) and not argmax:
        weights = window_weights(size, window)
        if channels is None:
            return LabelCanvas(shape, weights, dtype)
        return LabelChannels([LabelCanvas(shape, weights, dtype) for _ in range(channels)])
    return MeanCanvas(shape, size, window, dtype, channels, argmax=argmax)
