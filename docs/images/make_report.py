"""Photograph the report's page into `report.png` for the README; needs Chromium, its driver and selenium.

Run it where `ctpatch demo` was run, as `python .../docs/images/make_report.py`; it writes the picture beside itself.
"""

import base64
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

import ctpatch

OUT = Path(__file__).with_name("report.png")
WIDTH, HEIGHT = 1440, 1240
DRAG = """
document.querySelector("details").open = false;
for (const [column, value] of [["air_fraction", 0.5], ["std", 0.06]]) {
  const slider = document.querySelector(`input[type=range][data-column=${column}]`);
  const field = slider.parentElement.querySelector("input[type=number]");
  field.value = value;
  field.dispatchEvent(new Event("change"));
}
"""


def main() -> None:
    """Open the demo's report, move two thresholds, and save what is seen."""
    with tempfile.TemporaryDirectory() as folder:
        page = ctpatch.report("ctpatch-demo/patches/phantom/train", Path(folder) / "report.html")
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or "chromium"
        for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}/profile"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            screen = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            browser.get(page.as_uri())
            ready = "return document.documentElement.dataset.ready !== undefined"
            WebDriverWait(browser, 30).until(lambda it: it.execute_script(ready))
            browser.execute_script(DRAG)
            browser.execute_async_script("setTimeout(arguments[0], 500)")
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        finally:
            browser.quit()
    drawn = Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB")
    drawn.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
