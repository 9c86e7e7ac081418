"""Reassembly against a plain loop over pixels, and the traps that other packages fell into."""

import math
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.config import PatchConfig
from ctpatch.core.patches import extract_patches_2d
from ctpatch.core.reassembly import (
    WINDOWS,
    ReassembledSlice,
    Reassembler,
    ReassemblyError,
    WindowName,
    reassemble,
    seam_error,
    window_weights,
)
from ctpatch.words import PadMode

PAD_MODES: tuple[PadMode, ...] = ("none", "shift", "even", "zero", "edge", "reflect")


def weight_of(at: int, length: int, window: str) -> float:
    """One axis of a window, by its formula."""
    if window == "uniform":
        return 1.0
    if window == "hann":
        return math.sin(math.pi * (at + 0.5) / length) ** 2
    return math.exp(-((at - (length - 1) / 2) ** 2) / (2 * (length / 8) ** 2))


def by_pixels(
    patches: NDArray[Any], coords: list[tuple[int, int]], shape: tuple[int, int], window: str
) -> NDArray[np.float64]:
    """The weighted mean of each pixel by itself."""
    height, width = patches.shape[1:]
    result = np.full(shape, np.nan)
    for row in range(shape[0]):
        for col in range(shape[1]):
            total = weight = 0.0
            for patch, (top, left) in zip(patches, coords, strict=True):
                y, x = row - top, col - left
                if 0 <= y < height and 0 <= x < width:
                    w = weight_of(y, height, window) * weight_of(x, width, window)
                    total += w * float(patch[y, x])
                    weight += w
            if weight:
                result[row, col] = total / weight
    return result


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [(8, 8), (7, 12), (1, 1), (128, 128)])
def test_windows_are_positive_and_follow_their_formula(window: WindowName, size: tuple[int, int]) -> None:
    weights = window_weights(size, window)
    assert weights.dtype == np.float64
    assert (weights > 0).all()
    for row, col in [(0, 0), (size[0] - 1, 0), (size[0] // 2, size[1] // 3)]:
        wanted = weight_of(row, size[0], window) * weight_of(col, size[1], window)
        assert weights[row, col] == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=1e-9)


@pytest.mark.parametrize("window", WINDOWS)
def test_different_patches_are_blended_as_pixel_by_pixel(window: WindowName) -> None:
    rng = np.random.default_rng(1)
    patches = rng.random((6, 8, 6), dtype=np.float32)
    coords = [(0, 0), (0, 4), (5, 3), (3, 9), (7, 9), (2, 2)]
    found = reassemble(patches, coords, (13, 15), window)
    wanted = by_pixels(patches, coords, (13, 15), window)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-7)
    assert np.isnan(found).sum() == np.isnan(wanted).sum() > 0


@settings(deadline=None, max_examples=150)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.sampled_from(PAD_MODES),
    st.sampled_from(WINDOWS),
    st.integers(0, 99),
)
def test_original_patches_give_the_original_slice(
    shape: tuple[int, int], size: tuple[int, int], stride: tuple[int, int], mode: PadMode, window: WindowName, seed: int
) -> None:
    image = np.random.default_rng(seed).random(shape, dtype=np.float32)
    patches, coords = extract_patches_2d(image, PatchConfig(patch_size=size, stride=stride, pad_mode=mode))
    found = reassemble(patches, coords, shape, window)
    covered = np.zeros(shape, dtype=bool)
    for row, col in coords:
        covered[row : row + size[0], col : col + size[1]] = True
    assert (np.isnan(found) == ~covered).all()
    if window == "uniform":
        assert found[covered].tobytes() == image[covered].tobytes()
    else:
        np.testing.assert_allclose(found[covered], image[covered], atol=1e-6)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", PAD_MODES)
