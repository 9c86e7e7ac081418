"""The same input gives the bytes that 0.1.0 gave, in every file, whatever computes them and however many work."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from compat.cases import BUILDS, IN_PARTS, LEVELS, PHANTOM_SEED, PREPARED, RECORDED, predicted
from compat.common import differences, use_compiled, write_phantom

WANTED: dict[str, dict[str, str]] = json.loads(RECORDED.read_text())


@pytest.fixture
def _engine_as_it_was() -> Iterator[None]:
    yield
    use_compiled(None)


@pytest.mark.usefixtures("_engine_as_it_was")
@pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "numba"])
@pytest.mark.parametrize("name", BUILDS)
def test_builds(tmp_path: Path, name: str, compiled: bool) -> None:
    if use_compiled(compiled) is not compiled:
        pytest.skip("numba (ctpatch[fast]) is not installed")
    assert differences(BUILDS[name](tmp_path), WANTED[name]) == {}


@pytest.mark.parametrize("name", IN_PARTS)
def test_builds_by_two_processes(tmp_path: Path, name: str) -> None:
    assert differences(BUILDS[name](tmp_path, workers=2), WANTED[name]) == {}


@pytest.mark.parametrize("name", PREPARED)
def test_prepared_sets(tmp_path: Path, name: str) -> None:
    package, make = PREPARED[name]
    pytest.importorskip(package)
    assert differences(make(tmp_path), WANTED[name]) == {}


def test_predictions(tmp_path: Path) -> None:
    assert differences(predicted(tmp_path), WANTED["predicted"]) == {}


def test_nothing_is_recorded_that_is_not_made() -> None:
    assert set(WANTED) == {*BUILDS, *PREPARED, "predicted"}
    assert all(len(files) > 2 for files in WANTED.values())


def test_no_phantom_pixel_is_near_the_edge_between_two_levels(tmp_path: Path) -> None:
    """Else the last digit of a sine would decide which level a pixel is rounded to."""
    (folder,) = write_phantom(tmp_path, size=32, seed=PHANTOM_SEED, pairs=True)
    pixels = np.concatenate([np.load(path).astype(np.float64).ravel() for path in sorted(folder.glob("*.npy"))])
    from_edge = np.abs(pixels * LEVELS % 1 - 0.5) / LEVELS
    assert from_edge.min() > 100 * np.finfo(np.float32).eps
