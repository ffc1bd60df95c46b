"""Loads of experts, saturation, specialisation."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style, domain_specialisation, expert_load, saturation
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.table import drawable
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Quantity
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles

FEW = np.array([0, 100, 1_000, 10_000])


def test_every_expert_of_every_layer_and_revision_is_a_cell() -> None:
    chart = expert_load(synthetic.expert_shares(FEW))
    assert drawn(chart)["rect"] == 3 * 16 * len(FEW)
    assert chart.to_dict()["facet"]["sort"] == ["layer 0", "layer 5", "layer 11"]
    assert titles(chart, "y") == {"expert"}
    assert titles(chart, "color") == {"['load over mean']"}
    assert subtitle(chart) == "load over the mean = N_i / (N k / E). 4 revisions, step 0 to 10,000. ↑ expert, → step"


def test_one_layer_is_one_map_that_zooms() -> None:
    chart = expert_load(synthetic.expert_shares(FEW, layers=(3,)), x="tokens")
    assert drawn(chart)["rect"] == 16 * len(FEW)
    assert selections(chart) == {"zoom"}
    assert titles(chart, "x") == {"tokens seen"}


def test_loads_are_relative_to_the_mean() -> None:
    chart = expert_load(synthetic.expert_shares(FEW, layers=(3,)))
    [rows] = chart.to_dict()["datasets"].values()
    by_step: dict[int, list[float]] = {}
    for row in rows:
        by_step.setdefault(row["step"], []).append(row["load_over_mean"])
    assert by_step[0] == [1.0] * 16  # all alike at the beginning
    assert all(np.mean(loads) == pytest.approx(1, rel=1e-5) for loads in by_step.values())


def test_saturation_is_a_line_a_layer_and_a_dashed_one() -> None:
    chart = saturation(synthetic.settled(FEW), style=Style(probe_tokens=99))
    marks = drawn(chart)
    assert marks["line"] == synthetic.LAYERS
    assert "rule" in marks and marks["text"] == 1
    assert selections(chart) == {"picked_layer", "zoom"}
    assert "saturation" in titles(chart, "y")
    assert subtitle(chart).endswith("4 revisions, step 0 to 10,000. The reference is main. Probe of 99 tokens.")


def test_specialisation_has_a_row_a_domain_and_a_column_a_layer() -> None:
    chart = domain_specialisation(synthetic.specialisation())
    marks, spec = drawn(chart), chart.to_dict()
    panels = 3 * len(synthetic.DOMAINS)
    assert marks["rect"] == 16 * panels
    assert "rule" in marks
    assert spec["facet"]["row"]["sort"] == list(synthetic.DOMAINS)
    assert spec["facet"]["column"]["sort"] == ["layer 0", "layer 5", "layer 11"]
    [rows] = spec["datasets"].values()
    assert [row["baseline"] for row in rows] == pytest.approx([4 / 16] * len(rows))
    assert next(encodings(spec, "x"))["axis"]["values"] == list(range(0, 16, 2))


def test_specialisation_needs_no_step() -> None:
    main = synthetic.specialisation().with_columns(step=pl.lit(None, pl.Int64), tokens=pl.lit(None, pl.Int64))
    assert drawn(domain_specialisation(main))["rect"] > 0


def test_several_revisions_are_refused_where_one_is_drawn() -> None:
    one = synthetic.specialisation()
    two = pl.concat([one, one.with_columns(revision=pl.lit("main"))])
    message = "domain_specialisation() needs exactly one revision (got 2); filter the table"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        domain_specialisation(two)


def test_two_loads_of_one_expert_are_refused() -> None:
    table = synthetic.expert_shares(FEW)
    message = "a map needs one value of 'load_over_mean' per expert and step (got several); filter the table"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        expert_load(pl.concat([table, table]))


@pytest.mark.parametrize("draw", [expert_load, saturation, domain_specialisation])
def test_another_table_is_refused(draw: object) -> None:
    with pytest.raises(OptionError, match=r"^the table must have a column '(layer|domain)' \(got "):
        draw(synthetic.logits())  # type: ignore[operator]


def test_a_column_that_says_expert_of_no_row_is_not_drawn() -> None:
    dense = synthetic.parameters(FEW).with_columns(expert=pl.lit(None, pl.Int64))
    assert "expert" not in drawable(dense, "rms", x="step").frame.columns
    assert "expert" in drawable(synthetic.expert_shares(FEW), "value", x="step").frame.columns


def test_colours_of_loads_part_at_the_fair_share() -> None:
    frame = pl.DataFrame({"load_over_mean": [0.001, 4.0]})
    scale = magnitude_color(frame, "load_over_mean", Quantity("load_over_mean", "", "load", (), "", "")).to_dict()[
        "scale"
    ]
    assert (scale["type"], scale["domain"], scale["clamp"]) == ("log", [0.1, 10.0], True)
    near = magnitude_color(frame, "load_over_mean", find("experts/cosine"), scale="linear").to_dict()["scale"]
    assert near["domain"] == [-4.0, 4.0]
