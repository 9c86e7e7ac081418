"""What anatomy is made of: ellipsoids of one material, and trees of vessels."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Triple = tuple[float, float, float]  # row, col, z in mm: from the middle of the body, z from the lungs' top down

AIR, FAT, SOFT, MUSCLE, MARROW, BONE = -1000.0, -100.0, 35.0, 60.0, 190.0, 700.0

ORGANS = {1: "lung", 2: "liver", 3: "spleen", 4: "kidney", 5: "spine"}
"""The labels of masks; 0 is everything else."""
SPINE = 5
KEEP = -1
"""The label of vessels in an organ: they belong to what they are painted over."""


@dataclass(frozen=True, slots=True)
class Organ:
    """An ellipsoid of one material.

    Attributes:
        hu: value in HU.
        centre, radii: (row, col, z) in mm; a radius of infinity makes a tube along the patient.
        tilt: turn in the slice's plane, radians, from the column axis towards the row axis.
        square: 0 an ellipse, towards 1 a rounded rectangle.
        blunt: full width along most of z, as lungs have, rather than an ellipsoid's taper.
        texture: mottling, HU.
        level: where finite, only what lies above this row (mm) is drawn: gas over fluid.
        label: of `ORGANS`; 0 for what has none, `KEEP` for what leaves the label below as it is.
    """

    hu: float
    centre: Triple
    radii: Triple
    tilt: float = 0.0
    square: float = 0.0
    blunt: bool = False
    texture: float = 4.0
    level: float = math.inf
    label: int = 0

    def at(self, z: float) -> list["Organ"]:
        """Return the cross-section at height `z` in mm; nothing where the organ does not reach."""
        reach = abs(z - self.centre[2]) / self.radii[2]
        if reach >= 1.0:
            return []
        scale = (1.0 - reach**4) ** 0.25 if self.blunt else (1.0 - reach**2) ** 0.5
        return [replace(self, radii=(self.radii[0] * scale, self.radii[1] * scale, math.inf))]


@dataclass(frozen=True, slots=True)
class Tree:
    """Straight vessels from a root into an organ: ends (N, 3) and starts (N, 3) in mm, widths (N,) in mm."""

    hu: float
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    widths: NDArray[np.float64]

    def at(self, z: float) -> list[Organ]:
        """Return the vessels' cross-sections at height `z`, long where a vessel runs along the slice."""
        way = self.ends - self.starts
        part = (z - self.starts[:, 2]) / way[:, 2]
        found = []
        for i in np.flatnonzero((part > 0.0) & (part < 1.0)):
            row, col = (self.starts[i] + part[i] * way[i])[:2]
            width = self.widths[i] * (1.0 - 0.6 * part[i])
            stretch = min(math.hypot(way[i, 0], way[i, 1]) / abs(way[i, 2]), 7.0) + 1.0
            tilt = math.atan2(way[i, 0], way[i, 1])
            found.append(
                Organ(self.hu, (row, col, z), (width, width * stretch, math.inf), tilt=tilt, texture=0, label=KEEP)
            )
        return found