@pytest.mark.parametrize("stride", [8, 64, 78, 100, 128])
def test_constant_in_is_constant_out_to_the_border(window: WindowName, mode: PadMode, stride: int) -> None:
    cfg = PatchConfig(patch_size=128, stride=stride, pad_mode=mode)
    _, coords = extract_patches_2d(np.zeros((200, 180), np.float32), cfg)
    patches = np.full((len(coords), 128, 128), 0.37, np.float32)
    found = reassemble(patches, coords, (200, 180), window, fill=0.37)
    np.testing.assert_array_equal(found, np.float32(0.37))


@pytest.mark.parametrize("size", [128, 129, 362])
def test_sizes_of_the_field(size: int) -> None:
    image = np.random.default_rng(size).random((size, size), dtype=np.float32)
    patches, coords = extract_patches_2d(image, PatchConfig(stride=8, pad_mode="shift"))
    np.testing.assert_allclose(reassemble(patches, coords, image.shape), image, atol=1e-6)


def test_many_overlaps_do_not_wrap() -> None:
    coords = [(row, col) for row in range(20) for col in range(20)]
    patches = np.ones((400, 20, 20), np.float32)
    np.testing.assert_array_equal(reassemble(patches, coords, (39, 39), "uniform"), np.ones((39, 39), np.float32))


def test_float16_is_summed_wider_and_float64_stays() -> None:
    half = np.full((400, 4, 4), 0.1, np.float16)
    coords = [(row, col) for row in range(20) for col in range(20)]
    found = reassemble(half, coords, (23, 23), "hann")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(np.float16(0.1)))
    assert reassemble(half.astype(np.float64), coords, (23, 23)).dtype == np.float64


def test_fill_and_padding() -> None:
    found = reassemble(np.ones((1, 4, 4), np.float32), [(3, 3)], (5, 6), fill=-1)
    wanted = np.full((5, 6), -1, np.float32)
    wanted[3:, 3:] = 1
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("patches", "coords", "words"),
    [
        (np.ones((2, 4, 4)), [(0, 0)], "2 patches and 1 origins"),
        (np.ones((2, 4, 4)), [(0, 1), (0, 1)], r"two patches are at \(0, 1\)"),
        (np.ones((1, 4, 4)), [(9, 0)], r"\(9, 0\) begins outside"),
        (np.ones((1, 4, 4)), [(-1, 0)], "begins outside"),
        (np.stack([np.ones((4, 4)), np.full((4, 4), np.nan)]), [(0, 0), (2, 4)], r"patch at \(2, 4\) holds nan"),
        (np.full((1, 4, 4), np.inf), [(0, 0)], "holds inf"),
    ],
)
def test_what_does_not_fit_is_named(patches: NDArray[Any], coords: list[tuple[int, int]], words: str) -> None:
    with pytest.raises(ReassemblyError, match=words):
        reassemble(patches, coords, (8, 8))


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, h, w\)"):
        reassemble(np.ones((4, 4)), [(0, 0)], (8, 8))
    with pytest.raises(ReassemblyError, match=r"\(1, 0, 4, 4\), wanted \(N, h, w\) or \(N, C, h, w\)"):
        reassemble(np.ones((1, 0, 4, 4)), [(0, 0)], (8, 8))
    with pytest.raises(ReassemblyError, match=r"wanted whole pixels \(row, col\)"):
        reassemble(np.ones((1, 4, 4)), [(0.5, 0)], (8, 8))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="real numbers"):
        reassemble(np.ones((1, 4, 4), complex), [(0, 0)], (8, 8))
    with pytest.raises(ValueError, match="hann, gaussian, uniform"):
        reassemble(np.ones((1, 4, 4)), [(0, 0)], (8, 8), "hamming")  # type: ignore[arg-type]


