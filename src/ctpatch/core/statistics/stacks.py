"""Statistics of many patches of one size, some at a time, since a call costs more than a patch."""

import math

import numpy as np

from ctpatch.core.statistics.api import SliceStatistics, WindowStatistics, window_statistics
from ctpatch.core.statistics.cells import Image
from ctpatch.core.statistics.columns import of_windows

_TOGETHER = 8
"""Patches in a call. It is always the same number, as a plan is kept for each; more gain nothing."""


def stack_statistics(patches: Image, air_level: float) -> WindowStatistics:
    """Compute the statistics of N patches, to the bit as `window_statistics` does for each one alone.

    Args:
        patches: `(N, h, w)`, C-contiguous, any bool, integer or float dtype. A patch with pixels that are not finite
            has NaN as each of its statistics.
        air_level: pixels at or below it are air.

    Returns:
        For each statistic by name its values, `(N,)`. Those that are shares of a map of the slice are not among them.
    """
    result = {name: np.empty(len(patches)) for name in of_windows()}
    whole = len(patches) - len(patches) % _TOGETHER
    for first in range(0, whole, _TOGETHER):
        found = _of_some(patches[first : first + _TOGETHER], air_level)
        if math.isfinite(found.slice_min) and math.isfinite(found.slice_max):
            for name, values in result.items():
                values[first : first + _TOGETHER] = found.windows[name]
        else:
            # One that is not finite would take the statistics of the others with it.
            _one_by_one(patches, first, first + _TOGETHER, air_level, result)
    _one_by_one(patches, whole, len(patches), air_level, result)
    return result


def _one_by_one(patches: Image, first: int, stop: int, air_level: float, result: WindowStatistics) -> None:
    for at in range(first, stop):
        found = _of_some(patches[at : at + 1], air_level).windows
        for name, values in result.items():
            values[at] = found[name][0]


def _of_some(patches: Image, air_level: float) -> SliceStatistics:
    """The statistics of some patches, one below the other as if they were a slice."""
    number, height, width = patches.shape
    tops = tuple(range(0, number * height, height))
    return window_statistics(patches.reshape(-1, width), tops, (0,), (height, width), air_level)
