"""Filtered back-projection of parallel-beam sinograms, in numpy alone.

A ray at angle `phi` and distance `s` from the middle runs through the points with `col * cos(phi) + row * sin(phi) =
s`, where `(row, col)` are millimetres from the middle of the picture, rows downwards and columns to the right. The
angles are `(k + 1/2) * pi / angles`, and bin `b` lies at `s = (b - (bins - 1) / 2) * pitch`.

Formulas: A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging (1988), chapter 3.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.lodopab import FilterName

Image = NDArray[np.float32]

_FINER = 8
"""Samples between neighbouring bins, by trigonometric interpolation: a ray's place is then right to 1/16 bin, which
costs 4e-4 of LoDoPaB-CT's [0, 1] at low dose, a thirtieth of the noise."""

_DIGITS = 12  # cosines are cut here, so that no machine's last bit moves a ray to another sample


@dataclass(frozen=True, slots=True)
class ParallelBeam:
    """A square image and the detector that turns around it by half a circle.

    Attributes:
        pixels: side of the image in pixels.
        pixel_mm: side of a pixel.
        bins: of the detector, whose middle is the axis of rotation.
        pitch_mm: distance of the bins' middles.
        angles: projections over half a turn; a multiple of 4, as four share their rays' places.
    """

    pixels: int
    pixel_mm: float
    bins: int
    pitch_mm: float
    angles: int

    def __post_init__(self) -> None:
        if min(self.pixels, self.bins) < 2 or self.angles < 4 or self.angles % 4:  # noqa: PLR2004
            raise ConfigError(
                f"geometry: {self.pixels} pixels, {self.bins} bins, {self.angles} angles; "
                "wanted 2 pixels and bins or more, and a multiple of 4 angles"
            )
        if not (0 < self.pixel_mm < math.inf and 0 < self.pitch_mm < math.inf):
            raise ConfigError(f"geometry: pixel {self.pixel_mm} mm, pitch {self.pitch_mm} mm; wanted more than 0")

    def angle(self, number: int) -> float:
        """Angle of a projection, in radians."""
        return (number + 0.5) * math.pi / self.angles


def check_filter(name: FilterName, frequency_scaling: float) -> None:
    """Raise ConfigError for a filter that is not known, or a scaling that is not in (0, 1]."""
    if name not in get_args(FilterName):
        raise ConfigError(f"filter_name: {name!r} is not known, wanted one of {', '.join(get_args(FilterName))}")
    if not 0 < frequency_scaling <= 1:
        raise ConfigError(f"frequency_scaling: {frequency_scaling}, wanted more than 0 and at most 1")


def _fast_length(least: int) -> int:
    """The next even length without a prime factor above 5."""
    # A number without other primes divides a power of 30 that is high enough.
    return next(length for length in count(least + least % 2, 2) if pow(30, length.bit_length(), length) == 0)


