"""Numbers of one slice. PSNR, SSIM and RMSE are scikit-image's, distances between labels those of scipy.ndimage."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import UsageError

SSIM_WINDOW = 11
"""Pixels of a side of SSIM's window: a Gaussian of sigma 1.5, cut off at 3.5 sigma."""
SSIM_SIGMA = 1.5
PERCENTILE = 95

Bools = NDArray[np.bool_]
Spacing = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ImageNumbers:
    """How far an image is from its target.

    Attributes:
        psnr: in dB; infinite where the two are equal.
        ssim: from -1 to 1; None where the image is smaller than SSIM's window.
        rmse: in the unit of the images.
    """

    psnr: float
    ssim: float | None
    rmse: float


@dataclass(frozen=True, slots=True)
class LabelNumbers:
    """How far one label of a slice is from its target.

    Attributes:
        label: the label.
        predicted, target, both: pixels that have it.
        hd95: the 95th percentile of the distances between the two outlines, the larger of both directions, in the unit
            of the spacing; None where only one of the two has the label.
    """

    label: int
    predicted: int
    target: int
    both: int
    hd95: float | None

    @property
    def dice(self) -> float:
        """Twice the pixels in common over the pixels of both."""
        return dice(self.predicted, self.target, self.both)


def dice(predicted: int, target: int, both: int) -> float:
    """Dice's coefficient from pixel counts, of which one at least is not 0."""
    return 2 * both / (predicted + target)


def check_installed() -> None:
    """Raise a UsageError where the libraries are missing; it says how to install them."""
    missing = [name for name in ("skimage", "scipy") if find_spec(name) is None]
    if missing:
        names = " and ".join({"skimage": "scikit-image"}.get(each, each) for each in missing)
        raise UsageError(f"an evaluation needs {names}: pip install 'ctpatch[evaluate]'")


def image_numbers(image: NDArray[np.float64], target: NDArray[np.float64], data_range: float) -> ImageNumbers:
    """The numbers of an image `(H, W)` against its target, both float64 and finite.

    Formulas: PSNR = 10 log10(data_range^2 / MSE). SSIM as Wang et al. defined it (IEEE TIP 13, 600-612, 2004): a
    Gaussian window of sigma 1.5 and 11 x 11 pixels, population covariance, K1 = 0.01, K2 = 0.03; the mean leaves out
    the 5 pixels at the border, where the window is not whole.
    """
    from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity  # noqa: PLC0415

    error = float(mean_squared_error(target, image))
    # Squares of the smallest differences are 0 although the images differ, and equal images have no ratio.
    psnr = float(peak_signal_noise_ratio(target, image, data_range=data_range)) if error else math.inf
    ssim = None
    if min(image.shape) >= SSIM_WINDOW:
        ssim = float(
            structural_similarity(
                target,
                image,
                data_range=data_range,
                gaussian_weights=True,
                sigma=SSIM_SIGMA,
                use_sample_covariance=False,
            )
        )
    return ImageNumbers(psnr, ssim, math.sqrt(error))


def label_numbers(
    image: NDArray[Any], target: NDArray[Any], labels: Iterable[int], spacing: Spacing
) -> list[LabelNumbers]:
    """The numbers of each of the labels that one of the two has at least; images `(H, W)` of whole numbers."""
    found = []
    for label in labels:
        one, other = image == label, target == label
        pixels = int(np.count_nonzero(one)), int(np.count_nonzero(other))
        if any(pixels):
            distance = hausdorff_95(one, other, spacing) if all(pixels) else None
            found.append(LabelNumbers(label, *pixels, int(np.count_nonzero(one & other)), distance))
    return found


def hausdorff_95(one: Bools, other: Bools, spacing: Spacing) -> float:
    """The larger of the two directed 95th percentiles of distances between outlines.

    Args:
        one: a mask `(H, W)` that is not empty.
        other: another one.
        spacing: lengths of a pixel along rows and columns.

    Returns:
        The distance in the unit of `spacing`. An outline is the pixels of a mask that have one of their four neighbours
        outside of it; what lies beyond the image is outside. Percentiles are interpolated linearly.
    """
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415

    places = np.nonzero(one | other)
    box = tuple(slice(int(each.min()), int(each.max()) + 1) for each in places)  # no distance leads out of it
    outlines = [_outline(mask[box]) for mask in (one, other)]
    directed = []
    for here, there in (outlines, outlines[::-1]):
        distances = distance_transform_edt(~there, sampling=spacing)[here]
        directed.append(float(np.percentile(distances, PERCENTILE)))
    return max(directed)


def _outline(mask: Bools) -> Bools:
    from scipy.ndimage import binary_erosion  # noqa: PLC0415

    outline: Bools = mask & ~binary_erosion(mask)
    return outline
