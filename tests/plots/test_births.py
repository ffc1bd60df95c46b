"""The births of outlier features."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import outlier_births
from olmo_dynamics.plots.births import reach
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections, subtitle

STEPS = np.array([0, 100, 1_000, 10_000, 100_000])


@pytest.fixture(scope="module")
def born() -> pl.DataFrame:
    return synthetic.births(STEPS, features=5)


def test_a_disc_stands_for_every_outlier_feature_and_for_every_place_it_reaches(born: pl.DataFrame) -> None:
    hits = born.filter("is_outlier", pl.col("fraction") > 0)
    discs = hits.select("feature", "step").n_unique() + hits.select("layer", "input", "step").n_unique()
    chart = outlier_births(born)
    assert drawn(chart)["symbol"] == discs
    assert selections(chart) == {"brush"}
    assert chart.to_dict()["vconcat"][1]["transform"] == [{"filter": {"param": "brush"}}]
    assert chart.to_dict()["title"]["text"] == ["5 outlier features, by the step of first appearance"]


def test_features_stand_in_the_order_of_their_birth(born: pl.DataFrame) -> None:
    y = next(encodings(outlier_births(born).to_dict()["vconcat"][0], "y"))
    first = born.unique("feature").sort("first_step", "feature")["feature"].to_list()
    assert y["sort"] == first


def test_the_time_axis_covers_the_revisions_that_have_no_outlier(born: pl.DataFrame) -> None:
    chart = outlier_births(born)
    assert [found["scale"]["domain"] for found in encodings(chart.to_dict(), "x")] == [[0, 100_000]] * 2
    assert subtitle(chart) == "5 revisions, step 0 to 100,000."


def test_reach_counts_places_and_keeps_the_largest_magnitude(born: pl.DataFrame) -> None:
    hits = born.filter("is_outlier", pl.col("fraction") > 0)
    one = reach(hits).filter(feature=11, step=100_000).row(0, named=True)
    wanted = [row for row in hits.iter_rows(named=True) if row["feature"] == 11 and row["step"] == 100_000]
    assert one["places"] == len({(row["layer"], row["input"]) for row in wanted})
    assert one["magnitude"] == max(row["magnitude"] for row in wanted)


def test_of_very_many_rows_the_features_born_first_are_shown_below() -> None:
    wide = pl.concat(
        [
            synthetic.births(synthetic.STEPS, 14),
            synthetic.births(synthetic.STEPS, 14).with_columns(pl.col("feature") + 1),
        ]
    )
    chart = outlier_births(wide)
    assert "of 28." in subtitle(chart)
    assert subtitle(chart).startswith("Below: the ")


def test_a_run_without_outliers_is_refused(born: pl.DataFrame) -> None:
    message = "outlier_births() needs at least one outlier feature (got none); lower the threshold or the shares"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        outlier_births(born.filter(step=0))
