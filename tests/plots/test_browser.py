"""The report page in a browser with no network: it draws, and answers to clicks and brushes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, sync_playwright

from olmo_dynamics.plots import (
    captions,
    depth_profile,
    embedding_band,
    layer_step_map,
    loss_by_domain,
    norms_panel,
    outlier_births,
    trajectory,
)
from olmo_dynamics.plots.page import Section, page
from tests.plots import synthetic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
STEPS = np.array([0, 10, 100, 1_000, 10_000, 100_000])

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open the page in")


@dataclass
class Opened:
    """An opened report, and how its charts are reached."""

    page: Page
    charts: list[str]
    problems: list[str]
    requests: list[str]

    def chart(self, name: str) -> Locator:
        """The place where a chart is drawn, scrolled into view."""
        place = self.page.locator(f"#chart-{self.charts.index(name)}")
        place.scroll_into_view_if_needed()
        return place

    def signal(self, name: str, signal: str) -> Any:
        """The value of a signal of a chart's view."""
        return self.page.evaluate("([at, name]) => views[at].signal(name)", [self.charts.index(name), signal])

    def draw(self) -> None:
        """Draw every chart, wherever the page is scrolled, and keep the views."""
        self.page.evaluate("drawAll().then(() => { window.views = figures.map(one => one.view) })")

    def setting(self, name: str, value: str) -> None:
        """Change a setting of the page, and wait until every chart shows it."""
        if name == "smoothing":
            self.page.locator("[name=smoothing]").fill(value)
        else:
            self.page.locator(f"[name={name}]").select_option(value)
        self.draw()

    def marks(self, name: str, kind: str) -> Locator:
        """The drawn marks of one kind."""
        return self.chart(name).locator(f".mark-{kind}.role-mark path")

    def settle(self) -> None:
        """Wait until every view has drawn its data."""
        self.page.evaluate("async () => { for (const view of views) await view.runAsync(); }")


def report() -> str:
    weights = synthetic.parameters(STEPS, ("q_proj", "down_proj"))
    sections = {
        "panels": (trajectory(weights, "rms"), captions.WEIGHT_CURVES),
        "curves": (trajectory(weights.filter(role="q_proj"), "rms"), captions.WEIGHT_CURVES),
        "norms": (norms_panel(weights), captions.NORMS_PANEL),
        "map": (layer_step_map(synthetic.activations(STEPS), "kurtosis"), captions.MAP),
        "depth": (depth_profile(synthetic.activations(STEPS), "rms"), captions.DEPTH),
        "births": (outlier_births(synthetic.births(STEPS, 5)), captions.BIRTHS),
        "embeddings": (embedding_band(synthetic.embedding_quantiles(STEPS)), captions.EMBEDDINGS),
        "loss": (loss_by_domain(synthetic.loss(STEPS)), captions.LOSS),
    }
    return page("A run", [Section(name, *parts) for name, parts in sections.items()], facts={"source": "org/model"})


@contextmanager
def opening(text: str, file: Path) -> Iterator[Opened]:
    """A page in a browser without a network, every chart of it drawn."""
    file.write_text(text, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1300, "height": 1200})
        tab.context.set_offline(True)
        problems: list[str] = []
        requests: list[str] = []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(file.as_uri())
        names = tab.locator("main h3").all_inner_texts()
        opened = Opened(tab, names, problems, requests)
        opened.draw()
        yield opened
        browser.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    with opening(report(), tmp_path_factory.mktemp("report") / "report.html") as found:
        yield found


def middle(mark: Locator) -> tuple[float, float]:
    """The middle of a mark on the screen, scrolled into view."""
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def faint(marks: Locator) -> int:
    """The number of marks that are drawn faint."""
    return int(marks.evaluate_all("all => all.filter(mark => Number(mark.getAttribute('opacity') ?? 1) < 0.5).length"))


def test_everything_is_drawn_without_a_request_or_a_complaint(opened: Opened) -> None:
    assert opened.problems == []
    assert [url for url in opened.requests if not url.startswith("file:")] == []
    wanted = {
        "panels": "line",
        "norms": "rect",
        "map": "rect",
        "depth": "line",
        "births": "symbol",
        "embeddings": "area",
        "loss": "text",
    }
    for name, kind in wanted.items():
        assert opened.chart(name).locator(f".mark-{kind}.role-mark").locator("path, text").count() > 1, name


