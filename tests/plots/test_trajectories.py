"""Curves against training time."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style, trajectory
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles

FEW = np.array([0, 10, 100, 1_000, 10_000])
ROLES = ("q_proj", "down_proj")


def test_the_contracts_example_draws_a_line_for_every_tensor_in_a_panel_for_every_role() -> None:
    table = synthetic.parameters(FEW, ROLES)
    chart = trajectory(table, y="rms", color="layer")
    marks = drawn(chart)
    assert marks["line"] == 2 * synthetic.LAYERS + 3
    assert marks["symbol"] == table.height
    facet = chart.to_dict()["facet"]
    assert facet["sort"] == ["embed_tokens", "q_proj", "down_proj", "norm", "lm_head"]
    assert titles(chart, "y") == {"RMS(W)"}
    assert titles(chart, "x") == {"step"}


def test_depth_is_coloured_dark_to_light_in_order_and_what_has_no_layer_is_grey() -> None:
    color = next(encodings(trajectory(synthetic.parameters(FEW, ROLES), "rms").to_dict(), "color"))
    [when] = color["condition"] if isinstance(color["condition"], list) else [color["condition"]]
    assert when["scale"]["domain"] == [0, synthetic.LAYERS - 1]
    assert when["scale"]["scheme"]["name"] == "viridis"
    assert when["title"] == "layer" and when["legend"]["type"] == "gradient"
    assert color["value"].startswith("#")


def test_one_role_is_one_picture_with_a_legend_to_click_and_time_to_zoom() -> None:
    chart = trajectory(synthetic.parameters(FEW).filter(role="q_proj"), "rms", x="tokens")
    assert drawn(chart)["line"] == synthetic.LAYERS
    assert selections(chart) == {"picked_layer", "zoom"}
    assert titles(chart, "x") == {"tokens seen"}
    assert titles(chart, "y") == {"root mean square"}
    assert chart.to_dict()["title"]["text"] == ["Root mean square of weights (q_proj) by layer during training"]


def test_lines_of_training_without_positions_are_kept_apart_by_their_own_step() -> None:
    trunk = synthetic.logits(np.array([1_000, 2_000, 50_000]))
    branch = synthetic.logits(np.array([10, 20])).with_columns(stage=pl.lit(2), ingredient=pl.lit("1"))
    chart = trajectory(pl.concat([trunk, branch], how="vertical_relaxed"), "lse_mean")
    assert drawn(chart)["line"] == 2
    assert titles(chart, "color") == {"line of training"}
    assert titles(chart, "x") == {"step"}


def test_a_single_revision_is_drawn_as_dots() -> None:
    assert drawn(trajectory(synthetic.loss(np.array([1_000])), "cross_entropy"))["symbol"] == len(synthetic.DOMAINS)


def test_values_left_out_are_counted_under_the_title() -> None:
    table = synthetic.logits().with_columns(
        pl.when(pl.col("step") > 50_000).then(float("nan")).otherwise("lse_mean").alias("lse_mean")
    )
    chart = trajectory(table, "lse_mean")
    assert "3 values not finite." in subtitle(chart)
    assert drawn(chart)["symbol"] == 26


@pytest.mark.parametrize("facet", ["", "layer"])
def test_the_panels_can_be_chosen(facet: str) -> None:
    chart = trajectory(
        synthetic.parameters(FEW, ("q_proj",)).filter(role="q_proj"), "rms", color="role", style=Style(facet=facet)
    )
    assert ("facet" in chart.to_dict()) == (facet == "layer")
    assert drawn(chart)["line"] == synthetic.LAYERS


def test_a_colour_that_is_no_column_is_refused() -> None:
    message = "the table must have a column 'layer' (got revision, stage, ingredient, step, tokens, lse_mean)"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        trajectory(synthetic.logits(), "lse_mean", color="layer")


def test_more_panels_than_a_page_holds_are_refused() -> None:
    table = synthetic.logits(np.array([10])).join(pl.DataFrame({"feature": range(65)}), how="cross")
    message = "a figure can have at most 64 panels; 'feature' has 65 values; filter the table"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        trajectory(table, "lse_mean", style=Style(facet="feature"))