class TestReassembler:
    SHAPES: ClassVar = {7: (12, 10), 3: (9, 9)}

    def make(self, window: WindowName = "hann") -> tuple[Reassembler, NDArray[Any], dict[int, NDArray[Any]]]:
        rng = np.random.default_rng(2)
        images = {index: rng.random(shape, dtype=np.float32) for index, shape in self.SHAPES.items()}
        owners, origins, stacks = [], [], []
        for index, image in images.items():
            patches, coords = extract_patches_2d(image, PatchConfig(patch_size=4, stride=3, pad_mode="shift"))
            owners += [index] * len(coords)
            origins += coords
            stacks.append(patches)
        rows, cols = zip(*origins, strict=True)
        return Reassembler(owners, rows, cols, self.SHAPES, (4, 4), window), np.concatenate(stacks), images

    @pytest.mark.parametrize("window", WINDOWS)
    def test_any_order_gives_each_slice_once_when_it_is_whole(self, window: WindowName) -> None:
        whole, patches, images = self.make(window)
        order = np.random.default_rng(5).permutation(len(patches))
        done: list[ReassembledSlice] = []
        for start in range(0, len(order), 5):
            which = order[start : start + 5]
            done += whole.add(which, patches[which][:, np.newaxis])
        whole.finish()
        assert sorted(each.slice_index for each in done) == [3, 7]
        for each in done:
            np.testing.assert_allclose(each.image, images[each.slice_index], atol=1e-6)
            assert each.uncovered == 0
        assert whole.open_slices == 0

    def test_in_order_one_slice_is_open_at_a_time(self) -> None:
        whole, patches, _ = self.make()
        seen = 0
        for number, patch in enumerate(patches):
            seen += len(whole.add([number], patch[np.newaxis]))
            assert whole.open_slices <= 1
        assert seen == 2

    def test_missing_and_repeated_patches_are_named(self) -> None:
        whole, patches, _ = self.make()
        whole.add([0, 1], patches[:2])
        with pytest.raises(ReassemblyError, match="patch 1 was given twice"):
            whole.add([1], patches[1:2])
        with pytest.raises(ReassemblyError, match="patch 5 was given twice"):
            whole.add([5, 5], patches[:2])
        with pytest.raises(ReassemblyError, match="have not come: 2, 3, 4, 5, 6 and"):
            whole.finish()
        with pytest.raises(ReassemblyError, match="there is no patch 999"):
            whole.add([999], patches[:1])
        with pytest.raises(ReassemblyError, match=r"has shape \(3, 4\), wanted \(4, 4\)"):
            whole.add([4], patches[:1, :3])

    def test_a_refused_batch_leaves_nothing_behind(self) -> None:
        whole, patches, images = self.make()
        bad = patches.copy()
        bad[3, 1, 2] = np.nan
        with pytest.raises(ReassemblyError, match=r"patch 3 holds nan at its pixel \(1, 2\)"):
            whole.add(range(len(bad)), bad)
        done = whole.add(range(len(patches)), patches)
        np.testing.assert_allclose(done[0].image, images[done[0].slice_index], atol=1e-6)

    def test_windows_are_checked_at_the_start(self) -> None:
        with pytest.raises(ReassemblyError, match="given twice"):
            Reassembler([1, 1], [0, 0], [2, 2], {1: (8, 8)}, (4, 4))
        with pytest.raises(ReassemblyError, match="begins outside"):
            Reassembler([1], [8], [0], {1: (8, 8)}, (4, 4))
        with pytest.raises(ReassemblyError, match="shape of slice 2"):
            Reassembler([2], [0], [0], {1: (8, 8)}, (4, 4))


def test_seam_error_tells_seams_from_the_rest() -> None:
    coords = [(0, 0), (0, 8), (8, 0), (8, 8)]
    truth = np.zeros((16, 16))
    result = np.zeros((16, 16))
    result[7:9] = 0.5  # two rows along the border between upper and lower patches
    on_seams, elsewhere = seam_error(result, truth, coords, (8, 8), width=1)
    # Rows 7 and 8 and cols 7 and 8 are seams: 2 * 16 + 2 * 14 pixels, 32 of them wrong.
    assert on_seams == pytest.approx(math.sqrt(32 * 0.25 / 60))
    assert elsewhere == 0
    assert math.isnan(seam_error(truth[:8, :8], truth[:8, :8], [(0, 0)], (8, 8))[0])
    with pytest.raises(ValueError, match="one shape"):
        seam_error(result[:4], truth, coords, (8, 8))
