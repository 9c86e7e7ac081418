"""Pixels as small grey pictures from which a browser still makes any display window.

Eight bits are few for CT: a soft tissue window of 400 HU would get 25 of 256 equal steps. So the steps are laid where
the pixels are: code `k` stands for `levels[k]`, which the page knows, and each display window is made from these.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SLICE_QUALITY, PATCH_QUALITY = 86, 88
_CODES = 256
_BY_FREQUENCY = 0.7
"""Share of the steps that follow the pixels' frequency; the others are equal, so that rare values differ too."""
_SAMPLE = 20_000


@dataclass(frozen=True)
class Tones:
    """What the codes of pictures stand for.

    Attributes:
        levels: float64 `(256,)`, ascending.
        sample: pixel values that the levels were laid by, ascending.
    """

    levels: NDArray[np.float64]
    sample: NDArray[np.float64]

    def codes(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """The nearest code of each pixel, uint8, same shape."""
        codes: NDArray[np.uint8] = np.rint(np.interp(image, self.levels, np.arange(_CODES))).astype(np.uint8)
        return codes

    def picture(self, image: NDArray[Any] | None, quality: int = SLICE_QUALITY) -> str | None:
        """A grey picture of an image as a `data:` address; None where there is no image."""
        if image is None:
            return None
        stream = io.BytesIO()
        Image.fromarray(self.codes(image)).save(stream, "JPEG", quality=quality)
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def make_tones(images: Sequence[NDArray[Any]]) -> Tones:
    """Tones for some images; those that are not finite do not count."""
    picked = []
    for image in images:
        values = np.asarray(image, np.float64).ravel()
        values = values[np.isfinite(values)]
        picked.append(values[:: max(1, len(values) // _SAMPLE)])
        if len(values):
            picked.append(np.array([values.min(), values.max()]))
    sample = np.sort(np.concatenate(picked)) if picked else np.empty(0)
    low, high = (float(sample[0]), float(sample[-1])) if len(sample) else (0.0, 0.0)
    if low == high:
        return Tones(even_tones(low, low).levels, sample)
    places = np.linspace(low, high, 16 * 1024)
    frequency = np.searchsorted(sample, places, side="right") / len(sample)
    share = _BY_FREQUENCY * frequency + (1 - _BY_FREQUENCY) * (places - low) / (high - low)
    return Tones(np.interp(np.linspace(share[0], 1.0, _CODES), share, places), sample)


def even_tones(low: float, high: float) -> Tones:
    """Tones at equal distances: labels, differences."""
    high = high if high > low else low + 1.0
    return Tones(np.linspace(low, high, _CODES), np.array([low, high]))


def shrunk(image: NDArray[Any], most: int) -> NDArray[np.float32]:
    """The image with no side longer than `most` pixels, by averaging."""
    pixels = np.ascontiguousarray(image, np.float32)
    longest = max(pixels.shape)
    if longest <= most:
        return pixels
    height, width = (max(1, round(side * most / longest)) for side in pixels.shape)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def display_windows(tones: Tones, value_range: tuple[float, float], air_level: float) -> list[dict[str, Any]]:
    """Display windows to choose from: name, low and high in the slices' own unit; the first is shown at first.

    The tissue window is centred on the commonest value above air and as wide as a tenth of the value range: 400 HU
    where the range is that of CT.
    """
    sample = tones.sample
    if not len(sample):
        return [{"name": "Value range", "low": value_range[0], "high": value_range[1]}]
    inside = sample[sample > air_level]
    inside = inside if len(inside) else sample
    low, high = (float(each) for each in np.quantile(inside, [0.005, 0.995]))
    width = (value_range[1] - value_range[0]) / 10
    counts, edges = np.histogram(inside[(inside >= low) & (inside <= high)], 64)
    at = int(counts.argmax())
    centre = float(edges[at] + edges[at + 1]) / 2
    found = (
        ("Most pixels", min(float(sample[0]), low), high),
        ("Commonest tissue", centre - width / 2, centre + width / 2),
        ("Value range", *value_range),
    )
    return [{"name": name, "low": start, "high": end} for name, start, end in found if end > start]
