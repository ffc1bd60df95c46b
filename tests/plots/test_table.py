"""The drawn part of a table, and the errors for tables that cannot be drawn."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.table import drawable, in_order, with_branch
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
        (pl.concat([synthetic.parameters()] * 2), "rms", "step",
         "at most 5,000 rows can be drawn; 'rms' has 7,830; thin the table with olmo_dynamics.frames.thin, or filter it"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_drawn_is_met_with_one_line(
    table: pl.DataFrame, value: str, x: str, message: str
) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        drawable(table, value, x=x)


def test_lines_of_training_are_distinguished_only_if_there_are_several() -> None:
    one = drawable(synthetic.logits(), "lse_mean", x="step")
    assert "branch" not in with_branch(one).frame.columns
    stages = (
        synthetic.logits()
        .head(3)
        .with_columns(
            stage=pl.Series([1, 2, None], dtype=pl.Int64), ingredient=pl.Series([None, "1+2", None], dtype=pl.String)
        )
    )
    named = with_branch(drawable(stages, "lse_mean", x="step")).frame
    assert named["branch"].to_list() == ["stage 1", "stage 2, ingredient 1+2", "no stage"]


def test_roles_come_as_the_forward_pass_meets_them() -> None:
    frame = pl.DataFrame({"role": ["lm_head", "down_proj", "novel_proj", "q_proj", "embed_tokens"]})
    assert in_order(frame, "role") == ["embed_tokens", "q_proj", "down_proj", "lm_head", "novel_proj"]
