"""Windows of a slice: where they begin, what they cover, and the stride that loses nothing.

All numbers are pixels, all pairs `(row, col)`, windows are half-open: `[row, row + height)`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.words import PadMode

PADDING_MODES: frozenset[PadMode] = frozenset({"zero", "edge", "reflect"})


def axis_starts(length: int, size: int, stride: int, pad_mode: PadMode) -> list[int]:
    """Where windows begin along one axis of `length` pixels.

    `none` steps by the stride while windows fit; `shift` adds a last window moved inside to the border; `even`
    spreads the fewest windows whose spacing does not exceed the stride evenly from 0 to the border (window i
    begins at `floor(i * (length - size) / (count - 1))`); the padding modes step by the stride until the border is
    covered (a window that would hold nothing but padding is left out). An axis shorter than a window has none, or
    one where it is padded.

    >>> axis_starts(362, 128, 64, "none"), axis_starts(362, 128, 64, "shift"), axis_starts(362, 128, 64, "even")
    ([0, 64, 128, 192], [0, 64, 128, 192, 234], [0, 58, 117, 175, 234])
    """
    span = length - size
    if pad_mode in PADDING_MODES:
        return [start for start in range(0, max(span, 0) + stride, stride) if start < length]
    if span < 0:
        return []
    if pad_mode == "even":
        steps = -(-span // stride)
        return [index * span // steps for index in range(steps + 1)] if steps else [0]
    starts = list(range(0, span + 1, stride))
    if pad_mode == "shift" and starts[-1] != span:
        starts.append(span)
    return starts


@dataclass(frozen=True, slots=True)
class Grid:
    """All windows of a slice of one shape, row-major.

    Attributes:
        shape: height and width of the slice.
        patch_size: height and width of a window.
        row_starts, col_starts: origins along each axis; the windows are their product.
        padded_shape: what the slice is padded to before it is cut; `shape` where the mode does not pad.
    """

    shape: tuple[int, int]
    patch_size: tuple[int, int]
    row_starts: tuple[int, ...]
    col_starts: tuple[int, ...]
    padded_shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.row_starts) * len(self.col_starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((row, col) for row in self.row_starts for col in self.col_starts)

    @property
    def pads(self) -> bool:
        """Whether some window reaches beyond the slice."""
        return self.padded_shape != self.shape

    def origins(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Rows and cols of all windows, int32, row-major, shape `(N,)` each; read-only."""
        return _origins(self.row_starts, self.col_starts)

    def covered_pixels(self) -> int:
        """How many pixels of the slice lie in at least one window."""
        return _covered(self.shape[0], self.patch_size[0], self.row_starts) * _covered(
            self.shape[1], self.patch_size[1], self.col_starts
        )

    @property
    def coverage(self) -> float:
        """Share of the slice's pixels that lie in at least one window, 0 to 1."""
        return self.covered_pixels() / (self.shape[0] * self.shape[1])


# One split has few shapes and many slices: what depends on the shape alone is worked out once.
@lru_cache(maxsize=64)
def _origins(row_starts: tuple[int, ...], col_starts: tuple[int, ...]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    rows = np.repeat(np.asarray(row_starts, dtype=np.int32), len(col_starts))
    cols = np.tile(np.asarray(col_starts, dtype=np.int32), len(row_starts))
    rows.flags.writeable = cols.flags.writeable = False
    return rows, cols


@lru_cache(maxsize=256)
def _covered(length: int, size: int, starts: tuple[int, ...]) -> int:
    covered = 0
    reached = 0
    for start in starts:
        end = min(start + size, length)
        covered += max(end - max(start, reached), 0)
        reached = max(end, reached)
    return covered


def make_grid(height: int, width: int, cfg: PatchConfig) -> Grid:
    """The grid of a slice of `height` x `width` pixels under `cfg`.

    Raises:
        ValueError: a side is less than 1 pixel.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a slice has at least 1 x 1 pixels, got {height} x {width}")
    sides = []
    for length, size, stride in zip((height, width), cfg.patch_size, cfg.stride, strict=True):
        starts = axis_starts(length, size, stride, cfg.pad_mode)
        padded = max(length, starts[-1] + size) if cfg.pad_mode in PADDING_MODES else length
        sides.append((tuple(starts), padded))
    (row_starts, padded_height), (col_starts, padded_width) = sides
    if not row_starts or not col_starts:
        row_starts = col_starts = ()
    return Grid((height, width), cfg.patch_size, row_starts, col_starts, (padded_height, padded_width))


def sliding_window_coords(h: int, w: int, cfg: PatchConfig) -> list[tuple[int, int]]:
    """Origins `(row, col)` of all windows of a slice of `h` x `w` pixels, row-major.

    A slice smaller than a patch has none, unless `cfg.pad_mode` pads it.

    >>> coords = sliding_window_coords(512, 512, PatchConfig(patch_size=128, stride=64))
    >>> len(coords), coords[:3]
    (49, [(0, 0), (0, 64), (0, 128)])
    """
    return list(make_grid(h, w, cfg))


def covering_stride(length: int, size: int, stride: int) -> int | None:
    """The stride that covers an axis to its last pixel without padding.

    The one nearest to `stride` that leaves as many windows as `stride` does; where none does, the largest below
    `stride` (so that there are as few more windows as can be). None where the axis is shorter than a window.

    >>> covering_stride(362, 128, 64), covering_stride(512, 128, 64)
    (78, 64)
    """
    span = length - size
    if span < 0:
        return None
    if span == 0:
        return stride
    steps = span // stride
    if steps and span % steps == 0 and span // steps <= size:
        return span // steps
    return next(each for each in range(min(stride, size, span), 0, -1) if span % each == 0)
