"""Resampling: bit by bit what scikit-image's `resize` gave, noise by arithmetic, and air before pixels are mixed."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ctpatch.prepare.geometry import Geometry
from ctpatch.prepare.part import ArraySource, PrepareJob, prepared_images
from ctpatch.prepare.values import PRESETS
from helpers import Image, assert_bits
from raw_images import Images, part_of
from resampling_cases import CASES, picture

RECORDED = Path(__file__).parents[1] / "fixtures/resampled_by_scikit_image.npz"
"""What scikit-image 0.26.0 on scipy 1.17.1 made of `resampling_cases.CASES`: order 1 with anti-aliasing, or 0."""


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_scikit_image(name: str) -> None:
    case = CASES[name]
    image = picture(case)
    with np.load(RECORDED) as recorded:
        wanted = recorded[name]
    assert_bits(Geometry(spacing_mm=case.wanted).apply(image, case.spacing, labels=case.labels), wanted)
    assert_bits(image, picture(case))


def test_everything_recorded_is_compared() -> None:
    with np.load(RECORDED) as recorded:
        assert sorted(recorded.files) == sorted(CASES)


@pytest.mark.parametrize(("factor", "wanted"), [(2.0, 0.40444), (4.0, 0.17818)])
def test_noise_is_smoothed_before_it_is_thinned_out(factor: float, wanted: float) -> None:
    """A new pixel is the mean of two neighbours after a Gaussian of sigma (factor - 1) / 2; its weights tell the noise.

    Without the Gaussian, a mean of 2x2 pixels would leave half of the noise at either factor.
    """
    sigma = (factor - 1) / 2
    at = np.arange(-8, 9)
    weights = np.exp(-(at**2) / (2 * sigma**2)) * (np.abs(at) <= 4 * sigma + 0.5)
    both = np.convolve(weights / weights.sum(), [0.5, 0.5])
    assert np.sum(both**2) == pytest.approx(wanted, abs=1e-5)

    noise = np.random.default_rng(7).standard_normal((512, 512)).astype(np.float32)
    coarser = Geometry(spacing_mm=(factor, factor)).apply(noise, (1.0, 1.0), labels=False)
    assert coarser.shape == (512 / factor, 512 / factor)
    assert float(coarser.std()) == pytest.approx(wanted * float(noise.std()), rel=0.02)


def test_an_axis_that_stays_is_not_smoothed() -> None:
    """Columns become half as many, rows stay: each row is smoothed alone."""
    image = np.zeros((9, 16), np.float32)
    image[4] = 1000.0
    coarser = Geometry(spacing_mm=(1.0, 2.0)).apply(image, (1.0, 1.0), labels=False)
    wanted = np.zeros((9, 8), np.float32)
    wanted[4] = 1000.0
    np.testing.assert_allclose(coarser, wanted, atol=1e-3)


@pytest.mark.parametrize("spacing", [0.4, 0.7, 1.3, 4.3])
def test_an_even_slice_stays_even_to_the_last_bit(spacing: float) -> None:
    """Weights that sum to 1 but for rounding would carry it past the only value there is."""
    even = np.full((20, 20), -1023.3)
    found = Geometry(spacing_mm=(spacing, spacing)).apply(even, (1.0, 1.0), labels=False)
    assert found.shape != even.shape
    assert np.unique(found).tolist() == [-1023.3]


def prepared(tmp_path: Path, hu: Image, geometry: Geometry, *, mask: bool = False) -> NDArray[np.float32]:
    """One slice with pixels 1 mm apart, prepared in the window `full`, or as a mask."""
    shape, spacing = geometry.result((hu.shape[0], hu.shape[1]), (1.0, 1.0))
    source = ArraySource("image", Images((hu,)), tmp_path, None if mask else PRESETS["full"])
    job = PrepareJob(tmp_path, tmp_path, "", (source,), geometry, "digest", "stop")
    ((_, images),) = prepared_images(job, part_of((hu,), shape, spacing, spacing_mm=(1.0, 1.0)))
    assert isinstance(images, list)
    return images[0][0]


@pytest.mark.parametrize("spacing", [0.5, 0.8, 1.6, 3.0])
@pytest.mark.parametrize("around", [-2000.0, -3024.0, -32768.0])
def test_what_a_scanner_puts_around_its_circle_is_air_before_pixels_are_mixed(
    tmp_path: Path, spacing: float, around: float
) -> None:
    rng = np.random.default_rng(3)
    body = rng.integers(-900, 1500, (24, 24)).astype(np.float32)
    rows, cols = np.mgrid[:24, :24] - 11.5
    outside = rows**2 + cols**2 > 100
    geometry = Geometry(spacing_mm=(spacing, spacing))
    found = prepared(tmp_path, np.where(outside, np.float32(around), body), geometry)
    assert_bits(found, prepared(tmp_path, np.where(outside, np.float32(-1024), body), geometry))


def test_the_edge_beside_padding_is_a_mix_with_air(tmp_path: Path) -> None:
    """Half a millimetre to one side of the edge of 40 HU: a quarter and three quarters of the way from -1024."""
    hu = np.tile(np.array([-2000, -3024, 40, 40], np.float32), (3, 1))
    found = prepared(tmp_path, hu, Geometry(spacing_mm=(1.0, 0.5)))
    air, mixed = [-1024.0] * 3, [-1024 * 0.75 + 40 * 0.25, -1024 * 0.25 + 40 * 0.75]
    wanted = (np.array([*air, *mixed, 40.0, 40.0, 40.0]) + 1024) / 4096
    np.testing.assert_array_equal(found, np.tile(wanted.astype(np.float32), (3, 1)))


def test_labels_below_air_stay(tmp_path: Path) -> None:
    labels = np.repeat(np.array([[-2000, 5, -3024]], np.float32), 2, axis=0)
    found = prepared(tmp_path, labels, Geometry(spacing_mm=(0.5, 0.5)), mask=True)
    assert found.dtype == np.int16
    assert found.tolist() == [[-2000, -2000, 5, 5, -3024, -3024]] * 4