def test_a_click_on_a_line_fades_the_other_layers_in_every_panel(opened: Opened) -> None:
    lines = opened.marks("panels", "line")
    before = opened.chart("panels").screenshot()
    dot = opened.chart("panels").locator(".mark-symbol.role-mark path[aria-label*='layer: 4']").last
    at = middle(dot)
    opened.page.mouse.click(*at)
    opened.settle()
    assert opened.signal("panels", "picked_layer")["layer"] == [4]
    assert faint(lines) == lines.count() - 2  # layer 4 has two roles
    assert opened.chart("panels").screenshot() != before
    opened.page.mouse.dblclick(*at)


def test_a_click_on_a_line_singles_it_out_and_a_double_click_clears(opened: Opened) -> None:
    dots = opened.marks("curves", "symbol")
    at = middle(dots.last)
    opened.page.mouse.click(*at)
    opened.settle()
    assert len(opened.signal("curves", "picked_layer")["layer"]) == 1
    assert faint(opened.marks("curves", "line")) == synthetic.LAYERS - 1
    opened.page.mouse.dblclick(*at)
    opened.settle()
    assert faint(opened.marks("curves", "line")) == 0


def test_the_wheel_zooms_along_time_only_with_ctrl(opened: Opened) -> None:
    opened.page.mouse.move(*middle(opened.marks("curves", "symbol").nth(30)))
    scrolled = opened.page.evaluate("scrollY")
    opened.page.mouse.wheel(0, -120)
    opened.page.wait_for_function("before => scrollY !== before", arg=scrolled)
    assert opened.signal("curves", "zoom") == {}
    opened.page.mouse.move(*middle(opened.marks("curves", "symbol").nth(30)))
    opened.page.keyboard.down("Control")
    opened.page.mouse.wheel(0, -300)
    opened.page.keyboard.up("Control")
    opened.page.wait_for_function("at => 'step' in views[at].signal('zoom')", arg=opened.charts.index("curves"))
    low, high = opened.signal("curves", "zoom")["step"]
    assert high - low < 100_000


def test_a_row_of_the_map_is_followed_in_the_curves_beside_it(opened: Opened) -> None:
    before = opened.chart("norms").screenshot()
    opened.page.mouse.click(*middle(opened.marks("norms", "rect").nth(20)))
    opened.settle()
    [layer] = opened.signal("norms", "picked_layer")["layer"]
    assert 0 <= layer < synthetic.LAYERS
    assert faint(opened.marks("norms", "line")) == synthetic.LAYERS - 1
    assert opened.chart("norms").screenshot() != before


def test_a_brush_over_the_map_zooms_the_curves_and_the_menu_changes_the_role(opened: Opened) -> None:
    first = opened.marks("norms", "line").first
    before = first.get_attribute("d")
    x, y = middle(opened.marks("norms", "rect").nth(24))
    opened.page.mouse.move(x, y)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 60, y, steps=4)
    opened.page.mouse.up()
    opened.settle()
    low, high = opened.signal("norms", "brush")["start"]
    assert 0 < low < high < 100_000
    zoomed = first.get_attribute("d")
    assert zoomed != before
    opened.chart("norms").locator("select").select_option("down_proj")
    opened.settle()
    assert opened.signal("norms", "shown") == "down_proj"
    assert first.get_attribute("d") != zoomed


def test_a_brush_over_features_says_which_layers_they_reach(opened: Opened) -> None:
    discs = opened.marks("births", "symbol")
    count = discs.count()
    x, y = middle(discs.first)
    opened.page.mouse.move(x - 12, y - 5)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 140, y + 8, steps=4)
    opened.page.mouse.up()
    opened.settle()
    assert opened.signal("births", "brush")["row"] == ["11"]
    assert discs.count() < count


def test_the_names_at_the_lines_are_the_legend_of_the_loss(opened: Opened) -> None:
    opened.page.mouse.click(*middle(opened.chart("loss").locator(".mark-text.role-mark text", has_text="code")))
    opened.settle()
    assert opened.signal("loss", "picked_domain")["domain"] == ["code"]
    assert faint(opened.marks("loss", "line")) == len(synthetic.DOMAINS) - 1


