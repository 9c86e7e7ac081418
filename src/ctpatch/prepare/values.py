"""From HU to [0, 1]: a window, or the attenuation that LoDoPaB-CT holds."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.attenuation import MAX_HU, MU_MAX, MU_PER_HU, MU_WATER
from ctpatch.core.hu_windows import window_bounds
from ctpatch.errors import ConfigError

AIR_HU = -1024.0
"""What stands for pixels that are no tissue, before any mapping."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """How HU become [0, 1].

    Attributes:
        kind: `window` maps `low_hu` to 0 and `high_hu` to 1; `lodopab` maps attenuation; `stored` leaves values that
            are in [0, 1] already as they are.
        low_hu, high_hu: the window; under `lodopab` what 0 and 1 stand for.
    """

    kind: Literal["window", "lodopab", "stored"]
    low_hu: float
    high_hu: float

    def apply(self, hu: NDArray[Any]) -> NDArray[np.float32]:
        """Map an image `(H, W)` in HU (under `stored`: in [0, 1]) to float32 in [0, 1]."""
        values = hu.astype(np.float64)
        if self.kind == "window":
            values -= self.low_hu
            values /= self.high_hu - self.low_hu
        elif self.kind == "lodopab":
            values *= MU_PER_HU
            values += MU_WATER
            values /= MU_MAX
        return np.clip(values, 0.0, 1.0, out=values).astype(np.float32)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the meta, with the formula in words."""
        formulas = {
            "window": "clip((HU - low_hu) / (high_hu - low_hu), 0, 1)",
            "lodopab": "clip((HU * 0.01998 + 20) / 81.35858, 0, 1)",
            "stored": "as stored",
        }
        values: dict[str, Any] = {"kind": self.kind, "formula": formulas[self.kind]}
        if self.kind == "window":
            values |= {"low_hu": self.low_hu, "high_hu": self.high_hu}
        return values


STORED = Mapping("stored", 0.0, 1.0)
PRESETS: dict[str, Mapping] = {
    "full": Mapping("window", -1024.0, 3072.0),
    **{name: Mapping("window", *window_bounds(name)) for name in ("abdomen", "lung", "liver", "brain")},
    "lodopab": Mapping("lodopab", -MU_WATER / MU_PER_HU, MAX_HU),
}
"""All HU, windows that radiologists use, and the scale of LoDoPaB-CT."""


def choose_mapping(window: tuple[float, float] | None, preset: str | None) -> Mapping:
    """The mapping that is meant, -1024 to 3072 HU where nothing is said; ConfigError where it makes no sense."""
    if window is None:
        name = "full" if preset is None else preset
        if name not in PRESETS:
            raise ConfigError(f"preset: {preset!r} is not known, wanted one of {', '.join(PRESETS)}")
        return PRESETS[name]
    if preset is not None:
        raise ConfigError(f"window {window} and preset {preset!r} are both given; give one of them")
    low, high = (float(value) for value in window)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"window: {low:g} {high:g}, wanted the lowest and then a higher HU, such as -1024 3072")
    return Mapping("window", low, high)
