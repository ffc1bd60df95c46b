"""The controls of a page in a browser: selections outlive them, pinned trainings stay pinned, saved pictures are titled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import Locator

import olmo_dynamics as od
from olmo_dynamics.plots import captions, norms_panel
from olmo_dynamics.plots.page import Section, page
from tests.plots import synthetic
from tests.plots.test_browser import CHROMIUM, STEPS, Opened, faint, middle, opening

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open the page in")
TITLE = "Training dynamics of org/model"


def trainings() -> dict[str, object]:
    """Three trainings of different length."""
    return {name: synthetic.loss(STEPS[:count]) for name, count in (("first", 6), ("second", 5), ("third", 4))}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    weights = synthetic.parameters(STEPS, ("q_proj", "down_proj"))
    compared = od.compare(trainings(), "cross_entropy", domain="code").chart(pinned="second")
    sections = [
        Section("Norms", norms_panel(weights), captions.NORMS_PANEL),
        Section("Compared", compared, captions.LOSS),
    ]
    text = page(TITLE, sections, facts={"source": "org/model"})
    with opening(text, tmp_path_factory.mktemp("controls") / "report.html") as found:
        yield found


def brushed(opened: Opened) -> list[float]:
    """The interval that is brushed on the map, in steps."""
    return list(opened.signal("Norms", "brush")["start"])


def test_a_brush_a_layer_and_a_role_outlive_changes_of_the_settings(opened: Opened) -> None:
    x, y = middle(opened.marks("Norms", "rect").nth(24))
    opened.page.mouse.move(x, y)
    opened.page.mouse.down()
    opened.page.mouse.move(x + 60, y, steps=4)
    opened.page.mouse.up()
    opened.chart("Norms").locator("select").select_option("down_proj")
    opened.settle()
    before = brushed(opened)
    opened.setting("smoothing", "1")
    np.testing.assert_allclose(brushed(opened), before, rtol=1e-3)
    assert opened.chart("Norms").locator("select").input_value() == "down_proj"
    opened.setting("time", "tokens")
    assert opened.signal("Norms", "brush") == {}, "steps mean nothing on an axis of tokens"
    opened.page.mouse.click(*middle(opened.marks("Norms", "rect").nth(24)))
    opened.settle()
    [layer] = opened.signal("Norms", "picked_layer")["layer"]
    opened.setting("scale", "linear")
    assert opened.signal("Norms", "picked_layer")["layer"] == [layer]
    assert faint(opened.marks("Norms", "line")) == synthetic.LAYERS - 1
    opened.page.get_by_role("button", name="Reset").click()
    opened.page.wait_for_function("form.time.value === 'step' && form.smoothing.value === '0'")
    opened.draw()
    assert opened.signal("Norms", "picked_layer") == {} and faint(opened.marks("Norms", "line")) == 0
    assert opened.problems == []


def test_a_pinned_training_keeps_its_colour_until_a_double_click(opened: Opened) -> None:
    lines = opened.marks("Compared", "line")
    assert (lines.count(), faint(lines)) == (3, 2)
    assert opened.signal("Compared", "picked_side")["side"] == ["second"]
    opened.setting("scale", "linear")
    assert faint(lines) == 2
    dots = opened.marks("Compared", "symbol")
    opened.page.mouse.dblclick(*middle(dots.last))
    opened.settle()
    assert faint(lines) == 0
    legend = opened.chart("Compared").locator(".role-legend-label text", has_text="third")
    opened.page.mouse.click(*middle(legend))
    opened.settle()
    assert opened.signal("Compared", "picked_side")["side"] == ["third"]


def saved(opened: Opened, chart: Locator, kind: str, target: Path) -> Path:
    """The file that the menu of a picture saves."""
    chart.locator("summary").click()
    with opened.page.expect_download() as download:
        chart.get_by_text(f"Save as {kind}").click()
    download.value.save_as(target)
    chart.locator("summary").click()
    return target


def test_a_saved_picture_bears_the_heading_of_its_figure_and_the_title_of_the_page(
    opened: Opened, tmp_path: Path
) -> None:
    chart = opened.chart("Compared")
    root = ElementTree.parse(saved(opened, chart, "SVG", tmp_path / "compared.svg")).getroot()
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[-2:] == ["Compared", TITLE]
    _, top, width, height = map(float, root.attrib["viewBox"].split())
    assert (float(root.attrib["width"]), float(root.attrib["height"])) == (width, height) and top < 0
    png = saved(opened, chart, "PNG", tmp_path / "compared.png").read_bytes()
    across, down = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    drawn = opened.page.evaluate(
        "async at => { const c = await views[at].toCanvas(1); return [c.width, c.height]; }",
        opened.charts.index("Compared"),
    )
    assert across == drawn[0] and down > drawn[1] + 20
    assert abs(down - height) <= 1
