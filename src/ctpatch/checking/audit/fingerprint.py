"""What is kept of a slice so that slices can be compared: block means, and a number that no symmetry changes.

A slice is divided into 16 x 16 blocks of equal area (a pixel on a border counts to each side by its share), whatever
its size. The *correlation* of two slices is that of their 256 block means, each less its own mean and of length 1. It
is blind to noise and to the reconstruction kernel, and nearly blind to what tells one chest from another, so a second
number is held against it: the *detail* correlation, of 32 x 32 block means, each less the mean of the 3 x 3 blocks
around it. `docs/audit.md` has what both give on real CT.

All grids are symmetric, so mirroring or turning a slice permutes its blocks, and nothing else.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

COARSE = 16
"""Blocks along each axis for the correlation."""
FINE = 32
"""Blocks along each axis for the detail correlation."""
SYMMETRIES = (
    "the same",
    "turned by 90 degrees",
    "turned by 180 degrees",
    "turned by 270 degrees",
    "mirrored left to right",
    "transposed",
    "mirrored top to bottom",
    "transposed along the other diagonal",
)
"""The eight symmetries of the square, in the order of their numbers; turns are counter-clockwise."""

_HALF = 0.5
_LEAST_KNOWN = 0.25
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of length 1, a row for each slice; their products are correlations.

    Attributes:
        coarse: `(n, 256)` float32.
        detail: `(n, 1024)` float16: a product of two is right to 0.001.
        usable: `(n,)` bool; a slice that is constant, not finite or mostly not there has no correlation, and zeros.
    """

    coarse: NDArray[np.float32]
    detail: NDArray[np.float16]
    usable: NDArray[np.bool_]

    @classmethod
    def empty(cls, count: int) -> "Vectors":
        """Vectors of slices that were not seen yet: none is usable."""
        return cls(
            np.zeros((count, COARSE**2), np.float32),
            np.zeros((count, FINE**2), np.float16),
            np.zeros(count, dtype=bool),
        )


