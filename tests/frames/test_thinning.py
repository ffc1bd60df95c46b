from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics import quantities
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import thin
from olmo_dynamics.quantities import remember
from olmo_dynamics.quantities.declaration import Group, Quantity
from tests.store.test_layout import message


def interleaved(sizes: list[int]) -> pl.DataFrame:
    """Series of those sizes, a row of each in turn, as tables have them."""
    rows = [(step, f"t{series}") for step in range(max(sizes)) for series, size in enumerate(sizes) if step < size]
    return pl.DataFrame(rows, schema=["step", "tensor"], orient="row")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(2, 60))
def test_at_most_the_limit_in_order_with_both_ends_of_each_series(sizes: list[int], limit: int) -> None:
    frame = interleaved(sizes).with_row_index("row")
    kept, note = thin(frame, limit)
    assert len(kept) <= limit
    assert kept["row"].is_sorted()
    assert kept.join(frame, on=frame.columns, how="inner").height == len(kept)
    assert (note == "") == (len(kept) == len(frame))
    if "series" not in note:
        assert set(kept["tensor"]) == set(frame["tensor"])
    for name in kept["tensor"].unique():
        assert kept.filter(tensor=name)["step"].min() == 0
        assert kept.filter(tensor=name)["step"].max() == frame.filter(tensor=name)["step"].max()


@given(st.integers(1, 6), st.integers(1, 40), st.integers(2, 100))
def test_series_of_one_length_keep_the_same_steps(series: int, steps: int, limit: int) -> None:
    kept, note = thin(interleaved([steps] * series), limit)
    shown = {tuple(rows["step"]) for rows in kept.partition_by("tensor")}
    assert len(shown) == 1
    every = re.search(r"1 in (\d+) revisions shown", note)
    stride = int(every.group(1)) if every else 1
    assert shown.pop() == tuple(step for step in range(steps) if step % stride == 0 or step == steps - 1)


def test_the_note_tells_which_rows_are_shown() -> None:
    frame = interleaved([101] * 10)
    assert thin(frame, 2000) == (frame, "")
    assert thin(frame, 300)[1] == "1 in 4 revisions shown"
    kept, note = thin(frame, 10)
    assert note == "1 in 2 series shown, 1 in 100 revisions shown"
    assert kept["tensor"].unique().sort().to_list() == ["t0", "t2", "t4", "t6", "t8"]


def test_the_caller_may_name_the_series() -> None:
    frame = interleaved([20, 20]).with_columns(kind=pl.lit("a"))
    assert thin(frame, 12, by=("kind", "tensor"))[0]["tensor"].n_unique() == 2
    kept, note = thin(frame, 10, by=())
    assert (len(kept), note) == (9, "1 in 5 revisions shown")
    assert kept.row(0) == frame.row(0)
    assert kept.row(-1) == frame.row(-1)


def test_null_names_a_series_too() -> None:
    frame = pl.DataFrame({"step": [0, 0, 1, 1, 2, 2], "layer": [None, 0, None, 0, None, 0]})
    kept, _ = thin(frame, 4)
    assert kept.rows() == [(0, None), (0, 0), (2, None), (2, 0)]


def test_the_axes_of_a_remembered_group_name_series_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantities, "_REMEMBERED", {})
    frame = pl.DataFrame({"step": [0, 0, 1, 1, 2, 2], "lane": [1, 2, 1, 2, 1, 2]})
    assert thin(frame, 4)[1] == "1 in 2 revisions shown"
    remember(Group("lanes", ("lane",), "", (Quantity("traffic"),)))
    kept, note = thin(frame, 4)
    assert kept.rows() == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert note == "1 in 2 revisions shown"


@pytest.mark.parametrize(
    ("limit", "by", "expected"),
    [
        (1, None, "limit must be at least 2, the two ends of a series (got 1)"),
        (5, ("site", "head"), "by must name columns of the table (step, tensor); got site, head"),
    ],
)
def test_what_cannot_be_thinned(limit: int, by: tuple[str, ...] | None, expected: str) -> None:
    with pytest.raises(OptionError, match=message(expected)):
        thin(interleaved([3]), limit, by=by)
