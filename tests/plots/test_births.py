"""The births of outlier features."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import outlier_births
from olmo_dynamics.plots.births import reach, strongest
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections, subtitle, titles

MANY = np.arange(120) * 1_000
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
    assert y["sort"] == [str(feature) for feature in first]


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


def appearing(feature: int, steps: set[int], magnitude: float) -> pl.DataFrame:
    """A feature that is an outlier in one place at those steps."""
    rows = [{**revision, "layer": 0, "input": "mlp", "feature": feature, "magnitude": magnitude, "fraction": 0.5,
             "is_outlier": True, "first_step": min(steps)} for revision in synthetic.revisions(MANY)
            if revision["step"] in steps]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={"stage": pl.Int64, "ingredient": pl.String})


def test_of_very_many_features_the_one_that_persists_is_drawn_before_those_that_flash_up() -> None:
    persistent = appearing(7, set(MANY[5:].tolist()), 9.0)
    flashes = [appearing(100 + index, {int(MANY[index % 5])}, 30.0) for index in range(200)]
    chart = outlier_births(pl.concat([*flashes, persistent]))
    y = next(encodings(chart.to_dict(), "y"))
    assert y["sort"][-1] == "7"
    assert len(y["sort"]) == 40
    assert subtitle(chart).startswith(
        "The 40 features of 201 with the largest sum of magnitudes over revisions; 154 of 315 rows."
    )


@given(
    st.dictionaries(st.integers(0, 500), st.tuples(st.integers(1, 120), st.floats(6, 1000)), min_size=1, max_size=80)
)
@settings(max_examples=25, deadline=None)
def test_no_feature_that_is_left_out_is_stronger_and_longer_there_than_one_that_is_drawn(
    features: dict[int, tuple[int, float]],
) -> None:
    hits = pl.concat([appearing(each, set(MANY[:count].tolist()), size) for each, (count, size) in features.items()])
    shown, note = strongest(hits)
    drawn_features = set(shown["feature"])
    assert shown.height == sum(features[each][0] for each in drawn_features)
    assert (note == "") == (drawn_features == set(features))
    for left_out in set(features) - drawn_features:
        count, size = features[left_out]
        assert not any(count > features[each][0] and size > features[each][1] for each in drawn_features)


def test_a_feature_of_several_lines_at_one_time_has_a_row_for_each() -> None:
    chart = outlier_births(synthetic.staged(lambda steps: synthetic.births(steps, features=1)))
    spec = chart.to_dict()
    assert {y["title"]: y["sort"] for y in encodings(spec["vconcat"][0], "y") if "sort" in y} == {
        "feature (first born on top)": ["11 · stage1", *(f"11 · stage2/ingredient{number}" for number in "123")]
    }
    assert titles(chart, "x") == {"step, counted through all stages"}
    assert drawn(chart)["rule"] == 2


def test_a_run_without_outliers_is_refused(born: pl.DataFrame) -> None:
    message = "outlier_births() needs at least one outlier feature (got none); lower the threshold or the shares"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        outlier_births(born.filter(step=0))
