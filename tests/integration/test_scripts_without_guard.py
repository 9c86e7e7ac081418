"""A script that asks for worker processes and lacks `if __name__ == "__main__":` is told so, and no data are blamed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ctpatch
from helpers import SMALL, build_one, make_split

BUILD = "import ctpatch\nctpatch.build({folder!r}, ctpatch.PatchConfig(patch_size=16, stride=8), workers={workers})\n"
PREPARE = "import ctpatch\nctpatch.prepare_nifti({folder!r}, {out!r}, dataset='d', workers={workers})\n"
SENTENCE = "put what the script does under `if __name__ == '__main__':`, or use workers=1"


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(text, encoding="utf-8")
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)


def assert_told(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 1
    assert ran.stderr.count(SENTENCE) == 1, ran.stderr
    assert ran.stderr.count("Traceback") == 1, ran.stderr
    assert "UsageError" in ran.stderr
    assert "on-error" not in ran.stderr


def test_a_build_without_a_guard_says_so_and_resumes_with_one(tmp_path: Path) -> None:
    split = make_split(tmp_path / "data")
    text = BUILD.format(folder=str(split.folder), workers=2)
    assert_told(run_script(tmp_path, text))
    first, rest = text.split("\n", 1)
    guarded = run_script(tmp_path, f"{first}\nif __name__ == '__main__':\n    {rest}")
    assert guarded.returncode == 0, guarded.stderr
    assert ctpatch.verify(split.out).ok


def test_one_worker_needs_no_guard(tmp_path: Path) -> None:
    split = make_split(tmp_path / "data")
    ran = run_script(tmp_path, BUILD.format(folder=str(split.folder), workers=1))
    assert ran.returncode == 0, ran.stderr
    assert ctpatch.verify(split.out).ok


def test_a_preparation_without_a_guard_says_so(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    numpy = pytest.importorskip("numpy")
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in "ab":
        volume = numpy.linspace(-1000, 1000, 20 * 24 * 4).reshape(20, 24, 4).astype(numpy.int16)
        nibabel.save(nibabel.Nifti1Image(volume, numpy.eye(4)), raw / f"{name}.nii.gz")
    assert_told(run_script(tmp_path, PREPARE.format(folder=str(raw), out=str(tmp_path / "out"), workers=2)))


def test_a_pool_of_ones_own_is_told_too(tmp_path: Path) -> None:
    split = make_split(tmp_path / "data")
    pool = (
        "import ctpatch, multiprocessing\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "pool = ProcessPoolExecutor(1, multiprocessing.get_context('spawn'))\n"
        f"ctpatch.build({str(split.folder)!r}, ctpatch.PatchConfig(patch_size=16, stride=8), executor=pool)\n"
    )
    ran = run_script(tmp_path, pool)
    assert ran.returncode == 1
    assert SENTENCE in ran.stderr


def test_nothing_of_it_is_left_in_the_environment(tmp_path: Path) -> None:
    split = make_split(tmp_path / "data")
    before = dict(os.environ)
    build_one(split, SMALL, workers=2)
    assert dict(os.environ) == before
