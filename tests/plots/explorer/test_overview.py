"""The three linked pictures: what they draw, what they refuse, and how they smooth."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots import Style, overview
from olmo_dynamics.plots.explorer.smoothing import smoothed
from tests.plots import synthetic
from tests.plots.drawing import drawn
from tests.store.test_layout import message

STEPS = np.array([0, 10, 100, 1_000])
BRUSH = 2  # rectangles: the brush and its background


def queries() -> pl.DataFrame:
    return synthetic.parameters(STEPS, ("q_proj",)).filter(role="q_proj")


def test_a_map_its_curves_and_the_profile_of_the_last_revision() -> None:
    chart = overview(queries(), "rms")
    marks = drawn(chart)
    assert marks["rect"] == synthetic.LAYERS * len(STEPS) + BRUSH
    assert marks["line"] == synthetic.LAYERS + 1  # a curve per layer, and the profile
    assert marks["symbol"] == synthetic.LAYERS * len(STEPS) + synthetic.LAYERS
    assert marks["text"] == 1  # the name of the revision
    selections = {param["name"]: param for param in chart.to_dict()["params"]}
    assert selections["chosen_revision"]["value"] == [{"revision": queries()["revision"][-1]}]
    assert len(selections["chosen_revision"]["views"]) > 1  # of the map and of the curves
    assert set(selections) == {"picked_layer", "chosen_revision", "brush"}


def test_smoothing_keeps_the_measured_curves_behind() -> None:
    assert drawn(overview(queries(), "rms", smoothing=0.6))["line"] == 2 * synthetic.LAYERS + 1
    assert drawn(overview(queries(), "rms", x="tokens", style=Style(scale="log")))["line"] == synthetic.LAYERS + 1


def test_several_stages_are_drawn_one_training_at_a_time() -> None:
    chart = overview(
        synthetic.staged(lambda steps: synthetic.parameters(steps, ("q_proj",))).filter(role="q_proj"), "rms"
    )
    [menu] = [param for param in chart.to_dict()["params"] if param["name"] == "shown"]
    assert menu["bind"]["options"] == [f"stage1 → stage2/ingredient{each}" for each in "123"]
    assert drawn(chart)["rect"] > 0


def test_domains_are_rows_and_metrics_are_a_curve() -> None:
    assert (
        drawn(overview(synthetic.loss(STEPS), "cross_entropy"))["rect"] == len(synthetic.DOMAINS) * len(STEPS) + BRUSH
    )
    metrics = pl.DataFrame({"step": [1, 2, 3], "tokens": [8, 16, 24], "loss": [3.0, 2.0, 1.5]})
    assert drawn(overview(metrics, "loss", smoothing=0.5))["line"] == 2


def test_a_table_of_several_roles_is_refused() -> None:
    table = synthetic.parameters(STEPS, ("q_proj", "k_proj")).filter(pl.col("layer").is_not_null())
    with pytest.raises(OptionError) as caught:
        overview(table, "rms")
    assert str(caught.value).endswith("; filter it by all but one, such as role='q_proj'")
    with pytest.raises(OptionError, match=message("smoothing must be from 0 to below 1 (got 1)")):
        overview(queries(), "rms", smoothing=1.0)


@settings(max_examples=30)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.floats(0.01, 0.99))
def test_smoothing_is_a_weighted_mean_of_the_past(values: list[float], weight: float) -> None:
    frame = pl.DataFrame({"step": range(len(values)), "v": values})
    found = smoothed(frame, "v", "step", [], weight)["v"].to_numpy()
    for last in range(len(values)):
        weights = weight ** np.arange(last, -1, -1.0)
        expected = (weights * values[: last + 1]).sum() / weights.sum()
        np.testing.assert_allclose(found[last], expected, rtol=1e-9, atol=1e-9)
