"""N-gram divergences against training time: a line for unigrams and one for bigrams, with the dip of each marked.

>>> import olmo_dynamics as od
>>> od.plots.ngram_crossover(od.open_store("run.zarr").table("ngram"))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import stage_borders, time_axis, value_axis
from olmo_dynamics.plots.line_labels import end_labels, padded_domain
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.selections import faded, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, inline
from olmo_dynamics.plots.theme import CATEGORIES, INK, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips
from olmo_dynamics.plots.trajectories import continued, line_dash, measured

_WIDTH, _HEIGHT = 600, 340
_NAMES = {1: "unigrams", 2: "bigrams"}
_NGRAM, _DIP = "n-gram model", "dip"
_ROOM = 0.06  # of the axis
_RISE = 0.05  # of a line's span, behind its lowest point: less is no dip


def ngram_crossover(frame: pl.DataFrame, y: str = "kl", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of a divergence of the table `ngram` against step or tokens, one for each order, named at their ends.

    A ring marks the dip of a line: its lowest point, if it rises again by more than a twentieth of its span. Lines of training
    are told apart by dashes.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    rows = drawable(frame, y, x=x, also=["order"])
    named = pl.col("order").cast(pl.Int64).replace_strict(_NAMES, default="other").alias(_NGRAM)
    rows = Rows(rows.frame.with_columns(named), rows.left_out, rows.x)
    width, height = style.width or _WIDTH, style.height or _HEIGHT
    quantity = quantity_of(frame, y)
    value = value_axis(rows.frame, y, quantity, scale="linear" if style.scale == "auto" else style.scale)
    low, high = padded_domain(value)
    room = (low, high) if value.log else (low - _ROOM * (high - low), high)  # for the words below a dip
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    chosen = alt.selection_point(name="picked_order", fields=[_NGRAM], on="click", clear="dblclick")
    look = {"color": _colors(), "opacity": faded(chosen)}
    shown = continued(rows, y).with_columns(named)
    data, at = inline(shown), time.channel(seen=zoomed(rows.x))
    base = alt.Chart(data).encode(x=at, y=value.channel(domain=room), **look)
    line = base.mark_line()
    line = line.encode(strokeDash=line_dash()) if rows.has_several(LINE) else line
    told = tooltips(rows.frame, **{y: axis_title(quantity)})
    dots = measured(base, shown).mark_point(filled=True, size=18).encode(tooltip=told)
    names = end_labels(rows.frame, _NGRAM, value, height=height, x=rows.x).encode(
        x=alt.value(alt.ExprRef("width + 8")), **look
    )
    layers = [line.add_params(chosen, zoom()), dots, names, *_dips(rows, y, at, base), *stage_borders(shown, data, at)]
    chart = alt.LayerChart(layer=layers).properties(width=width, height=height)
    title = heading(rows.frame, quantity, " during training")
    return finalize(chart, title, [definition(quantity), rows.subtitle], style)


def dips(rows: Rows, y: str) -> pl.DataFrame:
    """The lowest row of each line that rises again, with its words in the column `dip`."""
    series = [_NGRAM, *([LINE] if LINE in rows.frame.columns else [])]
    placed = rows.frame.sort(rows.x)
    ends = placed.group_by(series, maintain_order=True).agg(last=pl.col(y).last(), highest=pl.col(y).max())
    lowest = placed.sort(y, maintain_order=True).group_by(series, maintain_order=True).first()
    rise, span = pl.col("last") - pl.col(y), pl.col("highest") - pl.col(y)
    found = lowest.join(ends, on=series, nulls_equal=True).filter(rise > _RISE * span)
    place = "step {:,}" if "step" in rows.x else "{:,} tokens"
    words = [f"{row[y]:.3g} at {place.format(row[rows.x])}" for row in found.iter_rows(named=True)]
    return found.with_columns(pl.Series(_DIP, words, dtype=pl.String))


def _dips(rows: Rows, y: str, at: alt.X, base: alt.Chart) -> list[alt.Chart]:
    found = dips(rows, y)
    if found.is_empty():
        return []
    marked = alt.Chart(inline(found)).encode(x=at, y=base.encoding.y)
    ring = marked.mark_point(size=110, strokeWidth=1.6, color=INK, filled=False)
    words: dict[str, Any] = {"align": "center", "baseline": "top", "dy": 9, "fontSize": 11}
    text = marked.encode(text=alt.Text(_DIP, type="nominal"))
    rim = text.mark_text(**words, stroke="white", strokeWidth=4, strokeJoin="round")
    return [ring, rim, text.mark_text(**words, color=INK)]


def _colors() -> alt.Color:
    scale = alt.Scale(domain=list(_NAMES.values()), range=list(CATEGORIES[: len(_NAMES)]))
    return alt.Color(_NGRAM, type="nominal", scale=scale, legend=None)
