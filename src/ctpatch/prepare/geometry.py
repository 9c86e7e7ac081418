"""Slices to another spacing and size: images by linear interpolation, masks by nearest neighbour."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.config import MAX_PIXELS_PER_AXIS
from ctpatch.errors import ConfigError, SliceError
from ctpatch.extras import library

Pair = tuple[float, float]
MAX_RAW_PIXELS = 4096
"""Largest side of a raw slice, in pixels: twice the largest that scanners write."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What is done to the grid of pixels before intensities are mapped.

    Attributes:
        spacing_mm: distance of pixel centres wanted, `(row, col)`; None leaves it.
        crop: size cut out of the middle, `(H, W)` in pixels, after resampling; None leaves all.
    """

    spacing_mm: Pair | None = None
    crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.spacing_mm is not None and not all(math.isfinite(each) and each > 0 for each in self.spacing_mm):
            raise ConfigError(f"spacing: {self.spacing_mm}, wanted millimetres above 0, such as 0.8")
        if self.crop is not None and not all(1 <= each <= MAX_PIXELS_PER_AXIS for each in self.crop):
            raise ConfigError(f"crop: {self.crop}, wanted 1 to {MAX_PIXELS_PER_AXIS} pixels")

    def fault(self, shape: tuple[int, int], spacing: Pair | None) -> tuple[str, str] | None:
        """Why a slice of this shape cannot be brought there, as a kind and a sentence; None where it can."""
        if max(shape) > MAX_RAW_PIXELS:
            return "too-large", f"it has {shape[0]}x{shape[1]} pixels, wanted at most {MAX_RAW_PIXELS} on a side"
        if self.spacing_mm is not None and spacing is None:
            return "no-spacing", "it does not say its pixel spacing, so it cannot be resampled"
        (rows, cols), _ = self.resampled(shape, spacing)
        if max(rows, cols) > MAX_PIXELS_PER_AXIS:
            return "too-large", f"at the spacing wanted it has {rows}x{cols} pixels"
        if self.crop is not None and (rows < self.crop[0] or cols < self.crop[1]):
            return "smaller-than-crop", f"it has {rows}x{cols} pixels, the crop wants {self.crop[0]}x{self.crop[1]}"
        return None

    def resampled(self, shape: tuple[int, int], spacing: Pair | None) -> tuple[tuple[int, int], Pair | None]:
        """Shape and spacing after resampling; the field of view stays, so the spacing is that wanted, to a pixel."""
        if self.spacing_mm is None or spacing is None:
            return shape, spacing
        rows, cols = (
            max(1, round(min(count * had / wanted, 1e6)))
            for count, had, wanted in zip(shape, spacing, self.spacing_mm, strict=True)
        )
        return (rows, cols), (shape[0] * spacing[0] / rows, shape[1] * spacing[1] / cols)

    def result(self, shape: tuple[int, int], spacing: Pair | None) -> tuple[tuple[int, int], Pair | None]:
        """Shape and spacing of the prepared slice."""
        resampled, after = self.resampled(shape, spacing)
        return self.crop or resampled, after

    def apply(self, image: NDArray[Any], spacing: Pair | None, *, labels: bool) -> NDArray[Any]:
        """Resample an image `(H, W)` with that `(row, col)` spacing in mm, then crop it.

        With `labels`, the nearest pixel is taken, so that no value arises that was not there.
        """
        if self.spacing_mm is not None:
            shape, _ = self.resampled((image.shape[0], image.shape[1]), spacing)
            if shape != image.shape:
                image = _resize(image, shape, labels=labels)
        if self.crop is None:
            return image
        height, width = self.crop
        if image.shape[0] < height or image.shape[1] < width:
            raise SliceError(f"a slice of {image.shape[0]}x{image.shape[1]} pixels cannot be cropped to {self.crop}")
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return image[top : top + height, left : left + width]


def _resize(image: NDArray[Any], shape: tuple[int, int], *, labels: bool) -> NDArray[Any]:
    """Resample an image `(H, W)` to `shape`, border pixels held beyond the border.

    An axis that becomes coarser by a factor f > 1 is smoothed first by a Gaussian of sigma (f - 1) / 2 pixels, so that
    detail finer than the new pixels does not appear as something else. Labels are neither smoothed nor mixed.
    """
    ndimage = library("scipy.ndimage", "resampling needs scipy")
    values = image if labels or image.dtype == np.float32 else image.astype(np.float64)
    coarser = np.divide(image.shape, shape)
    smooth = values
    if not labels and (coarser > 1).any():
        smooth = ndimage.gaussian_filter(values, np.maximum(0, (coarser - 1) / 2), mode="nearest")
    # grid_mode: pixels are squares that share the field of view, not points whose outermost ones coincide.
    out: NDArray[Any] = ndimage.zoom(
        smooth, [1 / each for each in coarser], order=0 if labels else 1, mode="nearest", grid_mode=True
    )
    # Rounding must not carry a pixel beyond the darkest and brightest there were.
    np.clip(out, values.min(), values.max(), out=out)
    return out.astype(image.dtype)


def whole_numbers(image: NDArray[Any], name: str) -> NDArray[np.int16]:
    """Labels as int16, unchanged; SliceError where a value is no whole number, or does not fit."""
    limits = np.iinfo(np.int16)
    with np.errstate(invalid="ignore"):
        wrong = ~((image == np.rint(image)) & (image >= limits.min) & (image <= limits.max))
    if wrong.any():
        row, col = (int(axis[0]) for axis in np.nonzero(wrong))
        raise SliceError(
            f"{name} is to be a mask and holds {float(image[row, col])!r} at row {row}, col {col}; "
            f"wanted whole numbers from {limits.min} to {limits.max}"
        )
    return image.astype(np.int16)
