"""Numbers of one slice against plain loops and against second libraries, by value."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install ctpatch[evaluate]")

from ctpatch.evaluating.metrics import ImageNumbers, hausdorff_95, image_numbers, label_numbers

Image = NDArray[np.float64]


def pair(shape: tuple[int, int] = (24, 30), seed: int = 0, width: float = 400.0) -> tuple[Image, Image]:
    """A smooth image in HU with some structure, and the same with noise."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices(shape)
    target = 40 + 90 * np.sin(rows / 5) * np.cos(cols / 7) * width / 400
    return target + rng.normal(0, 12, shape), target


def loop_rmse(image: Image, target: Image) -> float:
    total = 0.0
    for row in range(image.shape[0]):
        for col in range(image.shape[1]):
            total += (float(image[row, col]) - float(target[row, col])) ** 2
    return math.sqrt(total / image.size)


def loop_ssim(image: Image, target: Image, data_range: float) -> float:
    """Wang et al. 2004, window by window: only windows that lie within the image."""
    steps = np.arange(-5, 6)
    weights = np.exp(-(steps[:, None] ** 2 + steps[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = []
    for row in range(5, image.shape[0] - 5):
        for col in range(5, image.shape[1] - 5):
            one = image[row - 5 : row + 6, col - 5 : col + 6]
            other = target[row - 5 : row + 6, col - 5 : col + 6]
            means = (weights * one).sum(), (weights * other).sum()
            variances = (weights * (one - means[0]) ** 2).sum(), (weights * (other - means[1]) ** 2).sum()
            common = (weights * (one - means[0]) * (other - means[1])).sum()
            top = (2 * means[0] * means[1] + c1) * (2 * common + c2)
            found.append(top / ((means[0] ** 2 + means[1] ** 2 + c1) * (variances[0] + variances[1] + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize("data_range", [1.0, 400.0, 4096.0])
def test_images_as_plain_loops_have_them(data_range: float) -> None:
    image, target = pair()
    found = image_numbers(image, target, data_range)
    rmse = loop_rmse(image, target)
    assert found.rmse == pytest.approx(rmse, rel=1e-12)
    assert found.psnr == pytest.approx(20 * math.log10(data_range / rmse), rel=1e-12)
    assert found.ssim == pytest.approx(loop_ssim(image, target, data_range), abs=1e-9)


@pytest.mark.parametrize("data_range", [1.0, 400.0])
def test_images_as_torchmetrics_has_them(data_range: float) -> None:
    torch: Any = pytest.importorskip("torch", reason="torchmetrics needs torch, which is not installed")
    metrics: Any = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    image, target = pair((33, 40), seed=3)
    found = image_numbers(image, target, data_range)
    tensors = [torch.from_numpy(each)[None, None] for each in (image, target)]
    psnr = metrics.peak_signal_noise_ratio(*tensors, data_range=data_range)
    _, everywhere = metrics.structural_similarity_index_measure(*tensors, data_range=data_range, return_full_image=True)
    # Its own mean takes windows at the border that reach into reflected pixels.
    border = (everywhere.shape[-2] - image.shape[0]) // 2 + 5
    ssim = everywhere[..., border:-border, border:-border].mean()
    assert found.psnr == pytest.approx(float(psnr), rel=1e-6)
    assert found.ssim == pytest.approx(float(ssim), abs=1e-6)


def test_equal_images_have_an_infinite_psnr() -> None:
    _, target = pair()
    assert image_numbers(target.copy(), target, 400.0) == ImageNumbers(math.inf, 1.0, 0.0)


def test_constant_images() -> None:
    flat = np.full((16, 16), -160.0)
    assert image_numbers(flat, flat.copy(), 400.0) == ImageNumbers(math.inf, 1.0, 0.0)
    found = image_numbers(flat + 40.0, flat, 400.0)
    assert found.rmse == 40.0
    assert found.psnr == pytest.approx(20.0, abs=1e-12)
    c1 = (0.01 * 400) ** 2
    assert found.ssim == pytest.approx((2 * 160 * 120 + c1) / (160**2 + 120**2 + c1), abs=1e-12)


@pytest.mark.parametrize(("shape", "there"), [((11, 11), True), ((10, 11), False), ((200, 10), False), ((1, 1), False)])
def test_slices_smaller_than_the_window_have_no_ssim(shape: tuple[int, int], there: bool) -> None:
    image, target = pair(shape)
    found = image_numbers(image, target, 400.0)
    assert (found.ssim is not None) == there
    assert found.rmse == pytest.approx(loop_rmse(image, target), rel=1e-12)
    if there:
        assert found.ssim == pytest.approx(loop_ssim(image, target, 400.0), abs=1e-9)


def loop_outline(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    height, width = mask.shape
    found = []
    for row, col in np.argwhere(mask).tolist():
        for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            beside = row + down, col + right
            if not (0 <= beside[0] < height and 0 <= beside[1] < width) or not mask[beside]:
                found.append((row, col))
                break
    return found


def loop_hd95(one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: tuple[float, float]) -> float:
    outlines = loop_outline(one), loop_outline(other)
    directed = []
    for here, there in (outlines, outlines[::-1]):
        nearest = sorted(
            min(math.hypot((row - r) * spacing[0], (col - c) * spacing[1]) for r, c in there) for row, col in here
        )
        place = 0.95 * (len(nearest) - 1)
        below = math.floor(place)
        above = min(below + 1, len(nearest) - 1)
        directed.append(nearest[below] + (place - below) * (nearest[above] - nearest[below]))
    return max(directed)


masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=30)
@given(masks, st.integers(0, 2**32 - 1), st.sampled_from([(1.0, 1.0), (0.7, 1.9)]))
def test_hd95_as_a_plain_loop_has_it(one: NDArray[np.bool_], seed: int, spacing: tuple[float, float]) -> None:
    other = np.random.default_rng(seed).random(one.shape) < 0.4
    one.flat[0] = other.flat[-1] = True
    found = hausdorff_95(one, other, spacing)
    assert found == pytest.approx(loop_hd95(one, other, spacing), abs=1e-9)
    assert hausdorff_95(other, one, spacing) == found
    assert hausdorff_95(one, one, spacing) == 0.0


def blobs() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rows, cols = np.indices((60, 72))
    target = np.zeros((60, 72), np.uint8)
    target[(rows - 25) ** 2 + 0.6 * (cols - 30) ** 2 < 200] = 1
    target[(rows - 45) ** 2 + (cols - 55) ** 2 < 90] = 2
    image = np.roll(target, (3, -2), axis=(0, 1))
    image[40:44, 50:56] = 1
    return image, target


def test_labels_as_simpleitk_has_them() -> None:
    sitk: Any = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    image, target = blobs()
    spacing = (0.8, 1.25)
    numbers = label_numbers(image, target, [1, 2], spacing)
    both = [sitk.GetImageFromArray(each) for each in (image, target)]
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*both)
    for found in numbers:
        assert found.dice == pytest.approx(overlap.GetDiceCoefficient(found.label), abs=1e-12)
        directed = []
        for one, other in (both, both[::-1]):
            one.SetSpacing(spacing[::-1])
            other.SetSpacing(spacing[::-1])
            outlines = [sitk.LabelContour(each == found.label) for each in (one, other)]
            distances = sitk.SignedMaurerDistanceMap(
                outlines[1], insideIsPositive=False, squaredDistance=False, useImageSpacing=True
            )
            there = sitk.GetArrayFromImage(outlines[0]) == 1
            directed.append(np.percentile(np.abs(sitk.GetArrayFromImage(distances))[there], 95))
        assert found.hd95 == pytest.approx(max(directed), abs=1e-5)


def test_a_label_on_one_side_alone_has_no_distance() -> None:
    image, target = blobs()
    image[image == 2] = 0
    one, two = label_numbers(image, target, [1, 2, 7], (1.0, 1.0))
    assert (one.label, two.label) == (1, 2)  # 7 is on neither side
    assert (two.dice, two.hd95, two.predicted) == (0.0, None, 0)
    assert two.target == np.count_nonzero(target == 2)
    assert one.hd95 is not None


def test_dice_as_a_plain_loop_has_it() -> None:
    image, target = blobs()
    (found,) = label_numbers(image, target, [1], (1.0, 1.0))
    both = sum(int(a == 1 and b == 1) for a, b in zip(image.flat, target.flat, strict=True))
    sizes = sum(int(a == 1) for a in image.flat) + sum(int(b == 1) for b in target.flat)
    assert found.dice == 2 * both / sizes
