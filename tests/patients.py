"""Patients in HU with what belongs to them drawn beside: body and arms are True, table, blanket and air are False."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Hu = NDArray[np.float64]
Mask = NDArray[np.bool_]
AIR, LUNG, FOAM, SOFT, SHELL = -1000.0, -850.0, -965.0, 40.0, 150.0


def ellipse(side: int, row: float, col: float, tall: float, wide: float) -> Mask:
    """An ellipse in a square picture; all numbers are shares of its side."""
    rows, cols = (np.mgrid[:side, :side] + 0.5) / side
    return np.asarray(np.hypot((rows - row) / tall, (cols - col) / wide) <= 1)


@dataclass
class Scene:
    """A square picture in HU, air at first, and which of its pixels are the patient's."""

    side: int = 256
    hu: Hu = field(init=False)
    truth: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.hu = np.full((self.side, self.side), AIR)
        self.truth = np.zeros((self.side, self.side), bool)

    def put(self, where: Mask, value: float, *, patient: bool) -> "Scene":
        self.hu[where] = value
        if patient:
            self.truth |= where
        return self

    def at(self, *shares: float) -> Mask:
        return ellipse(self.side, *shares)

    def torso(self, wide: float = 0.34, tall: float = 0.22, row: float = 0.5) -> "Scene":
        """A chest with lungs, vessels in them, a windpipe and a spine."""
        self.put(self.at(row, 0.5, tall, wide), SOFT, patient=True)
        for col in (0.5 - wide * 0.48, 0.5 + wide * 0.48):
            self.put(self.at(row, col, tall * 0.75, wide * 0.38), LUNG, patient=True)
            for turn in range(5):
                place = row + tall * (0.2 * turn - 0.4), col + 0.02 * (turn % 3 - 1)
                self.put(self.at(*place, 0.008, 0.008), SOFT, patient=True)
        self.put(self.at(row - tall * 0.2, 0.5, 0.02, 0.02), AIR, patient=True)
        return self.put(self.at(row + tall * 0.6, 0.5, 0.04, 0.04), 500, patient=True)

    def arms(self) -> "Scene":
        for col in (0.08, 0.92):
            self.put(self.at(0.55, col, 0.07, 0.055), SOFT, patient=True)
            self.put(self.at(0.55, col, 0.02, 0.02), 800, patient=True)
        return self

    def table(self, row: float = 0.725) -> "Scene":
        """A shell two pixels thick around foam; its top touches a back that ends at `row`."""
        top, bottom = int(row * self.side), int(row * self.side) + self.side // 12
        self.hu[top:bottom] = FOAM
        for edge in (top, bottom):
            self.hu[edge : edge + 2] = SHELL
        return self

    def blanket(self) -> "Scene":
        """A sheet two pixels thick that lies on the chest and hangs down beside it."""
        over = self.at(0.5, 0.5, 0.225, 0.36) & ~self.at(0.5, 0.5, 0.217, 0.352)
        over[int(0.6 * self.side) :] = False
        return self.put(over & ~self.truth, -300, patient=False)

    def noise(self, sigma: float = 20.0) -> "Scene":
        self.hu += np.random.default_rng(0).normal(0, sigma, self.hu.shape)
        return self


def unit(hu: Hu) -> NDArray[np.float32]:
    """HU -1024 to 3072 as 0 to 1."""
    return np.clip((hu + 1024) / 4096, 0, 1).astype(np.float32)
