"""Painting the anatomy of a made-up patient in Hounsfield units (HU), organ over organ.

Everything is in millimetres: `(row, col)` from the middle of the body, z down from the top of the lungs.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ctpatch.phantom.patients import (
    AIR,
    BONE,
    FAT,
    FIELD_OF_VIEW_MM,
    MARROW,
    MUSCLE,
    SOFT,
    TEXTURE,
    WARP,
    Image,
    Organ,
    Patient,
    random_stream,
)

_WARP_MM, _WARP_LIMIT_MM = 3.0, 7.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a slice's pixels lie (mm, warped so that nothing is a perfect ellipse), and its mottling."""

    pixel: float
    rows: Image
    cols: Image
    texture: Image


@lru_cache(maxsize=8)
def _axes(height: int, width: int) -> tuple[float, Image, Image]:
    """Return the pixel size in mm and the pixels' middles in mm: rows (H, 1) and cols (1, W)."""
    pixel = FIELD_OF_VIEW_MM / min(height, width)
    rows = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None] * np.float32(pixel)
    cols = (np.arange(width, dtype=np.float32) - (width - 1) / 2)[None, :] * np.float32(pixel)
    # The body lies a little high, which leaves room for the table.
    return pixel, (rows + 12.0).astype(np.float32), cols.astype(np.float32)


@lru_cache(maxsize=32)
def _steps(count: int, pixel: float, cell: float) -> tuple[NDArray[np.intp], Image, int]:
    """Return each pixel's coarse cell on an axis, its way (0 to 1) to the next, and the number of cells."""
    way = np.arange(count) * pixel / cell
    cells = way.astype(np.intp)
    part = way - cells
    return cells, (part * part * (3.0 - 2.0 * part)).astype(np.float32), int(cells[-1]) + 2


def _clouds(
    shape: tuple[int, int], pixel: float, cell: float, coarse: Sequence[np.random.Generator], part: float
) -> Image:
    """Smooth noise (H, W), near unit variance: two coarse draws, blended by `part` and enlarged."""
    rows, row_part, row_cells = _steps(shape[0], pixel, cell)
    cols, col_part, col_cells = _steps(shape[1], pixel, cell)
    above, below = (rng.standard_normal((row_cells, col_cells), dtype=np.float32) for rng in coarse)
    grid = above * np.float32(1.0 - part) + below * np.float32(part)
    grid *= np.float32(1.35 / math.hypot(part, 1.0 - part))  # what the blending takes from the spread
    tall = grid[rows] + (grid[rows + 1] - grid[rows]) * row_part[:, None]
    clouds: Image = tall[:, cols]
    clouds += (tall[:, cols + 1] - clouds) * col_part
    return clouds


