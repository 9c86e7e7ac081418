"""Made-up patients: organs as ellipsoids of their own size and place.

Everything is in millimetres: `(row, col)` from the middle of the body, z down from the top of the lungs.
"""

import csv
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Triple = tuple[float, float, float]  # row, col, z in mm: from the middle of the body, z from the lungs' top down

FIELD_OF_VIEW_MM = 400.0
SLICE_SPACING_MM = 6.0
AIR, FAT, SOFT, MUSCLE, MARROW, BONE = -1000.0, -100.0, 35.0, 60.0, 190.0, 700.0

_GAS_SHARE = 0.4  # of the loops of bowel
_TORSO_MM = 330.0  # from the top of the lungs to the lower end of the kidneys
ANATOMY, WARP, TEXTURE, NOISE = range(4)  # what random numbers are for: each has a stream of its own


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
        label: its number in masks, 0 where it has none; None leaves that of what it is painted over.
    """

    hu: float
    centre: Triple
    radii: Triple
    tilt: float = 0.0
    square: float = 0.0
    blunt: bool = False
    texture: float = 4.0
    level: float = math.inf
    label: int | None = 0

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
            radii = width, width * stretch, math.inf
            found.append(Organ(self.hu, (row, col, z), radii, tilt=tilt, texture=0, label=None))
        return found


@dataclass(frozen=True, slots=True)
class Patient:
    """One made-up patient: sizes in mm, and what lies in chest and belly, in the order of painting."""

    scale: tuple[float, float]
    fat: float
    start: float
    spine_phase: float
    organs: tuple[Organ | Tree, ...]

    def height(self, slice_number: int) -> float:
        """Return the z of a slice in mm; past the torso's end the way goes back up, so any number will do."""
        way = (self.start + SLICE_SPACING_MM * slice_number) % (2.0 * _TORSO_MM)
        return min(way, 2.0 * _TORSO_MM - way)

    def body(self, z: float, inset: tuple[float, float], hu: float, row: float = 0.0) -> Organ:
        """Return the body's outline at height `z`, made smaller by `inset` (rows, cols) in mm."""
        rows = float(np.interp(z, [0, 80, 180, 330], [108, 121, 124, 116])) * self.scale[0] - inset[0]
        cols = float(np.interp(z, [0, 80, 180, 330], [152, 166, 163, 150])) * self.scale[1] - inset[1]
        return Organ(hu, (row, 0.0, z), (rows, cols, math.inf), square=0.6)


def random_stream(seed: int, patient: int, number: int, purpose: int, stream: int = 0) -> np.random.Generator:
    """Random numbers for one purpose, of one patient and slice: the same whatever is drawn before or beside them."""
    # The purpose stands in the counter's upper words, so no two streams meet before 2**64 draws.
    counter = np.array([0, stream, number, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, patient], dtype=np.uint64), counter=counter))


def _tree(rng: np.random.Generator, organ: Organ, hu: float, root: Triple, count: int, width: float) -> Tree:
    """Grow `count` vessels from the root and twice as many branches into an organ."""
    aim = rng.normal(size=(count, 3))
    aim *= (rng.uniform(0.55, 0.97, (count, 1))) / np.linalg.norm(aim, axis=1, keepdims=True)
    ends = np.array(organ.centre) + aim * np.array(organ.radii)
    starts = np.broadcast_to(np.array(root), ends.shape)
    widths = rng.uniform(0.5, 1.0, count) * width
    forks = np.concatenate([starts + part * (ends - starts) for part in (0.35, 0.6)])
    tips = np.concatenate([ends, ends]) + rng.normal(size=forks.shape) * 0.22 * np.array(organ.radii)
    return Tree(
        hu,
        np.concatenate([starts, forks]),
        np.concatenate([ends, tips]),
        np.concatenate([widths, 0.6 * widths, 0.45 * widths]),
    )


