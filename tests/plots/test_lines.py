"""Lines of training: one drawn line each, later stages after the first, forks from where they part."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.plots import depth_profile, expert_load, layer_step_map, loss_by_domain, norms_panel, trajectory
from olmo_dynamics.plots.lines import parents, paths
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, titles

TRAININGS = [f"stage1 → stage2/ingredient{number}" for number in "123"]


def rows_of(chart: Any, *columns: str) -> list[dict[str, Any]]:
    """The rows of the chart's first table that has the columns."""
    return next(rows for rows in chart.to_dict()["datasets"].values() if set(columns) <= set(rows[0]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["stage1", "stage2/ingredient1", "stage2/ingredient2"],
         {"stage2/ingredient1": "stage1", "stage2/ingredient2": "stage1"}),
        (["stage1/seed1", "stage1/seed2", "stage2/ingredient1/seed2"], {"stage2/ingredient1/seed2": "stage1/seed2"}),
        (["stage1", "stage2/ingredient1", "stage3"], {"stage2/ingredient1": "stage1"}),
        (["stage1", "stage3"], {"stage3": "stage1"}),
        (["run", "run/fork", "run/fork/fork"], {"run/fork": "run", "run/fork/fork": "run/fork"}),
        (["run", "seed-small-aux-2"], {}),
        (["lonely/fork"], {}),
    ],
)  # fmt: skip
def test_a_line_continues_the_one_before_that_has_no_label_of_its_own(
    lines: list[str], expected: dict[str, str]
) -> None:
    assert parents(lines) == expected


@given(st.lists(st.sampled_from(["stage1", "stage2", "stage2/ingredient1", "stage3/ingredient1", "stage1/seed2", "run",
                                 "stage1/fork", "run/fork"]), min_size=1, unique=True))  # fmt: skip
def test_every_row_is_in_a_training_and_every_training_ends_with_a_line_of_its_own(lines: list[str]) -> None:
    rows = [(line, place + 10 * number, f"{line}{place}") for number, line in enumerate(lines) for place in range(3)]
    frame = pl.DataFrame(rows, schema=["line", "position_step", "revision"], orient="row")
    whole = paths(frame, "position_step")
    assert set(whole["revision"]) <= set(frame["revision"])
    assert whole.select("path", "revision").is_unique().all()
    ends = [path.split(" → ")[-1] for path in whole["path"].unique()]
    assert len(ends) == len(set(ends))
    for (path,), part in whole.group_by("path"):
        assert set(frame.filter(line=str(path).split(" → ")[-1])["revision"]) <= set(part["revision"])


def test_a_parent_is_drawn_up_to_its_fork_and_on_its_own() -> None:
    frame = pl.DataFrame({"line": ["run"] * 4 + ["run/fork"] * 2, "step": [0, 10, 20, 30, 20, 25]})
    whole = paths(frame, "step")
    assert {path: part["step"].to_list() for (path,), part in whole.group_by("path")} == {
        "run": [0, 10, 20, 30], "run → run/fork": [0, 10, 20, 20, 25],
    }  # fmt: skip


def test_stage_2_continues_stage_1_and_each_ingredient_begins_at_its_end() -> None:
    table = synthetic.staged(synthetic.logits)
    chart = trajectory(table, "lse_mean")
    line = chart.to_dict()["layer"][0]["encoding"]
    assert (line["x"]["field"], line["color"]["field"]) == ("position_step", "line")
    assert titles(chart, "x") == {"step, counted through all stages"}
    rows = rows_of(chart, "position_step", "lse_mean")
    joints = [row for row in rows if row.get("joint")]
    assert [(row["line"], row["position_step"], row["revision"]) for row in joints] == [
        (f"stage2/ingredient{number}", 100_000, "stage1/step100000") for number in "123"
    ]
    assert {row["border"] for row in rows if "border" in row} == {100_000}
    marks = drawn(chart)
    assert (marks["line"], marks["symbol"], marks["rule"]) == (4, table.height, 1)


@pytest.mark.parametrize("x", ["step", "tokens"])
def test_lines_are_told_apart_by_dashes_where_colour_shows_layers_or_domains(x: str) -> None:
    weights = synthetic.staged(lambda steps: synthetic.parameters(steps, ("q_proj",))).filter(role="q_proj")
    layers, domains = trajectory(weights, "rms", x=x), loss_by_domain(synthetic.staged(synthetic.loss), x=x)
    for chart, hue, count in ((layers, "layer", synthetic.LAYERS), (domains, "domain", len(synthetic.DOMAINS))):
        line = chart.to_dict()["layer"][0]["encoding"]
        assert line["strokeDash"]["field"] == "line"
        assert line["color"]["field"] == hue
        assert drawn(chart)["line"] == 4 * count
    names = rows_of(domains, "label_y")
    assert len(names) == len(synthetic.DOMAINS)
    assert {row[f"position_{x}"] for row in names} == {110_000 * (1 if x == "step" else synthetic.TOKENS_PER_STEP)}


def test_revisions_of_later_stages_are_coloured_as_later() -> None:
    line = depth_profile(synthetic.staged(synthetic.activations), "rms").to_dict()["layer"][0]["encoding"]
    assert line["color"]["field"] == "position_step"
    assert line["strokeDash"]["field"] == "line"


def test_maps_have_a_panel_for_each_whole_training() -> None:
    activations = synthetic.staged(synthetic.activations)
    cells = layer_step_map(activations, "kurtosis")
    assert cells.to_dict()["facet"]["sort"] == TRAININGS
    assert drawn(cells)["rect"] == 3 * 29 * synthetic.LAYERS
    assert drawn(cells)["rule"] == 3
    panel = norms_panel(activations, "kurtosis").to_dict()
    assert next(each["bind"]["options"] for each in panel["params"] if each["name"] == "shown") == TRAININGS
    loads = expert_load(synthetic.staged(lambda steps: synthetic.expert_shares(steps, layers=(0,), experts=4)))
    assert loads.to_dict()["facet"]["sort"] == TRAININGS


def test_one_stage_alone_is_drawn_by_its_own_step() -> None:
    table = synthetic.staged(synthetic.logits)
    for stage, count in ((1, 1), (2, 3)):
        chart = trajectory(table.filter(stage=stage), "lse_mean")
        assert titles(chart, "x") == {"step"}
        assert drawn(chart)["line"] == count
        assert "rule" not in drawn(chart)


def test_seeds_are_lines_of_their_own_from_the_first_step_on() -> None:
    seeds = [
        synthetic.logits(np.array([0, 1_000, 2_000])).with_columns(line=pl.lit(f"run/seed{seed}")) for seed in "012"
    ]
    chart = trajectory(pl.concat(seeds), "lse_mean")
    assert {found["field"] for found in encodings(chart.to_dict(), "color")} == {"line"}
    assert drawn(chart)["line"] == 3
