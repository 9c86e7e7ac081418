"""Patches put back into slices: a weighted mean where they overlap, at positions that are given, never inferred.

Patches of whole numbers or booleans hold labels, which have no mean: see `ctpatch.core.labels`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.core.arrays import as_array
from ctpatch.core.blending import WINDOWS, MeanCanvas, WindowName, new_canvas, weights_of_grid, window_weights
from ctpatch.core.labels import LabelCanvas, holds_labels, label_fill, label_range
from ctpatch.errors import ReassemblyError

__all__ = [
    "WINDOWS",
    "ReassembledSlice",
    "Reassembler",
    "ReassemblyError",
    "WindowName",
    "reassemble",
    "seam_error",
    "window_weights",
]

_MAX_NAMED = 5


def _refuse_fill(
    fill: float,
    dtype: np.dtype[Any],
    origins: Iterable[tuple[int, int]],
    shape: tuple[int, int],
    size: tuple[int, int],
    window: WindowName,
    name: str,
) -> None:
    """Refuse a fill that labels cannot hold, where there is a pixel to fill."""
    if not holds_labels(dtype) or label_fill(fill, dtype) is not None:
        return
    _, covered = weights_of_grid(tuple(sorted(origins)), shape, size, window)
    if not covered.all():
        low, high = label_range(dtype)
        raise ReassemblyError(
            f"{name}: no patch covers {int(np.count_nonzero(~covered)):,} of its pixels, and labels ({dtype}) cannot "
            f"hold the fill {fill}; give a whole number from {low} to {high} as fill, or patches that cover the slice"
        )


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
        patches: `(N, h, w)` or `(N, 1, h, w)`, real numbers: NumPy, or torch tensors on any device. Whole numbers and
            booleans are labels.
        coords: origins `(row, col)` of the patches, in the same order; a patch may reach beyond the bottom and right
            of the slice (padding), which is cut off.
        shape: height and width of the slice.
        window: how a patch's pixels weigh where patches overlap: `hann`, `gaussian` or `uniform`.
        fill: what pixels get that no patch covers. Labels need a whole number where there are such pixels.

    Returns:
        The slice, `shape`, float32 (float64 where the patches are): the weighted mean. Labels keep their dtype and are
        never averaged: a pixel takes the label whose weights have the largest sum, of equal ones the smallest label.

    Raises:
        ReassemblyError: the patches are not of the shapes above, numbers of patches and origins differ, an origin comes
            twice or lies outside the slice, a patch holds NaN or infinity, or labels cannot hold `fill`; names it.
        ValueError: the window is not known.

    >>> patches = np.ones((4, 8, 8), np.float32)
    >>> reassemble(patches, [(0, 0), (0, 4), (4, 0), (4, 4)], (12, 12)).min().item()
    1.0
    >>> reassemble(np.array([[[2, 2, 2]], [[0, 0, 0]]]), [(0, 0), (0, 1)], (1, 4))  # one row; both weigh 0 to 2
    array([[2, 2, 0, 0]])
    """
    stack = checked_patches(patches)
    origins = _whole_origins(coords)
    if len(origins) != len(stack):
        raise ReassemblyError(f"there are {len(stack)} patches and {len(origins)} origins; each patch needs its own")
    _check_origins(origins, shape)
    _refuse_not_finite(stack, lambda at: f"the patch at {origins[at]}")
    size = stack.shape[1], stack.shape[2]
    _refuse_fill(fill, stack.dtype, origins, shape, size, window, "the slice")
    canvas = new_canvas(shape, size, window, stack.dtype)
    for patch, (row, col) in zip(stack, origins, strict=True):
        canvas.add(patch, row, col)
    return canvas.image(fill)[0]


def checked_patches(patches: ArrayLike) -> NDArray[Any]:
    """Patches as an array `(N, h, w)` of real numbers; ReassemblyError where they are none."""
    stack = as_array(patches, "patches")
    if stack.dtype.kind not in "buif":
        raise ReassemblyError(f"patches are {stack.dtype}, wanted real numbers")
    if stack.ndim == 4:  # noqa: PLR2004
        if stack.shape[1] != 1:
            raise ReassemblyError(
                f"patches have shape {stack.shape}, {stack.shape[1]} channels; put one channel together at a time: "
                "patches[:, 0]"
            )
        stack = stack[:, 0]
    if stack.ndim != 3 or 0 in stack.shape[1:]:  # noqa: PLR2004
        raise ReassemblyError(f"patches have shape {stack.shape}, wanted (N, h, w) or (N, 1, h, w)")
    return stack


