"""The report's page in a browser: it decides as `ctpatch plan` does, fetches nothing, and runs nothing from data."""

import json
import random
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from browser import chromium, open_page, settle
from ctpatch.cli.app import main
from helpers import Prepared, build_one, change_meta, make_split

CONFIG = ctpatch.PatchConfig(
    patch_size=16,
    stride=8,
    drop=[
        "air: air_fraction > 0.5",
        "flat: std < 0.001 AND mean < 0.1 OR std / mean < 0.01",
        "middle: NOT (mean < 0.45 OR mean > 0.455) AND row BETWEEN 0 AND 8",
    ],
)
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_split(tmp_path_factory.mktemp("data"), [(40, 50)] * 6, arrays={"target": np.float32})


@pytest.fixture(scope="module")
def page(prepared: Prepared) -> Path:
    return ctpatch.report(build_one(prepared, CONFIG).folder, prepared.root / "r.html")


def kept(browser: Any) -> int:
    return int(browser.find_element("id", "kept-count").get_attribute("data-count"))


def dropped(browser: Any) -> list[int]:
    return [int(each.get_attribute("data-count")) for each in browser.find_elements("css selector", ".took")]


def planned(prepared: Prepared, options: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["plan", str(prepared.folder), *shlex.split(options), "--json"]) == 0
    (seen,) = json.loads(capsys.readouterr().out)
    rules: dict[str, Any] = seen["rules"]
    return rules


