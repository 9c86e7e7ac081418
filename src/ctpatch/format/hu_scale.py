"""What the values of a set stand for in Hounsfield units (HU), where that is on record."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from ctpatch.core.attenuation import MAX_HU, MU_PER_HU, MU_WATER


class HuScale(BaseModel):
    """How HU became the values of a set: linear from `low_hu`, which is 0, to `high_hu`, which is 1; clipped there.

    Attributes:
        kind: `window`, or `lodopab` for attenuation as in LoDoPaB-CT.
        low_hu, high_hu: what 0 and 1 stand for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["window", "lodopab"]
    low_hu: FiniteFloat
    high_hu: FiniteFloat

    @model_validator(mode="after")
    def _ascends(self) -> "HuScale":
        if not self.low_hu < self.high_hu:
            raise ValueError(f"hu: low_hu is {self.low_hu:g}, wanted less than high_hu, {self.high_hu:g}")
        return self

    def to_hu(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Stored values in HU, float64, same shape."""
        hu = values.astype(np.float64)
        hu *= self.high_hu - self.low_hu
        hu += self.low_hu
        return hu


LODOPAB = HuScale(kind="lodopab", low_hu=-MU_WATER / MU_PER_HU, high_hu=MAX_HU)
"""The scale of LoDoPaB-CT."""
