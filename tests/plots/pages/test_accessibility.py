"""The accessibility of a report: what axe-core finds, and the contrast of the page's colours."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from olmo_dynamics.plots import captions, loss_by_domain, norms_panel, trajectory
from olmo_dynamics.plots.page import Head, HeadLine, Section, page
from olmo_dynamics.plots.pages.small_curve import small_curve
from olmo_dynamics.plots.pages.timeline_chart import timeline_chart
from tests.plots import synthetic
from tests.plots.accessibility import faults, needs_axe, schemes
from tests.plots.test_browser import CHROMIUM, STEPS, opening
from tests.plots.test_color_vision import linear

INKS = {"ink": ("ground", "card"), "quiet": ("ground", "card"), "link": ("ground", "card"), "mark": ("card",)}
"""The colours of a page that must be seen on others."""

LEAST = {"mark": 3.0}
"""The least contrast by WCAG 2.2: 3 for graphics, and 4.5 for text."""


def report() -> str:
    """A page with a head, two chapters, and pictures of several kinds."""
    weights, losses = synthetic.parameters(STEPS, ("q_proj", "down_proj")), synthetic.loss(STEPS)
    steps = STEPS.tolist()
    marks = pl.DataFrame({"revision": [f"step{step}" for step in steps], "line": "run", "step": steps})
    rates = pl.DataFrame({"step": steps, "line": "run", "learning_rate": [1e-3] * len(steps)})
    curve = small_curve(steps, [6.0, 5.0, 4.0, 3.0, 2.5, 2.4], mark=2, words="the loss")
    head = Head(
        ["6 revisions of org/model."],
        [HeadLine("The loss falls.", "exact", "Loss", curve), HeadLine("No more.")],
        timeline_chart(marks, rates=rates, batches=None),
    )
    sections = [
        Section("Loss", loss_by_domain(losses), captions.LOSS, "Loss"),
        Section("Norms", norms_panel(weights), captions.NORMS_PANEL, "Weights"),
        Section("Curves", trajectory(weights, "rms"), captions.WEIGHT_CURVES, "Weights"),
    ]
    return page("Training dynamics of org/model", sections, facts={"source": "org/model"}, head=head)


@needs_axe
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path to open the page in")
def test_axe_finds_no_serious_fault(tmp_path: Path) -> None:
    with opening(report(), tmp_path / "report.html") as opened:
        assert faults(opened.page) == []
        opened.chart("Norms").locator("summary").click()
        opened.page.set_viewport_size({"width": 800, "height": 900})
        assert faults(opened.page) == []


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2.2, from 1 to 21."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_of_a_page_are_seen_on_its_grounds(scheme: str) -> None:
    colors = schemes()[scheme]
    found = {
        (ink, ground): contrast(colors[ink], colors[ground]) for ink, grounds in INKS.items() for ground in grounds
    }
    assert {pair: ratio for pair, ratio in found.items() if ratio < LEAST.get(pair[0], 4.5)} == {}
