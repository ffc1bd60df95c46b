"""The drawn part of a table, and the errors for tables that cannot be drawn."""

from __future__ import annotations

import re

import altair as alt
import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.table import MAX_ROWS, drawable, in_order, inline
from tests.plots import synthetic


def test_only_the_columns_a_picture_needs_are_kept() -> None:
    rows = drawable(synthetic.parameters(), "rms", x="step")
    assert rows.frame.columns == ["revision", "stage", "ingredient", "step", "tokens", "tensor", "layer", "role", "rms"]
    assert rows.left_out == ""
    assert rows.subtitle == "29 revisions, step 0 to 100,000."


def test_values_that_are_not_finite_and_revisions_without_a_step_are_left_out_and_counted() -> None:
    table = synthetic.logits().head(6)
    values = pl.Series("lse_mean", [1.0, float("nan"), float("inf"), None, 2.0, 3.0])
    table = table.with_columns(
        values, pl.when(pl.col("step") == table["step"][5]).then(None).otherwise("step").alias("step")
    )
    rows = drawable(table, "lse_mean", x="step")
    assert rows.frame["lse_mean"].to_list() == [1.0, 2.0]
    assert rows.subtitle == "2 revisions, step 0 to 40; 3 values not finite, 1 revision without step."


def test_values_keep_six_digits() -> None:
    table = synthetic.logits().head(1).with_columns(lse_mean=pl.lit(np.pi * 1e-7))
    assert drawable(table, "lse_mean", x="step").frame["lse_mean"].item() == pytest.approx(np.pi * 1e-7, rel=5e-6)


@pytest.mark.parametrize(
    ("table", "value", "x", "message"),
    [
        (synthetic.logits(), "rms", "step",
         "the table must have a column 'rms' (got revision, stage, ingredient, step, tokens, lse_mean)"),
        (synthetic.logits(), "lse_mean", "epoch", "x must be 'step' or 'tokens' (got 'epoch')"),
        (synthetic.logits().clear(), "lse_mean", "step",
         "the table must hold values of 'lse_mean' to draw (got none: no rows)"),
        (synthetic.logits().with_columns(lse_mean=pl.lit(None, pl.Float64)), "lse_mean", "step",
         "the table must hold values of 'lse_mean' to draw (got none: 29 values not finite)"),
        (synthetic.logits().with_columns(tokens=pl.lit(None, pl.Int64)), "lse_mean", "tokens",
         "the table must hold values of 'lse_mean' to draw (got none: 29 revisions without tokens)"),
        (synthetic.loss(), "domain", "step", "the drawn column must hold numbers; 'domain' holds String"),
        (pl.concat([synthetic.logits()] * (MAX_ROWS // 29 + 1)), "lse_mean", "step",
         "at most 200,000 rows can be drawn; 'lse_mean' has 200,013; "
         "thin the table with olmo_dynamics.frames.thin, which keeps every extreme, or filter it"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_drawn_is_met_with_one_line(
    table: pl.DataFrame, value: str, x: str, message: str
) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        drawable(table, value, x=x)


def test_lines_of_training_are_distinguished_only_if_there_are_several() -> None:
    assert (
        "line"
        not in drawable(synthetic.logits().with_columns(line=pl.lit("stage1")), "lse_mean", x="step").frame.columns
    )
    stages = synthetic.logits().head(3)
    stages = stages.with_columns(
        stage=pl.Series([1, 2, None], dtype=pl.Int64), ingredient=pl.Series([None, "1+2", None], dtype=pl.String)
    )
    named = drawable(stages, "lse_mean", x="step").frame
    assert named["line"].to_list() == ["stage1", "stage2/ingredient1+2", "no stage"]


def test_several_stages_are_drawn_by_position_and_one_by_its_own_step() -> None:
    table = synthetic.staged(synthetic.logits)
    rows = drawable(table, "lse_mean", x="step")
    assert (rows.x, rows.counts_through) == ("position_step", True)
    assert rows.subtitle == "39 revisions in 4 lines of training, counted through all stages, step 10 to 110,000."
    unknown = table.with_columns(
        pl.when(pl.col("ingredient") == "2").then(None).otherwise("position_step").alias("position_step")
    )
    assert drawable(unknown, "lse_mean", x="step").left_out == "5 revisions without a known place in the training"
    assert drawable(table.filter(stage=2), "lse_mean", x="step").x == "step"
    own = drawable(table.drop("position_tokens"), "lse_mean", x="tokens")
    assert own.x == "tokens"
    assert own.span == "39 revisions in 4 lines of training, each stage from its own step 0, step 10 to 100,000"


def test_inline_data_hold_more_rows_than_altair_takes_from_a_frame() -> None:
    table = pl.DataFrame({"revision": "a", "stage": 1, "border": None, "step": range(32_040)})
    values = alt.Chart(inline(table)).mark_point().encode(x="step:Q").to_dict()["datasets"].popitem()[1]
    assert values == [{"revision": "a", "step": step} for step in range(32_040)]


def test_roles_come_as_the_forward_pass_meets_them() -> None:
    frame = pl.DataFrame({"role": ["lm_head", "down_proj", "novel_proj", "q_proj", "embed_tokens"]})
    assert in_order(frame, "role") == ["embed_tokens", "q_proj", "down_proj", "lm_head", "novel_proj"]