def check_against_plan(browser: Any, prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The counts on the page are those of `ctpatch plan` with the options that the page shows."""
    settle(browser)
    rules = planned(prepared, browser.find_element("id", "options").text, capsys)
    assert kept(browser) == rules["kept"]
    assert [count for count in dropped(browser) if count] == [count for count in rules["first"].values() if count]
    return rules


def test_the_page_begins_with_what_was_built(browser: Any, prepared: Prepared, page: Path) -> None:
    open_page(browser, page)
    ps = ctpatch.open(prepared.out)
    assert kept(browser) == len(ps)
    assert dropped(browser)[:3] == [rule.dropped for rule in ps.meta.drop_rules]
    options = browser.find_element("id", "options").text
    assert shlex.split(options)[:4] == ["--patch-size", "16", "--stride", "8"]
    assert shlex.split(options)[5::2] == [f"{rule.name}: {rule.condition}" for rule in CONFIG.drop]
    assert "as built" in browser.find_element("id", "change").text


def test_dragging_a_slider_decides_as_plan_does(
    browser: Any, prepared: Prepared, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from selenium.webdriver import ActionChains

    open_page(browser, page)
    before = kept(browser)
    seen = set()
    for column, share in (("mean", -0.7), ("air_fraction", -0.3), ("air_fraction", 0.5)):
        slider = browser.find_elements("css selector", f"input[type=range][data-column={column}]")[-1]
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
        width = slider.size["width"]
        # Take the slider by its handle, wherever that is, and pull it.
        at, most = int(slider.get_attribute("value")), int(slider.get_attribute("max"))
        handle = round((at / most - 0.5) * (width - 16))
        actions = ActionChains(browser, duration=20).move_to_element_with_offset(slider, handle, 0).click_and_hold()
        for _ in range(4):
            actions.move_by_offset(round(share * width / 4), 0)
        actions.release().perform()
        assert int(slider.get_attribute("value")) != at
        check_against_plan(browser, prepared, capsys)
        seen.add(kept(browser))
    assert len(seen - {before}) >= 2, "dragging changed nothing"
    browser.find_element("id", "reset").click()
    settle(browser)
    assert kept(browser) == before


def test_every_slider_at_any_stop_decides_as_plan_does(
    browser: Any, prepared: Prepared, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_page(browser, page)
    rng = random.Random(7)
    counts = set()
    for _ in range(12):
        move = """
            const [shares] = arguments;
            document.querySelectorAll('input[type=range]').forEach((slider, k) => {
              if (shares[k] === null) return;
              slider.value = Math.round(shares[k] * slider.max);
              slider.dispatchEvent(new Event('input'));
            });"""
        browser.execute_script(move, [rng.choice([None, rng.random()]) for _ in range(20)])
        boxes = browser.find_elements("css selector", "#rules input[type=checkbox]")
        browser.execute_script("arguments[0].click()", rng.choice(boxes))
        check_against_plan(browser, prepared, capsys) if browser.find_element("id", "options").text.count(
            "--drop"
        ) else None
        counts.add(kept(browser))
    assert len(counts) > 4


def test_thresholds_on_the_very_values_of_windows(
    browser: Any, prepared: Prepared, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from selenium.webdriver import Keys

    # Shares of 256 pixels are often stops themselves (0.5, 0.25, 0.75): there < and <= must be told apart.
    open_page(browser, page)
    field = browser.find_element("css selector", "input[type=number][id^=value]")
    for value in ("0.25", "0.75", "0.125", "0.5"):
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.NULL, value, "\t")
        settle(browser)
        assert f"air_fraction > {value}" in browser.find_element("id", "options").text
        check_against_plan(browser, prepared, capsys)


def test_the_keyboard_does_it_all(browser: Any, page: Path) -> None:
    from selenium.webdriver import Keys

    open_page(browser, page)
    slider = browser.find_element("css selector", "input[type=range][data-column=air_fraction]")
    at = int(slider.get_attribute("value"))
    slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert int(slider.get_attribute("value")) == at - 2
    assert float(slider.get_attribute("aria-valuetext")) < 0.5
    overlay = browser.find_element("id", "overlay")
    first = browser.find_element("css selector", "#window-facts .id").text
    overlay.send_keys(Keys.ARROW_DOWN)
    second = browser.find_element("css selector", "#window-facts .id").text
    assert first != second
    assert int(second.split("_")[2]) == int(first.split("_")[2]) + 8
    thumb = browser.find_elements("css selector", ".thumbs button")[-1]
    thumb.send_keys(Keys.ENTER)
    assert thumb.get_attribute("aria-pressed") == "true"


def test_pointing_at_a_tile_names_its_window(browser: Any, prepared: Prepared, page: Path) -> None:
    from selenium.webdriver import ActionChains

    open_page(browser, page)
    tile = browser.find_element("css selector", "#overlay rect[data-window='0']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", tile)
    ActionChains(browser).move_to_element(tile).perform()
    said = browser.find_element("id", "window-facts").text
    split, index, row, col = browser.find_element("css selector", "#window-facts .id").text.split("_")
    assert (split, row, col) == ("train", "000", "000")
    pixels = prepared.images["image"][int(index)][:16, :16].astype(float)
    assert f"std {float(f'{pixels.std():.4g}'):g}" in said
    assert f"air_fraction {float(f'{(pixels <= 0.02).mean():.4g}'):g}" in said


def test_coverage_follows_the_rules(browser: Any, page: Path) -> None:
    open_page(browser, page)
    browser.find_element("css selector", "input[value=coverage]").click()
    settle(browser)
    before = browser.find_element("id", "legend").text
    assert "% of the pixels are in a kept patch" in before
    browser.execute_script(
        "const slider = document.querySelector('input[data-column=air_fraction]');"
        "slider.value = 0; slider.dispatchEvent(new Event('input'));"
    )
    settle(browser)
    assert browser.find_element("id", "legend").text != before


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_is_wider_than_the_screen(browser: Any, page: Path, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_tables_of_several_sets_are_not_cut_off(browser: Any, tmp_path: Path) -> None:
    for split in ("train", "test"):
        folders = build_one(make_split(tmp_path, split=split), CONFIG).folder.parent
    both = ctpatch.report([folders / "train", folders / "test"], tmp_path / "r.html")
    size = {"width": 1300, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        open_page(browser, both)
        wide = "return [...document.querySelectorAll('.scroll')].map((each) => each.scrollWidth - each.clientWidth)"
        assert browser.execute_script(wide) == [0, 0]
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_programs_take_over_from_the_still_picture(browser: Any, page: Path) -> None:
    assert '<img id="still"' in page.read_text()
    open_page(browser, page)
    seen = "return document.getElementById('still') === null && document.getElementById('stage').clientWidth > 100"
    assert browser.execute_script(seen)
    shown = "return [...document.querySelectorAll('.by-script')].map((each) => getComputedStyle(each).display)"
    assert "none" not in browser.execute_script(shown)
    assert browser.execute_script("return document.querySelectorAll('#rules > :not(fieldset)').length") == 0


def test_everything_that_is_seen_has_a_name(browser: Any, page: Path) -> None:
    open_page(browser, page)
    nameless = browser.execute_script(
        """return Array.from(document.querySelectorAll("input, select, button, [role=img]")).filter((each) =>
             !each.getAttribute("aria-label") && !each.textContent.trim() && !(each.labels && each.labels.length)
           ).map((each) => each.outerHTML.slice(0, 100));"""
    )
    assert nameless == []
    assert browser.execute_script("return document.querySelectorAll('canvas[role=img]').length") > 5


def test_the_page_fetches_nothing_and_runs_only_its_own(browser: Any, page: Path) -> None:
    open_page(browser, page)
    fetched = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []
    added = (
        "const script = document.createElement('script'); script.textContent = 'window.foreign = 1';"
        "document.body.append(script); return window.foreign"
    )
    assert browser.execute_script(added) is None
    assert [each for each in browser.get_log("browser") if "Content Security Policy" in each["message"]]


def test_text_from_data_is_never_markup(browser: Any, tmp_path: Path) -> None:
    names = [f"prepared/phantoms/train/{k}{SCRIPT.replace('/', '')}.npy" for k in range(3)]
    prepared = make_split(tmp_path, columns={"patient_id": [f"{SCRIPT}{k}" for k in range(3)]})
    for k, name in enumerate(names):
        (prepared.file(k)).rename(tmp_path / name)
    text = prepared.manifest.read_text()
    for k, name in enumerate(names):
        quoted = name.replace('"', '""')
        text = text.replace(prepared.paths["image"][k], f'"{quoted}"')
    prepared.manifest.write_text(text)
    folder = build_one(
        prepared, ctpatch.PatchConfig(patch_size=16, stride=8, drop=f"air: air_fraction > 0.5 /* {SCRIPT} */")
    ).folder
    fields = ("source_manifest", "fingerprint", "source_digest", "ctpatch_version", "patch_dir")
    change_meta(folder, lambda meta: meta.update(dict.fromkeys(fields, SCRIPT)))
    page = ctpatch.report(folder, tmp_path / "r.html", data_root=tmp_path)
    assert "<script>document" not in page.read_text()
    assert 'onerror="document' not in page.read_text()
    open_page(browser, page)
    assert browser.title.endswith("- patch report")
    assert browser.execute_script("return document.scripts.length") == 3
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    shown = browser.find_element("css selector", "body").text
    assert shown.count("<script>document.title='owned'</script>") >= 5
    options = browser.find_element("id", "options").text
    assert SCRIPT in " ".join(shlex.split(options))
