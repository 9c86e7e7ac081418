"""From HU to [0, 1], and from one grid of pixels to another, against references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctpatch.core.attenuation import MU_MAX
from ctpatch.errors import ConfigError, SliceError
from ctpatch.prepare.geometry import Geometry, whole_numbers
from ctpatch.prepare.values import PRESETS, STORED, choose_mapping


@pytest.mark.parametrize(
    ("name", "zero", "one"),
    [
        ("full", -1024, 3072),
        ("abdomen", -160, 240),
        ("lung", -1350, 150),
        ("liver", 50 - 200, 50 + 200),
        ("brain", 40 - 40, 40 + 40),
    ],
)
def test_windows_of_the_presets(name: str, zero: float, one: float) -> None:
    hu = np.array([[zero - 500, zero, (zero + one) / 2, one, one + 500]], np.float32)
    np.testing.assert_array_equal(PRESETS[name].apply(hu), np.array([[0, 0, 0.5, 1, 1]], np.float32))


def test_lodopab_is_that_of_its_technical_reference() -> None:
    assert pytest.approx(81.35858, abs=1e-9) == MU_MAX
    unit = PRESETS["lodopab"].apply(np.array([[-1100, -1000, 0, 3071, 4000]], np.float32))
    np.testing.assert_allclose(unit, [[0, 0.000246, 0.245825, 1, 1]], atol=5e-7)
    back = (unit[0, 1:4].astype(np.float64) * 81.35858 - 20) / 0.01998
    np.testing.assert_allclose(back, [-1000, 0, 3071], atol=2e-3)


@given(
    low=st.floats(-3000, 3000), width=st.floats(1, 6000), hu=st.lists(st.floats(-4000, 4000), min_size=1, max_size=20)
)
def test_any_window_is_the_formula(low: float, width: float, hu: list[float]) -> None:
    image = np.array([hu], np.float32)
    unit = choose_mapping((low, low + width), None).apply(image)
    assert unit.dtype == np.float32
    wanted = [min(max((float(value) - low) / ((low + width) - low), 0.0), 1.0) for value in image[0]]
    np.testing.assert_allclose(unit[0], wanted, rtol=1e-6, atol=1e-7)


def test_stored_values_stay() -> None:
    image = np.random.default_rng(0).random((5, 5), dtype=np.float32)
    np.testing.assert_array_equal(STORED.apply(image), image)


@pytest.mark.parametrize("window", [(0.0, 0.0), (10.0, -10.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_window_that_is_none_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="wanted the lowest and then a higher HU"):
        choose_mapping(window, None)


def test_window_and_preset_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="both given"):
        choose_mapping((0, 1), "lung")
    with pytest.raises(ConfigError, match="'bone' is not known, wanted one of full, abdomen"):
        choose_mapping(None, "bone")


def test_crop_takes_the_middle() -> None:
    image = np.arange(7 * 9).reshape(7, 9)
    cropped = Geometry(crop=(3, 4)).apply(image, None, labels=False)
    assert cropped.tolist() == [[20, 21, 22, 23], [29, 30, 31, 32], [38, 39, 40, 41]]


def test_resampling_keeps_the_field_of_view_and_a_slope() -> None:
    geometry = Geometry(spacing_mm=(0.5, 0.5))
    rows, cols = np.mgrid[0:40, 0:60].astype(np.float32)
    image = (2 * rows + 3 * cols).astype(np.float32)
    shape, spacing = geometry.resampled((40, 60), (1.0, 1.0))
    assert (shape, spacing) == ((80, 120), (0.5, 0.5))
    finer = geometry.apply(image, (1.0, 1.0), labels=False)
    # pixel centres: fine pixel k lies at (k + 0.5) / 2 - 0.5 of the coarse grid
    at = (np.arange(120) + 0.5) / 2 - 0.5
    wanted = 2 * at[:80, None] + 3 * at[None, :]
    np.testing.assert_allclose(finer[2:-2, 2:-2], wanted[2:-2, 2:-2], atol=1e-3)
    assert finer.dtype == np.float32


def test_coarser_is_smoothed_first_and_masks_are_not() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((128, 128)).astype(np.float32)
    geometry = Geometry(spacing_mm=(4.0, 4.0))
    assert geometry.apply(noise, (1.0, 1.0), labels=False).std() < 0.5
    labels = rng.integers(0, 5, (128, 128)).astype(np.float32) * 7
    small = geometry.apply(labels, (1.0, 1.0), labels=True)
    assert small.shape == (32, 32)
    assert set(np.unique(small)) <= {0, 7, 14, 21, 28}


def test_what_cannot_be_brought_there_is_said() -> None:
    assert Geometry(crop=(362, 362)).fault((300, 512), None) == (
        "smaller-than-crop",
        "it has 300x512 pixels, the crop wants 362x362",
    )
    fault = Geometry(spacing_mm=(1, 1)).fault((300, 512), None)
    assert fault is not None
    assert fault[0] == "no-spacing"
    too_large = Geometry(spacing_mm=(1e-6, 1e-6)).fault((512, 512), (1.0, 1.0))
    assert too_large is not None
    assert too_large[0] == "too-large"


@pytest.mark.parametrize("options", [{"crop": (0, 5)}, {"crop": (5, 99999)}, {"spacing_mm": (0.0, 1.0)}])
def test_sizes_that_make_no_sense_are_refused(options: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        Geometry(**options)  # type: ignore[arg-type]


def test_masks_are_whole_numbers() -> None:
    mask = whole_numbers(np.array([[0.0, 117.0], [-1.0, 3.0]], np.float32), "m")
    assert (mask.dtype, mask.tolist()) == (np.dtype(np.int16), [[0, 117], [-1, 3]])
    for wrong in (0.5, np.nan, 40000.0):
        with pytest.raises(SliceError, match="at row 1, col 0; wanted whole numbers"):
            whole_numbers(np.array([[0, 1], [wrong, 1]], np.float32), "m")