def make_scene(seed: int, patient: int, z: float, shape: tuple[int, int]) -> Scene:
    """What a slice at `z` mm is painted on: where its pixels are in the body, and the texture of its tissues."""
    pixel, rows, cols = _axes(*shape)

    def clouds(purpose: int, stream: int, cell: float, z_cell: float) -> Image:
        layer = int(z // z_cell)
        both = [random_stream(seed, patient, number, purpose, stream) for number in (layer, layer + 1)]
        return _clouds(shape, pixel, cell, both, z / z_cell - layer)

    row_warp, col_warp = (
        np.clip(_WARP_MM * clouds(WARP, stream, 48.0, 60.0), -_WARP_LIMIT_MM, _WARP_LIMIT_MM) for stream in (0, 1)
    )
    return Scene(pixel, rows + row_warp, cols + col_warp, clouds(TEXTURE, 0, 4.0, 9.0))


def coverage(scene: Scene, organ: Organ) -> tuple[tuple[slice, slice], Image]:
    """Return the box of pixels around a cross-section, and how much of each pixel it covers, 0 to 1.

    The border is as wide as a pixel, 1.2 mm at least: partial volume, as a scanner's blur gives it.
    """
    sin, cos = math.sin(organ.tilt), math.cos(organ.tilt)
    row_radius, col_radius, _ = organ.radii
    _, row_axis, col_axis = _axes(*scene.rows.shape)
    edge = max(1.2, scene.pixel)
    box = []
    for middle, reach, axis in (
        (organ.centre[0], math.hypot(row_radius * cos, col_radius * sin), row_axis),
        (organ.centre[1], math.hypot(col_radius * cos, row_radius * sin), col_axis),
    ):
        margin, way = reach + _WARP_LIMIT_MM + edge, middle - float(axis.flat[0])
        low = max(math.ceil((way - margin) / scene.pixel), 0)
        box.append(slice(low, max(math.floor((way + margin) / scene.pixel) + 1, low)))
    where = (box[0], box[1])
    rows, cols = (scene.rows[where] - np.float32(organ.centre[0]), scene.cols[where] - np.float32(organ.centre[1]))
    if organ.tilt:
        rows, cols = (rows * np.float32(cos) - cols * np.float32(sin), cols * np.float32(cos) + rows * np.float32(sin))
    rows *= np.float32(1.0 / row_radius)
    cols *= np.float32(1.0 / col_radius)
    rows *= rows
    cols *= cols
    # 1 - d**2 is twice the way to the border there, in radii; no square root is needed.
    inside = 1.0 - rows - cols
    if organ.square:
        inside += np.float32(organ.square) * rows * cols
    inside *= np.float32(min(row_radius, col_radius) / (2.0 * edge))
    inside += np.float32(0.5)
    if organ.level < math.inf:
        np.minimum(inside, (organ.level - scene.rows[where]) / np.float32(edge), out=inside)
    return where, np.clip(inside, 0.0, 1.0, out=inside)


def _paint(canvas: Image, scene: Scene, organs: Iterable[Organ]) -> None:
    """Paint cross-sections over the canvas (H, W), in HU, in their order."""
    for organ in organs:
        where, cover = coverage(scene, organ)
        value = organ.hu - canvas[where]
        if organ.texture:
            value += scene.texture[where] * np.float32(organ.texture)
        value *= cover
        canvas[where] += value


def _ribs(cavity: Organ, z: float) -> list[Organ]:
    """Cut the ribs: each falls as it runs round from spine to front, so a slice meets several."""
    rows, cols = cavity.radii[0] + 7.0, cavity.radii[1] + 7.0
    ribs = []
    for number in range(11):
        way = (z + 75.0 - 25.0 * number) / 115.0  # 0 at the spine, 1 at the breastbone
        if not 0.0 < way < 1.0:
            continue
        size = min(1.0, 6.0 * way, 6.0 * (1.0 - way))  # ends taper, so slices change smoothly
        angle = math.radians(68.0 - 135.0 * way)
        place = rows * math.sin(angle) * 0.97, cols * math.cos(angle) * 1.02
        for side in (-1.0, 1.0):
            tilt = -side * math.atan2(rows * math.cos(angle), cols * math.sin(angle))
            bone = Organ(
                BONE - 150,
                (place[0] + cavity.centre[0], side * place[1], z),
                (4.6 * size, 14.0 * size, math.inf),
                tilt=tilt,
            )
            ribs += [bone, replace(bone, hu=MARROW, radii=(2.4 * size, 11.0 * size, math.inf), texture=40)]
    return ribs


def _spine(row: float, z: float, phase: float) -> list[Organ]:
    """Cut the spine: vertebra and disc take turns every 26 mm."""
    wave = math.cos(2.0 * math.pi * (z + phase) / 26.0)
    bone = min(max(0.5 + 2.5 * (wave + 0.55), 0.0), 1.0)  # 1 in a vertebra, 0 in a disc
    arch = min(max(0.5 + 1.5 * (wave - 0.1), 0.0), 1.0)
    size = 1.0 + 0.0006 * z
    big, shell = (17.0 * size, 21.0 * size, math.inf), 90.0 + (BONE - 90.0) * bone
    inner = (big[0] - 2.2, big[1] - 2.2, math.inf)
    parts = [
        Organ(MUSCLE + (BONE - 150) * arch, (row + 16, side * 25, z), (5.5, 13, math.inf), tilt=0.5 * side)
        for side in (-1, 1)
    ]
    return [
        *parts,  # processes to the sides
        Organ(MUSCLE + (BONE - 100) * arch, (row + 42, 0, z), (14, 3.6, math.inf)),  # and to the back
        Organ(BONE - 200, (row + 24, 0, z), (13, 15, math.inf), texture=30),
        Organ(shell, (row, 0, z), big, square=0.3),
        Organ(95.0 + (MARROW - 95.0) * bone, (row, 0, z), inner, square=0.3, texture=10 + 55 * bone),
        Organ(SOFT - 15, (row + 23, 0, z), (8.5, 10.5, math.inf), texture=2),
        Organ(SOFT + 5, (row + 23, 0, z), (4.5, 6, math.inf), texture=2),
    ]


def draw_anatomy(patient: Patient, scene: Scene, z: float) -> tuple[Image, NDArray[np.bool_]]:
    """Paint a slice without noise: HU (H, W), and where there is anything but air (H, W)."""
    fat, top = patient.fat, patient.body(z, (0, 0), 0).radii
    muscle = patient.body(z, (fat + 2, 0.9 * fat + 2), MUSCLE)
    cavity = cavity_of(patient, z)
    lying = Organ(-180, (top[0] + 16, 0, z), (11, 300, math.inf), square=0.9, texture=0)
    hu = np.full(scene.rows.shape, AIR, dtype=np.float32)
    _, rows, cols = _axes(*hu.shape)
    trough = rows + 7.0 * (cols / np.float32(200.0)) ** 2  # the table's sides stand a little higher
    flat = replace(scene, rows=trough, cols=np.broadcast_to(cols, hu.shape))
    _paint(hu, flat, [lying, replace(lying, hu=-930, radii=(8.5, 298, math.inf))])
    _paint(hu, scene, [patient.body(z, (0, 0), SOFT)])
    matter = hu > AIR
    _paint(hu, scene, [patient.body(z, (2, 2), FAT), muscle])
    seam = (fat + 8, 0.9 * fat + 8)
    _paint(hu, scene, [patient.body(z, seam, FAT + 40), patient.body(z, (seam[0], seam[1] + 2.5), MUSCLE)])

    # The inside is painted on its own and set into the wall: so no organ grows through the ribs.
    inside = np.full_like(hu, FAT)
    _paint(inside, scene, (part for organ in patient.organs for part in organ.at(z)))
    where, cover = coverage(scene, cavity)
    hu[where] += cover * (inside[where] - hu[where])

    _paint(hu, scene, frame_of(patient, z))
    return hu, matter


def cavity_of(patient: Patient, z: float) -> Organ:
    """What the organs lie in."""
    wall, fat = 15.0, patient.fat
    return patient.body(z, (fat + wall + 4, 0.9 * fat + wall + 6), FAT, row=-3.0)


def frame_of(patient: Patient, z: float) -> list[Organ]:
    """Bones and the muscles of the back, which are painted over the organs."""
    top, cavity = patient.body(z, (0, 0), 0).radii, cavity_of(patient, z)
    row = top[0] - patient.fat - 55.0
    back = [
        Organ(MUSCLE, (row + 32, 31 * side, z), (19, 25, math.inf), tilt=0.25 * side, texture=9) for side in (-1, 1)
    ]
    blades = [
        part
        for side in (-1, 1)
        for part in Organ(BONE - 150, (row + 14, side * 0.62 * top[1], 60), (3.6, 34, 75), tilt=-0.75 * side).at(z)
    ]
    breastbone = Organ(BONE - 350, (-cavity.radii[0] - 8, 0, 95), (6, 19, 85), blunt=True, texture=40).at(z)
    return [*_ribs(cavity, z), *breastbone, *blades, *back, *_spine(row, z, patient.spine_phase)]
