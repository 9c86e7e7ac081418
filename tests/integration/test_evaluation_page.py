"""The page of an evaluation: what stands on it, that it fetches and runs nothing, and what it never replaces."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from browser import chromium
from ctpatch.cli.app import main
from ctpatch.errors import ConfigError, OutputConflictError, UsageError
from evaluations import PATIENTS, pair_split, soft
from helpers import Prepared, make_split, refusal

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install ctpatch[evaluate]")
pytest.importorskip("jinja2", reason="the report's libraries are not installed: pip install ctpatch[report]")

from PIL import Image


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return pair_split(tmp_path_factory.mktemp("data"), [PATIENTS[0]] * 2 + [PATIENTS[1]] * 3)


@pytest.fixture(scope="module")
def found(made: Prepared) -> ctpatch.Evaluation:
    folder = made.folder
    return ctpatch.evaluate(folder, folder, input=folder, array="target", hu=(-160, 240), draws=100)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def pictures(text: str) -> list[tuple[str, NDArray[np.uint8]]]:
    """What each picture is called, and its pixels."""
    return [
        (name, np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))))
        for content, name in re.findall(r'src="data:image/\w+;base64,([^"]+)"[^>]* alt="([^"]+)"', text)
    ]


def test_numbers_and_worst_slices(found: ctpatch.Evaluation, tmp_path: Path) -> None:
    page = ctpatch.evaluation_page(found, tmp_path / "page.html", worst=2)
    text = page.read_text(encoding="utf-8")
    assert text.count("window -160 to 240 HU, data range 400 HU") >= 4
    assert f'<td class="number">{found["psnr"].mean:.2f}</td>' in text
    for number in found.worst(2):
        row = found.slices.row(number, named=True)
        assert f"<h3>Slice {number}, {row['patient']}</h3>" in text
        assert f"PSNR {row['psnr']:.2f} dB; SSIM {row['ssim']:.4f}; RMSE {row['rmse']:.2f} HU; gain +0.00 dB" in text
    shown = pictures(text)
    first = f"Slice {found.worst(1)[0]}, {PATIENTS[1]}"
    assert [name for name, _ in shown[:4]] == [
        f"{first}: predicted",
        f"{first}: target",
        f"{first}: predicted less target",
        f"{first}: input",
    ]
    images = found.images(found.worst(1)[0])
    grey = (images["target"] + 160) / 400 * 255
    assert np.abs(shown[1][1].astype(float) - grey).mean() < 4  # JPEG
    difference = images["predicted"] - images["target"]
    colours = shown[2][1].astype(float)
    warm = colours[..., 0] - colours[..., 2]  # orange is too high, blue too low
    assert np.corrcoef(warm.ravel(), difference.ravel())[0, 1] > 0.8


def test_the_same_evaluation_gives_the_same_bytes(found: ctpatch.Evaluation, tmp_path: Path) -> None:
    first = ctpatch.evaluation_page(found, tmp_path / "page.html").read_bytes()
    assert ctpatch.evaluation_page(found, tmp_path / "page.html").read_bytes() == first  # an earlier page is replaced
    assert b"http://" not in first.replace(b"http://www.w3.org", b"")
    assert b"<script" not in first
    assert str(tmp_path).encode() not in first


def test_nothing_else_is_replaced(found: ctpatch.Evaluation, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text("<p>mine")
    with pytest.raises(OutputConflictError, match="no page of an evaluation of ctpatch; choose another --page"):
        ctpatch.evaluation_page(found, other)
    assert "is a folder" in refusal(UsageError, lambda: ctpatch.evaluation_page(found, tmp_path))
    assert "does not exist" in refusal(UsageError, lambda: ctpatch.evaluation_page(found, tmp_path / "no" / "page"))
    assert "worst: 0" in refusal(ConfigError, lambda: ctpatch.evaluation_page(found, tmp_path / "p.html", worst=0))


def test_the_command_refuses_a_page_before_it_works(
    made: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", str(made.folder), str(made.folder), "--array", "target", "--hu", "-160", "240"]
    assert main([*words, "--page", str(tmp_path / "page.html"), "--worst", "1"]) == 0
    assert "page: " in capsys.readouterr().out
    monkeypatch.setattr("ctpatch.evaluating.api.match", lambda _sides: pytest.fail("it worked first"))
    (tmp_path / "page.html").write_text("mine")
    assert main([*words, "--page", str(tmp_path / "page.html")]) == 2
    (tmp_path / "numbers.csv").write_text("mine")
    assert main([*words, "--csv", str(tmp_path / "numbers.csv")]) == 2


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> ctpatch.Evaluation:
    """Labels 1 and 2 side by side, and the same with label 2 one column wider, taken from label 1."""
    root = tmp_path_factory.mktemp("labels")
    image = np.zeros((20, 24), np.uint8)
    image[4:12, 4:10], image[4:12, 10:16] = 1, 2
    other = image.copy()
    other[4:12, 9] = 2
    other[4:12, 15], other[12, 4:9] = 0, 1
    splits = []
    for name, mask in (("predicted", other), ("target", image)):
        split = make_split(root, images=soft(1, (20, 24)), arrays={"mask": np.uint8}, dataset=name, split="test")
        np.save(split.file(0, "mask"), mask)
        splits.append(split.folder)
    return ctpatch.evaluate(*splits, array="mask", predicted_array="mask")


def test_labels_are_coloured(labelled: ctpatch.Evaluation, tmp_path: Path) -> None:
    text = ctpatch.evaluation_page(labelled, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "distances in pixels" in text
    (_, predicted), (_, target), (_, difference) = pictures(text)
    assert (target[5, 5] == (230, 159, 0)).all()
    assert (target[5, 12] == (86, 180, 233)).all()
    assert (target[0, 0] == 0).all()
    assert (predicted[5, 9] == target[5, 12]).all()
    assert [tuple(difference[place]) for place in ((0, 0), (5, 5), (12, 4), (5, 15), (5, 9))] == [
        (0, 0, 0),
        (110, 116, 124),  # both
        (255, 160, 60),  # only predicted
        (86, 180, 233),  # only in the target
        (204, 121, 167),  # another label
    ]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_and_it_does_not_scroll_sideways(
    browser: Any, found: ctpatch.Evaluation, labelled: ctpatch.Evaluation, tmp_path: Path, width: int
) -> None:
    for each in (found, labelled):
        page = ctpatch.evaluation_page(each, tmp_path / "page.html")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)  # a window is never narrower than 500
        browser.get(page.as_uri())
        broken = browser.execute_script("return [...document.images].filter(each => !each.naturalWidth).length")
        assert broken == 0
        room = browser.execute_script("return document.documentElement.clientWidth")
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= room
        colour = browser.execute_script("return getComputedStyle(document.querySelector('.kicker')).color")
        assert colour == "rgb(86, 97, 109)"  # the policy lets the page's own styles through
        assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_text_from_data_is_escaped(tmp_path: Path) -> None:
    name = "P00000000000000aa"
    split = pair_split(tmp_path, [name] * 2)
    result = ctpatch.evaluate(split.folder, split.folder, array="target", data_range=1.0)
    object.__setattr__(result, "notes", ("<script>alert(1)</script>",))
    text = ctpatch.evaluation_page(result, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
