"""Charts in a notebook that was converted to HTML, in a browser with no network: with scripts, and without."""

from __future__ import annotations

import base64
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import altair as alt
import numpy as np
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import BrowserContext, Page, sync_playwright

from olmo_dynamics.plots import trajectory
from olmo_dynamics.plots.display import RENDERER, NotebookRenderer
from tests.conftest import ROOT
from tests.plots import synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
CELLS = (
    f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    "import numpy as np\nimport olmo_dynamics as od\nfrom tests.plots import synthetic\n"
    "steps = np.array([0, 10, 100, 1_000])",
    "od.plots.trajectory(synthetic.parameters(steps, ('q_proj',)), y='rms', color='layer')",
    "od.plots.loss_by_domain(synthetic.loss(steps))",
)
HTML = "text/html"
VEGA = ".waiting.splice("
"""Text of the scripts that all charts of a notebook share."""


def drawn() -> dict[str, Any]:
    """A chart as Vega-Lite, its title a hostile one."""
    table = synthetic.parameters(np.array([0, 10, 100]), ("q_proj",))
    chart = trajectory(table, y="rms", color="layer").properties(description='</script><b title="x">')
    return dict(chart.to_dict())


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An executed notebook of two charts as one HTML file; nbconvert's own scripts from servers are left out."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in CELLS])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the notebook client's own machinery
        NotebookClient(notebook, timeout=170, kernel_name="python3").execute()
        exporter = HTMLExporter(require_js_url="", mathjax_url="", jquery_url="", mermaid_js_url="")
        text, _ = exporter.from_notebook_node(notebook)
    path = tmp_path_factory.mktemp("notebook") / "notebook.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the path to open the page in")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=[*FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND"]
        )
        yield browser
        browser.close()


def opened(context: BrowserContext, path: Path) -> tuple[Page, list[str], list[str]]:
    """The page, the requests that left the machine, and its complaints."""
    page, requests, problems = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    return page, [url for url in requests if not url.startswith(("file:", "data:", "blob:"))], problems


def test_charts_are_interactive_with_no_network(browser: Any, page_file: Path) -> None:
    page, requests, problems = opened(browser.new_context(), page_file)
    page.wait_for_function("document.querySelectorAll('svg.marks').length === 2")
    assert (requests, problems) == ([], [])
    assert page.locator(".jp-OutputArea-output img").count() == 0  # each gave its place to the chart
    assert page.locator("svg.marks >> nth=0").bounding_box()["width"] > 300
    assert page_file.read_text(encoding="utf-8").count(VEGA) == 1  # one copy of the scripts for both charts


def test_without_scripts_the_static_pictures_stay(browser: Any, page_file: Path) -> None:
    page, requests, _ = opened(browser.new_context(java_script_enabled=False), page_file)
    pictures = page.locator(".jp-OutputArea-output img")
    assert (requests, pictures.count()) == ([], 2)
    sizes = [picture.bounding_box() for picture in pictures.all()]
    assert all(size["width"] > 300 and size["height"] > 150 for size in sizes)


def test_a_chart_is_html_a_picture_and_its_title() -> None:
    data, metadata = NotebookRenderer()(drawn())
    assert data["text/plain"] == '</script><b title="x">'
    width, height = metadata["image/png"]["width"], metadata["image/png"]["height"]
    size = [int.from_bytes(data["image/png"][start : start + 4], "big") for start in (16, 20)]
    assert size == [2 * width, 2 * height]  # sharp on fine screens
    source = base64.b64encode(data["image/png"]).decode()
    alternative = "&lt;/script&gt;&lt;b title=&quot;x&quot;&gt;"
    shown = f'<img alt="{alternative}" width="{width}" height="{height}" src="data:image/png;base64,{source}">'
    assert shown in data[HTML]
    scripts = re.findall(r"<script>(.*?)</script>", data[HTML], re.DOTALL)
    assert len(scripts) == 2  # Vega, and the chart: nothing in either ends its element early
    assert data[HTML].count("<script") == data[HTML].count("</script>") == 2


def test_a_cell_that_is_run_again_carries_the_scripts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer, spec, message = NotebookRenderer(), drawn(), {}
    monkeypatch.setitem(
        sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(get_parent=lambda: message))
    )

    def carries(cell: str | None, run: str) -> bool:
        message.update(metadata={"cellId": cell} if cell else {}, header={"msg_id": run})
        return VEGA in renderer(spec)[0][HTML]

    runs = [("a", "1"), ("a", "1"), ("b", "2"), ("a", "3"), ("a", "3"), ("b", "4"), (None, "5")]
    assert [carries(*each) for each in runs] == [True, False, False, True, False, False, False]


def test_another_renderer_stays_if_it_was_chosen() -> None:
    assert alt.renderers.active == RENDERER
    with alt.renderers.enable("png"):
        assert alt.renderers.active == "png"
    assert alt.renderers.active == RENDERER
