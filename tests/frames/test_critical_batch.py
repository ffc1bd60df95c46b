"""The critical batch size from the losses of branches, beside NumPy."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics import plots
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import critical_batch_sizes
from olmo_dynamics.frames.batch_sizes.branch_losses import Branch, branch_row, smoothed_loss
from tests.plots.drawing import drawn, encodings, subtitle

MULTIPLIERS = [0.5, 1.0, 2.0, 4.0, 8.0]
BASE = 1024


def branches(losses: dict[int, list[float]]) -> pl.DataFrame:
    """The losses of each step's branches at batches of 512, 1024, … tokens."""
    rows = [
        {"revision": f"step{step}", "step": step, "tokens": BASE * step, "multiplier": k, "batch_tokens": int(k * BASE),
         "branch_tokens": 8192, "loss": loss, "training_loss": loss + 1, "held_out_loss": loss, "loss_kind": "held-out"}
        for step, values in losses.items() for k, loss in zip(MULTIPLIERS, values, strict=True)
    ]  # fmt: skip
    return pl.DataFrame(rows)


@settings(max_examples=60)
@given(st.lists(st.integers(300, 306), min_size=5, max_size=5), st.sampled_from([0.0, 0.01, 0.02]))
def test_the_rule_is_the_papers(hundredths: list[int], tolerance: float) -> None:
    losses = np.array(hundredths) / 100
    holds = [all(losses[k] <= losses[j] + tolerance for j in range(k)) for k in range(5)]
    [found] = critical_batch_sizes(branches({10: losses.tolist()}), tolerance=tolerance).to_dicts()
    best = int(np.flatnonzero(holds).max())
    high = BASE * MULTIPLIERS[best + 1] if best < 4 else None
    assert (found["multiplier"], found["low"], found["high"]) == (MULTIPLIERS[best], BASE * MULTIPLIERS[best], high)
    expected = None if high is None else pytest.approx(np.exp(np.mean(np.log([found["low"], high]))))
    assert found["critical_batch"] == expected
    [first] = critical_batch_sizes(
        branches({10: losses.tolist()}), rule="first_failure", tolerance=tolerance
    ).to_dicts()
    failing = holds.index(False) if False in holds else 5
    assert first["multiplier"] == MULTIPLIERS[failing - 1]


def test_losses_that_are_not_monotone_part_the_rules() -> None:
    table = branches({0: [3.0, 3.1, 3.2, 3.3, 3.4], 300: [3.0, 3.02, 3.005, 3.2, 3.3], 1500: [2.9, 2.8, 2.7, 2.7, 2.6]})
    found = critical_batch_sizes(table)
    assert found.select("revision", "step", "multiplier", "low", "high").rows() == [
        ("step0", 0, 0.5, 512, 1024), ("step300", 300, 2.0, 2048, 4096), ("step1500", 1500, 8.0, 8192, None),
    ]  # fmt: skip
    assert critical_batch_sizes(table, rule="first_failure")["multiplier"].to_list() == [0.5, 0.5, 8.0]
    assert critical_batch_sizes(table.sample(fraction=1.0, shuffle=True, seed=1)).sort("step").equals(found)
    for options, message in (
        ({"rule": "best"}, r"^rule must be max or first_failure \(got 'best'\)$"),
        ({"tolerance": -0.1}, r"^tolerance must be at least 0 nats per token \(got -0\.1\)$"),
        ({"loss": "lost"}, r"^the table of branches must have a column 'lost' \(got revision, "),
    ):
        with pytest.raises(OptionError, match=message):
            critical_batch_sizes(table, **options)


@pytest.mark.parametrize("x", ["step", "tokens"])
def test_the_figure_has_curves_above_intervals(x: str) -> None:
    table = branches({1: [3.0, 3.1, 3.2, 3.3, 3.4], 300: [3.0, 3.02, 3.005, 3.2, 3.3], 1500: [2.9, 2.8, 2.7, 2.7, 2.6]})
    chart = plots.critical_batch(table, x=x, style=plots.Style(x_scale="log"))
    marks = drawn(chart)
    assert marks["rule"] == 3  # intervals
    assert marks["line"] == 3 + 1
    fields = {found["field"] for found in encodings(chart.to_dict(), "x") if "field" in found}
    assert fields == {"batch_tokens", "low", x}
    assert subtitle(chart) == (
        "Above: held-out loss of branches of 8,192 tokens at batches of other sizes. Ring: the largest batch within 0.01 "
        "nat/token of every smaller one; shade: up to the next one tested. Below: that interval and its geometric mean. 3 "
        "revisions; branches: 15."
    )
    alone = plots.critical_batch(table.filter(step=300), loss="training_loss")
    assert "training, smoothed loss" in subtitle(alone) and drawn(alone)["rule"] == 1
    printed = plots.critical_batch(table, style=plots.Style.paper("single"))
    assert plots.caption_text(printed).startswith("Critical batch size by branching. Above: held-out loss")


def test_rows_of_a_branch() -> None:
    losses = [4.0, 3.5, 3.0, 3.25]
    curve = pl.DataFrame(
        {"step": [10, 11, 12, 13, 14], "loss": [None, *losses], "learning_rate": [None, 1e-3, 1e-3, 1e-3, 1e-3],
         "eval/a.npy": [4.1, None, None, None, 3.4], "eval/b.npy": [4.3, None, None, None, 3.6]}
    )  # fmt: skip
    branch = Branch(
        revision="step10", step=10, tokens=None, multiplier=2.0, sequences=16, sequence_length=64, updates=4
    )
    row = branch_row(branch, curve)
    weights = 0.5 ** np.array([3, 3, 2, 1])
    assert row["training_loss"] == pytest.approx(float(weights @ losses))
    assert (row["held_out_loss"], row["loss"], row["loss_kind"]) == (3.5, 3.5, "held-out")
    assert (row["batch_tokens"], row["branch_tokens"], row["learning_rate"]) == (1024, 4096, 1e-3)
    plain = branch_row(branch, curve.drop("eval/a.npy", "eval/b.npy"))
    assert (plain["loss"], plain["loss_kind"]) == (smoothed_loss(losses), "training, smoothed")
    message = (
        r"^the branch of step10 with 16 sequences must have 4 updates \(got 3\); delete its folder to train it again$"
    )
    with pytest.raises(OptionError, match=message):
        branch_row(branch, curve.head(4))
