"""Layer by time maps."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style, layer_step_map
from olmo_dynamics.plots.maps import cells
from olmo_dynamics.plots.theme import PLAIN
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections, titles

FEW = np.array([0, 10, 100, 1_000, 10_000])


def test_every_layer_and_revision_is_a_cell_and_nothing_outside_the_blocks_is() -> None:
    chart = layer_step_map(synthetic.activations(FEW), "kurtosis")
    assert drawn(chart)["rect"] == synthetic.LAYERS * len(FEW)
    assert selections(chart) == {"picked_layer", "zoom"}
    assert titles(chart, "y") == {"layer (0 is shallowest)"}
    assert titles(chart, "x") == {"step"}
    assert titles(chart, "color") == {"['kurtosis']"}


def test_cells_touch_their_neighbours_and_hold_their_revision() -> None:
    ends = cells(synthetic.activations(FEW), "rms", x="step", style=PLAIN).frame.filter(layer=0).sort("step")
    assert ends["start"].to_list()[1:] == pytest.approx(ends["stop"].to_list()[:-1])
    assert ((ends["start"] < ends["step"]) & (ends["step"] < ends["stop"])).all()


@pytest.mark.parametrize(
    ("ratio", "scale", "expected"), [(50.0, "auto", "linear"), (500.0, "auto", "log"), (50.0, "log", "log")]
)
def test_colours_are_logarithmic_where_the_values_span_a_factor_of_100(ratio: float, scale: str, expected: str) -> None:
    table = synthetic.activations(FEW).with_columns(kurtosis=pl.when(pl.col("layer") == 0).then(ratio).otherwise(1.0))
    color = next(encodings(layer_step_map(table, "kurtosis", style=Style(scale=scale)).to_dict(), "color"))  # type: ignore[arg-type]
    assert color["scale"].get("type", "linear") == expected
    assert color["scale"]["scheme"] == "viridis"


def test_roles_have_a_panel_each_and_share_their_colours() -> None:
    chart = layer_step_map(synthetic.parameters(FEW, ("q_proj", "up_proj")), "rms", x="tokens")
    assert drawn(chart)["rect"] == 2 * synthetic.LAYERS * len(FEW)
    assert chart.to_dict()["facet"]["sort"] == ["q_proj", "up_proj"]
    assert "color" not in chart.to_dict().get("resolve", {}).get("scale", {})


@pytest.mark.parametrize("steps", [[1_000], [0], [40, 80]])
def test_few_revisions_still_make_a_map(steps: list[int]) -> None:
    assert drawn(layer_step_map(synthetic.activations(np.array(steps)), "rms"))["rect"] == synthetic.LAYERS * len(steps)


def test_two_values_on_one_cell_are_refused() -> None:
    table = synthetic.parameters(FEW, ("q_proj", "up_proj"))
    message = "a map needs one value of 'rms' per layer and step (got several); filter the table"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        layer_step_map(table, "rms", style=Style(facet=""))


def test_a_table_without_layers_is_refused() -> None:
    message = "the table must have a column 'layer' (got revision, stage, ingredient, step, tokens, lse_mean)"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        layer_step_map(synthetic.logits(), "lse_mean")