def test_a_mark_tells_its_numbers_when_pointed_at(opened: Opened) -> None:
    opened.page.mouse.move(*middle(opened.marks("map", "rect").nth(3)))
    told = opened.page.locator("#vg-tooltip-element.visible")
    told.wait_for()
    assert "residual_out" in told.inner_text()
    assert "kurtosis" in told.inner_text()


def test_a_picture_is_saved_as_svg_offline(opened: Opened, tmp_path: Path) -> None:
    chart = opened.chart("depth")
    chart.locator("summary").click()
    with opened.page.expect_download() as saved:
        chart.get_by_text("Save as SVG").click()
    saved.value.save_as(tmp_path / "depth.svg")
    assert saved.value.suggested_filename == "root-mean-square-of-activations-by-depth--one-line-per-revision.svg"
    assert "mark-line" in (tmp_path / "depth.svg").read_text(encoding="utf-8")


def test_the_page_is_readable_in_the_dark_and_fits_a_telephone(opened: Opened) -> None:
    opened.page.emulate_media(color_scheme="dark")
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(22, 24, 27)"
    opened.page.set_viewport_size({"width": 400, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400


def x_of(opened: Opened, name: str) -> dict[str, Any]:
    """The time axis of a chart's first line: title, ticks, and the kind of its scale."""
    at = opened.charts.index(name)
    scale = opened.page.evaluate("at => { const s = views[at].scale('x'); return [s.type, s.domain()] }", at)
    axis = opened.chart(name).locator(".role-axis").filter(has=opened.page.locator(".role-axis-title"))
    return {"kind": scale[0], "domain": scale[1], "titles": axis.locator(".role-axis-title text").all_text_contents()}


def test_the_settings_change_every_chart_over_time_and_can_be_reset(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 1300, "height": 1200})
    opened.draw()
    before = x_of(opened, "curves")
    opened.setting("time", "tokens")
    tokens = x_of(opened, "curves")
    assert before["domain"][1] < tokens["domain"][1] and "tokens seen" in tokens["titles"]
    cells = opened.page.evaluate("at => views[at].scale('x').domain()[1]", opened.charts.index("map"))
    assert cells >= tokens["domain"][1] * 0.99, "the cells of a map move along"
    opened.setting("scale", "linear")
    assert x_of(opened, "curves")["kind"] == "linear"
    opened.setting("values", "log")
    assert opened.page.evaluate("at => views[at].scale('y').type", opened.charts.index("curves")) == "log"
    opened.page.get_by_role("button", name="Reset").click()
    opened.page.wait_for_function("form.time.value === 'step' && form.values.value === ''")
    opened.draw()
    after = x_of(opened, "curves")
    assert (after["kind"], after["titles"]) == (before["kind"], before["titles"])
    assert STEPS[-1] <= after["domain"][1] < 1.1 * STEPS[-1]
    assert opened.problems == []


def test_smoothing_draws_means_over_neighbours_and_leaves_the_dots(opened: Opened) -> None:
    path = opened.marks("loss", "line").first.get_attribute("d")
    dots = opened.marks("loss", "symbol").first.get_attribute("transform")
    opened.setting("smoothing", "2")
    opened.page.wait_for_function("form.window.value === 'over 5 revisions'")
    assert opened.marks("loss", "line").first.get_attribute("d") != path
    assert opened.marks("loss", "symbol").first.get_attribute("transform") == dots
    opened.setting("smoothing", "0")
    assert opened.marks("loss", "line").first.get_attribute("d") == path


@pytest.mark.parametrize("width", [1024, 1440, 2560])
def test_figures_take_the_width_they_have_and_nothing_scrolls_sideways(opened: Opened, width: int) -> None:
    opened.page.set_viewport_size({"width": width, "height": 1200})
    opened.page.wait_for_timeout(200)
    opened.draw()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("curves", "panels", "norms"):
        drawn, place = opened.page.evaluate(
            "at => { const c = figures[at].place; return [c.querySelector('svg, canvas').getBoundingClientRect().width, "
            "c.parentElement.clientWidth]; }", opened.charts.index(name),
        )  # fmt: skip
        assert 0.9 * place - 20 <= drawn <= place, (name, width)
