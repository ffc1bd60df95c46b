"""A run and its forks on one axis."""

from __future__ import annotations

import re
from typing import Any

import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style, branches
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles


def table(**columns: Any) -> pl.DataFrame:
    """A run of 100 steps, two forks of it at 60, and a fork of one of those at 80."""
    lines = {
        "run": (None, None, 1, 100),
        "hot": ("run", 60, 60, 100),
        "cold": ("run", 60, 60, 90),
        "rescue": ("hot", 80, 80, 95),
    }
    rows = [
        {"run": run, "parent": parent, "forked_at": at, "step": step, "tokens": 512 * step, "loss": 5 - step / 50 + len(run) / 9}
        for run, (parent, at, first, last) in lines.items()
        for step in range(first, last + 1)
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None).with_columns(**columns)


def colors(chart: Any) -> dict[str, str]:
    scale = next(found["scale"] for found in encodings(chart.to_dict(), "color") if "scale" in found)
    return dict(zip(scale["domain"], scale["range"], strict=True))


def test_each_run_is_a_line_named_at_its_end_and_forks_are_marked() -> None:
    chart = branches(table(), "loss")
    marks = drawn(chart)
    assert marks["line"] == 4
    assert marks["text"] == 2 * 4 + 2, "a name with its rim a run, and the step of each of two forks"
    assert titles(chart, "y") == {"training loss (nat/token)"} and titles(chart, "x") == {"step"}
    assert selections(chart) == {"picked_run", "zoom"}
    assert subtitle(chart).endswith("4 runs, step 52 to 100.")


def test_it_begins_a_little_before_the_first_fork() -> None:
    data = branches(table(), "loss").to_dict()["datasets"]
    steps = [row["step"] for rows in data.values() for row in rows if row.get("run") == "run" and "label_y" not in row]
    assert min(steps) == 52  # 60 - 0.2 * (100 - 60)
    on_tokens = branches(table(), "loss", x="tokens").to_dict()["datasets"]
    assert min(row["tokens"] for rows in on_tokens.values() for row in rows) == 52 * 512


@pytest.mark.parametrize(("every", "end"), [(1, 74), (30, 90)])
def test_a_longer_parent_ends_a_little_after_its_forks(every: int, end: int) -> None:
    short = table().filter(pl.col("run").is_in(["run", "hot"]), (pl.col("run") == "run") | (pl.col("step") <= 70))
    sparse = short.filter((pl.col("run") == "hot") | (pl.col("step") % every == 0))
    data = branches(sparse, "loss").to_dict()["datasets"]
    steps = [row["step"] for rows in data.values() for row in rows if row.get("run") == "run" and "label_y" not in row]
    assert max(steps) == end, "70 + 0.4 * (70 - 60) is 74, or the parent's first value beyond"


def test_the_parent_is_in_ink_and_forks_in_colours_of_their_own() -> None:
    found = colors(branches(table(), "loss"))
    assert found["run"] == "#1b1e23" and len(set(found.values())) == 4


def test_names_of_lines_that_end_elsewhere_stay_at_their_lines() -> None:
    chart = branches(table(loss=pl.lit(2.0)), "loss").to_dict()
    beside = {row["run"]: row["label_y"] for rows in chart["datasets"].values() for row in rows if "label_y" in row}
    assert beside["cold"] == pytest.approx(2.0) and beside["rescue"] == pytest.approx(2.0)
    assert beside["run"] != pytest.approx(beside["hot"])


def test_layers_get_a_panel_each_and_runs_a_legend() -> None:
    layers = pl.DataFrame({"layer": [0, 1]})
    chart = branches(table().join(layers, how="cross"), "loss")
    spec = chart.to_dict()
    assert spec["facet"]["sort"] == ["layer 0", "layer 1"]
    assert drawn(chart)["line"] == 8
    legends = [found["legend"] for found in encodings(spec, "color") if "legend" in found]
    assert legends and all(legend is not None for legend in legends)


def test_several_values_per_step_are_refused_with_the_columns_that_differ() -> None:
    frame = table().join(pl.DataFrame({"layer": [0, 1]}), how="cross").join(pl.DataFrame({"rank": [1, 2]}), how="cross")
    message = (
        "branches() needs one value of 'loss' per run and step (got several, which differ in rank); filter the table"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        branches(frame, "loss")
    with pytest.raises(OptionError, match=r"which differ in layer, rank\); filter the table$"):
        branches(frame, "loss", style=Style(facet=""))


def test_a_table_of_no_forest_is_refused() -> None:
    with pytest.raises(OptionError, match=r"^the table must have a column 'parent' \(got run, forked_at"):
        branches(table().drop("parent"), "loss")


def test_a_run_alone_is_drawn_whole() -> None:
    chart = branches(table().filter(run="run"), "loss")
    assert drawn(chart)["line"] == 1 and subtitle(chart).endswith("1 run, step 1 to 100.")
