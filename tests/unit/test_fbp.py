"""Filtered back-projection against explicit sums, closed forms and scikit-image's iradon."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.lodopab import FilterName
from ctpatch.prepare.readers.lodopab.fbp import ParallelBeam, filtered_back_projection
from ctpatch.prepare.readers.lodopab.reader import GEOMETRY
from helpers import Image

ODL_BINS = {0: 136.632, 125: 115.493, 250: 115.78, 400: 144.003, 500: 177.025, 625: 228.73, 750: 284.571, 999: 375.12}
FILTERS: tuple[FilterName, ...] = get_args(FilterName)


def disc_sinogram(geometry: ParallelBeam, row_mm: float, col_mm: float, radius: float, value: float) -> Image:
    """Chords through a disc, in closed form."""
    bins = (np.arange(geometry.bins) - (geometry.bins - 1) / 2) * geometry.pitch_mm
    rows = []
    for k in range(geometry.angles):
        angle = (k + 0.5) * math.pi / geometry.angles
        away = bins - (col_mm * math.cos(angle) + row_mm * math.sin(angle))
        rows.append(2 * value * np.sqrt(np.maximum(radius**2 - away**2, 0)))
    return np.array(rows, dtype=np.float32)


def slow_reference(sinogram: Image, geometry: ParallelBeam, length: int) -> Image:
    """Loops over angles, pixels and bins: the ramp's kernel summed, refined by Dirichlet's kernel, nearest eighth."""
    filtered = np.zeros((geometry.angles, length))
    for b in range(length):
        for c in range(geometry.bins):
            step = min((b - c) % length, (c - b) % length)
            weight = 0.25 if step == 0 else -1 / (math.pi * step) ** 2 if step % 2 else 0.0
            filtered[:, b] += weight * sinogram[:, c]
    filtered /= geometry.pitch_mm
    image = np.zeros((geometry.pixels, geometry.pixels))
    for k in range(geometry.angles):
        angle = (k + 0.5) * math.pi / geometry.angles
        for row in range(geometry.pixels):
            for col in range(geometry.pixels):
                y, x = ((at - (geometry.pixels - 1) / 2) * geometry.pixel_mm for at in (row, col))
                place = (x * math.cos(angle) + y * math.sin(angle)) / geometry.pitch_mm + (geometry.bins - 1) / 2
                place = min(max(math.floor(place * 8 + 0.5) / 8, 0.0), geometry.bins - 1.0)
                for b in range(length):
                    turn = math.pi * (place - b)
                    whole = abs(math.sin(turn / length)) < 1e-9
                    kernel = 1.0 if whole else math.sin(turn) / math.tan(turn / length) / length
                    image[row, col] += kernel * filtered[k, b]
    return np.asarray(image * math.pi / geometry.angles, dtype=np.float32)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), pixels=st.integers(2, 6), bins=st.integers(6, 8), quarter=st.integers(1, 2))
def test_is_the_explicit_sum(seed: int, pixels: int, bins: int, quarter: int) -> None:
    geometry = ParallelBeam(pixels, 1.37, bins, 1.1, 4 * quarter)
    sinogram = np.random.default_rng(seed).random((4 * quarter, bins), dtype=np.float32)
    length = {6: 12, 7: 16, 8: 16}[bins]
    wanted = slow_reference(sinogram, geometry, length)
    np.testing.assert_allclose(filtered_back_projection(sinogram, geometry, "ramp"), wanted, atol=2e-5)


@pytest.mark.parametrize("pixels", [90, 91])
@pytest.mark.parametrize("name", FILTERS)
def test_disc_is_where_it_was_and_as_bright(pixels: int, name: FilterName) -> None:
    geometry = ParallelBeam(pixels, 2.0, 183, 1.5, 240)
    row_mm, col_mm, radius = -41.0, 23.0, 25.0
    image = filtered_back_projection(disc_sinogram(geometry, row_mm, col_mm, radius, 0.6), geometry, name)
    at = (np.arange(pixels) - (pixels - 1) / 2) * 2.0
    away = np.hypot(at[:, None] - row_mm, at[None, :] - col_mm)
    assert np.abs(image[away < radius - 6] - 0.6).max() < (0.1 if name == "ramp" else 0.02)
    assert abs(float(image[away < radius - 6].mean()) - 0.6) < 1e-3
    assert abs(float(image[away > radius + 6].mean())) < 1e-3
    mass = np.where(away < radius + 10, image, 0).astype(np.float64)
    assert abs((mass * at[:, None]).sum() / mass.sum() - row_mm) < 0.05
    assert abs((mass * at[None, :]).sum() / mass.sum() - col_mm) < 0.05


@pytest.mark.parametrize("name", FILTERS)
def test_agrees_with_iradon(name: FilterName) -> None:
    transform = pytest.importorskip("skimage.transform", reason="scikit-image is not installed")
    geometry = ParallelBeam(121, 1.0, 173, 1.0, 200)
    sinogram = disc_sinogram(geometry, -20.0, 11.0, 30.0, 0.7) + disc_sinogram(geometry, 10.0, -35.0, 12.0, -0.2)
    degrees = (np.arange(200) + 0.5) * 180 / 200
    # iradon's rows run upwards.
    wanted = transform.iradon(sinogram.T.astype(np.float64), degrees, output_size=121, filter_name=name, circle=False)[
        ::-1
    ]
    found = filtered_back_projection(sinogram, geometry, name)
    # It interpolates linearly, which blurs edges, most where the filter does not.
    assert float(np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std()) < 0.05


def test_lodopab_geometry_is_that_of_odl() -> None:
    """Where ODL 0.8.3 with ASTRA 2.5.0 sees a block of 4x4 pixels, stored at [60:64, 100:104]: its mean bin."""
    col, row = 61.5, 101.5  # stored transposed: the first axis is the column of the upright picture
    for number, wanted in ODL_BINS.items():
        y, x = ((at - (GEOMETRY.pixels - 1) / 2) * GEOMETRY.pixel_mm for at in (row, col))
        angle = GEOMETRY.angle(number)
        place = (x * math.cos(angle) + y * math.sin(angle)) / GEOMETRY.pitch_mm + (GEOMETRY.bins - 1) / 2
        assert place == pytest.approx(wanted, abs=0.04)


def test_frequency_scaling_smooths() -> None:
    geometry = ParallelBeam(60, 1.0, 87, 1.0, 120)
    noise = np.random.default_rng(0).standard_normal((120, 87)).astype(np.float32)
    spread = [float(filtered_back_projection(noise, geometry, "hann", each).std()) for each in (1.0, 0.6, 0.3)]
    assert spread[0] > 1.5 * spread[1] > 2 * spread[2]


def test_options_that_make_no_sense_are_refused() -> None:
    geometry = ParallelBeam(8, 1.0, 13, 1.0, 8)
    sinogram = np.zeros((8, 13), np.float32)
    with pytest.raises(ConfigError, match="filter_name: 'hanning' is not known, wanted one of ramp"):
        filtered_back_projection(sinogram, geometry, "hanning")  # type: ignore[arg-type]
    for scaling in (0.0, 1.1, math.nan):
        with pytest.raises(ConfigError, match="frequency_scaling"):
            filtered_back_projection(sinogram, geometry, "hann", scaling)
    with pytest.raises(ConfigError, match=r"shape \(13, 8\), wanted \(8, 13\)"):
        filtered_back_projection(sinogram.T, geometry)
    for wrong in ((8, 1.0, 13, 1.0, 6), (1, 1.0, 13, 1.0, 8), (8, 0.0, 13, 1.0, 8), (8, 1.0, 13, math.inf, 8)):
        with pytest.raises(ConfigError, match="geometry"):
            ParallelBeam(*wrong)
