"""Patches put back into slices: a weighted mean where they overlap, at positions that are given, never inferred.

Every window function is positive everywhere and sums are divided by the sum of weights, so that constant patches
give a constant slice, borders included. Sums are float64: with weights from 1e-8 to 1 and values of one size, the
result is off by less than 1e-7 of that size, before it is rounded to float32.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.errors import CtPatchError

WindowName = Literal["hann", "gaussian", "uniform"]
WINDOWS: tuple[WindowName, ...] = ("hann", "gaussian", "uniform")

GAUSSIAN_SIGMA = 0.125
"""Standard deviation of the Gaussian window, as a share of the patch's side: the usual choice for sliding windows."""

_MAX_NAMED = 5


class ReassemblyError(CtPatchError):
    """Patches do not fit together: missing, given twice, of another shape, or not a number."""

    code = "reassembly"


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
def _weights_of_grid(
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


class _Canvas:
    """The sum of weighted pixels of one slice, and what was added to it."""

    def __init__(self, shape: tuple[int, int], size: tuple[int, int], window: WindowName, dtype: np.dtype[Any]) -> None:
        self._shape, self._size, self._window = shape, size, window
        self._dtype = np.dtype(np.float64 if dtype == np.float64 else np.float32)
        self._weights = window_weights(size, window)
        self._origins: list[tuple[int, int]] = []
        self._sum = np.zeros(shape, np.float64)
        self._product = np.empty(size, np.float64)

    def add(self, patch: NDArray[Any], row: int, col: int) -> None:
        """Add a patch; what lies beyond the slice was padding, and is cut off."""
        there = self._sum[row : row + self._size[0], col : col + self._size[1]]
        inside = np.s_[: there.shape[0], : there.shape[1]]
        if self._window == "uniform":
            there += patch[inside]
        else:
            there += np.multiply(patch[inside], self._weights[inside], out=self._product[inside])
        self._origins.append((row, col))

    def image(self, fill: float) -> tuple[NDArray[Any], int]:
        """The slice, and how many of its pixels no patch covers; those are `fill`."""
        weights, covered = _weights_of_grid(tuple(sorted(self._origins)), self._shape, self._size, self._window)
        image = np.full(self._shape, fill, self._dtype)
        np.divide(self._sum, weights, out=image, where=covered, casting="same_kind")
        return image, int(covered.size - np.count_nonzero(covered))


def reassemble(
    patches: ArrayLike,
    coords: Iterable[tuple[int, int]],
    shape: tuple[int, int],
    window: WindowName = "hann",
    *,
    fill: float = float("nan"),
) -> NDArray[Any]:
    """Put the patches of one slice back together.

    Args:
        patches: `(N, h, w)`, real numbers.
        coords: origins `(row, col)` of the patches, in the same order; a patch may reach beyond the bottom and right
            of the slice (padding), which is cut off.
        shape: height and width of the slice.
        window: how a patch's pixels weigh where patches overlap: `hann`, `gaussian` or `uniform`.
        fill: what pixels get that no patch covers.

    Returns:
        The slice, `shape`, float32 (float64 where the patches are).

    Raises:
        ReassemblyError: numbers of patches and origins differ, an origin comes twice or lies outside the slice, a
            patch holds NaN or infinity; names it.
        ValueError: the arrays are not of the shapes above, or the window is not known.

    >>> patches = np.ones((4, 8, 8), np.float32)
    >>> reassemble(patches, [(0, 0), (0, 4), (4, 0), (4, 4)], (12, 12)).min().item()
    1.0
    """
    stack = _checked_patches(patches)
    origins = [(int(row), int(col)) for row, col in coords]
    if len(origins) != len(stack):
        raise ReassemblyError(f"there are {len(stack)} patches and {len(origins)} origins; each patch needs its own")
    _check_origins(origins, shape)
    _refuse_not_finite(stack, lambda at: f"the patch at {origins[at]}")
    canvas = _Canvas(shape, (stack.shape[1], stack.shape[2]), window, stack.dtype)
    for patch, (row, col) in zip(stack, origins, strict=True):
        canvas.add(patch, row, col)
    return canvas.image(fill)[0]


def _checked_patches(patches: ArrayLike) -> NDArray[Any]:
    stack = np.asarray(patches)
    if stack.ndim != 3 or 0 in stack.shape[1:]:  # noqa: PLR2004
        raise ValueError(f"patches have shape {stack.shape}, wanted (N, h, w); drop channels first")
    if stack.dtype.kind not in "buif":
        raise ValueError(f"patches are {stack.dtype}, wanted real numbers")
    return stack


def _check_origins(origins: Sequence[tuple[int, int]], shape: tuple[int, int]) -> None:
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}, wanted (height, width) in pixels")
    seen: set[tuple[int, int]] = set()
    for origin in origins:
        if not (0 <= origin[0] < shape[0] and 0 <= origin[1] < shape[1]):
            raise ReassemblyError(f"the patch at {origin} begins outside the slice of {shape[0]}x{shape[1]}")
        if origin in seen:
            raise ReassemblyError(f"two patches are at {origin}; each window is given once")
        seen.add(origin)


