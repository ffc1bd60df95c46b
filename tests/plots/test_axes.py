"""The time axis and the value axis."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import TimeScale, time_axis, time_scale, value_axis
from olmo_dynamics.plots.theme import Style
from olmo_dynamics.quantities import find

RMS = find("parameters/rms")


def steps(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"step": values})


def test_ticks_stand_at_zero_and_powers_of_ten() -> None:
    axis = time_axis(steps(0, 10, 250, 99_000), "step", width=600)
    assert axis.scale.kind == "symlog"
    assert axis.scale.constant == 10
    assert axis.ticks == (0, 10, 100, 1_000, 10_000, 99_000)
    assert {20, 50, 900, 90_000} <= set(axis.minor)
    assert max(axis.minor) <= 99_000


def test_the_linear_part_ends_at_the_first_step_so_that_no_space_is_lost_below_it() -> None:
    assert time_axis(steps(0, 1_000, 5_000, 1_900_000), "step", width=600).scale.constant == 1_000


def test_a_short_run_has_a_linear_axis() -> None:
    axis = time_axis(steps(0, 40, 80, 120), "step", width=600)
    assert axis.scale.kind == "linear"
    assert axis.channel().to_dict()["scale"]["type"] == "linear"


def test_a_style_decides_the_scale_of_every_axis_that_it_is_given_to() -> None:
    short, long = steps(0, 40, 80, 120), steps(0, 1_000, 5_000, 1_900_000)
    for table in (short, long):
        assert time_scale(table, "step", Style(x_scale="symlog", x_constant=10)) == TimeScale("symlog", 10)
        assert time_scale(table, "step", Style(x_scale="linear")) == TimeScale("linear")
    assert time_axis(long, "step", width=600, style=Style(x_scale="symlog", x_constant=10)).ticks[:2] == (0, 10)
    logarithmic = time_axis(steps(10, 100, 5_000), "step", width=600, style=Style(x_scale="log"))
    assert logarithmic.channel().to_dict()["scale"] == {"type": "log", "nice": False, "padding": 5}
    message = "x_scale='log' needs values above 0; step begins at 0; use x_scale='symlog'"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        time_scale(short, "step", Style(x_scale="log"))


def test_a_narrow_panel_has_fewer_ticks_but_keeps_the_last_decade() -> None:
    assert time_axis(steps(0, 10, 100, 1_000_000), "step", width=120).ticks == (0, 100, 10_000, 1_000_000)


def test_a_range_without_a_power_of_ten_has_even_ticks() -> None:
    late = time_axis(steps(377, 400, 437), "step", width=560, style=Style(x_scale="symlog", x_constant=1))
    assert late.ticks == (380, 390, 400, 410, 420, 430, 437)


@given(
    values=st.lists(st.integers(0, 10**13), min_size=3, max_size=40, unique=True),
    width=st.integers(100, 900),
)
@settings(max_examples=100, deadline=None)
def test_labels_never_overlap_and_places_can_be_undone(values: list[int], width: int) -> None:
    axis = time_axis(steps(*values), "step", width=width)
    numbers = np.array(values, dtype=np.float64)
    np.testing.assert_allclose(axis.scale.unplace(axis.scale.place(numbers)), numbers, rtol=1e-9)
    if axis.scale.kind == "symlog":
        pixels = width / math.log1p(max(values) / axis.scale.constant)
        places = [pixels * math.log1p(tick / axis.scale.constant) for tick in axis.ticks]
        assert all(later - earlier >= 18 for earlier, later in pairwise(places))


def test_labels_are_short_and_billions_are_b() -> None:
    spec = time_axis(pl.DataFrame({"tokens": [0, 10**6, 10**10, 10**12]}), "tokens", width=600).channel().to_dict()
    assert spec["title"] == "tokens seen"
    assert "replace(format(datum.value, '.3~s'), 'G', 'B')" in spec["axis"]["labelExpr"]


def test_the_value_axis_turns_logarithmic_where_the_values_span_a_factor_of_20() -> None:
    assert not value_axis(pl.DataFrame({"rms": [1.0, 19.0]}), "rms", RMS).log
    wide = value_axis(pl.DataFrame({"rms": [0.01, 2.0]}), "rms", RMS)
    assert wide.log
    assert {0.01, 0.1, 1.0} <= set(wide.ticks)
    assert not value_axis(pl.DataFrame({"rms": [0.01, 2.0]}), "rms", RMS, scale="linear").log
    assert not value_axis(pl.DataFrame({"rms": [-1.0, 2000.0]}), "rms", RMS).log


def test_among_panels_the_middle_one_decides() -> None:
    table = pl.DataFrame({"role": ["a", "a", "b", "b", "c", "c"], "rms": [1.0, 1.1, 1.0, 1.2, 0.01, 10.0]})
    assert not value_axis(table, "rms", RMS, panels="role").log
    assert value_axis(table, "rms", RMS, panels="role").title == "RMS(W)"


def test_a_logarithm_of_values_that_are_not_positive_is_refused() -> None:
    message = "scale='log' needs positive values; 'rms' goes down to -1; use scale='linear'"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        value_axis(pl.DataFrame({"rms": [-1.0, 2.0]}), "rms", RMS, scale="log")
