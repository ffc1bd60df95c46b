"""Pictures of weights through time: their marks, errors, axes and words."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles
from tests.plots.synthetic import LAYERS
from tests.plots.weights import tables

FEW = np.array([0, 10, 100, 1_000])


def values(chart, name: str) -> list[float]:
    """Every value of a field in the chart's data."""
    [*parts] = chart.to_dict()["datasets"].values()
    return [row[name] for rows in parts for row in rows if row.get(name) is not None]


def test_displacement_has_a_line_and_a_band_per_layer_and_the_line_of_rounding() -> None:
    chart = plots.displacement(tables.displacement(steps=FEW))
    marks = drawn(chart)
    assert marks["line"] == LAYERS + 1 and marks["area"] == LAYERS
    assert marks["symbol"] == 3 * LAYERS  # the reference is not drawn
    assert titles(chart, "x") == {"step"} and titles(chart, "y") == {"relative distance from the reference"}
    assert selections(chart) == {"picked_layer", "zoom"}
    assert set(values(chart, "floor")) == {0.0023}
    low, high = (np.array(values(chart, name)) for name in ("low", "high"))
    assert (low < high).all() and (low > 0).all()
    fine = drawn(plots.displacement(tables.displacement(floor=3e-8, steps=FEW)))
    assert fine["line"] == LAYERS  # rounding of float32 is far below


@pytest.mark.parametrize("y", ["distance", "angle", "cosine", "successive_cosine"])
def test_every_column_of_the_table_is_drawn(y: str) -> None:
    chart = plots.displacement(tables.displacement(steps=FEW), y, x="tokens")
    assert drawn(chart)["area"] == LAYERS
    assert "Grey" not in subtitle(chart)
    outside = tables.displacement(steps=FEW).with_columns(layer=pl.col("layer").replace(0, None))
    assert "Grey lines lie outside the blocks." in subtitle(plots.displacement(outside, y))
    few = tables.displacement(steps=FEW).with_columns(concentrated=pl.col("layer") == 0)
    told = re.search(r"(\d+) of (\d+) intervals are too narrow", subtitle(plots.displacement(few, y)))
    assert told and int(told[2]) == LAYERS * int(told[1])


def test_the_plane_has_one_scale_on_both_axes_and_names_its_shares() -> None:
    chart = plots.weight_path(tables.path())
    spec = chart.to_dict()
    x, y = (next(encodings(spec, channel)) for channel in "xy")
    ends = [np.ptp(each["scale"]["domain"]) for each in (x, y)]
    assert ends[0] / spec["width"] == pytest.approx(ends[1] / spec["height"], rel=0.01)
    assert x["title"] == "component 1: 70 ± 2 % of the variance"
    assert y["title"] == "component 2: 20 ± 1 % of the variance"
    assert "The plane holds 90 % of the variance over revisions; 10 % is not shown." in subtitle(chart)
    marks = drawn(chart)
    assert (marks["line"], marks["symbol"], marks["text"]) == (1, len(tables.STEPS) + 1, 2)


def test_lines_of_training_and_runs_have_colours_of_their_own() -> None:
    lines = plots.weight_path(tables.path(("stage1", "stage1/fork")))
    seeds = plots.weight_path(tables.path(("stage1", "stage1"), run=True), components=(1, 3))
    for chart, names in ((lines, ["stage1", "stage1/fork"]), (seeds, ["seed0", "seed1"])):
        color = next(found for found in encodings(chart.to_dict(), "color") if "field" in found)
        assert color["scale"]["domain"] == names
        assert drawn(chart)["line"] == 2 and "picked_training" in selections(chart)


