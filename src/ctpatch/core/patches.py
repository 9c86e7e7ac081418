"""Cutting windows out of a slice that is in memory."""

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from ctpatch.config import MAX_PIXELS_PER_AXIS, PatchConfig
from ctpatch.core.arrays import as_array
from ctpatch.core.grid import PADDING_MODES, Grid, make_grid
from ctpatch.words import PadMode

_NUMPY_PAD_MODE: dict[PadMode, Any] = {"zero": "constant", "edge": "edge", "reflect": "reflect"}


def pad_slice(image: NDArray[Any], padded_shape: tuple[int, int], pad_mode: PadMode) -> NDArray[Any]:
    """A slice, or each of a stack `(N, H, W)`, with pixels added at bottom and right; itself where none are missing.

    `zero` adds zeros, `edge` repeats the last row and column, `reflect` mirrors without repeating the border
    pixel (as `numpy.pad` does, over and over where a slice is smaller than what is added).
    """
    shape = image.shape[-2:]
    if shape == padded_shape:
        return image
    after = [(0, wanted - there) for wanted, there in zip(padded_shape, shape, strict=True)]
    return np.pad(image, [*[(0, 0)] * (image.ndim - 2), *after], mode=_NUMPY_PAD_MODE[pad_mode])


def window_of(image: NDArray[Any], row: int, col: int, size: tuple[int, int], pad_mode: PadMode) -> NDArray[Any] | None:
    """The window of a slice that begins at `(row, col)`: a view where it lies inside, else padded where the mode pads.

    Returns:
        `(h, w)`; None where there is no such window: it begins before the slice, or hangs over the border where
        nothing is padded, or begins further beyond it than any slice is large.
    """
    if row < 0 or col < 0:
        return None
    window = image[row : row + size[0], col : col + size[1]]
    if window.shape == size:
        return window
    if pad_mode not in PADDING_MODES or max(row - image.shape[0], col - image.shape[1]) >= MAX_PIXELS_PER_AXIS:
        return None
    return _padded_window(image, row, col, size, pad_mode)


def _padded_window(image: NDArray[Any], row: int, col: int, size: tuple[int, int], pad_mode: PadMode) -> NDArray[Any]:
    """One window of a slice as `pad_slice` would pad it, without padding the rest; it may lie wholly in the padding."""
    height, width = size
    if pad_mode == "zero":
        patch = np.zeros(size, image.dtype)
        there = image[row : row + height, col : col + width]
        patch[: there.shape[0], : there.shape[1]] = there
        return patch
    where = [
        np.pad(np.arange(length), (0, max(start + side - length, 0)), mode=_NUMPY_PAD_MODE[pad_mode])[start:][:side]
        for length, start, side in zip(image.shape, (row, col), size, strict=True)
    ]
    window: NDArray[Any] = image[np.ix_(*where)]
    return window


def paste(canvas: NDArray[Any], patches: NDArray[Any], rows: NDArray[Any], cols: NDArray[Any]) -> None:
    """Put patches `(N, h, w)` back to where they were cut, to the bit; what reaches beyond the canvas is cut off.

    Where patches overlap they are taken to agree. For a model's output, which does not, there is `reassemble`.

    Raises:
        ValueError: a patch begins before the canvas.
    """
    if len(rows) and min(rows.min(), cols.min()) < 0:
        raise ValueError(f"a patch begins at row {rows.min()} or col {cols.min()}, wanted 0 or more")
    height, width = patches.shape[1:]
    for row, col, patch in zip(rows.tolist(), cols.tolist(), patches, strict=True):
        there = canvas[row : row + height, col : col + width]
        there[...] = patch[: there.shape[0], : there.shape[1]]


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
    image = as_array(img2d, "a slice")
    if image.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"a slice has 2 dimensions (row, col), got shape {image.shape}")
    if image.dtype.kind not in "buif":
        raise ValueError(f"a slice holds real numbers, got dtype {image.dtype}")
    height, width = image.shape
    grid = make_grid(height, width, cfg)
    patches = extract_from_grid(image.astype(np.float32, copy=False), grid, cfg.pad_mode)
    return patches, list(grid)
