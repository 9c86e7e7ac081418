"""Statistics of all windows of a slice, or of patches one by one."""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.statistics import numpy_engine
from ctpatch.core.statistics.cells import Floats, Image, Plan, Reductions, plan_cells
from ctpatch.core.statistics.columns import STATISTICS, Levels, of_windows

# Windows whose variance is a smaller share of the mean square than this are computed again in two passes.
_CANCELLATION = 1e-5
# Float64 squares lose digits to underflow below this; the variance of distinct float32 values never is.
_UNDERFLOW = 1e-200
# Machine code saves 0.1 ms a slice, and takes about half a second to load: this many slices make up for it.
_SLICES_IN_NUMPY = 4096
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

WindowStatistics = dict[str, Floats]
"""For each statistic by name its values for all windows, in the order of the grid (row-major), `(windows,)`."""

Engine = Callable[[Image, Plan, float], Reductions]
"""Reduces a stack of slices `(N, H, W)`."""


@dataclass(frozen=True, slots=True)
class SliceStatistics:
    """Statistics of a slice's windows, and of the slice itself.

    Attributes:
        windows: one entry for each statistic.
        slice_min: smallest pixel of the whole slice, also where no window lies; NaN if any pixel is NaN.
        slice_max: largest pixel, likewise; so both are finite if and only if all pixels are.
    """

    windows: WindowStatistics
    slice_min: float
    slice_max: float


def window_statistics(
    image: Image,
    row_starts: Sequence[int] | NDArray[np.integer],
    col_starts: Sequence[int] | NDArray[np.integer],
    patch_size: tuple[int, int],
    air_level: float,
    maps: Mapping[str, NDArray[np.bool_]] | None = None,
) -> SliceStatistics:
    """Compute the statistics of the windows at `row_starts` x `col_starts`.

    Sums of pixels and of squares are kept in float64. Squares of float32 values are exact there, so the only
    errors are those of adding. With at most `d = h + w` additions on the way of a pixel and `u = 2**-53`:

    - `mean` is off by at most `(d + 2) * u * mean(abs(x))`.
    - the variance `E[x^2] - mean^2` is off by at most `3 * (d + 3) * u * E[x^2]`. It is used where it exceeds
      `1e-5 * E[x^2]`, so std is off by at most `1.7e-11 * (d + 3)` relative: 5e-9 for 128 x 128, 6e-7 for
      16384 x 16384. Elsewhere the window is computed again in two passes.

    Args:
        image: slice of shape (H, W), any bool, integer or float dtype; quick for C-contiguous float32.
        row_starts: first row of each row of windows, increasing, at any distance. May be empty.
        col_starts: first column of each column of windows, likewise.
        patch_size: height and width of a window, in pixels; all windows lie inside the image.
        air_level: pixels at or below it are air; compared as `image <= air_level` does.
        maps: for statistics that are shares of a map, by name, the map `(H, W)`, as `slice_maps` gives them.

    Returns:
        Statistics of `len(row_starts) * len(col_starts)` windows, and of the slice. If the slice has NaN or
        infinite pixels, its own minimum and maximum tell, and the statistics of all windows are NaN.
    """
    stacks = {} if maps is None else {name: found[None] for name, found in maps.items()}
    return slices_statistics(image[None], row_starts, col_starts, patch_size, air_level, stacks)[0]


