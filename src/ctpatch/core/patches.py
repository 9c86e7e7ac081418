"""Cutting windows out of a slice that is in memory."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.grid import Grid, make_grid
from ctpatch.words import PadMode

_NUMPY_PAD_MODE: dict[PadMode, Any] = {"zero": "constant", "edge": "edge", "reflect": "reflect"}


def pad_slice(image: NDArray[Any], padded_shape: tuple[int, int], pad_mode: PadMode) -> NDArray[Any]:
    """The slice with pixels added at its bottom and right; the slice itself where none are missing.

    `zero` adds zeros, `edge` repeats the last row and column, `reflect` mirrors without repeating the border
    pixel (as `numpy.pad` does, over and over where a slice is smaller than what is added).
    """
    if image.shape == padded_shape:
        return image
    after = [(0, wanted - there) for wanted, there in zip(padded_shape, image.shape, strict=True)]
    return np.pad(image, after, mode=_NUMPY_PAD_MODE[pad_mode])


def padded_window(
    image: NDArray[Any], origin: tuple[int, int], size: tuple[int, int], pad_mode: PadMode
) -> NDArray[Any]:
    """One window of a slice as `pad_slice` would pad it, without padding the rest; it may lie wholly in the padding."""
    (row, col), (height, width) = origin, size
    if pad_mode == "zero":
        patch = np.zeros(size, image.dtype)
        there = image[row : row + height, col : col + width]
        patch[: there.shape[0], : there.shape[1]] = there
        return patch
    where = [
        np.pad(np.arange(length), (0, max(start + side - length, 0)), mode=_NUMPY_PAD_MODE[pad_mode])[start:][:side]
        for length, start, side in zip(image.shape, origin, size, strict=True)
    ]
    window: NDArray[Any] = image[np.ix_(*where)]
    return window


def cut(padded: NDArray[Any], rows: NDArray[Any], cols: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Copies of the windows that begin at `(rows[i], cols[i])`, shape `(N, h, w)`, C-contiguous."""
    if len(rows) == 0:
        return np.empty((0, *size), dtype=padded.dtype)
    return np.ascontiguousarray(sliding_window_view(padded, size)[rows, cols])


def extract_from_grid(image: NDArray[Any], grid: Grid, pad_mode: PadMode) -> NDArray[Any]:
    """All patches of a slice whose grid is known, in the slice's dtype, shape `(N, h, w)`."""
    rows, cols = grid.origins()
    return cut(pad_slice(image, grid.padded_shape, pad_mode), rows, cols, grid.patch_size)


def extract_patches_2d(img2d: ArrayLike, cfg: PatchConfig) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:
    """Cut one slice into patches.

    Args:
        img2d: slice of shape `(H, W)`, any real dtype.
        cfg: geometry.

    Returns:
        Patches `(N, h, w)` float32 (a copy), and their origins `(row, col)`, row-major.

    Raises:
        ValueError: the array is not 2-D, is empty, or is not of real numbers.

    >>> patches, coords = extract_patches_2d(np.zeros((362, 362)), PatchConfig())
    >>> patches.shape, patches.dtype, coords[-1]
    ((16, 128, 128), dtype('float32'), (192, 192))
    """
    image = np.asarray(img2d)
    if image.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"a slice has 2 dimensions (row, col), got shape {image.shape}")
    if image.dtype.kind not in "buif":
        raise ValueError(f"a slice holds real numbers, got dtype {image.dtype}")
    height, width = image.shape
    grid = make_grid(height, width, cfg)
    patches = extract_from_grid(image.astype(np.float32, copy=False), grid, cfg.pad_mode)
    return patches, list(grid)
