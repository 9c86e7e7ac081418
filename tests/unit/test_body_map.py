"""The patient in a slice, against patients whose outline was drawn, and by what holds for any slice."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctpatch.core.statistics.api import window_statistics
from ctpatch.core.statistics.body import body_map
from ctpatch.core.statistics.columns import Levels
from ctpatch.errors import UsageError
from helpers import data_folder, refusal
from patients import AIR, FOAM, LUNG, SHELL, SOFT, Hu, Mask, Scene, unit

pytest.importorskip("scipy.ndimage", reason="scipy is not installed")

LEVELS = Levels(-942.0, -500.0)
UNIT_LEVELS = Levels(0.02, 0.128)


def overlap(found: Mask, truth: Mask) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / (found | truth).sum())


def supine() -> Scene:
    return Scene().torso().arms().table().blanket().noise()


def head() -> Scene:
    scene = Scene()
    scene.put(scene.at(0.45, 0.5, 0.3, 0.24), SOFT, patient=True).put(
        scene.at(0.45, 0.5, 0.28, 0.22), 900, patient=True
    )
    scene.put(scene.at(0.45, 0.5, 0.25, 0.19), 35, patient=True)
    scene.put(scene.at(0.25, 0.5, 0.04, 0.06), AIR, patient=True)  # a sinus
    holder = scene.at(0.45, 0.5, 0.36, 0.3) & ~scene.at(0.45, 0.5, 0.35, 0.29)
    holder[:128] = False
    return scene.put(holder, SHELL, patient=False).noise()


def obese() -> Scene:
    """Wider than the field of view, which is a circle with padding around it."""
    scene = Scene().torso(wide=0.56, tall=0.36, row=0.48).table(row=0.84).noise()
    outside = ~scene.at(0.5, 0.5, 0.5, 0.5)
    scene.hu[outside], scene.truth[outside] = -3024, False
    return scene


def legs() -> Scene:
    scene = Scene()
    for col in (0.3, 0.68):
        scene.put(scene.at(0.5, col, 0.12, 0.11), SOFT, patient=True).put(
            scene.at(0.5, col, 0.04, 0.04), 900, patient=True
        )
    return scene.table(row=0.625).noise()


def cropped() -> Scene:
    """The middle of a chest: both lungs are cut by the border, and so is the table."""
    scene = supine()
    scene.hu, scene.truth = scene.hu[40:216, 70:180], scene.truth[40:216, 70:180]
    return scene


def thin_wall() -> Scene:
    """A chest whose wall is 2 pixels thick beside the lung, where the opening takes it."""
    scene = Scene().torso()
    return scene.put(scene.at(0.5, 0.263, 0.13, 0.093) & scene.truth, LUNG, patient=True).noise(5)


@pytest.mark.parametrize(
    ("draw", "least"),
    [(supine, 0.975), (head, 0.995), (obese, 0.99), (legs, 0.99), (cropped, 0.98), (thin_wall, 0.995)],
)
def test_the_patient_is_found_and_nothing_else(draw: Callable[[], Scene], least: float) -> None:
    scene = draw()
    found = body_map(scene.hu.astype(np.float32), LEVELS)
    assert found.dtype == np.bool_
    assert found.shape == scene.hu.shape
    assert overlap(found, scene.truth) >= least
    assert overlap(body_map(unit(scene.hu), UNIT_LEVELS), found) > 0.999  # rounding to float32


def test_lungs_windpipe_arms_count_and_table_blanket_foam_do_not() -> None:
    scene = supine()
    found = body_map(scene.hu.astype(np.float32), LEVELS)
    inner = Scene().torso()
    inside = (inner.hu == LUNG) | (inner.truth & (inner.hu == AIR))
    assert inside.sum() > 4000
    assert found[inside].all()
    arms = scene.at(0.55, 0.08, 0.06, 0.045) | scene.at(0.55, 0.92, 0.06, 0.045)
    assert found[arms].all()
    assert not found[190:].any()  # all of the table but its upper edge, which the back touches
    assert found[186:190].sum() < 100
    assert not found[:70].any()


@pytest.mark.parametrize("side", [1, 2, 7, 64])
@pytest.mark.parametrize("value", [AIR, SOFT, np.nan])
def test_slices_of_one_value(side: int, value: float) -> None:
    found = body_map(np.full((side, side), value, np.float32), LEVELS)
    assert (found == (value == SOFT)).all()


def test_a_table_without_a_patient_is_none() -> None:
    scene = Scene().table().noise()
    bar = Scene()
    bar.hu[200:216] = SHELL
    for hu in (scene.hu, bar.hu, Scene().noise(40).hu):
        assert not body_map(hu.astype(np.float32), LEVELS).any()


def test_a_patient_that_is_all_of_the_slice() -> None:
    hu = Scene().noise().hu + SOFT - AIR
    hu[100:140, 100:150] = AIR
    assert body_map(hu.astype(np.float32), LEVELS).all()


def test_foam_between_back_and_table_is_no_lung() -> None:
    scene = Scene().torso(row=0.45)
    gap = np.zeros_like(scene.truth)
    gap[int(0.55 * 256) : int(0.72 * 256), 40:216] = True
    scene.put(gap & ~scene.truth, FOAM + 60, patient=False)
    scene.hu[int(0.55 * 256) : int(0.73 * 256), 38:40] = SHELL
    scene.hu[int(0.55 * 256) : int(0.73 * 256), 216:218] = SHELL
    scene.hu[int(0.72 * 256) : int(0.72 * 256) + 2, 38:218] = SHELL
    assert overlap(body_map(scene.hu.astype(np.float32), LEVELS), scene.truth) > 0.98


@st.composite
def slices(draw: st.DrawFn) -> NDArray[np.float32]:
    """Blobs and holes of any size, at values that float32 and half of them hold exactly."""
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = rng.choice([AIR, -850.0, SOFT, 700.0], (8, 8))
    rows, cols = (np.arange(length) * 8 // length for length in shape)
    image: Hu = coarse[np.ix_(rows, cols)] + rng.integers(-200, 200, shape)
    return image.astype(np.float32)


@given(slices())
@settings(max_examples=60, deadline=None)
def test_a_mirrored_patient_is_the_mirror_of_the_patient(image: NDArray[np.float32]) -> None:
    assert np.array_equal(body_map(image[:, ::-1], LEVELS), body_map(image, LEVELS)[:, ::-1])


@given(slices(), st.sampled_from([0.25, 2.0, 1024.0]))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_the_values_changes_nothing(image: NDArray[np.float32], factor: float) -> None:
    scaled = (image * np.float32(factor)).astype(np.float32)
    levels = Levels(LEVELS.air * factor, LEVELS.body * factor)
    assert np.array_equal(body_map(scaled, levels), body_map(image, LEVELS))


@given(slices(), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_the_share_of_a_window_is_that_of_a_plain_loop(image: NDArray[np.float32], height: int, width: int) -> None:
    counts = image > 0
    rows = list(range(0, image.shape[0] - height + 1, 3))
    cols = list(range(0, image.shape[1] - width + 1, 2))
    if not rows or not cols:
        rows = cols = []
    found = window_statistics(image, rows, cols, (height, width), 0.0, {"body_fraction": counts}).windows
    wanted = [
        sum(bool(counts[r + i, c + j]) for i in range(height) for j in range(width)) / (height * width)
        for r in rows
        for c in cols
    ]
    assert found["body_fraction"].tolist() == wanted
    assert set(found) == {"min", "max", "mean", "std", "air_fraction", "body_fraction"}
    assert "body_fraction" not in window_statistics(image, rows, cols, (height, width), 0.0).windows


def test_without_scipy_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    message = refusal(UsageError, lambda: body_map(np.zeros((8, 8), np.float32), LEVELS))
    assert message == "body_fraction needs scipy; pip install 'ctpatch[prepare]'"


def test_real_patients() -> None:
    """Shares of the picture that were looked at in overlays, and places that no patient is in."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    files = sorted(data_folder().glob("lung_pet_ct_dx/**/*B40f*/*.dcm"))
    if not files:
        pytest.skip("no DICOM of lung_pet_ct_dx: set CTPATCH_DATA to the folder that holds it")
    for path in files[::5]:
        dataset = pydicom.dcmread(path)
        hu = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        found = body_map(hu.astype(np.float32), LEVELS)
        assert 0.35 < found.mean() < 0.58
        assert not found[-60:].any()  # table, and the metal below it
        assert not found[:60].any()
        assert (hu[found] < -500).mean() < 0.4
        assert found[230:350, 256].all()
