"""The training example: it runs as a user runs it, makes slices better, and says by how much."""

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.phantom.slices import PhantomSplit, write_phantom
from example_files import example_module

torch = pytest.importorskip("torch", reason="the example trains with PyTorch, which is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "denoise.py"


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    with example_module("denoise", torch) as module:
        yield module


def small_data(folder: Path) -> None:
    splits = [PhantomSplit("train", 1, 2), PhantomSplit("test", 1, 1)]
    write_phantom(folder / "data", splits=splits, size=160)


def test_sixty_steps_of_training_make_slices_better(tmp_path: Path) -> None:
    splits = [PhantomSplit("train", 4, 6), PhantomSplit("test", 2, 1)]
    write_phantom(tmp_path / "data", splits=splits)
    folders = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    command = [sys.executable, str(EXAMPLE), "--steps", "60", "--batch-size", "4", *folders]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # tests run beside each other
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout
    report: dict[str, Any] = json.loads((tmp_path / "out" / "denoise.json").read_text(encoding="utf-8"))
    before = report["low dose"]

    assert before["psnr"] == pytest.approx(32.85, abs=0.01)  # the phantom is the same everywhere
    assert report["steps"] == 60
    for name in ("no overlap", "uniform", "hann"):
        assert report[name]["psnr"] > before["psnr"] + 0.4, printed
    for name in ("low dose", "no overlap", "uniform", "hann"):
        assert f"\n{name:<12}{report[name]['psnr']:>9.2f}" in printed

    if importlib.util.find_spec("skimage") is None:
        assert report["hann"]["ssim"] is None
        assert "no SSIM" in printed
    else:
        assert before["ssim"] == pytest.approx(0.9358, abs=0.001)
        assert report["hann"]["ssim"] > before["ssim"]
    picture = tmp_path / "out" / "denoise.png"
    if importlib.util.find_spec("matplotlib") is None:
        assert "no picture" in printed
    else:
        width, height = struct.unpack(">II", picture.read_bytes()[16:24])
        assert (width, height) == (1120, 600)


def test_steps_and_seed_decide_the_result(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where scikit-image and matplotlib are missing, it says so and goes on."""
    monkeypatch.setattr(example, "METRICS", None)
    monkeypatch.setattr(example, "PLOT", None)
    small_data(tmp_path)
    reports = []
    for seed in ("0", "0", "1"):
        options = ["--steps", "3", "--batch-size", "4", "--seed", seed, "--data", str(tmp_path / "data")]
        example.main([*options, "--out", str(tmp_path)])
        reports.append(json.loads((tmp_path / "denoise.json").read_text(encoding="utf-8")))
    assert reports[0] == reports[1]
    assert reports[0]["steps"] == 3
    assert reports[0]["hann"] != reports[2]["hann"]
    assert reports[0]["hann"]["ssim"] is None
    printed = capsys.readouterr().out
    assert printed.count("no SSIM") == printed.count("no picture") == 3
    assert not (tmp_path / "denoise.png").exists()


def test_neighbours_count_nothing_at_first(example: ModuleType) -> None:
    """The first layer of an untrained network looks at the middle slice alone, which it gives back."""
    model = example.Denoiser(context=1)
    stack = torch.rand(2, 3, 8, 8)
    other = stack.clone()
    other[:, [0, 2]] = torch.rand(2, 2, 8, 8)
    first = model.body[0]
    assert torch.equal(first(stack), first(other))
    assert first.weight[:, 1].std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.2)
    assert torch.equal(model(stack), stack[:, 1:2])


def test_a_stack_has_the_neighbours_of_its_series(example: ModuleType, tmp_path: Path) -> None:
    write_phantom(tmp_path / "data", splits=[PhantomSplit("train", 1, 1), PhantomSplit("test", 2, 3)], size=96)
    _, test = example.cut_sets(tmp_path / "data")
    slices = [np.load(tmp_path / "data" / path) for path in test.slices["src_path"]]
    for index, wanted in [(0, (1, 0, 0)), (1, (2, 1, 0)), (2, (2, 2, 1)), (3, (4, 3, 3)), (5, (5, 5, 4))]:
        stack = example.stacked(test, index, 1)
        for found, at in zip(stack, wanted, strict=True):
            np.testing.assert_array_equal(found, slices[at])


def test_the_grid_is_still_there(example: ModuleType, tmp_path: Path) -> None:
    small_data(tmp_path)
    options = ["--steps", "3", "--batch-size", "4", "--data", str(tmp_path / "data"), "--out", str(tmp_path)]
    reports = []
    for windows in ("grid", "random"):
        example.main([*options, "--windows", windows])
        reports.append(json.loads((tmp_path / "denoise.json").read_text(encoding="utf-8")))
    assert [each["windows"] for each in reports] == ["grid", "random"]
    assert reports[0]["low dose"] == reports[1]["low dose"]
    assert reports[0]["hann"] != reports[1]["hann"]


def test_blending_takes_seams_away(example: ModuleType, tmp_path: Path) -> None:
    small_data(tmp_path)
    example.main(["--steps", "60", "--batch-size", "4", "--data", str(tmp_path / "data"), "--out", str(tmp_path)])
    report = json.loads((tmp_path / "denoise.json").read_text(encoding="utf-8"))
    before, apart, uniform, hann = (report[name] for name in ("low dose", "no overlap", "uniform", "hann"))
    assert hann["psnr"] > before["psnr"] + 0.4
    assert hann["psnr"] > uniform["psnr"] > apart["psnr"]
    seams = [each["seam_hu"] / each["inside_hu"] for each in (apart, uniform, hann)]
    assert seams[0] > 1.1
    assert seams[0] > seams[1] > seams[2]


def test_an_untrained_network_changes_nothing(example: ModuleType, tmp_path: Path) -> None:
    small_data(tmp_path)
    _, test = example.cut_sets(tmp_path / "data")
    before, results, picture = example.evaluate(example.Denoiser(), test)
    assert picture["hann"] == pytest.approx(picture["low"], abs=1e-6)
    for each in results.values():
        assert each.psnr == pytest.approx(before.psnr, abs=1e-3)


def test_numbers_are_those_of_their_definitions(example: ModuleType) -> None:
    truth = np.full((40, 40), (example.LOW + example.HIGH) / 2, np.float32)
    off = truth + np.float32(0.01 * (example.HIGH - example.LOW))  # 4 HU off everywhere: 1 % of the window
    assert example.similarity(off, truth)[0] == pytest.approx(40.0, abs=1e-3)
    assert example.windowed(np.array([[0.0, example.LOW, example.HIGH, 1.0]], np.float32)).tolist() == [[0, 0, 1, 1]]
    qualities = [example.Quality(30.0, 0.5), example.Quality(40.0, 0.7)]
    assert example.mean(qualities) == example.Quality(35.0, pytest.approx(0.6))


def test_ways_cover_the_slice(example: ModuleType) -> None:
    for config, _ in example.WAYS.values():
        covered = np.zeros((362, 362), bool)
        for row, col in ctpatch.sliding_window_coords(362, 362, config):
            covered[row : row + example.PATCH, col : col + example.PATCH] = True
        assert covered.all()
