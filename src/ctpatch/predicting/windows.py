"""Where a model's windows lie in a slice, and the pixels that it is given for each of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.blending import window_weights
from ctpatch.core.grid import Grid, make_grid
from ctpatch.core.patches import pad_slice
from ctpatch.core.placing import Blend
from ctpatch.errors import UsageError
from ctpatch.words import PadMode


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of slices, as a configuration and a model's margin make them.

    A model whose output lacks a margin covers the inner part of each window. The inner parts are planned as windows
    without a margin are, and the model's windows reach beyond them, at the border beyond the slice.

    Attributes:
        config: geometry of the model's windows.
        margin: pixels of a window, at each side, that the model's output does not cover.
    """

    config: PatchConfig
    margin: int = 0

    def __post_init__(self) -> None:
        window_weights(Blend("uniform", margin=self.margin).patch_size(self.config.patch_size), "uniform")

    @property
    def inner(self) -> PatchConfig:
        """The geometry of the parts that the model's output covers; between two of them no pixel is left out."""
        if not self.margin:
            return self.config
        size = Blend("uniform", margin=self.margin).patch_size(self.config.patch_size)
        rows, cols = (min(pair) for pair in zip(self.config.stride, size, strict=True))
        return PatchConfig(patch_size=size, stride=(rows, cols), pad_mode=self.config.pad_mode)

    def grid(self, shape: tuple[int, int]) -> Grid:
        """The inner parts for a slice of a shape; the window of the part at `(row, col)` begins a margin before."""
        return make_grid(*shape, self.inner)

    def refuse_holes(self, grid: Grid, fill: float, name: str) -> None:
        """Refuse a slice that a margin is to leave no pixel of, where windows leave some and no fill is given."""
        missing = grid.shape[0] * grid.shape[1] - grid.covered_pixels()
        if self.margin and missing and not np.isfinite(fill):
            raise UsageError(
                f"{name}: {missing} pixels are in no window of pad_mode {self.config.pad_mode!r}, less the margin; use "
                "'even' or 'shift', or give a fill"
            )

    def padded(self, image: NDArray[Any], grid: Grid) -> NDArray[np.float32]:
        """A slice `(H, W)`, or its channels `(C, H, W)`, with all pixels that windows reach; `(C, H', W')` float32."""
        channels = image[np.newaxis] if image.ndim == 2 else image  # noqa: PLR2004
        channels = channels.astype(np.float32, copy=False)
        mode = self.config.pad_mode
        if not self.margin:
            if grid.padded_shape == grid.shape:
                return channels
            return np.stack([pad_slice(channel, grid.padded_shape, mode) for channel in channels])
        rows, cols = (
            _reached(length, self.margin, padded - length + self.margin, mode)
            for length, padded in zip(grid.shape, grid.padded_shape, strict=True)
        )
        made: NDArray[np.float32] = channels[:, np.maximum(rows, 0)[:, np.newaxis], np.maximum(cols, 0)]
        made[:, rows < 0] = 0
        made[:, :, cols < 0] = 0
        return made

    def patches(self, padded: Any, grid: Grid) -> Iterator[Any]:
        """What the model is given for each window, in the grid's order: views `(C, h, w)` of a padded slice.

        A slice's channels need not be the slice alone: whatever gives `padded` more of them gives them to the model.
        """
        height, width = self.config.patch_size
        for row, col in grid:
            yield padded[:, row : row + height, col : col + width]


def _reached(length: int, before: int, after: int, mode: PadMode) -> NDArray[np.int64]:
    """For each place from `before` places ahead of an axis to `after` behind it the pixel that is there; -1 is zero."""
    places = np.arange(-before, length + after)
    if mode == "zero":
        return np.where((places < 0) | (places >= length), -1, places)
    if mode == "edge" or length == 1:
        return places.clip(0, length - 1)
    period = 2 * (length - 1)
    there = places % period
    return np.minimum(there, period - there)


def refuse_small(shape: tuple[int, int], windows: Windows, name: str) -> NoReturn:
    """Refuse a slice in which there is no window."""
    inner = windows.inner
    seen, wanted = ("x".join(map(str, size)) for size in (shape, inner.patch_size))
    of = "a patch of" if not windows.margin else "what a patch gives without its margin,"
    raise UsageError(
        f"{name}: {seen} pixels are less than {of} {wanted}, and pad_mode {inner.pad_mode!r} does not pad; give "
        "a cfg with a smaller patch_size, or with pad_mode 'reflect', 'edge' or 'zero'"
    )
