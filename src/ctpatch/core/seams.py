"""Whether patches that were put together left a seam where they meet."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from ctpatch.core.arrays import as_array


def seam_error(
    result: ArrayLike, truth: ArrayLike, coords: Iterable[tuple[int, int]], patch_size: tuple[int, int], width: int = 2
) -> tuple[float, float]:
    """How much larger the error is along the borders of patches than elsewhere: whether a window helps.

    Args:
        result: a reassembled slice `(H, W)`.
        truth: what it should be, `(H, W)`.
        coords: origins of the patches it was made from.
        patch_size: their height and width.
        width: pixels on either side of a border that count as the seam.

    Returns:
        Root mean square error on the seams and in the interior, in the slice's unit; pixels without a value (NaN) are
        left out, and a slice without seams has NaN there. Borders of the slice are no seams.
    """
    image, wanted = as_array(result, "result").astype(np.float64), as_array(truth, "truth").astype(np.float64)
    if image.shape != wanted.shape or image.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"result has shape {image.shape}, truth {wanted.shape}, wanted two slices of one shape")
    seam = np.zeros(image.shape, dtype=bool)
    for row, col in coords:
        bottom, right = row + patch_size[0], col + patch_size[1]
        inside = np.s_[max(row - width, 0) : bottom + width, max(col - width, 0) : right + width]
        for edge in (row, bottom):
            if 0 < edge < image.shape[0]:
                seam[max(edge - width, 0) : edge + width, inside[1]] = True
        for edge in (col, right):
            if 0 < edge < image.shape[1]:
                seam[inside[0], max(edge - width, 0) : edge + width] = True
    squares = (image - wanted) ** 2
    known = np.isfinite(squares)
    parts = [squares[known & where] for where in (seam, ~seam)]
    on_seams, elsewhere = (float(np.sqrt(part.mean())) if part.size else float("nan") for part in parts)
    return on_seams, elsewhere
