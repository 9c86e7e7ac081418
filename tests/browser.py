"""Headless Chromium for tests of the report's page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ctpatch.testing.executors import DEADLINE

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with a fresh profile; the test is skipped where there is none."""
    pytest.importorskip("selenium", reason="selenium is not installed, so no page can be opened")
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("Chromium or its driver is not installed, so no page can be opened")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={profile}", "--window-size=1440,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        browser.set_script_timeout(DEADLINE)
        browser.set_page_load_timeout(DEADLINE)
        yield browser
    finally:
        browser.quit()


def open_page(browser: Any, page: Path) -> None:
    """Open a report from disk and wait until its programs are done; what they complain of is an error."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page.as_uri())
    script = "return document.documentElement.dataset.ready !== undefined || !document.getElementById('trouble').hidden"
    WebDriverWait(browser, DEADLINE).until(lambda it: it.execute_script(script))
    trouble = browser.execute_script("return document.getElementById('trouble').textContent")
    complaints = [trouble, *(each["message"] for each in browser.get_log("browser"))]
    assert not any(complaints), complaints


def settle(browser: Any) -> None:
    """Wait until the page has followed the last change."""
    browser.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 0)));"
    )
