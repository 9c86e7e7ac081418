"""The segmentation example: what it trains finds organs, and it says how well."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.phantom.labels import ORGAN_LABELS
from ctpatch.phantom.slices import PhantomSplit, write_phantom
from example_files import example_module

torch = pytest.importorskip("torch", reason="the example trains with PyTorch, which is not installed")
pytest.importorskip("skimage", reason="the example evaluates, and scikit-image is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "segment.py"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    with example_module("segment", torch) as module:
        yield module


def small_data(folder: Path) -> Path:
    splits = [PhantomSplit("train", 2, 3), PhantomSplit("test", 1, 2)]
    write_phantom(folder / "data", "phantom-organs", splits, size=96, pairs=False, masks=True)
    return folder / "data"


def test_steps_and_seed_decide_the_result(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a few steps find the lung, the largest organ that these slices have."""
    small = ctpatch.LabelWindows(48, per_slice=8, share=0.75, labels="balanced")
    monkeypatch.setattr(example, "WINDOWS", small)
    data = small_data(tmp_path)
    reports = []
    for steps in ("40", "2", "2"):
        example.main(["--steps", steps, "--batch-size", "4", "--data", str(data), "--out", str(tmp_path)])
        reports.append(json.loads((tmp_path / "segment.json").read_text(encoding="utf-8")))
    assert reports[1] == reports[2]
    assert [each["steps"] for each in reports] == [40, 2, 2]
    assert list(reports[0]["dice"]) == list(ORGAN_LABELS)
    assert reports[0]["dice"]["lung"] > 0.5


def test_dice_is_that_of_counted_pixels(example: ModuleType, tmp_path: Path) -> None:
    """Of a model that calls all that is dark a lung, and nothing anything else."""
    data = small_data(tmp_path)

    class Dark(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, image: Any) -> Any:
            scores = torch.zeros(len(image), len(ORGAN_LABELS) + 1, *image.shape[2:])
            scores[:, 1] = torch.where(image[:, 0] < 0.1, 1.0, -1.0)
            return scores

    found = example.dice(Dark(), data)
    folder = data / "prepared" / "phantom-organs" / "test"
    both = pixels = 0
    for number in range(2):
        dark = np.load(folder / f"test_{number:06d}.npy") < 0.1
        lung = np.load(folder / f"test_mask_{number:06d}.npy") == 1
        both += int((dark & lung).sum())
        pixels += int(dark.sum() + lung.sum())
    assert found["lung"] == pytest.approx(2 * both / pixels, abs=1e-12)
    assert found["kidney"] is None  # neither predicted nor there


def test_three_of_four_windows_are_around_an_organ(example: ModuleType, tmp_path: Path) -> None:
    folder = small_data(tmp_path) / "prepared" / "phantom-organs" / "train"
    loader = ctpatch.open_slices(folder).batches(8, windows=ctpatch.LabelWindows(16, 8, share=0.75, labels="balanced"))
    assert example.WINDOWS.share == 0.75
    for batch in loader:
        assert batch.arrays["mask"].any(axis=(1, 2, 3)).sum() >= 6


def test_overlap_loss_is_dice_of_sure_scores(example: ModuleType) -> None:
    wanted = torch.tensor([[[0, 1, 1, 2]]])
    sure = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 2, 2]]]), 3).permute(0, 3, 1, 2) * 200.0
    # Label 1: one pixel of three in common; label 2: one of three; each with 1 added above and below.
    assert float(example.overlap_loss(sure, wanted)) == pytest.approx(1 - 3 / 4, abs=1e-6)
