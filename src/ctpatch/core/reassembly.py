"""Patches put back into slices: a weighted mean where they overlap, at positions that are given, never inferred.

Patches of whole numbers or booleans hold labels, which have no mean: see `ctpatch.core.labels`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.core.arrays import as_array
from ctpatch.core.blending import WINDOWS, Canvas, WindowName, window_weights
from ctpatch.core.labels import holds_labels, label_fill
from ctpatch.core.placing import (
    Blend,
    channels_of,
    check_origins,
    checked_patches,
    refuse_not_finite,
    whole_origins,
)
from ctpatch.core.seams import seam_error
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


def reassemble(
    patches: ArrayLike,
    coords: Iterable[tuple[int, int]],
    shape: tuple[int, int],
    window: WindowName = "hann",
    *,
    fill: float = float("nan"),
    scale: int = 1,
    margin: int = 0,
    argmax: bool = False,
) -> NDArray[Any]:
    """Put the patches of one slice back together.

    Args:
        patches: `(N, h, w)` or `(N, C, h, w)`, real numbers: NumPy, or torch tensors on any device. Whole numbers and
            booleans are labels.
        coords: origins `(row, col)` of the windows that the patches belong to, in the slice's pixels and the same
            order; a patch may reach beyond the bottom and right of the slice (padding), which is cut off.
        shape: height and width of the slice.
        window: how a patch's pixels weigh where patches overlap: `hann`, `gaussian` or `uniform`.
        fill: what pixels get that no patch covers. Labels need a whole number where there are such pixels.
        scale: a patch has so many pixels along each axis for one of its window (super-resolution).
        margin: a patch lacks so many of its window's pixels at each side (convolutions without padding). A window may
            begin as far before the slice.
        argmax: channels are class scores, which are averaged; a pixel takes the class with the largest mean, of equal
            ones the first.

    Returns:
        The slice, `shape` times `scale`, float32 (float64 where the patches are): the weighted mean. It is `(C, H, W)`
        where the patches have 2 or more channels. Labels keep their dtype and are never averaged: a pixel takes the
        label whose weights have the largest sum, of equal ones the smallest label. With `argmax` class numbers
        `(H, W)`, uint8 (int32 where there are more than 256 classes).

    Raises:
        ReassemblyError: the patches are not of the shapes above, numbers of patches and origins differ, an origin comes
            twice or lies outside the slice, a patch holds NaN or infinity, or labels cannot hold `fill`; names it.
        ConfigError: `scale` is less than 1, or `margin` less than 0.
        ValueError: the window is not known.

    >>> patches = np.ones((4, 8, 8), np.float32)
    >>> reassemble(patches, [(0, 0), (0, 4), (4, 0), (4, 4)], (12, 12)).min().item()
    1.0
    >>> reassemble(np.array([[[2, 2, 2]], [[0, 0, 0]]]), [(0, 0), (0, 1)], (1, 4))  # one row; both weigh 0 to 2
    array([[2, 2, 0, 0]])
    """
    blend = Blend(window, fill, scale, margin, argmax)
    stack = checked_patches(patches)
    origins = whole_origins(coords)
    if len(origins) != len(stack):
        raise ReassemblyError(f"there are {len(stack)} patches and {len(origins)} origins; each patch needs its own")
    check_origins(origins, shape, margin)
    blend.refuse_one_channel(stack)
    refuse_not_finite(stack, lambda at: f"the patch at {origins[at]}")
    size, made = _whole_size(stack, scale), blend.shape(shape)
    places = [(blend.place(row), blend.place(col)) for row, col in origins]
    blend.refuse_fill(blend.dtype(stack), places, made, size, "the slice")
    canvas = blend.canvas(made, size, stack)
    for patch, (row, col) in zip(stack, places, strict=True):
        canvas.add(patch, row, col)
    return canvas.image(fill)[0]


def _whole_size(stack: NDArray[Any], scale: int) -> tuple[int, int]:
    height, width = stack.shape[-2:]
    if height % scale or width % scale:
        raise ReassemblyError(
            f"scale: patches of {height}x{width} pixels are not {scale} times as large as any window; give the scale "
            "of the model"
        )
    return height, width


@dataclass(frozen=True, slots=True)
class ReassembledSlice:
    """A slice that is whole again.

    Attributes:
        slice_index: which.
        image: `(H, W)` or `(C, H, W)`, float32 (float64 where the patches were); labels in their own dtype.
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
        patch_size: height and width of a window, which are those of a patch where scale and margin say nothing else.
        window: how a patch's pixels weigh where patches overlap.
        fill: what pixels get that no patch covers; labels need a whole number where there are such pixels.
        names: what messages call each patch; None says its number.
        scale, margin, argmax: as in `reassemble`.

    Raises:
        ConfigError: `scale` is less than 1, or `margin` less than 0 or so large that nothing is left of a window.
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
        scale: int = 1,
        margin: int = 0,
        argmax: bool = False,
    ) -> None:
        self._blend = Blend(window, fill, scale, margin, argmax)
        self._slices = as_array(slice_index, "slice_index").astype(np.int64)
        self._rows = as_array(rows, "rows").astype(np.int64)
        self._cols = as_array(cols, "cols").astype(np.int64)
        if not self._slices.shape == self._rows.shape == self._cols.shape or self._slices.ndim != 1:
            raise ValueError("slice_index, rows and cols have one number for each patch")
        self._shapes = {int(index): (int(shape[0]), int(shape[1])) for index, shape in shapes.items()}
        self._size, self._names = self._blend.patch_size(patch_size), names
        self._open: dict[int, Canvas] = {}
        self._added = np.zeros(len(self._slices), dtype=bool)
        self._left = Counter(self._slices.tolist())
        self._check_windows()
        window_weights(self._size, window)
        self._rows, self._cols = ((starts + margin) * scale for starts in (self._rows, self._cols))
        self._shapes = {index: self._blend.shape(shape) for index, shape in self._shapes.items()}

    def _check_windows(self) -> None:
        if unknown := self._left.keys() - self._shapes:
            raise ReassemblyError(f"the shape of slice {min(unknown)} is not given")
        keys = np.stack([self._slices, self._rows, self._cols], axis=1)
        unique, first, counts = np.unique(keys, axis=0, return_index=True, return_counts=True)
        if len(unique) < len(keys):
            at = int(first[counts > 1][0])
            raise ReassemblyError(f"{self._name(at)}: its window is given twice")
        shapes = np.array([self._shapes[index] for index in self._slices.tolist()], np.int64).reshape(-1, 2)
        inside = keys[:, 1:] + self._blend.margin
        outside = ((inside < 0) | (inside >= shapes)).any(axis=1)
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
            patches: their pixels, `(B, h, w)` or `(B, C, h, w)`.

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
                self._open[index] = self._blend.canvas(self._shapes[index], self._size, stack)
            self._open[index].add(patch, int(self._rows[number]), int(self._cols[number]))
            self._added[number] = True
            self._left[index] -= 1
            if self._left[index] == 0:
                finished.append(ReassembledSlice(index, *self._open.pop(index).image(self._blend.fill)))
        return finished

    def _check_batch(self, numbers: NDArray[Any], stack: NDArray[Any]) -> None:
        if numbers.dtype.kind not in "iu":
            raise ReassemblyError(f"numbers of patches are {numbers.dtype}, wanted whole numbers")
        unknown = (numbers < 0) | (numbers >= len(self._slices))
        if unknown.any():
            raise ReassemblyError(
                f"there is no patch {int(numbers[unknown][0])}; they are numbered to {len(self._slices) - 1}"
            )
        if stack.shape[-2:] != self._size:
            which = self._name(int(numbers[0])) if len(numbers) else "a patch"
            raise ReassemblyError(f"{which} has shape {stack.shape[-2:]}, wanted {self._size}")
        self._blend.refuse_one_channel(stack)
        if len(set(numbers.tolist())) < len(numbers) or self._added[numbers].any():
            unique, counts = np.unique(numbers, return_counts=True)
            twice = unique[(counts > 1) | self._added[unique]]
            raise ReassemblyError(f"{self._name(int(twice[0]))} was given twice")
        refuse_not_finite(stack, lambda at: self._name(int(numbers[at])))
        self._check_slices(numbers, stack)

    def _check_slices(self, numbers: NDArray[Any], stack: NDArray[Any]) -> None:
        """Refuse labels among means, other channels than before, and missing pixels that no label can stand for."""
        batch, dtype, channels = Counter(self._slices[numbers].tolist()), stack.dtype, channels_of(stack)
        made = self._blend.dtype(stack)
        for index, count in batch.items():
            there = self._open.get(index)
            if there is not None and there.channels != channels:
                raise ReassemblyError(
                    f"slice {index}: its patches have {channels or 1} channels, those before had {there.channels or 1}"
                )
            means = self._blend.argmax or not (holds_labels(dtype) or (there is not None and holds_labels(there.dtype)))
            if there is not None and not means and there.dtype != dtype.newbyteorder("="):
                raise ReassemblyError(
                    f"slice {index}: its patches are {dtype}, those before were {there.dtype}; give all patches of a "
                    "slice in one dtype, since labels are not averaged and other numbers are"
                )
            if holds_labels(made) and count == self._left[index] and label_fill(self._blend.fill, made) is None:
                mine = numbers[self._slices[numbers] == index]
                origins = zip(self._rows[mine].tolist(), self._cols[mine].tolist(), strict=True)
                every = [*(there.origins if there is not None else []), *origins]
                self._blend.refuse_fill(made, every, self._shapes[index], self._size, f"slice {index}")

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
