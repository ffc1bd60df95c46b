"""Loss by position in the window, one line per revision: later tokens have more to go by.

>>> import olmo_dynamics as od
>>> od.plots.loss_by_position(od.open_store("run.zarr").table("loss.position_cross_entropy"))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import value_axis
from olmo_dynamics.plots.colors import series_color, time_color
from olmo_dynamics.plots.inside.chosen_revisions import PANEL, spread
from olmo_dynamics.plots.inside.curve_panels import short_title
from olmo_dynamics.plots.lines import time_column, with_line
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.table import Rows, drawable, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, tooltips
from olmo_dynamics.quantities import find

_WIDE, _SMALL = (560, 320), (200, 150)
_LINES = 8
_EXACT, _PER_OCTAVE = 4, 3
"""Positions that have a point of their own, and points in every doubling of the position beyond them."""

_LOSS = find("loss/position_cross_entropy")


def loss_by_position(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of the cross-entropy against the position in the window, one per revision, in panels by domain.

    The loss at a position is the mean over sequences of -ln p(token | before). Beyond the first positions, each point is the
    mean of a third of an octave of neighbouring positions, at their middle. Of many revisions, eight are shown, evenly spaced
    on the time axis. Takes the table `loss.position_cross_entropy`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "domain", "position", "value")
    shown, note = spread(drawable(frame, "value", x=None, most=None).frame, _LINES, x=x, style=style)
    binned = in_bins(shown.filter(pl.col("position") > 0))
    if binned.is_empty():
        raise OptionError("the table must hold values at positions from 1 on to draw (got none)")
    rows = Rows(binned, "", x)
    panels = rows.has_several("domain")
    width, height = _SMALL if panels else _WIDE
    value = value_axis(binned, "value", _LOSS, scale="linear" if style.scale == "auto" else style.scale)
    value = replace(value, title=short_title(_LOSS) if panels else axis_title(_LOSS), crowded=panels)
    field = time_column(with_line(binned), x)
    timed = binned[field].is_not_null().any()
    color = time_color(binned, field, style) if timed else series_color(binned, "revision")
    most = int(binned["position"].to_numpy().max())
    ticks = [2**power for power in range(0, most.bit_length(), 2 if panels else 1)]
    at = alt.X("position", type="quantitative", title="position in the window", scale=alt.Scale(type="log", nice=False),
               axis=alt.Axis(values=ticks, format="d", grid=False, labelOverlap="greedy"))  # fmt: skip
    base = alt.Chart(inline(binned.drop(PANEL))).encode(
        x=at, y=value.channel(), color=color, detail=alt.Detail("revision", type="nominal")
    )
    dots = base.mark_point(filled=False, size=4, strokeWidth=1.8).encode(
        tooltip=tooltips(binned, value=axis_title(_LOSS))
    )
    chart = alt.LayerChart(layer=[base.mark_line(strokeWidth=1.4), dots])
    chart = chart.properties(width=style.width or width, height=style.height or height)
    whole = small_multiples(chart, rows, "domain", columns=min(style.columns, 3), free=False) if panels else chart
    line = f"{note or rows.span}. Beyond position {_EXACT}, means of a third of an octave of positions."
    return finalize(whole, "Loss by position in the window", [definition(_LOSS), line], style)


def in_bins(frame: pl.DataFrame) -> pl.DataFrame:
    """One row per revision, domain and bin of positions: the mean value, at the middle position of the bin."""
    place = frame["position"].to_numpy().astype(np.float64)
    octave = _EXACT * 2 ** (np.floor(_PER_OCTAVE * np.log2(np.maximum(place, 1) / _EXACT)) / _PER_OCTAVE)
    bins = pl.Series("bin", np.where(place <= _EXACT, -place, octave).round(6))
    keys = [name for name in frame.columns if name not in ("position", "value", "status")]
    grouped = frame.with_columns(bins).group_by([*keys, "bin"], maintain_order=True)
    means = grouped.agg(pl.col("position").mean().round(1), pl.col("value").cast(pl.Float64).mean().round_sig_figs(6))
    return means.drop("bin")
