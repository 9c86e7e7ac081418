"""Values that lie outside a range by no more than the rounding of float32, and numbers with all their digits.

Normalising a slice in float32 rounds up to four times: the value, the lowest value taken off it, the width of the
range, and the quotient. Each rounding is at most half a step at the magnitude of the range, and a step just above a
power of two is twice as wide as one below it, so a value that should be the bound itself may lie up to 4 steps outside.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING_STEPS = 4
"""Steps of float32, at the larger bound of a range, by which rounding can lead out of it."""

Range = tuple[float, float]


def rounding_margin(value_range: Range) -> float:
    """How far outside a range a value may lie by rounding, in the range's own unit.

    >>> f"{rounding_margin((0.0, 1.0)):.3g}"
    '4.77e-07'
    """
    with np.errstate(over="ignore", invalid="ignore"):
        step = float(np.spacing(np.float32(max(abs(value_range[0]), abs(value_range[1])))))
    return ROUNDING_STEPS * step if math.isfinite(step) else 0.0


def inner_bounds(value_range: Range) -> tuple[np.float32, np.float32]:
    """The lowest and the highest float32 that lie in a range, whose own bounds need not be such numbers."""
    with np.errstate(over="ignore"):
        low, high = np.float32(value_range[0]), np.float32(value_range[1])
    if float(low) < value_range[0]:
        low = np.nextafter(low, np.float32(np.inf))
    if float(high) > value_range[1]:
        high = np.nextafter(high, np.float32(-np.inf))
    return low, high


def is_rounding(low: float, high: float, value_range: Range) -> bool:
    """Whether values from `low` to `high` lie in a range but for rounding; never where one is NaN or infinite."""
    margin = rounding_margin(value_range)
    return value_range[0] - margin <= low and high <= value_range[1] + margin


def without_rounding(image: NDArray[Any], value_range: Range) -> NDArray[Any]:
    """An image with values that lie outside a range by rounding clipped to it; as it is where others do.

    Args:
        image: `(H, W)` float32.
        value_range: lowest and highest value.

    Returns:
        The image itself, or a copy.
    """
    with np.errstate(invalid="ignore"):
        low, high = float(image.min()), float(image.max())
    inside = value_range[0] <= low and high <= value_range[1]
    if inside or not is_rounding(low, high, value_range):
        return image
    clipped = image.copy()
    clip_to(clipped, inner_bounds(value_range))
    return clipped


def clip_to(values: NDArray[Any], bounds: tuple[np.float32, np.float32]) -> None:
    """Clip values in their place; those inside keep every bit, also that of a negative zero."""
    low, high = bounds
    np.copyto(values, low, where=values < low, casting="same_kind")
    np.copyto(values, high, where=values > high, casting="same_kind")


def shown_number(value: float | np.floating[Any]) -> str:
    """A number with as many digits as tell it from its neighbours of the same dtype.

    >>> shown_number(np.float32(1.0000001)), shown_number(1.0), shown_number(-1e-7)
    ('1.0000001', '1', '-1e-07')
    """
    text = str(value.item() if isinstance(value, np.float64) else value)
    return text.removesuffix(".0")