def _read_organs() -> list[tuple[str, Organ]]:
    """The organs of `organs.csv` with their names, in the order of painting."""
    lines = files("ctpatch.phantom").joinpath("organs.csv").read_text(encoding="utf-8").splitlines()[1:]
    organs = []
    for name, *cells in csv.reader(lines):
        *numbers, label = map(float, cells)
        hu, row, col, z, row_radius, col_radius, z_radius, tilt, square, blunt, texture, level = numbers
        radii = row_radius, col_radius, z_radius
        organs.append((name, Organ(hu, (row, col, z), radii, tilt, square, bool(blunt), texture, level, int(label))))
    return organs


_ORGANS = _read_organs()
_AFTER_BOWEL = 2
"""The last organs of the table, the vessels along the back, are painted after the loops of bowel."""
_TREES = {  # vessels grown in the organ they are painted after: HU, root, how many, width in mm
    "right lung": (30.0, (4.0, -30.0, 120.0), 44, 4.2),
    "left lung": (30.0, (4.0, 30.0, 122.0), 44, 4.2),
    "liver": (160.0, (2.0, -30.0, 256.0), 9, 6.0),
}


def _bowel(rng: np.random.Generator) -> list[Organ]:
    """Lay loops of bowel, some with gas over fluid."""
    loops = []
    for row, col in [(10.0, -98.0), (20.0, 98.0), *rng.uniform((-70, -85), (8, 95), (26, 2)).tolist()]:
        height, width, length = rng.uniform((10, 10, 18), (18, 18, 42)).tolist()
        wall = Organ(75, (row, col, rng.uniform(295, 345)), (height, width, length))
        inside = (height - 3, width - 3, length)
        loops += [wall, replace(wall, hu=rng.uniform(-20, 30), radii=inside, texture=20)]
        if rng.random() < _GAS_SHARE:
            loops.append(replace(wall, hu=AIR, radii=inside, level=row - rng.uniform(0, 6), texture=0))
    return loops


def _vary(organ: Organ, scale: tuple[float, float], move: Triple) -> Organ:
    """Return one patient's version of an organ: a little elsewhere, and of another size."""
    (row, col, z), radii = organ.centre, organ.radii
    # The size follows the shift, so that what is nested in an organ keeps its share of it.
    return replace(
        organ,
        centre=(row * scale[0] + move[0], col * scale[1] + move[1], z + move[2]),
        radii=(
            radii[0] * scale[0] * (1.0 + 0.017 * move[2]),
            radii[1] * scale[1] * (1.0 + 0.017 * move[1]),
            radii[2] * (1.0 + 0.017 * move[0]),
        ),
        level=organ.level * scale[0] + move[0],
    )


@lru_cache(maxsize=256)
def make_patient(seed: int, number: int) -> Patient:
    """The patient of that number: organs of their own size and place."""
    rng = random_stream(seed, number, 0, ANATOMY)
    scale = (rng.uniform(0.9, 1.06), rng.uniform(0.9, 1.06))
    fat, spine_phase = rng.uniform(9, 24), rng.uniform(0, 26)
    organs: list[Organ | Tree] = []
    moves: dict[Triple, Triple] = {}  # by place: what is nested in an organ moves with it
    bowel = [("bowel", loop) for loop in _bowel(rng)]
    for name, organ in (*_ORGANS[:-_AFTER_BOWEL], *bowel, *_ORGANS[-_AFTER_BOWEL:]):
        row, col, z = np.clip(rng.normal(0, 3, 3), -6, 6).tolist()
        varied = _vary(organ, scale, moves.setdefault(organ.centre, (row, col, z)))
        organs.append(varied)
        if name in _TREES:
            organs.append(_tree(rng, varied, *_TREES[name]))
    # Multiples of the golden ratio spread the patients evenly: a few of them show chest, heart and belly.
    start = (number * 0.6180339887 % 1.0) * (_TORSO_MM - 50.0) + 20.0
    return Patient(scale, fat, start, spine_phase, tuple(organs))
