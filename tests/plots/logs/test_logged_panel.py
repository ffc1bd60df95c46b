"""Logged metrics as panels, beside the gradients that were measured."""

from __future__ import annotations

import polars as pl
import pytest

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from tests.plots.drawing import drawn, encodings, subtitle, titles

LOGS = pl.DataFrame({
    "run": ["a"] * 4, "step": [0, 10, 20, 30], "tokens": [None] * 4, "loss": [6.0, 5.0, 4.5, 4.25],
    "gradient_norm": [1.5, 1.0, 0.5, None], "learning_rate": [0.0, 1e-3, 5e-4, 1e-4],
}, schema_overrides={"tokens": pl.Int64})  # fmt: skip
MEASURED = pl.DataFrame({
    "revision": ["step0", "step20"], "step": [0, 20], "tokens": [0, 40960], "total_l2_norm": [3.0, 2.0],
    "total_probe_l2_norm": [1.25, 0.75],
})  # fmt: skip


def test_logged_and_measured_gradient_norms_share_a_panel() -> None:
    chart = plots.training_logs(LOGS, MEASURED, units={"loss": "nat/token"})
    words = "Gradient norms are sqrt(Σ over tensors ‖g‖²) before clipping. 4 logged steps, step 0 to 30."
    assert subtitle(chart) == words and "loss (nat/token)" in titles(chart, "y")
    marks = drawn(chart)
    assert marks["line"] >= 1
    spec = chart.to_dict()
    assert {found["field"] for found in encodings(spec, "y")} == {"loss", "gradient_norm", "learning_rate"}
    norms = {
        (row["series"], row["step"], row["gradient_norm"])
        for rows in spec["datasets"].values()
        for row in rows
        if row.get("gradient_norm") is not None
    }
    assert norms == {
        ("logged, of a batch", 0, 1.5), ("logged, of a batch", 10, 1.0), ("logged, of a batch", 20, 0.5),
        ("measured, of one window", 0, 3.0), ("measured, of one window", 20, 2.0),
        ("measured, of the whole probe", 0, 1.25), ("measured, of the whole probe", 20, 0.75),
    }  # fmt: skip


def test_only_what_was_logged_is_drawn() -> None:
    chart = plots.training_logs(LOGS.drop("gradient_norm", "learning_rate"), MEASURED)
    assert {found["field"] for found in encodings(chart.to_dict(), "y")} == {"loss"}
    message = r"^the logs must have one of the columns loss, gradient_norm, learning_rate \(got step, tokens\)$"
    with pytest.raises(OptionError, match=message):
        plots.training_logs(LOGS.select("step", "tokens"))
