"""Pictures put together: the linked panel, and linking of one's own."""

from __future__ import annotations

import re

import numpy as np
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import layer_step_map, linked, norms_panel, trajectory
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections

FEW = np.array([0, 10, 100, 1_000, 10_000])


def test_the_panel_shows_the_same_rows_as_cells_and_as_curves() -> None:
    chart = norms_panel(synthetic.parameters(FEW, ("q_proj",)))
    marks = drawn(chart)
    assert marks["rect"] - 2 == synthetic.LAYERS * len(FEW)  # two more are the brush: its ground and its edge
    assert marks["line"] == synthetic.LAYERS
    assert selections(chart) == {"picked_layer", "brush"}


def test_the_brush_on_the_map_is_the_time_axis_of_the_curves() -> None:
    domains = [
        found["scale"].get("domain") for found in encodings(norms_panel(synthetic.parameters(FEW)).to_dict(), "x")
    ]
    assert domains[0] is None
    assert all(domain == {"param": "brush"} for domain in domains[1:])


def test_a_menu_chooses_among_the_roles() -> None:
    chart = norms_panel(synthetic.parameters(FEW, ("down_proj", "q_proj")))
    [menu] = [param for param in chart.to_dict()["params"] if param["name"] == "shown"]
    assert menu["value"] == "q_proj"
    assert menu["bind"]["options"] == ["q_proj", "down_proj"]
    assert drawn(chart)["line"] == synthetic.LAYERS


def test_linked_charts_share_the_selection_of_a_layer() -> None:
    table = synthetic.parameters(FEW).filter(role="q_proj")
    chart = linked(layer_step_map(table, "rms"), trajectory(table, "rms"))
    assert drawn(chart)["rect"] == synthetic.LAYERS * len(FEW)
    [pick] = [param for param in chart.to_dict()["params"] if param["name"] == "picked_layer"]
    assert len({view.split("_")[1] for view in pick["views"]}) == 2
    assert "config" in chart.to_dict()


def test_linking_leaves_the_charts_as_they_were() -> None:
    chart = trajectory(synthetic.logits(), "lse_mean")
    before = chart.to_dict()
    linked(chart, chart)
    assert chart.to_dict() == before


def test_nothing_cannot_be_linked() -> None:
    message = "linked() needs at least one chart (got none)"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        linked()