def _whole_origins(coords: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    rows = as_array(coords if hasattr(coords, "__len__") else list(coords), "origins")
    if rows.size == 0:
        return []
    if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "uif" or (rows != np.rint(rows)).any():  # noqa: PLR2004
        raise ReassemblyError(f"origins have shape {rows.shape} and dtype {rows.dtype}, wanted whole pixels (row, col)")
    return [(int(row), int(col)) for row, col in rows.tolist()]


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
        image: `(H, W)` float32 (float64 where the patches were); labels in their own dtype.
        uncovered: pixels that no patch covers; they hold the fill value.
    """

    slice_index: int
    image: NDArray[Any]
    uncovered: int


class Reassembler:
    """Takes patches of many slices in any order and gives back each slice when its last patch has come.

    Patches of whole numbers or booleans are labels and are put together as `reassemble` does, whatever their order.

    Memory is bounded by the slices that are open: feed patches slice by slice, and only one is.

    Args:
        slice_index, rows, cols: for each patch, by number, the slice it belongs to and its origin, `(N,)` each.
        shapes: height and width of each slice.
        patch_size: height and width of a patch.
        window: how a patch's pixels weigh where patches overlap.
        fill: what pixels get that no patch covers; labels need a whole number where there are such pixels.
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
        self._slices = as_array(slice_index, "slice_index").astype(np.int64)
        self._rows = as_array(rows, "rows").astype(np.int64)
        self._cols = as_array(cols, "cols").astype(np.int64)
        if not self._slices.shape == self._rows.shape == self._cols.shape or self._slices.ndim != 1:
            raise ValueError("slice_index, rows and cols have one number for each patch")
        self._shapes = {int(index): (int(shape[0]), int(shape[1])) for index, shape in shapes.items()}
        self._size, self._window, self._fill, self._names = patch_size, window, fill, names
        self._open: dict[int, MeanCanvas | LabelCanvas] = {}
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
            ReassemblyError: a patch came before, is not known, has another shape or dtype, or holds NaN or infinity, or
                labels cannot hold the fill that a slice needs. Nothing of the batch is taken then.
        """
        numbers = np.atleast_1d(as_array(indices, "numbers of patches"))
        stack = checked_patches(patches)
        if len(numbers) != len(stack):
            raise ReassemblyError(
                f"there are {len(stack)} patches and {len(numbers)} numbers; each patch needs its own"
            )
        self._check_batch(numbers, stack)
        finished = []
        for number, patch in zip(numbers.tolist(), stack, strict=True):
            index = int(self._slices[number])
            if index not in self._open:
                self._open[index] = new_canvas(self._shapes[index], self._size, self._window, stack.dtype)
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
        self._check_labels(numbers, stack.dtype)

    def _check_labels(self, numbers: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Refuse labels among means, labels of two dtypes, and slices whose missing pixels no label can stand for."""
        batch = Counter(self._slices[numbers].tolist())
        for index, count in batch.items():
            there = self._open.get(index)
            labels = holds_labels(dtype) or (there is not None and holds_labels(there.dtype))
            if there is not None and labels and there.dtype != dtype.newbyteorder("="):
                raise ReassemblyError(
                    f"slice {index}: its patches are {dtype}, those before were {there.dtype}; give all patches of a "
                    "slice in one dtype, since labels are not averaged and other numbers are"
                )
            if labels and count == self._left[index] and label_fill(self._fill, dtype) is None:
                mine = numbers[self._slices[numbers] == index]
                origins = zip(self._rows[mine].tolist(), self._cols[mine].tolist(), strict=True)
                every = [*(there.origins if there is not None else []), *origins]
                shape, name = self._shapes[index], f"slice {index}"
                _refuse_fill(self._fill, dtype, every, shape, self._size, self._window, name)

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
