"""Search in docs that were opened from a disk: each result shows the words around the match."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.conftest import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CONF = """
import sys
sys.path.insert(0, {docs!r})
extensions = ["myst_parser", "search_summaries"]
html_theme = "furo"
html_static_path = [{static!r}]
"""
PAGES = {
    "index": "# Docs\n\n```{toctree}\nfolder/weights\n```\n",
    "folder/weights": "# Weights\n\nNothing.\n\n## Shapes\n\nThe kurtosis of a Gaussian is 3 & <b>not</b> 2.\n",
}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Two pages, built with the extension."""
    source = tmp_path / "source"
    (source / "folder").mkdir(parents=True)
    docs = ROOT / "docs"
    (source / "conf.py").write_text(CONF.format(docs=str(docs), static=str(docs / "_static")), encoding="utf-8")
    for name, text in PAGES.items():
        (source / f"{name}.md").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", str(source), str(tmp_path / "built")]
    subprocess.run(command, check=True)
    return tmp_path / "built"


def test_results_show_the_words_around_a_match(built: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path to open the page in")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(f"{(built / 'search.html').as_uri()}?q=kurtosis")
        page.wait_for_selector("#search-results p.context")
        found = page.locator("#search-results ul.search > li")
        assert [each.inner_text().split("\n")[0] for each in found.all()] == ["Weights"]
        assert "The kurtosis of a Gaussian is 3 & <b>not</b> 2." in found.first.inner_text()
        browser.close()
