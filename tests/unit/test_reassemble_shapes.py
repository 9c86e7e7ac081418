"""Channels, scales, margins and class scores in reassembly, against plain loops over pixels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.core.reassembly import WINDOWS, Reassembler, ReassemblyError, WindowName, reassemble
from ctpatch.errors import ConfigError
from unit.test_reassemble import weight_of

Case = tuple[NDArray[np.float64], list[tuple[int, int]], tuple[int, int], int, int]


def looped(
    patches: NDArray[Any], coords: list[tuple[int, int]], shape: tuple[int, int], window: str, scale: int, margin: int
) -> NDArray[np.float64]:
    """Patches `(N, C, h, w)` put on a slice pixel by pixel: sums of weighted values, and of weights, divided."""
    _, channels, height, width = patches.shape
    total = np.zeros((channels, shape[0] * scale, shape[1] * scale))
    weight = np.zeros(total.shape)
    for patch, (row, col) in zip(patches, coords, strict=True):
        for y in range(height):
            for x in range(width):
                at = (row + margin) * scale + y, (col + margin) * scale + x
                if at[0] < total.shape[1] and at[1] < total.shape[2]:
                    w = weight_of(y, height, window) * weight_of(x, width, window)
                    total[:, *at] += w * patch[:, y, x]
                    weight[:, *at] += w
    with np.errstate(invalid="ignore"):
        return total / weight


@st.composite
def cases(draw: st.DrawFn) -> Case:
    scale, margin, channels = draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.integers(1, 4))
    inner = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    places = st.tuples(st.integers(-margin, shape[0] - 1 - margin), st.integers(-margin, shape[1] - 1 - margin))
    coords = draw(st.lists(places, min_size=1, max_size=5, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.random((len(coords), channels, inner[0] * scale, inner[1] * scale)), coords, shape, scale, margin


def size_of_window(patches: NDArray[Any], scale: int, margin: int) -> tuple[int, int]:
    return patches.shape[2] // scale + 2 * margin, patches.shape[3] // scale + 2 * margin


@settings(deadline=None, max_examples=80)
@given(cases(), st.sampled_from(WINDOWS), st.randoms(use_true_random=False))
def test_channels_scale_and_margin_as_in_a_loop(case: Case, window: WindowName, order: Any) -> None:
    patches, coords, shape, scale, margin = case
    wanted = looped(patches, coords, shape, window, scale, margin)
    wanted = wanted[0] if len(wanted) == 1 else wanted
    found = reassemble(patches, coords, shape, window, scale=scale, margin=margin)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    size = size_of_window(patches, scale, margin)
    rows, cols = zip(*coords, strict=True)
    whole = Reassembler([4] * len(coords), rows, cols, {4: shape}, size, window, scale=scale, margin=margin)
    numbers = list(range(len(coords)))
    order.shuffle(numbers)
    done = [each for number in numbers for each in whole.add([number], patches[number : number + 1])]
    assert len(done) == 1
    np.testing.assert_allclose(done[0].image, wanted, atol=1e-7)
    assert done[0].uncovered == np.isnan(wanted.reshape(-1, *found.shape[-2:])[0]).sum()


@settings(deadline=None, max_examples=80)
@given(cases(), st.sampled_from(WINDOWS), st.sampled_from([np.float32, np.float64, np.uint8, bool]))
def test_argmax_is_that_of_the_mean_scores(case: Case, window: WindowName, dtype: Any) -> None:
    patches, coords, shape, scale, margin = case
    scores = np.concatenate([patches, 1 - patches], axis=1)
    scores = (scores * 200).astype(dtype) if dtype == np.uint8 else (scores > 0.5 if dtype is bool else scores)
    means = looped(scores.astype(np.float64), coords, shape, window, scale, margin)
    covered = ~np.isnan(means[0])
    found = reassemble(scores.astype(dtype), coords, shape, window, scale=scale, margin=margin, argmax=True, fill=77)
    assert found.dtype == np.uint8
    assert (found[~covered] == 77).all()
    top = np.sort(means, axis=0)
    clear = covered & (top[-1] - top[-2] > 1e-6)
    np.testing.assert_array_equal(found[clear], means.argmax(axis=0)[clear])
    if covered.any():
        chosen = np.take_along_axis(means, found[np.newaxis].astype(int) % len(means), axis=0)[0]
        assert (chosen[covered] >= top[-1][covered] - 1e-6).all()


def test_more_classes_than_a_byte_holds() -> None:
    scores = np.zeros((1, 300, 2, 2), np.float32)
    scores[0, 299] = 1
    found = reassemble(scores, [(0, 0)], (2, 2), argmax=True)
    assert found.dtype == np.int32
    assert (found == 299).all()


def test_of_equal_scores_the_first_class_is_taken() -> None:
    scores = np.ones((2, 3, 4, 4), np.float32)
    assert (reassemble(scores, [(0, 0), (2, 1)], (6, 5), argmax=True, fill=9)[:4, :4] == 0).all()


def test_one_hot_floats_as_scores_bring_no_warning() -> None:
    scores = np.stack([np.eye(4), 1 - np.eye(4)]).astype(np.float32)[np.newaxis].repeat(2, 0)
    found = reassemble(scores, [(0, 0), (0, 2)], (4, 6), argmax=True)  # warnings are errors in the tests
    assert found[0, 0] == 0
    assert found[1, 0] == 1


def test_channels_of_labels_are_voted_on_one_by_one() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (4, 2, 4, 4)).astype(np.uint8)
    coords = [(0, 0), (0, 2), (2, 0), (2, 2)]
    found = reassemble(labels, coords, (6, 6))
    assert found.shape == (2, 6, 6)
    for channel in range(2):
        np.testing.assert_array_equal(found[channel], reassemble(labels[:, channel], coords, (6, 6)))
    with pytest.raises(ReassemblyError, match="the slice: no patch covers 12 of its pixels"):
        reassemble(labels, coords, (6, 8))


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"scale": 0}, ConfigError, "scale: must be a whole number, 1 or more, got 0"),
        ({"scale": 1.5}, ConfigError, "scale: must be a whole number, 1 or more, got 1.5"),
        ({"margin": -1}, ConfigError, "margin: must be a whole number, 0 or more, got -1"),
        ({"margin": True}, ConfigError, "margin: must be a whole number, 0 or more, got True"),
        ({"scale": 3}, ReassemblyError, "scale: patches of 4x4 pixels are not 3 times as large as any window"),
        ({"argmax": True, "coords": [(0, 0)]}, ReassemblyError, "no patch covers 48 of its pixels, and labels .uint8."),
        ({"argmax": True, "patches": np.ones((1, 1, 4, 4))}, ReassemblyError, "argmax: .* have one channel"),
        ({"coords": [(-1, 0)]}, ReassemblyError, r"the patch at \(-1, 0\) begins outside"),
        (
            {"coords": [(-3, 0)], "margin": 2},
            ReassemblyError,
            r"at \(-3, 0\), 2 pixels inside its window, begins outsi",
        ),
        (
            {"coords": [(6, 0)], "margin": 2},
            ReassemblyError,
            r"at \(6, 0\), 2 pixels inside its window, begins outside",
        ),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], kind: type[Exception], said: str) -> None:
    given = {"patches": np.ones((1, 2, 4, 4), np.float32), "coords": [(0, 0)], **options}
    with pytest.raises(kind, match=said):
        reassemble(given.pop("patches"), given.pop("coords"), (8, 8), **given)


def test_a_pixel_that_is_no_number_is_named_with_its_channel() -> None:
    patches = np.ones((2, 3, 4, 4), np.float32)
    patches[1, 2, 0, 3] = np.nan
    with pytest.raises(ReassemblyError, match=r"the patch at \(4, 0\) holds nan at its pixel \(0, 3\) of channel 2"):
        reassemble(patches, [(0, 0), (4, 0)], (8, 4))


def test_a_reassembler_refuses_other_channels_and_too_large_a_margin() -> None:
    whole = Reassembler([0, 0], [0, 2], [0, 0], {0: (6, 4)}, (4, 4))
    whole.add([0], np.ones((1, 3, 4, 4)))
    with pytest.raises(ReassemblyError, match="slice 0: its patches have 1 channels, those before had 3"):
        whole.add([1], np.ones((1, 4, 4)))
    with pytest.raises(ReassemblyError, match="slice 0: its patches have 2 channels, those before had 3"):
        whole.add([1], np.ones((1, 2, 4, 4)))
    (done,) = whole.add([1], np.ones((1, 3, 4, 4)))
    np.testing.assert_array_equal(done.image, np.ones((3, 6, 4), np.float32))
    with pytest.raises(ConfigError, match="margin: 2 pixels at each side leave nothing of a window of 4x4"):
        Reassembler([0], [0], [0], {0: (6, 4)}, (4, 4), margin=2)
