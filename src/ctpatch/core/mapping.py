"""What a loader makes of stored values, and back: normalised, or seen through windows of HU.

Each value is mapped in float64 and rounded once, to float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.core.arrays import as_array
from ctpatch.errors import ConfigError

Floats = NDArray[np.float64]


class ValueMap(Protocol):
    """Maps the values of one array."""

    @property
    def factor(self) -> int:
        """Channels that it makes of each."""

    def apply(self, pixels: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Map `pixels`, `(B, C, H, W)`, to `out`, `(B, C * factor, H, W)`; both may be one array where factor is 1."""

    def back(self, values: ArrayLike) -> NDArray[np.float32]:
        """Stored values from mapped ones (a model's output), of any shape, in float32.

        Raises:
            ConfigError: it cannot be told, since there are several windows.
        """

    def described(self) -> Any:
        """What it does, as plain values that can be compared and saved."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """Takes a mean from each value and divides by a standard deviation."""

    mean: float
    std: float

    @property
    def factor(self) -> int:
        """One channel stays one."""
        return 1

    def apply(self, pixels: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Fill `out` with `(pixels - mean) / std`."""
        for patch, mapped in zip(pixels, out, strict=True):
            values: Floats = patch.astype(np.float64)
            values -= self.mean
            values /= self.std
            mapped[...] = values

    def back(self, values: ArrayLike) -> NDArray[np.float32]:
        """Give `values * std + mean`."""
        found: Floats = as_array(values, "values").astype(np.float64)
        found *= self.std
        found += self.mean
        return found.astype(np.float32)

    def described(self) -> list[float]:
        """Mean and standard deviation."""
        return [self.mean, self.std]


@dataclass(frozen=True, slots=True)
class HuWindows:
    """Shows stored values, which stand for HU, through windows: a channel for each, from 0 at its low end to 1.

    Attributes:
        stored: the HU that the values 0 and 1 stand for.
        windows: lowest and highest HU of each.
    """

    stored: tuple[float, float]
    windows: Sequence[tuple[float, float]]

    @property
    def factor(self) -> int:
        """A channel for each window; those of a channel follow one another."""
        return len(self.windows)

    def apply(self, pixels: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Fill `out` with `(hu - low) / (high - low)` for each window, clipped to [0, 1]."""
        first, last = self.stored
        for patch, mapped in zip(pixels, out, strict=True):
            hu: Floats = patch.astype(np.float64)
            hu *= last - first
            hu += first
            for place, (low, high) in enumerate(self.windows):
                seen = hu - low
                seen /= high - low
                mapped[place :: self.factor] = np.clip(seen, 0.0, 1.0, out=seen)

    def back(self, values: ArrayLike) -> NDArray[np.float32]:
        """Stored values from those in the window; what the window cuts off is at its ends."""
        if self.factor > 1:
            raise ConfigError(
                f"back: values were seen through {self.factor} windows, so one cannot tell which HU an output means; "
                "map back what one window gave"
            )
        first, last = self.stored
        low, high = self.windows[0]
        found: Floats = as_array(values, "values").astype(np.float64)
        found *= high - low
        found += low - first
        found /= last - first
        return found.astype(np.float32)

    def described(self) -> dict[str, Any]:
        """What the stored values stand for, and the windows."""
        return {"stored": list(self.stored), "windows": [list(each) for each in self.windows]}