def turned(image: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """A slice under one of the eight symmetries, by its number in `SYMMETRIES`."""
    return np.rot90(image if symmetry < 4 else np.fliplr(image), symmetry % 4)  # noqa: PLR2004


@lru_cache(maxsize=32)
def permutation(symmetry: int, side: int) -> NDArray[np.intp]:
    """Which block of `side * side` each block comes from when the slice is turned."""
    return turned(np.arange(side * side).reshape(side, side), symmetry).ravel()


@lru_cache(maxsize=64)
def _edges(length: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Where the `FINE` blocks of an axis begin, and the last one ends: whole pixels, and the share of the next one."""
    edges = np.arange(FINE + 1) * length / FINE
    whole = np.floor(edges).astype(np.intp)
    return whole, (edges - whole).astype(np.float32)


def _sums_down(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of the rows of each block, `(FINE, W)`; a row on a border counts to each side by its share.

    No matrix product: on small matrices the threads of one wait for each other longer than they work.
    """
    whole, share = _edges(len(pixels))
    sums = np.add.reduceat(pixels, whole[:-1], axis=0)
    sums[whole[:-1] == whole[1:]] = 0  # reduceat gives the first row where there is none
    border = pixels[np.minimum(whole, len(pixels) - 1)] * share[:, None]
    sums += border[1:]
    sums -= border[:-1]
    return sums


def _block_sums(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return _sums_down(np.ascontiguousarray(_sums_down(pixels).T)).T


def block_means(image: NDArray[Any], covered: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Means of the `FINE x FINE` blocks of a slice `(H, W)` of real numbers: `(32, 32)` float32.

    `covered` says which pixels are known; None says all. A block of which less than half is known is NaN, as are blocks
    with a pixel that is.
    """
    area = np.float32(image.shape[0] * image.shape[1] / FINE**2)
    pixels = image.astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        if covered is None:
            whole: NDArray[np.float32] = _block_sums(pixels) / area
            return whole
        known = _block_sums(covered.astype(np.float32))
        means = _block_sums(np.where(covered, pixels, np.float32(0)))
        means /= np.maximum(known, np.float32(_HALF) * area)
        means[known < np.float32(_HALF) * area] = np.nan
        return means


def vectors_of(blocks: NDArray[np.float32], *, partly: NDArray[np.bool_]) -> Vectors:
    """Vectors from block means, `(n, 32, 32)`; blocks that are not known count as the mean of those that are.

    `partly`, `(n,)`, says whether blocks may be unknown; elsewhere NaN makes a slice unusable.
    """
    count = len(blocks)
    known = np.isfinite(blocks)
    usable = known.all(axis=(1, 2)) | (partly & (known.mean(axis=(1, 2)) >= _LEAST_KNOWN))
    known &= usable[:, None, None]
    filled = np.where(known, blocks, 0).astype(np.float64)
    weights = known.astype(np.float64)
    quads = (count, COARSE, 2, COARSE, 2)
    weight = weights.reshape(quads).sum(axis=(2, 4))
    coarse = filled.reshape(quads).sum(axis=(2, 4)) / np.maximum(weight, 1)
    around = _box_sum(filled) / np.maximum(_box_sum(weights), 1)
    scale = np.abs(filled).max(axis=(1, 2), initial=0)
    first, varies = _unit(coarse.reshape(count, -1), (weight > 0).reshape(count, -1), scale)
    second, _ = _unit((filled - around).reshape(count, -1), known.reshape(count, -1), scale)
    usable &= varies
    first[~usable] = 0
    second[~usable] = 0
    return Vectors(first.astype(np.float32), second.astype(np.float16), usable)


def _box_sum(stack: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of each block and its neighbours, `(n, 32, 32)`; fewer at the border."""
    padded = np.pad(stack, ((0, 0), (1, 1), (1, 1)))
    tall = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    total: NDArray[np.float64] = tall[:, :, :-2] + tall[:, :, 1:-1] + tall[:, :, 2:]
    return total


def _unit(
    values: NDArray[np.float64], known: NDArray[np.bool_], scale: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Known values less their mean, of length 1; and for which rows there is such a thing."""
    count = np.maximum(known.sum(axis=1), 1)
    centred = np.where(known, values - (np.where(known, values, 0).sum(axis=1) / count)[:, None], 0)
    length = np.sqrt((centred**2).sum(axis=1))
    # What rounding leaves of a constant slice is no picture.
    varies = length > _FLAT * np.sqrt(count) * np.maximum(scale, np.finfo(np.float32).tiny)
    return centred / np.where(varies, length, np.inf)[:, None], varies


def pixel_key(image: NDArray[Any]) -> str:
    """A text that is the same for slices of the same pixels in any order, above all under all symmetries.

    Two slices of one key are most likely, and have to be compared. It is made of the sides, the dtype, and the sum and
    the exclusive or of all pixels' bits.
    """
    bits = np.ascontiguousarray(image).view(f"u{image.dtype.itemsize}")
    sides = "x".join(str(side) for side in sorted(image.shape))
    total = int(bits.sum(dtype=np.uint64))
    return f"{sides}:{image.dtype.kind}{image.dtype.itemsize}:{total:x}:{int(np.bitwise_xor.reduce(bits, axis=None)):x}"


def symmetry_between(image: NDArray[Any], other: NDArray[Any]) -> int | None:
    """The first symmetry that makes `image`, to the bit, of `other`; None where there is none."""
    if image.dtype != other.dtype:
        return None
    wanted, bits = (np.ascontiguousarray(each).view(f"u{each.dtype.itemsize}") for each in (image, other))
    return next((each for each in range(len(SYMMETRIES)) if np.array_equal(turned(bits, each), wanted)), None)


def is_constant(image: NDArray[Any]) -> bool:
    """Whether all pixels are equal, or all are NaN."""
    first = image[0, 0]
    return bool((np.isnan(image) if first != first else image == first).all())  # noqa: PLR0124 - NaN alone differs
