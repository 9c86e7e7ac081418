"""The bones of a slice: ribs and spine."""

import math
from dataclasses import replace

from ctpatch.phantom.shapes import BONE, MARROW, MUSCLE, SOFT, SPINE, Organ


def cut_ribs(cavity: Organ, z: float) -> list[Organ]:
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


def cut_spine(row: float, z: float, phase: float) -> list[Organ]:
    """Cut the spine: vertebra and disc take turns every 26 mm; both are labelled, and the canal is not."""
    wave = math.cos(2.0 * math.pi * (z + phase) / 26.0)
    bone = min(max(0.5 + 2.5 * (wave + 0.55), 0.0), 1.0)  # 1 in a vertebra, 0 in a disc
    arch = min(max(0.5 + 1.5 * (wave - 0.1), 0.0), 1.0)
    size = 1.0 + 0.0006 * z
    process = SPINE if arch >= 0.5 else 0  # noqa: PLR2004 - below half it is more muscle than bone
    big, shell = (17.0 * size, 21.0 * size, math.inf), 90.0 + (BONE - 90.0) * bone
    inner = (big[0] - 2.2, big[1] - 2.2, math.inf)
    parts = [
        Organ(MUSCLE + (BONE - 150) * arch, (row + 16, side * 25, z), (5.5, 13, math.inf), 0.5 * side, label=process)
        for side in (-1, 1)
    ]
    return [
        *parts,  # processes to the sides
        Organ(MUSCLE + (BONE - 100) * arch, (row + 42, 0, z), (14, 3.6, math.inf), label=process),  # and to the back
        Organ(BONE - 200, (row + 24, 0, z), (13, 15, math.inf), texture=30, label=SPINE),
        Organ(shell, (row, 0, z), big, square=0.3, label=SPINE),
        Organ(95.0 + (MARROW - 95.0) * bone, (row, 0, z), inner, square=0.3, texture=10 + 55 * bone, label=SPINE),
        Organ(SOFT - 15, (row + 23, 0, z), (8.5, 10.5, math.inf), texture=2),
        Organ(SOFT + 5, (row + 23, 0, z), (4.5, 6, math.inf), texture=2),
    ]