def _refuse_not_finite(stack: NDArray[Any], name_of: Callable[[int], str]) -> None:
    if stack.dtype.kind != "f":
        return
    # A sum is finite only where all are, and much quicker than isfinite; where it overflows, they are looked at.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(stack.sum(dtype=np.promote_types(stack.dtype, np.float32))):
            return
    wrong = np.argwhere(~np.isfinite(stack)).tolist()
    if wrong:
        at, row, col = wrong[0]
        raise ReassemblyError(
            f"{name_of(at)} holds {stack[at, row, col]} at its pixel ({row}, {col}); check the model's output"
        )


@dataclass(frozen=True, slots=True)
class ReassembledSlice:
    """A slice that is whole again.

    Attributes:
        slice_index: which.
        image: `(H, W)` float32 (float64 where the patches were).
        uncovered: pixels that no patch covers; they hold the fill value.
    """

    slice_index: int
    image: NDArray[Any]
    uncovered: int


class Reassembler:
    """Takes patches of many slices in any order and gives back each slice when its last patch has come.

    Memory is bounded by the slices that are open: feed patches slice by slice, and only one is.

    Args:
        slice_index, rows, cols: for each patch, by number, the slice it belongs to and its origin, `(N,)` each.
        shapes: height and width of each slice.
        patch_size: height and width of a patch.
        window: how a patch's pixels weigh where patches overlap.
        fill: what pixels get that no patch covers.
        names: what messages call each patch; None says its number.

    Raises:
        ReassemblyError: two patches are at one place, or one begins outside its slice.
    """

    def __init__(
        self,
        slice_index: ArrayLike,
        rows: ArrayLike,
        cols: ArrayLike,
        shapes: Mapping[int, tuple[int, int]],
        patch_size: tuple[int, int],
        window: WindowName = "hann",
        *,
        fill: float = float("nan"),
        names: Sequence[str] | None = None,
    ) -> None:
        self._slices = np.asarray(slice_index, np.int64)
        self._rows = np.asarray(rows, np.int64)
        self._cols = np.asarray(cols, np.int64)
        if not self._slices.shape == self._rows.shape == self._cols.shape or self._slices.ndim != 1:
            raise ValueError("slice_index, rows and cols have one number for each patch")
        self._shapes = {int(index): (int(shape[0]), int(shape[1])) for index, shape in shapes.items()}
        self._size, self._window, self._fill, self._names = patch_size, window, fill, names
        self._open: dict[int, _Canvas] = {}
        self._added = np.zeros(len(self._slices), dtype=bool)
        self._left = Counter(self._slices.tolist())
        self._check_windows()
        window_weights(patch_size, window)

    def _check_windows(self) -> None:
        if unknown := self._left.keys() - self._shapes:
            raise ReassemblyError(f"the shape of slice {min(unknown)} is not given")
        keys = np.stack([self._slices, self._rows, self._cols], axis=1)
        unique, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
        if len(unique) < len(keys):
            at = int(first[counts > 1][0])
            raise ReassemblyError(f"{self._name(at)}: its window is given twice")
        shapes = np.array([self._shapes[index] for index in self._slices.tolist()], np.int64).reshape(-1, 2)
        outside = ((keys[:, 1:] < 0) | (keys[:, 1:] >= shapes)).any(axis=1)
        if outside.any():
            raise ReassemblyError(f"{self._name(int(np.flatnonzero(outside)[0]))} begins outside its slice")

    def _name(self, number: int) -> str:
        return f"patch {self._names[number] if self._names is not None else number}"

    @property
    def open_slices(self) -> int:
        """How many slices have some of their patches and wait for others."""
        return len(self._open)

    def add(self, indices: ArrayLike, patches: ArrayLike) -> list[ReassembledSlice]:
        """Take a batch; returns the slices that it completes.

        Args:
            indices: numbers of the patches, `(B,)`.
            patches: their pixels, `(B, h, w)`, or `(B, 1, h, w)` as models give them.

        Raises:
            ReassemblyError: a patch came before, is not known, has another shape, or holds NaN or infinity. Nothing
                of the batch is taken then.
        """
        numbers = np.atleast_1d(np.asarray(indices))
        stack = np.asarray(patches)
        if stack.ndim == 4 and stack.shape[1] == 1:  # noqa: PLR2004
            stack = stack[:, 0]
        stack = _checked_patches(stack)
        if len(numbers) != len(stack):
            raise ReassemblyError(
                f"there are {len(stack)} patches and {len(numbers)} numbers; each patch needs its own"
            )
        self._check_batch(numbers, stack)
        finished = []
        for number, patch in zip(numbers.tolist(), stack, strict=True):
            index = int(self._slices[number])
            if index not in self._open:
                self._open[index] = _Canvas(self._shapes[index], self._size, self._window, stack.dtype)
            self._open[index].add(patch, int(self._rows[number]), int(self._cols[number]))
            self._added[number] = True
            self._left[index] -= 1
            if self._left[index] == 0:
                finished.append(ReassembledSlice(index, *self._open.pop(index).image(self._fill)))
        return finished

    def _check_batch(self, numbers: NDArray[Any], stack: NDArray[Any]) -> None:
        if numbers.dtype.kind not in "iu":
            raise ReassemblyError(f"numbers of patches are {numbers.dtype}, wanted whole numbers")
        unknown = (numbers < 0) | (numbers >= len(self._slices))
        if unknown.any():
            raise ReassemblyError(
                f"there is no patch {int(numbers[unknown][0])}; they are numbered to {len(self._slices) - 1}"
            )
        if stack.shape[1:] != self._size:
            which = self._name(int(numbers[0])) if len(numbers) else "a patch"
            raise ReassemblyError(f"{which} has shape {stack.shape[1:]}, wanted {self._size}")
        unique, counts = np.unique(numbers, return_counts=True)
        twice = unique[(counts > 1) | self._added[unique]]
        if len(twice):
            raise ReassemblyError(f"{self._name(int(twice[0]))} was given twice")
        _refuse_not_finite(stack, lambda at: self._name(int(numbers[at])))

    def finish(self) -> None:
        """Make sure that every patch has come.

        Raises:
            ReassemblyError: some have not; names them.
        """
        missing = np.flatnonzero(~self._added)
        if len(missing):
            names = ", ".join(self._name(int(number)).removeprefix("patch ") for number in missing[:_MAX_NAMED])
            more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
            raise ReassemblyError(f"{len(missing)} patches have not come: {names}{more}")


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
    image, wanted = np.asarray(result, np.float64), np.asarray(truth, np.float64)
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
