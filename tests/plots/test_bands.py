"""Nested bands of quantiles."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import distribution_fan, embedding_band
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, subtitle, titles

FEW = np.array([0, 10, 100, 1_000])


def bands(chart_spec: dict[str, object]) -> pl.DataFrame:
    [rows] = chart_spec["datasets"].values()  # type: ignore[attr-defined]
    return pl.DataFrame(rows, infer_schema_length=None)


def test_embedding_and_head_stand_side_by_side_with_two_bands_and_a_median() -> None:
    chart = embedding_band(synthetic.embedding_quantiles(FEW))
    marks = drawn(chart)
    assert marks["area"] == 4
    assert marks["line"] == 2
    assert titles(chart, "y") == {"quantile of row L2 norms"}
    assert chart.to_dict()["title"]["text"] == ["Distribution of row L2 norms during training"]


def test_a_band_reaches_from_a_quantile_to_its_mirror() -> None:
    table = synthetic.embedding_quantiles(FEW)
    drawn_rows = bands(embedding_band(table).to_dict()).filter(step=100, embedding="lm_head", band="5 to 95 %")
    wanted = table.filter(step=100, embedding="lm_head")
    assert drawn_rows["value"].item() == pytest.approx(wanted.filter(quantile=0.05)["value"].item(), rel=1e-5)
    assert drawn_rows["upper"].item() == pytest.approx(wanted.filter(quantile=0.95)["value"].item(), rel=1e-5)


def test_a_dashed_line_is_what_decay_alone_would_leave_of_the_first_median() -> None:
    table = synthetic.embedding_quantiles(FEW)
    rows = table.filter(embedding="embed_tokens", quantile=0.5)
    decay = rows.drop("quantile", "value").with_columns(
        measured=pl.lit(1.0), predicted=pl.Series([None, 0.8, 0.4, 0.2])
    )  # fmt: skip
    decay = decay.filter(pl.col("step") > 0)  # its first revision is not the table's
    chart = embedding_band(table, decay)
    assert {found["field"] for found in encodings(chart.to_dict(), "y")} == {"value", "decayed"}
    assert drawn(chart)["area"] == 4 and "Dashed: the first median times" in subtitle(chart)
    found = bands(chart.to_dict()).filter(band="median", embedding="embed_tokens")["decayed"].to_list()
    first = rows["value"][1]
    assert found == [None, *(pytest.approx(share * first, rel=1e-5) for share in (1, 0.5, 0.25))]


def test_the_fan_draws_every_pair_the_widest_at_the_back_in_a_panel_for_each_layer() -> None:
    chart = distribution_fan(synthetic.parameter_quantiles(FEW, layers=3))
    assert drawn(chart)["area"] == 4 * 3
    assert bands(chart.to_dict())["band"].unique(maintain_order=True).to_list() == [
        "0.1 to 99.9 %", "1 to 99 %", "5 to 95 %", "25 to 75 %", "median",
    ]  # fmt: skip
    assert chart.to_dict()["facet"]["sort"] == ["layer 0", "layer 1", "layer 2"]


def test_quantiles_of_tokens_make_a_fan_too() -> None:
    table = synthetic.parameter_quantiles(FEW, layers=1).filter(pl.col("quantile").is_in([0.05, 0.5, 0.95]))
    table = (
        table.drop("tensor", "role").with_columns(site=pl.lit("residual_out")).rename({"quantile": "token_quantile"})
    )
    chart = distribution_fan(table, quantity="activations/l2_norm_quantile")
    assert drawn(chart)["area"] == 1
    assert titles(chart, "y") == {"quantile of token L2 norms"}


def test_every_whole_training_has_bands_of_its_own() -> None:
    chart = embedding_band(synthetic.staged(lambda steps: synthetic.embedding_quantiles(steps, ("lm_head",))))
    spec = chart.to_dict()
    assert spec["facet"]["sort"] == [f"lm_head · stage1 → stage2/ingredient{number}" for number in "123"]
    assert titles(chart, "x") == {"step, counted through all stages"}
    assert drawn(chart)["area"] == 3 * 2
    assert drawn(chart)["rule"] == 3


def test_a_single_revision_is_drawn_as_bars() -> None:
    marks = drawn(embedding_band(synthetic.embedding_quantiles(np.array([1_000]))))
    assert marks["rect"] == 4
    assert marks["symbol"] == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (synthetic.parameter_quantiles(FEW, layers=1).filter(pl.col("quantile") < 0.5),
         "bands need the median and pairs of quantiles q and 1 - q (got 0.001, 0.01, 0.05, 0.25); keep those rows"),
        (pl.concat([synthetic.parameter_quantiles(FEW, layers=1)] * 2),
         "bands need one value per revision, panel and quantile (got several); filter the table"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_bands_is_refused(table: pl.DataFrame, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        distribution_fan(table)
