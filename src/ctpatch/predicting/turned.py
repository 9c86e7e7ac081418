"""A model on turned patches: what it gives for each symmetry is turned back, and becomes one answer."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.labels import holds_labels
from ctpatch.loading.transforms import apply_symmetry


def symmetries_of(size: tuple[int, int]) -> Sequence[int]:
    """Numbers of the symmetries of a patch, as `apply_symmetry` counts them: eight where it is square, else four."""
    return range(8 if size[0] == size[1] else 4)


def turn(batch: Any, symmetry: int) -> Any:
    """A batch, an array or a tensor, turned in its last two axes: a copy, since a model may write into it."""
    if isinstance(batch, np.ndarray):
        return apply_symmetry(batch, symmetry).copy()
    axes = [axis for axis, bit in ((-2, 1), (-1, 2)) if symmetry & bit]
    flipped = batch.flip(axes) if axes else batch.clone()
    return flipped.transpose(-1, -2).contiguous() if symmetry & 4 else flipped


def turn_back(batch: Any, symmetry: int) -> Any:
    """What `turn` did, undone."""
    rows, cols = symmetry & 1, symmetry >> 1 & 1
    # After axes are swapped, what flipped rows flips columns.
    return turn(batch, 4 | rows << 1 | cols if symmetry & 4 else symmetry)


class OneAnswer:
    """The mean of what a model gave, or for labels the commonest."""

    def __init__(self) -> None:
        self._sum: Any = None
        self._count = 0
        self._labels: list[NDArray[Any]] = []

    def add(self, values: Any, *, average: bool) -> None:
        """Take one more, an array or a tensor of one shape and kind; labels too are averaged where they are scores."""
        if isinstance(values, np.ndarray):
            if holds_labels(values.dtype) and not average:
                self._labels.append(values)
                return
            values = values.astype(np.float64)
        else:
            values = values.float() if values.element_size() < 4 else values  # noqa: PLR2004
        self._sum = values if self._sum is None else self._sum + values
        self._count += 1

    def result(self, dtype: Any) -> Any:
        """What all gave together; a mean of arrays as float32, or float64 where the model gives that."""
        if self._labels:
            return commonest(self._labels)
        mean = self._sum / self._count
        return mean.astype(np.float64 if dtype == np.float64 else np.float32) if isinstance(mean, np.ndarray) else mean


def commonest(votes: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """For each place the label that most of the arrays have there, of equal ones the smallest."""
    labels = np.sort(np.stack(votes), axis=0)
    best: NDArray[Any] = labels[0].copy()
    most = np.ones(best.shape, np.int64)
    run = most.copy()
    for before, here in pairwise(labels):
        run = np.where(here == before, run + 1, 1)
        more = run > most
        best[more], most[more] = here[more], run[more]
    return best
