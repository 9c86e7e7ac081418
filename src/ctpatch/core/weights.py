"""How much each window counts where windows overlap, so that no pixel counts twice."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

WEIGHT = "weight"
"""The column of a batch that has them; it is computed from the manifest and stands in no file."""
Numbers = NDArray[np.integer]


def coverage_weights(
    slices: Numbers, rows: Numbers, cols: Numbers, size: tuple[int, int], shapes: Mapping[int, tuple[int, int]]
) -> NDArray[np.float64]:
    """Compute for each window the mean over its pixels of 1 / (how many windows of its slice hold the pixel).

    A pixel that was added beyond the slice counts 0. So the sum of `weight * h * w` over all windows is the number of
    pixels that at least one window holds, and a mean of patches that is weighted like this counts each of them once.

    Args:
        slices: number of the slice of each window, shape (N,), in any order.
        rows: first row of each window, in pixels, (N,), 0 or more.
        cols: first column of each window, likewise.
        size: height and width of a window, in pixels.
        shapes: for each slice its height and width, in pixels.

    Returns:
        (N,) float64, from 0 to 1.

    Raises:
        KeyError: a slice has no shape.
    """
    weights = np.zeros(len(slices), np.float64)
    if not len(slices):
        return weights
    order = np.argsort(slices, kind="stable")
    numbers, starts = np.unique(slices[order], return_index=True)
    # Most slices of a set have the same windows.
    known: dict[tuple[tuple[int, int], bytes, bytes], NDArray[np.float64]] = {}
    for number, here in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        origins = rows[here].astype(np.int64), cols[here].astype(np.int64)
        key = shapes[number], origins[0].tobytes(), origins[1].tobytes()
        if key not in known:
            known[key] = _weights_in(*origins, size, shapes[number])
        weights[here] = known[key]
    return weights


def _weights_in(
    rows: NDArray[np.int64], cols: NDArray[np.int64], size: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """The weights of the windows of one slice, which is parted into cells where windows begin and end."""
    sides = zip((rows, cols), size, shape, strict=True)
    ends = [np.minimum(np.stack([starts, starts + side]), length) for starts, side, length in sides]
    edges = [np.unique(each) for each in ends]
    (tops, bottoms), (lefts, rights) = (np.searchsorted(*pair) for pair in zip(edges, ends, strict=True))
    windows = list(zip(tops.tolist(), bottoms.tolist(), lefts.tolist(), rights.tolist(), strict=True))
    heights, widths = map(np.diff, edges)
    counts = np.zeros((len(heights), len(widths)), np.int64)
    for top, bottom, left, right in windows:
        counts[top:bottom, left:right] += 1
    share = heights[:, None] * widths / np.maximum(counts, 1)
    sums = [share[top:bottom, left:right].sum() for top, bottom, left, right in windows]
    return np.array(sums, np.float64) / (size[0] * size[1])