@lru_cache(maxsize=4)
def _response(bins: int, name: FilterName, scaling: float) -> tuple[int, NDArray[np.float64]]:
    """Return the length of the transforms and the filter's response at their frequencies, `(length // 2 + 1,)`.

    The ramp is the transform of its band-limited kernel (Kak and Slaney, equation 61), not `|frequency|` itself,
    which would shift all values.
    """
    length = _fast_length(2 * bins - 1)  # so that what leaves the detector at one end does not come in at the other
    places = np.concatenate([np.arange(length // 2 + 1), np.arange(length // 2 - 1, 0, -1)])
    kernel = np.zeros(length)
    kernel[0] = 0.25
    odd = places % 2 == 1
    kernel[odd] = -1.0 / (math.pi * places[odd]) ** 2
    response = np.fft.rfft(kernel).real
    share = np.arange(length // 2 + 1) / (length / 2 * scaling)  # of the highest frequency that is let through
    windows = {
        "ramp": np.ones_like(share),
        "shepp-logan": np.sinc(share / 2),
        "cosine": np.cos(math.pi / 2 * share),
        "hamming": 0.54 + 0.46 * np.cos(math.pi * share),
        "hann": np.cos(math.pi / 2 * share) ** 2,
    }
    return length, np.where(share <= 1, response * windows[name], 0.0)


def _filtered(sinogram: Image, geometry: ParallelBeam, name: FilterName, scaling: float) -> Image:
    """Filter along the detector and refine: `(angles, (bins - 1) * _FINER + 1)`, from the first bin to the last."""
    length, response = _response(geometry.bins, name, scaling)
    # The factors: of the finer inverse transform, of the integral over angles, and of the kernel in 1/mm.
    factor = _FINER * math.pi / geometry.angles / geometry.pitch_mm
    spectrum = np.fft.rfft(sinogram.astype(np.float64), length, axis=1)
    spectrum *= response * factor
    spectrum[:, -1] *= 0.5  # the highest frequency of the coarse samples is no longer that of the fine ones
    fine = np.fft.irfft(spectrum, length * _FINER, axis=1)
    return fine[:, : (geometry.bins - 1) * _FINER + 1].astype(np.float32)


def _back_project(fine: Image, geometry: ParallelBeam) -> Image:
    """Add up along all rays, at the nearest sample.

    Four angles, and the two halves of the picture under each, see the same places but for turns and mirrorings of the
    square: places are worked out once for the upper half, and each fetches eight values.
    """
    side, quarter, samples = geometry.pixels, geometry.angles // 4, fine.shape[1]
    upper = (side + 1) // 2
    steps = (np.arange(side) - (side - 1) / 2) * (geometry.pixel_mm / geometry.pitch_mm * _FINER)
    middle = (samples - 1) / 2 + 0.5  # the half, because whole numbers are made by cutting
    sums = np.zeros((upper * side, 8), np.float32)
    fetched = np.empty_like(sums)
    for number in range(quarter):
        cosine = round(math.cos(geometry.angle(number)), _DIGITS)
        sine = round(math.sin(geometry.angle(number)), _DIGITS)
        group = fine[[number, 2 * quarter - 1 - number, 2 * quarter + number, 4 * quarter - 1 - number]].T
        values = np.concatenate([group, group[::-1]], axis=1)
        places = (steps[:upper, None] * sine + (steps * cosine + middle)[None, :]).astype(np.intp)
        np.take(values, places.ravel(), axis=0, out=fetched, mode="clip")
        sums += fetched

    def whole(angle: int) -> Image:
        """The picture at one angle of the four: the lower half is the upper one with the detector reversed."""
        halves = sums.reshape(upper, side, 8)
        picture = np.empty((side, side), np.float32)
        picture[:upper] = halves[:, :, angle]
        picture[upper:] = halves[: side - upper, :, angle + 4][::-1, ::-1]
        return picture

    image = whole(0)
    image += whole(1).T  # pi/2 - phi swaps rows and columns
    image += whole(2)[::-1].T  # pi/2 + phi turns the picture
    image += whole(3)[:, ::-1]  # pi - phi mirrors the columns
    return image


def filtered_back_projection(
    sinogram: Image, geometry: ParallelBeam, filter_name: FilterName = "hann", frequency_scaling: float = 1.0
) -> Image:
    """Reconstruct a slice from its line integrals.

    Args:
        sinogram: `(angles, bins)`, integrals along the rays, in mm times the image's unit.
        geometry: where rays and pixels lie. Pixels beyond the detector's reach get the value at its edge.
        filter_name: what damps the ramp filter: `hann` and `hamming` most, `ramp` not at all.
        frequency_scaling: share of the frequencies that is let through, in (0, 1].

    Returns:
        `(pixels, pixels)` float32, not clipped, in the image's unit.

    Raises:
        ConfigError: the sinogram is not of that geometry, or the filter is unknown.
    """
    if sinogram.shape != (geometry.angles, geometry.bins):
        raise ConfigError(f"sinogram: shape {sinogram.shape}, wanted {(geometry.angles, geometry.bins)}")
    check_filter(filter_name, frequency_scaling)
    return _back_project(_filtered(sinogram, geometry, filter_name, frequency_scaling), geometry)
