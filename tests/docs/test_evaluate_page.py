"""The numbers in docs/evaluate.md are those that its code finds."""

import re
from pathlib import Path
from typing import Any

import pytest

from ctpatch.phantom.slices import write_phantom

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install ctpatch[evaluate]")

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"


def test_the_same_pair_under_four_conventions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    write_phantom(tmp_path / "ctpatch-demo")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "conventions = [" in block]
    names: dict[str, Any] = {}
    exec("import numpy as np\nimport ctpatch\n" + code, names)
    found = [(f"{psnr:.2f}", f"{ssim:.4f}") for psnr, ssim in names["conventions"]]
    rows = re.findall(r"\| (\d+\.\d\d) \| (\d\.\d{4}) \|$", text, re.MULTILINE)
    assert rows == found
    lowest, highest = float(rows[0][0]), float(rows[-1][0])
    assert f"{highest - lowest:.0f} dB lie between the first and the last" in text
