"""Write `images/report.png`, the first screen of the demo's report, by a browser.

olmo-dyn demo --out cache/demo
python docs/report_picture.py cache/demo/report.html
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "report.png"
SIZE = {"width": 1440, "height": 1000}


def picture(report: Path, target: Path) -> None:
    """The first screen of a report as PNG, once its charts are drawn."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(report.absolute().as_uri())
        page.evaluate("last")
        page.screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    picture(Path(sys.argv[1]), PICTURE)
