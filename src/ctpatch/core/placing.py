"""What patches, their positions and their places in a slice must be before they are put together."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.core.arrays import as_array
from ctpatch.core.blending import Canvas, WindowName, class_dtype, new_canvas, weights_of_grid
from ctpatch.core.labels import holds_labels, label_fill, label_range
from ctpatch.errors import ConfigError, ReassemblyError


@dataclass(frozen=True, slots=True)
class Blend:
    """How the patches of a slice become one.

    Attributes:
        window: how a patch's pixels weigh where patches overlap.
        fill: what pixels get that no patch covers.
        scale: pixels of a patch along each axis for one pixel of its window.
        margin: pixels of a window, at each of its sides, that its patch does not cover.
        argmax: channels are class scores, and the slice has the class of the largest mean.
    """

    window: WindowName
    fill: float = float("nan")
    scale: int = 1
    margin: int = 0
    argmax: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (("scale", self.scale, 1), ("margin", self.margin, 0)):
            if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
                raise ConfigError(f"{name}: must be a whole number, {least} or more, got {value!r}")

    def patch_size(self, window_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the patch that belongs to a window of a size."""
        inner = window_size[0] - 2 * self.margin, window_size[1] - 2 * self.margin
        if min(inner) < 1:
            seen = "x".join(map(str, window_size))
            raise ConfigError(
                f"margin: {self.margin} pixels at each side leave nothing of a window of {seen}; give a smaller margin "
                "or a larger patch_size"
            )
        return inner[0] * self.scale, inner[1] * self.scale

    def place(self, start: int) -> int:
        """Where the patch of a window that begins at a row or column of the slice begins in the result."""
        return (start + self.margin) * self.scale

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result for a slice."""
        return shape[0] * self.scale, shape[1] * self.scale

    def dtype(self, stack: NDArray[Any]) -> np.dtype[Any]:
        """The dtype that labels have in the result; that of the patches where these are no labels."""
        return class_dtype(stack.shape[1]) if self.argmax else stack.dtype

    def canvas(self, shape: tuple[int, int], size: tuple[int, int], stack: NDArray[Any]) -> Canvas:
        """What patches like those of a stack are put on, for a result of a shape."""
        return new_canvas(shape, size, self.window, stack.dtype, channels_of(stack), argmax=self.argmax)

    def refuse_one_channel(self, stack: NDArray[Any]) -> None:
        """Refuse patches without channels where these are to be class scores."""
        if self.argmax and channels_of(stack) is None:
            raise ReassemblyError(
                f"argmax: patches of shape {stack.shape} have one channel, wanted a score for each class, "
                "(N, classes, h, w); leave argmax out"
            )

    def refuse_fill(
        self,
        dtype: np.dtype[Any],
        origins: Iterable[tuple[int, int]],
        shape: tuple[int, int],
        size: tuple[int, int],
        name: str,
    ) -> None:
        """Refuse a fill that labels cannot hold, where there is a pixel to fill."""
        if not holds_labels(dtype) or label_fill(self.fill, dtype) is not None:
            return
        _, covered = weights_of_grid(tuple(sorted(origins)), shape, size, self.window)
        if not covered.all():
            low, high = label_range(dtype)
            raise ReassemblyError(
                f"{name}: no patch covers {int(np.count_nonzero(~covered)):,} of its pixels, and labels ({dtype}) "
                f"cannot hold the fill {self.fill}; give a whole number from {low} to {high} as fill, or patches that "
                "cover the slice"
            )


def channels_of(stack: NDArray[Any]) -> int | None:
    """Channels of checked patches; None where they have no axis for it."""
    return stack.shape[1] if stack.ndim == 4 else None  # noqa: PLR2004


def checked_patches(patches: ArrayLike) -> NDArray[Any]:
    """Patches as an array of real numbers, `(N, h, w)`, or `(N, C, h, w)` where C is 2 or more.

    Raises:
        ReassemblyError: they are none.
    """
    stack = as_array(patches, "patches")
    if stack.dtype.kind not in "buif":
        raise ReassemblyError(f"patches are {stack.dtype}, wanted real numbers")
    if stack.ndim == 4 and stack.shape[1] == 1:  # noqa: PLR2004
        stack = stack[:, 0]
    if stack.ndim not in {3, 4} or 0 in stack.shape[1:]:
        raise ReassemblyError(f"patches have shape {stack.shape}, wanted (N, h, w) or (N, C, h, w)")
    return stack


def whole_origins(coords: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Origins as pairs of whole numbers; ReassemblyError where they are none."""
    rows = as_array(coords if hasattr(coords, "__len__") else list(coords), "origins")
    if rows.size == 0:
        return []
    if rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype.kind not in "uif" or (rows != np.rint(rows)).any():  # noqa: PLR2004
        raise ReassemblyError(f"origins have shape {rows.shape} and dtype {rows.dtype}, wanted whole pixels (row, col)")
    return [(int(row), int(col)) for row, col in rows.tolist()]


def check_origins(origins: Sequence[tuple[int, int]], shape: tuple[int, int], margin: int = 0) -> None:
    """Refuse an origin whose patch begins outside the slice, or that comes twice."""
    if min(shape) < 1:
        raise ValueError(f"shape is {shape}, wanted (height, width) in pixels")
    seen: set[tuple[int, int]] = set()
    for origin in origins:
        if not all(0 <= start + margin < length for start, length in zip(origin, shape, strict=True)):
            inside = f", {margin} pixels inside its window," if margin else ""
            raise ReassemblyError(f"the patch at {origin}{inside} begins outside the slice of {shape[0]}x{shape[1]}")
        if origin in seen:
            raise ReassemblyError(f"two patches are at {origin}; each window is given once")
        seen.add(origin)


def refuse_not_finite(stack: NDArray[Any], name_of: Callable[[int], str]) -> None:
    """Refuse patches with NaN or infinity; names the patch and its pixel."""
    if stack.dtype.kind != "f":
        return
    # A sum is finite only where all are, and much quicker than isfinite; where it overflows, they are looked at.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(stack.sum(dtype=np.promote_types(stack.dtype, np.float32))):
            return
    wrong = np.argwhere(~np.isfinite(stack)).tolist()
    if wrong:
        at, *channel, row, col = wrong[0]
        where = f" of channel {channel[0]}" if channel else ""
        raise ReassemblyError(
            f"{name_of(at)} holds {stack[at, *channel, row, col]} at its pixel ({row}, {col}){where}; check the "
            "model's output"
        )
