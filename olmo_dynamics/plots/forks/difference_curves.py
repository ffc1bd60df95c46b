"""Forks as differences to the unchanged parent, step by step, with a smoothed line for each.

>>> import polars as pl
>>> table = pl.DataFrame({"fork": ["hot", "hot"], "step": [5, 6], "tokens": [50, 60], "difference": [0.0, 0.1],
...                       "smoothed": [0.02, 0.08]})
>>> fork_differences(table, "training loss").to_dict()["title"]["text"]
['Training loss: fork less the unchanged run']
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import time_axis
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import XS, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, INK, PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import NUMBER, X_TITLES

_WIDE = (640, 300)
_HUES = tuple(hue for hue in CATEGORIES if hue != "#000000")  # ink is the line at zero


def fork_differences(frame: pl.DataFrame, name: str, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of `difference` (faint) and `smoothed` against step or tokens, one colour per fork, around a line at zero.

    Takes a table of `olmo_dynamics.frames.fork_differences`; `name` is that of the quantity.

    Raises:
        OptionError: a column is missing.
    """
    require(frame, "fork", "difference", "smoothed", *XS)
    width, height = style.width or _WIDE[0], style.height or _WIDE[1]
    forks = frame["fork"].unique(maintain_order=True).to_list()
    time = time_axis(frame, x, width=width, style=style).channel(seen=zoomed(x))
    title = f"difference of {name}"
    rounded = frame.with_columns(pl.col("difference", "smoothed").round_sig_figs(4))
    base = alt.Chart(inline(rounded)).encode(x=time)
    chosen = pick("fork")
    hues = [_HUES[place % len(_HUES)] for place in range(len(forks))]
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1, orient="bottom", columns=1, labelLimit=520)
    color = alt.Color(
        "fork", type="nominal", title="what was changed", scale=alt.Scale(domain=forks, range=hues), legend=legend
    )
    times = [alt.Tooltip(each, type="quantitative", title=X_TITLES[each], format=",d") for each in XS]
    numbers = [alt.Tooltip(each, type="quantitative", format=NUMBER) for each in ("difference", "smoothed")]
    told = [alt.Tooltip("fork", type="nominal"), *times, *numbers]
    smooth = base.mark_line(strokeWidth=2.2).encode(y=_up("smoothed", title), color=color, opacity=faded(chosen))
    raw = base.mark_line(strokeWidth=0.7).encode(
        y=_up("difference", title), color=color, opacity=faded(chosen, full=0.4, faint=0.05)
    )
    dots = base.mark_point(opacity=0, size=40).encode(y=_up("smoothed", title), color=color, tooltip=told)
    zero = (
        alt.Chart(inline(pl.DataFrame({"zero": [0.0]})))
        .mark_rule(color=INK, strokeDash=[4, 3])
        .encode(y=_up("zero", title))
    )
    named = zero.mark_text(align="left", dx=4, dy=-6, color=QUIET).encode(
        x=alt.value(0), text=alt.value("the unchanged run")
    )
    chart = alt.LayerChart(layer=[smooth.add_params(chosen, zoom()), raw, dots, zero, named]).properties(
        width=width, height=height
    )
    words = f"{name[:1].upper()}{name[1:]}: fork less the unchanged run"
    span = f"step {frame['step'].to_numpy().min():,} to {frame['step'].to_numpy().max():,}"
    return finalize(chart, words, [f"{len(forks)} fork{'s' if len(forks) > 1 else ''}, {span}."], style)


def _up(field: str, title: str) -> Any:
    return alt.Y(field, type="quantitative", title=title, scale=alt.Scale(zero=False, padding=5))
