"""The explorer in a real JupyterLab, in a browser that reaches no other host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import sync_playwright

from olmo_dynamics.frames import RecordedStore
from tests.conftest import ROOT
from tests.plots.test_browser import CHROMIUM, FLAGS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.enable_socket,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open JupyterLab in"),
]
PATIENCE = 240_000  # milliseconds that a shared machine may take to start a kernel


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def lab(tmp_path: Path, filled: RecordedStore) -> Iterator[str]:
    """The address of a JupyterLab that serves one notebook with an explorer."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport olmo_dynamics as od\nod.explore({str(filled.path)!r})"
    )
    notebook = new_notebook(cells=[new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder = tmp_path / "lab"
    folder.mkdir()
    nbformat.write(notebook, folder / "explore.ipynb")
    port, home = free_port(), tmp_path / "home"
    environment = {**os.environ, "HOME": str(home), "JUPYTER_CONFIG_DIR": str(home), "JUPYTER_RUNTIME_DIR": str(home / "run"),
                   "JUPYTER_DATA_DIR": str(home / "data")}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.ip=127.0.0.1",
               "--IdentityProvider.token=x", f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0"]  # fmt: skip
    home.mkdir()
    with (tmp_path / "lab.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token=x", process, tmp_path / "lab.log")
            yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token=x&reset"
        finally:
            process.kill()  # asked to end, it waits for its kernels
            process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_menus_pictures_and_code(lab: str) -> None:
    blocked = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, blocked])
        page = browser.new_page(viewport={"width": 1500, "height": 1200})
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(lab)
        page.set_default_timeout(PATIENCE)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        page.locator(".jp-Notebook .cm-content").first.click()
        page.keyboard.press("Shift+Enter")
        page.locator(".vega-embed canvas, .vega-embed svg.marks").first.wait_for()
        assert "od.plots.overview(table, 'cross_entropy')" in page.locator(".olmo-dynamics-code").inner_text()
        page.get_by_label("quantity", exact=True).select_option("attention/entropy")
        page.wait_for_function(
            "() => document.querySelector('.olmo-dynamics-code').textContent.includes(\"'entropy'\")"
        )
        page.locator(".vega-embed canvas, .vega-embed svg.marks").first.wait_for()
        browser.close()
    outside = [url for url in requests if not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))]
    assert outside == []
