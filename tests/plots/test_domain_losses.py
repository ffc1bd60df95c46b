"""Loss by domain."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.plots import loss_by_domain
from olmo_dynamics.plots.domain_losses import MACRO_AVERAGE
from olmo_dynamics.plots.line_labels import spread_apart
from tests.plots import synthetic
from tests.plots.drawing import drawn, encodings, selections, titles

FEW = np.array([0, 10, 100, 1_000])


@pytest.mark.parametrize(
    ("y", "title"), [("cross_entropy", "cross-entropy (nat/token)"), ("bits_per_byte", "bits per byte (bit/byte)")]
)
def test_each_domain_is_a_line_named_at_its_end(y: str, title: str) -> None:
    chart = loss_by_domain(synthetic.loss(FEW), y)
    marks = drawn(chart)
    assert marks["line"] == len(synthetic.DOMAINS)
    assert marks["text"] == len(synthetic.DOMAINS)
    assert title in titles(chart, "y")
    assert selections(chart) == {"picked_domain", "zoom"}
    assert all(color["legend"] is None for color in encodings(chart.to_dict(), "color"))


def test_the_macro_average_is_thick_and_in_ink() -> None:
    average = synthetic.loss(FEW).filter(domain="code").with_columns(domain=pl.lit(MACRO_AVERAGE))
    chart = loss_by_domain(pl.concat([synthetic.loss(FEW), average]))
    assert drawn(chart)["line"] == len(synthetic.DOMAINS) + 1
    size = next(encodings(chart.to_dict(), "size"))
    assert "macro average" in size["condition"][0]["test"]
    scale = next(encodings(chart.to_dict(), "color"))["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True))[MACRO_AVERAGE] == "#1b1e23"


@given(places=st.lists(st.floats(0, 300), min_size=1, max_size=20).map(sorted))
def test_names_are_kept_apart_in_their_order_and_below_the_top(places: list[float]) -> None:
    moved = spread_apart(places, height=300)
    assert all(later - earlier >= 14 - 1e-9 for earlier, later in pairwise(moved))
    assert moved[-1] <= 300


def test_names_far_enough_apart_do_not_move() -> None:
    assert spread_apart([10.0, 40.0, 200.0], height=300) == [10.0, 40.0, 200.0]
