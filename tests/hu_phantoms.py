"""Slices in HU as CT has them, and as files have them that hold no HU; made pixel by pixel with NumPy."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Hu = NDArray[np.float64]
SIDE = 96


def _radius(row: float, col: float, tall: float, wide: float, side: int = SIDE) -> Hu:
    """Distance from a centre in units of an ellipse's half axes; all are shares of the image's side."""
    rows, cols = np.mgrid[:side, :side] / side
    return np.asarray(np.hypot((rows - row) / tall, (cols - col) / wide), np.float64)


def body(noise: float = 15.0, seed: int = 0) -> Hu:
    """An abdomen: fat, muscle, liver, spine and a bubble of gas, in air."""
    hu = np.full((SIDE, SIDE), -1000.0)
    hu[_radius(0.5, 0.5, 0.40, 0.46) < 1] = -100
    hu[_radius(0.5, 0.5, 0.35, 0.41) < 1] = 55
    hu[_radius(0.72, 0.5, 0.08, 0.07) < 1] = 400
    hu[_radius(0.3, 0.55, 0.05, 0.06) < 1] = -950
    return hu + np.random.default_rng(seed).normal(0, noise, hu.shape)


def head() -> Hu:
    """Brain in a thick and dense skull."""
    hu = np.full((SIDE, SIDE), -1000.0)
    hu[_radius(0.5, 0.5, 0.44, 0.38) < 1] = 30
    hu[_radius(0.5, 0.5, 0.41, 0.35) < 1] = 1150
    hu[_radius(0.5, 0.5, 0.33, 0.27) < 1] = 35
    return hu + np.random.default_rng(1).normal(0, 5, hu.shape)


def head_in_filled_air() -> Hu:
    """The same with all air at -1024, as some programs fill it."""
    hu = head()
    hu[hu < -500] = -1024
    return hu


def lung() -> Hu:
    hu = body()
    hu[(_radius(0.5, 0.3, 0.25, 0.13) < 1) | (_radius(0.5, 0.7, 0.25, 0.13) < 1)] = -870
    return hu


def contrast() -> Hu:
    """Vessels and a bowel full of contrast medium."""
    hu = body()
    hu[_radius(0.45, 0.5, 0.04, 0.04) < 1] = 450
    hu[_radius(0.4, 0.3, 0.09, 0.09) < 1] = 1400
    return hu


def metal() -> Hu:
    """Two hips of metal, with dark and bright streaks between."""
    hu = body()
    left, right = _radius(0.5, 0.28, 0.06, 0.06) < 1, _radius(0.5, 0.72, 0.06, 0.06) < 1
    hu[SIDE // 2 - 3 : SIDE // 2 + 3] -= 700
    hu[SIDE // 2 - 8 : SIDE // 2 - 3] += 900
    hu[left | right] = 3071
    return hu


def extended_metal() -> Hu:
    """Metal on the extended scale of CT, up to its highest value."""
    hu = metal()
    hu[hu > 3000] = 30_710
    return hu


def around_the_circle(hu: Hu, fill: float) -> Hu:
    """What a scanner puts around the circle that it measures."""
    filled = hu.copy()
    filled[_radius(0.5, 0.5, 0.5, 0.5) >= 1] = fill
    return filled


SOUND: dict[str, Callable[[], Hu]] = {
    "body": body,
    "body without noise": lambda: body(noise=0.0),
    "very noisy": lambda: np.maximum(body(noise=250.0), -1024),
    "head": head,
    "head in air at -1024": head_in_filled_air,
    "lung": lung,
    "contrast": contrast,
    "metal": metal,
    "metal on the extended scale": extended_metal,
    "-3024 around the circle": lambda: around_the_circle(lung(), -3024),
    "-2048 around the circle": lambda: around_the_circle(head(), -2048),
    "-1024 around the circle": lambda: around_the_circle(body(), -1024),
    "little of the slice is body": lambda: np.where(_radius(0.5, 0.5, 0.06, 0.05) < 1, 50.0, body() * 0 - 1005),
}
"""What no check may doubt."""


def wrapped(hu: Hu) -> Hu:
    """Negative numbers of 12 bits read as if they had no sign."""
    return np.mod(np.rint(hu), 4096)


UNSOUND: dict[str, tuple[Callable[[], Hu], str]] = {
    "scaled to 0 to 1": (lambda: (np.clip(body(), -1024, 3071) + 1024) / 4095, "hu-unit-range"),
    "scaled by its own range": (lambda: (lung() - lung().min()) / np.ptp(lung()), "hu-unit-range"),
    "a picture of a window": (lambda: np.rint(np.clip((body() + 160) / 400, 0, 1) * 255), "hu-8-bit"),
    "scaled to -1 to 1": (lambda: np.clip(body(), -1000, 1000) / 1000, "hu-no-air"),
    "standardised": (lambda: (body() - body().mean()) / body().std(), "hu-no-air"),
    "cut off to a window": (lambda: np.clip(body(), -160, 240), "hu-no-air"),
    "cut off at -200": (lambda: np.clip(lung(), -200, 250), "hu-no-air"),
    "1024 not taken off": (lambda: np.rint(body() + 1024), "hu-shifted-up"),
    "1000 not taken off": (lambda: lung() + 1000, "hu-shifted-up"),
    "1024 not taken off, -2000 around": (lambda: around_the_circle(body() + 1024, -2000), "hu-shifted-up"),
    "1024 not taken off, -1024 around": (lambda: around_the_circle(body() + 1024, -1024), "hu-shifted-up"),
    "1024 taken off twice": (lambda: lung() - 1024, "hu-shifted-down"),
    "1024 added": (lambda: body() + 2048, "hu-far-above-bone"),
    "twice the slope": (lambda: (body() + 1024) * 2 - 1024, "hu-no-tissue"),
    "wrapped": (lambda: wrapped(body()), "hu-wrapped"),
    "wrapped, 1024 taken off": (lambda: wrapped(body()) - 1024, "hu-far-above-bone"),
    "16 bits without their sign": (lambda: np.mod(np.rint(body()), 65536), "hu-too-high"),
    "in the upper bits": (lambda: (np.rint(np.clip(body(), -1024, 3071)) + 1024) * 16 - 1024, "hu-far-above-bone"),
    "ten times": (lambda: body() * 10 + 9000, "hu-far-above-bone"),
}
"""What no HU are, and the check that says so."""
