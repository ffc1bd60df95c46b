"""A few revisions out of many, evenly spaced along the time axis, for pictures with one panel or one line per revision.

>>> import polars as pl
>>> steps = [0, 1, 10, 100, 1_000]
>>> table = pl.DataFrame({"revision": [f"r{step}" for step in steps], "step": steps, "tokens": steps})
>>> shown, note = spread(table, 3, x="step")
>>> shown["panel"].to_list(), note
(['step 0', 'step 10', 'step 1,000'], '3 of 5 revisions')
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.plots.axes import time_scale
from olmo_dynamics.plots.lines import LINE, time_column, with_line
from olmo_dynamics.plots.table import PARTS
from olmo_dynamics.plots.theme import PLAIN, Style

PANEL = "panel"
"""The column that names a chosen revision: by its step, its tokens, or its own name."""


def spread(frame: pl.DataFrame, count: int, *, x: str, style: Style = PLAIN) -> tuple[pl.DataFrame, str]:
    """The rows of at most `count` revisions, the first and the last among them, with `panel`; and a note that counts them.

    Revisions with a place in training are spaced evenly on its axis; those without follow in the table's order where there
    are no others.
    """
    named = with_line(frame)
    time = time_column(named, x)
    placed = named.filter(pl.col(time).is_not_null())
    timed = not placed.is_empty()
    held = (placed if timed else named).unique("revision", keep="first", maintain_order=True)
    held = held.sort(time, maintain_order=True) if timed else held
    places = np.arange(held.height, dtype=np.float64)
    if timed and held.height:
        places = time_scale(held, time, style).place(held[time].to_numpy().astype(np.float64))
    kept = held[nearest(places, count)]
    note = f"{kept.height} of {held.height} revisions" if kept.height < held.height else ""
    words = kept.select("revision", _words(kept, time if timed else "").alias(PANEL))
    return words.join(named, on="revision", maintain_order="left"), note


def nearest(places: np.ndarray, count: int) -> list[int]:
    """The places nearest to `count` evenly spaced ones, each once, in order; all of them if they are few."""
    if len(places) <= count:
        return list(range(len(places)))
    chosen: set[int] = set()
    for wanted in np.linspace(places[0], places[-1], count):
        order = np.argsort(np.abs(places - wanted), kind="stable")
        chosen.add(next(int(index) for index in order if int(index) not in chosen))
    return sorted(chosen | {0, len(places) - 1})[:count]


def _words(kept: pl.DataFrame, time: str) -> pl.Expr:
    """The step or tokens as a panel's title, after the line of training where there are several."""
    if not time:
        return pl.col("revision")
    unit = "step" if "step" in time else "tokens"
    number = pl.col(time).map_elements(lambda value: _number(value, unit), return_dtype=pl.String)
    return pl.concat_str([pl.col(LINE), number], separator=PARTS) if kept[LINE].n_unique() > 1 else number


def _number(value: int, unit: str) -> str:
    if unit == "step":
        return f"step {value:,}"
    return f"{value / 1e9:.3g}B tokens" if value >= 1e9 else f"{value:,} tokens"