def slices_statistics(
    images: Image,
    row_starts: Sequence[int] | NDArray[np.integer],
    col_starts: Sequence[int] | NDArray[np.integer],
    patch_size: tuple[int, int],
    air_level: float,
    maps: Mapping[str, NDArray[np.bool_]] | None = None,
) -> list[SliceStatistics]:
    """Compute what `window_statistics` does for each slice of a stack `(N, H, W)`, to the same bit, in less time.

    The maps are `(N, H, W)` too.
    """
    plan = plan_cells(images.shape[1:], tuple(row_starts), tuple(col_starts), tuple(patch_size))
    with np.errstate(all="ignore"):
        engine = _compiled.engine(images, plan) or numpy_engine.reduce
        low, sums, ends = engine(images, plan, float(air_level))
        # Which zero wins in min(0, -0) depends on the CPU; adding 0 leaves only the positive one.
        window_min, negated_max = np.add(low, 0.0, dtype=_FLOAT64).reshape(len(images), 2, -1).swapaxes(0, 1)
        window_max = 0.0 - negated_max
        height, width = plan.patch_size
        mean, mean_square, air_fraction = (sums / (height * width)).reshape(len(images), 3, -1).swapaxes(0, 1)
        variance = mean_square - mean * mean
        # Written so that NaN, which overflow of float64 input leaves, counts as doubtful.
        doubtful = ~(variance > mean_square * _CANCELLATION + _UNDERFLOW) & np.isfinite(ends).all(1, keepdims=True)
        std = np.sqrt(variance)
        windows = {"min": window_min, "max": window_max, "mean": mean, "std": std, "air_fraction": air_fraction}
        if doubtful.any():
            for image, doubts, values in zip(images, doubtful, _each(windows, len(images)), strict=True):
                _in_two_passes(image, plan, doubts, values)
        slices = zip(
            images,
            _each(windows, len(images)),
            _each({} if maps is None else maps, len(images)),
            (ends + 0.0).tolist(),
            strict=True,
        )
        return [_of_slice(image, plan, float(air_level), values, counts, *end) for image, values, counts, end in slices]


def _each(stacks: Mapping[str, NDArray[Any]], count: int) -> Iterator[dict[str, NDArray[Any]]]:
    """What stands in `(N, ...)` of so many slices, one slice after the other."""
    return ({name: values[k] for name, values in stacks.items()} for k in range(count))


