"""Barriers of losses along lines, beside NumPy."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import barriers

SHARES = np.linspace(0, 1, 11)


def line(losses: np.ndarray, end: str = "b") -> pl.DataFrame:
    columns = {"share": SHARES, "cross_entropy": losses}
    return pl.DataFrame(columns).with_columns(start=pl.lit("a"), end=pl.lit(end), domain=pl.lit("prose"))


@settings(max_examples=40)
@given(st.lists(st.floats(0, 10), min_size=11, max_size=11))
def test_barriers_are_those_of_numpy(losses: list[float]) -> None:
    values = np.array(losses)
    [found] = barriers(line(values).sample(fraction=1.0, shuffle=True, seed=0)).to_dicts()
    assert (found["start"], found["end"], found["domain"]) == ("a", "b", "prose")
    assert found["barrier"] == pytest.approx(values.max() - (values[0] + values[-1]) / 2)
    assert found["chord_barrier"] == pytest.approx(
        (values - np.interp(SHARES, [0, 1], values[[0, -1]])).max(), abs=1e-12
    )
    assert found["midpoint_gap"] == pytest.approx(values[5] - min(values[0], values[-1]))
    assert values[round(10 * found["highest_at"])] == values.max()


@settings(max_examples=20)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 5))
def test_a_convex_quadratic_has_no_barrier_over_its_chord(start: float, end: float, bend: float) -> None:
    losses = bend * ((1 - SHARES) * start + SHARES * end) ** 2
    assert barriers(line(losses))["chord_barrier"][0] <= 1e-9


def test_lines_are_told_apart_and_need_both_ends() -> None:
    rising, bump = SHARES, 1 + np.sin(np.pi * SHARES)
    both = barriers(pl.concat([line(rising), line(bump, "c")]))
    assert both["end"].to_list() == ["b", "c"]
    assert both["barrier"].to_list() == pytest.approx([0.5, 1.0])
    assert both["chord_barrier"].to_list() == pytest.approx([0.0, 1.0])
    without_middle = line(rising).filter(pl.col("share") != 0.5)
    assert barriers(without_middle)["midpoint_gap"].to_list() == [None]
    with pytest.raises(OptionError, match=r"^barriers\(\) needs the losses of both ends of a → b$"):
        barriers(line(rising).head(10))
    with pytest.raises(
        OptionError, match=r"^barriers\(\) needs a table of od\.interpolate with 'start' \(got share\)$"
    ):
        barriers(pl.DataFrame({"share": [0.0]}))
