from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics import quantities
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import thin
from olmo_dynamics.quantities import remember
from olmo_dynamics.quantities.declaration import Group, Quantity
from tests.store.test_layout import message

NUMBERS = st.floats(-1e6, 1e6) | st.just(math.nan)


def interleaved(series: list[list[float]]) -> pl.DataFrame:
    """Series of those values, a row of each in turn, as tables have them."""
    longest = max(map(len, series))
    rows = [
        (step, f"t{number}", values[step])
        for step in range(longest)
        for number, values in enumerate(series)
        if step < len(values)
    ]
    return pl.DataFrame(rows, schema={"step": pl.Int64, "tensor": pl.String, "rms": pl.Float64}, orient="row")


def flat(series: int, steps: int) -> pl.DataFrame:
    return interleaved([[float(step) for step in range(steps)]] * series)


@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=60), min_size=1, max_size=6), st.integers(2, 80))
@settings(deadline=None)
def test_every_series_keeps_its_ends_its_extremes_and_the_order_of_its_rows(
    series: list[list[float]], limit: int
) -> None:
    frame = interleaved(series).with_row_index("row")
    kept, note = thin(frame, limit)
    assert kept["row"].is_sorted()
    assert kept.height <= max(limit, 5 * len(series))
    assert frame.filter(pl.col("row").is_in(kept["row"].implode())).equals(kept, null_equal=True)
    assert note == (
        "" if len(kept) == len(frame) else f"{len(kept):,} of {len(frame):,} rows drawn, every extreme among them"
    )
    for name, whole in frame.group_by("tensor"):
        part = kept.filter(tensor=name[0])
        for column, expression in (("step", pl.col("step")), ("rms", pl.col("rms").fill_nan(None))):
            bounds = pl.struct(expression.min().alias("low"), expression.max().alias("high"))
            assert part.select(bounds).equals(whole.select(bounds)), column


@given(
    st.lists(st.floats(-1, 1), min_size=200, max_size=400),
    st.dictionaries(st.integers(0, 7), st.tuples(st.integers(0, 24), st.floats(5, 1e6), st.booleans()), min_size=1),
)
@settings(deadline=None)
def test_every_spike_that_stands_out_of_its_neighbourhood_survives(
    noise: list[float], spikes: dict[int, tuple[int, float, bool]]
) -> None:
    values = np.array(noise)
    places = [25 * part + offset for part, (offset, _, _) in spikes.items()]
    for place, (_, height, up) in zip(places, spikes.values(), strict=True):
        values[place] = height if up else -height
    kept, _ = thin(interleaved([values.tolist()]), 100)  # buckets of at most 17 rows
    alone = [place for place in places if all(abs(place - other) >= 17 for other in places if other != place)]
    assert set(alone) <= set(kept["step"])


def test_the_extremes_of_every_column_are_kept_unless_one_is_named() -> None:
    frame = flat(1, 1_000).with_columns(
        std=pl.when(pl.col("step") == 501).then(9.0).otherwise(0.0), rms=pl.when(pl.col("step") == 502).then(9.0)
    )
    assert {501, 502} <= set(thin(frame, 60)[0]["step"])
    assert 502 in thin(frame, 60, value="rms")[0]["step"]
    assert 501 not in thin(frame, 60, value="rms")[0]["step"]


def test_the_note_counts_the_rows() -> None:
    frame = flat(10, 101)
    assert thin(frame, 2000) == (frame, "")
    kept, note = thin(frame, 300)
    assert note == f"{len(kept)} of 1,010 rows drawn, every extreme among them"
    assert kept["tensor"].n_unique() == 10


def test_the_caller_may_name_the_series_and_lines_of_training_are_series() -> None:
    frame = flat(2, 20).with_columns(kind=pl.lit("a"))
    assert thin(frame, 12, by=("kind", "tensor"))[0].group_by("tensor").len()["len"].to_list() == [2, 2]
    kept, _ = thin(frame, 10, by=())
    assert (kept.row(0), kept.row(-1)) == (frame.row(0), frame.row(-1))
    lines = flat(1, 40).with_columns(line=pl.when(pl.col("step") % 2 == 0).then(pl.lit("a")).otherwise(pl.lit("b")))
    assert set(thin(lines, 8)[0]["step"]) == {0, 1, 38, 39}


def test_null_names_a_series_too() -> None:
    frame = pl.DataFrame({"step": [0, 0, 1, 1, 2, 2], "layer": [None, 0, None, 0, None, 0]})
    kept, _ = thin(frame, 4)
    assert kept.rows() == [(0, None), (0, 0), (2, None), (2, 0)]


def test_the_axes_of_a_remembered_group_name_series_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "_REMEMBERED", {})
    frame = pl.DataFrame({"step": [0, 0, 1, 1, 2, 2], "lane": [1, 2, 1, 2, 1, 2]})
    assert thin(frame, 4)[0].rows() == [(0, 1), (1, 1), (1, 2), (2, 2)]
    remember(Group("lanes", ("lane",), "", (Quantity("traffic"),)))
    kept, note = thin(frame, 4)
    assert kept.rows() == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert note == "4 of 6 rows drawn, every extreme among them"


@pytest.mark.parametrize(
    ("limit", "more", "expected"),
    [
        (1, {}, "limit must be at least 2, the two ends of a series (got 1)"),
        (5, {"by": ("site", "head")}, "by must name columns of the table (step, tensor, rms); got site, head"),
        (5, {"value": "std"}, "value must name columns of the table (step, tensor, rms); got std"),
    ],
)
def test_a_table_that_cannot_be_thinned_is_refused(limit: int, more: dict[str, object], expected: str) -> None:
    with pytest.raises(OptionError, match=message(expected)):
        thin(flat(1, 3), limit, **more)