def _in_two_passes(image: Image, plan: Plan, doubtful: NDArray[np.bool_], windows: WindowStatistics) -> None:
    """Put mean and std of a slice's windows right where the variance is lost in rounding."""
    low, high, mean, std = (windows[name] for name in ("min", "max", "mean", "std"))
    height, width = plan.patch_size
    constant = doubtful & (low == high)
    mean[constant], std[constant] = low[constant], 0.0
    for k in np.flatnonzero(doubtful & (low != high)):
        row = plan.rows.starts[k // len(plan.cols.starts)]
        col = plan.cols.starts[k % len(plan.cols.starts)]
        mean[k], std[k] = _two_pass(image[row : row + height, col : col + width], low[k], high[k])


def _of_slice(
    image: Image,
    plan: Plan,
    air_level: float,
    windows: WindowStatistics,
    maps: Mapping[str, NDArray[np.bool_]],
    slice_min: float,
    slice_max: float,
) -> SliceStatistics:
    if math.isfinite(slice_min) and math.isfinite(slice_max):
        windows |= _further(image, plan.rows.starts, plan.cols.starts, plan.patch_size, air_level)
        windows |= {name: _shares(counts, plan) for name, counts in maps.items()}
        return SliceStatistics(windows, slice_min, slice_max)
    if math.isnan(slice_min):
        slice_min = slice_max = math.nan  # whatever bits the pixel had
    nothing = {name: np.full_like(windows["min"], math.nan) for name in (*of_windows(), *maps)}
    return SliceStatistics(nothing, slice_min, slice_max)


def patch_statistics(patches: Image, air_level: float) -> WindowStatistics:
    """Compute the statistics of N patches one by one, in two passes: what `window_statistics` is held against.

    They have the shape (N, h, w) and any bool, integer or float dtype; pixels at or below `air_level` are air.
    Statistics that are shares of a map of the slice are not among them: a patch does not tell.
    """
    result = {name: np.zeros(len(patches)) for name in of_windows()}
    with np.errstate(all="ignore"):
        for k, patch in enumerate(patches):
            low, high = float(patch.min() + 0.0), float(patch.max() + 0.0)
            mean, std = _two_pass(patch, low, high)
            air_fraction = np.count_nonzero(patch <= float(air_level)) / patch.size
            found = {"min": low, "max": high, "mean": mean, "std": std, "air_fraction": air_fraction}
            for name, value in {**found, **_further(patch, (0,), (0,), patch.shape, float(air_level))}.items():
                result[name][k : k + 1] = value
    return result


def slice_maps(names: Sequence[str], image: Image, levels: Levels) -> dict[str, NDArray[np.bool_]]:
    """The maps of a slice `(H, W)` of which some statistics are shares, by name, each `(H, W)`."""
    found = ((name, STATISTICS[name].slice_map) for name in names)
    return {name: slice_map(image, levels) for name, slice_map in found if slice_map is not None}


def _shares(counts: NDArray[np.bool_], plan: Plan) -> Floats:
    """The share of each window that counts; sums of whole numbers, so the order of adding is no matter."""
    sums = np.zeros((counts.shape[0] + 1, counts.shape[1] + 1), np.int64)
    np.cumsum(counts, axis=0, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    (height, width), rows, cols = plan.patch_size, np.array(plan.rows.starts, int), np.array(plan.cols.starts, int)
    tall = sums[rows + height] - sums[rows]
    return np.asarray((tall[:, cols + width] - tall[:, cols]) / (height * width), _FLOAT64).reshape(-1)


def _further(
    image: Image, row_starts: tuple[int, ...], col_starts: tuple[int, ...], size: tuple[int, int], air_level: float
) -> WindowStatistics:
    """The statistics that bring their own function."""
    return {
        each.name: np.asarray(each.compute(image, row_starts, col_starts, size, air_level), _FLOAT64)
        for each in STATISTICS.values()
        if each.compute is not None
    }


def _two_pass(pixels: Image, low: float, high: float) -> tuple[float, float]:
    """Return mean and std of `pixels`, whose extremes are `low` and `high`, right where they nearly agree."""
    if low == high:
        return low, 0.0
    values = pixels.astype(np.float64).reshape(-1)
    # Rounding can push the mean out of the range; inside it, differences of near-equal values are exact.
    centre = min(max(float(np.add.reduce(values)) / values.size, low), high)
    scale = max(high - centre, centre - low)
    # In units of the largest deviation no square can underflow to nothing or overflow.
    values -= centre
    values /= scale
    rest = float(np.add.reduce(values)) / values.size
    np.multiply(values, values, out=values)
    variance = float(np.add.reduce(values)) / values.size - rest * rest
    return centre + rest * scale, scale * math.sqrt(variance) if variance >= 0 else math.nan


class _Compiled:
    """Machine code, loaded when there were so many slices that it pays, or when it is asked for."""

    def __init__(self) -> None:
        self.wanted: bool | None = None
        self._slices = 0
        self._tried = False
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def engine(self, images: Image, plan: Plan) -> Engine | None:
        """Return the engine if it can be used for these slices; no lock is taken on the way."""
        if self.wanted is False or not (
            images.dtype == _FLOAT32 and images.flags.c_contiguous and images.flags.aligned and plan.serves_compiled
        ):
            return None
        if not self._tried:
            # Threads may lose a count to each other; it only has to grow.
            self._slices += len(images)
            if self._slices > _SLICES_IN_NUMPY:
                self.load(wait=False)
        return self._engine

    def load(self, *, wait: bool) -> bool:
        """Load the code, once; return whether it is there. Without `wait`, leave it to a thread that is at it."""
        if not self._tried and self._lock.acquire(blocking=wait):
            try:
                if not self._tried:
                    from ctpatch.core.statistics import numba_engine  # noqa: PLC0415  (importing numba takes its time)

                    self._engine = numba_engine.load()
            except Exception:  # noqa: BLE001  (not installed, or broken in one of many ways: numpy does as well)
                self._engine = None
            finally:
                self._tried = True
                self._lock.release()
        return self._engine is not None


_compiled = _Compiled()


def use_compiled(wanted: bool | None) -> bool:
    """Choose between numpy and machine code for the whole process. Results are the same to the bit.

    Args:
        wanted: True to use machine code from now on, False never to use it, None to begin when it pays, after
            thousands of slices: the default. It needs numba (`ctpatch[fast]`), and serves C-contiguous float32.

    Returns:
        Whether machine code is used from now on: False if it is wanted but cannot be had.
    """
    _compiled.wanted = wanted
    return bool(wanted) and _compiled.load(wait=True)
