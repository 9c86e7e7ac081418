"""Sums on a device, here the CPU as torch has it, against the reference in NumPy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.core.placing import Blend
from ctpatch.core.reassembly import WINDOWS, ReassembledSlice, Reassembler, ReassemblyError, WindowName
from ctpatch.predicting.device_canvas import DeviceReassembler

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

SHAPES = {7: (12, 10), 3: (9, 9)}
GRID = [(7, row, col) for row in (0, 3, 6, 8) for col in (0, 4, 8)] + [
    (3, row, col) for row in (0, 5) for col in (0, 5)
]


def by_both(
    patches: Any, window: WindowName, channels: int, batch: int, **options: Any
) -> tuple[list[ReassembledSlice], list[ReassembledSlice]]:
    scale = options.get("scale", 1)
    owners, rows, cols = (np.array(each) for each in zip(*GRID, strict=True))
    margin = options.get("margin", 0)
    size = 4 + 2 * margin
    blend = Blend(window, **options)
    reference = Reassembler(owners, rows - margin, cols - margin, SHAPES, (size, size), window, **options)
    device = DeviceReassembler(owners, np.stack([rows, cols], 1), SHAPES, (4, 4), blend)
    assert patches.shape[1:] == (channels, 4 * scale, 4 * scale)
    stack = patches[:, 0] if channels == 1 else patches
    wanted, found = [], []
    for start in range(0, len(GRID), batch):
        numbers = list(range(start, min(start + batch, len(GRID))))
        wanted += reference.add(numbers, stack[numbers])
        found += device.add(numbers, stack[numbers])
    device.finish()
    return wanted, found


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(WINDOWS),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 2),
    st.integers(0, 2),
    st.sampled_from(["float32", "float64", "float16", "bfloat16"]),
    st.booleans(),
)
def test_it_gives_what_the_reference_gives(
    window: WindowName, channels: int, batch: int, scale: int, margin: int, dtype: str, argmax: bool
) -> None:
    patches = torch.from_numpy(np.random.default_rng(batch).normal(size=(len(GRID), channels, 4 * scale, 4 * scale)))
    options: dict[str, Any] = {"scale": scale, "margin": margin, "fill": 3, "argmax": argmax and channels > 1}
    wanted, found = by_both(patches.to(getattr(torch, dtype)), window, channels, batch, **options)
    assert [each.slice_index for each in found] == [7, 3]
    for one, other in zip(wanted, found, strict=True):
        assert (one.slice_index, one.uncovered) == (other.slice_index, other.uncovered)
        assert one.image.dtype == other.image.dtype
        np.testing.assert_allclose(other.image, one.image, rtol=0, atol=0 if options["argmax"] else 1e-6)


def test_uncovered_pixels_are_nan_or_refused() -> None:
    patches = torch.ones((len(GRID), 2, 4, 4)) * 0.5
    wanted, found = by_both(patches, "hann", 2, 5)
    np.testing.assert_array_equal(found[0].image, wanted[0].image)
    assert found[1].uncovered == 9 * 9 - 8 * 8  # row 4 and col 4
    assert np.isnan(found[1].image).all(axis=0).sum() == found[1].uncovered
    blend = Blend("hann", argmax=True)
    scores = DeviceReassembler(np.array([3]), np.zeros((1, 2), np.int64), {3: (4, 6)}, (4, 4), blend)
    with pytest.raises(ReassemblyError, match="slice 3: no patch covers 8 of its pixels"):
        scores.add([0], patches[:1])


def test_what_is_no_number_is_found_when_its_slice_is_whole() -> None:
    patches = torch.ones((len(GRID), 1, 4, 4)) * 0.5
    patches[2, 0, 1, 1] = np.inf
    with pytest.raises(ReassemblyError, match=r"slice 7: the patches on its pixel \(1, 9\) hold NaN or infinity"):
        by_both_device_only(patches)


def by_both_device_only(patches: Any) -> None:
    owners, rows, cols = (np.array(each) for each in zip(*GRID, strict=True))
    device = DeviceReassembler(owners, np.stack([rows, cols], 1), SHAPES, (4, 4), Blend("hann"))
    device.add(list(range(len(GRID))), patches[:, 0])


def test_class_numbers_in_floats_bring_the_warning() -> None:
    patches = torch.arange(len(GRID)).reshape(-1, 1, 1).expand(-1, 4, 4).float()
    owners, rows, cols = (np.array(each) for each in zip(*GRID, strict=True))
    device = DeviceReassembler(owners, np.stack([rows, cols], 1), SHAPES, (4, 4), Blend("hann"))
    with pytest.warns(UserWarning, match="the patches hold only whole numbers"):
        device.add(list(range(len(GRID))), patches)


def test_patches_that_have_not_come_are_counted() -> None:
    device = DeviceReassembler(np.array([0, 0]), np.array([[0, 0], [0, 2]]), {0: (4, 6)}, (4, 4), Blend("hann"))
    device.add([0], torch.ones((1, 4, 4)))
    with pytest.raises(ReassemblyError, match="1 patches have not come"):
        device.finish()