def test_the_similarity_map_is_square_and_in_training_order() -> None:
    chart = plots.weight_similarity(tables.pairs(FEW))
    assert drawn(chart)["rect"] == len(FEW) ** 2
    order = [next(encodings(chart.to_dict(), channel))["sort"] for channel in "xy"]
    assert order[0] == order[1] == ["0", "10", "100", "1000"]
    assert re.search(r"Standard errors are at most 0\.\d+\.", subtitle(chart))
    assert "Values are exact." in subtitle(
        plots.weight_similarity(tables.pairs(FEW).with_columns(distance_se=0.0), "distance")
    )


def test_a_fan_has_a_line_per_proven_value() -> None:
    chart = plots.singular_values(tables.singular_values())
    assert drawn(chart)["line"] == 2 * 30
    assert chart.to_dict()["facet"]["sort"] == ["q_proj", "down_proj"]
    one = plots.singular_values(tables.singular_values(("q_proj",)))
    assert one.to_dict()["title"]["text"] == ["The 30 largest singular values of q_proj"]


def test_the_optimizers_panels_share_the_layers() -> None:
    chart = plots.optimizer_panel(tables.optimizer())
    assert drawn(chart)["line"] == 5 * LAYERS
    assert selections(chart) >= {"picked_layer", "shown"}
    alone = plots.optimizer_panel(tables.optimizer(("q_proj",)).drop("eps_dominance"), style=Style(note="a note"))
    assert drawn(alone)["line"] == 4 * LAYERS and "shown" not in selections(alone) and "a note" in subtitle(alone)


def test_predictions_are_dashed_beside_what_was_measured() -> None:
    chart = plots.embedding_decay(tables.embedding_decay())
    marks = drawn(chart)
    assert (marks["line"], marks["symbol"]) == (2, len(tables.STEPS))
    assert "Largest relative difference: 0.001." in subtitle(chart)
    turned = plots.rotation(tables.rotation(), x="tokens")
    settled = int((tables.STEPS > 30_000).sum())
    assert (
        sum(row["kind"] == "predicted" for rows in turned.to_dict()["datasets"].values() for row in rows)
        == 2 * LAYERS * settled
    )
    assert turned.to_dict()["facet"]["sort"] == ["q_proj", "down_proj"] and selections(turned) == {
        "picked_layer",
        "zoom",
    }
    assert drawn(turned)["line"] == 2 * 2 * LAYERS


@pytest.mark.parametrize(("draw", "message"), [
    (lambda: plots.displacement(tables.displacement(), "step"),
     "y must be distance, relative, angle, cosine, successive_cosine (got 'step')"),
    (lambda: plots.displacement(tables.displacement(steps=FEW[:1])),
     "every revision is at distance 0 of its reference, so there is nothing to draw; take another"),
    (lambda: plots.weight_path(tables.path(), components=(1, 4)), "components must be two of 1, 2, 3 (got (1, 4))"),
    (lambda: plots.weight_path(pl.concat([tables.path(), tables.path().with_columns(group=pl.lit("0"))])),
     "weight_path() needs one group (got 2); filter the table"),
    (lambda: plots.weight_similarity(tables.pairs(FEW), "step"), "value must be cosine, angle or distance (got 'step')"),
    (lambda: plots.weight_similarity(pl.concat([tables.pairs(FEW), tables.pairs(FEW).with_columns(group=pl.lit("0"))])),
     "weight_similarity() needs one group (got 2); filter the table"),
    (lambda: plots.weight_similarity(tables.pairs(np.arange(121))),
     "a map can have at most 120 revisions a side (got 121); choose fewer"),
    (lambda: plots.singular_values(pl.concat([tables.singular_values()] * 2)),
     "a fan needs one value per revision, matrix and rank (got several); filter the table"),
    (lambda: plots.optimizer_panel(tables.optimizer().select("revision", "step", "tokens", "tensor", "layer", "role")),
     "the table must hold values of exp_avg_rms, exp_avg_sq_mean, update_rms, signal_to_noise, eps_dominance to draw (got none)"),
])  # fmt: skip
def test_refusals(draw, message: str) -> None:
    with pytest.raises(OptionError) as told:
        draw()
    assert str(told.value) == message
