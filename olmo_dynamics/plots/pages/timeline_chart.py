"""The timeline of a training: its stages with the revisions that were measured, the learning rate, and the batch.

>>> import polars as pl
>>> marks = pl.DataFrame({"revision": ["a", "b"], "line": ["run", "run"], "step": [0, 10], "tokens": [0, 40]})
>>> timeline_chart(marks, rates=None, batches=None).to_dict()["vconcat"][0]["mark"]["type"]
'tick'
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import TimeAxis, span, time_axis
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.table import inline
from olmo_dynamics.plots.theme import CATEGORIES, PLAIN, AnyChart, Style, themed
from olmo_dynamics.plots.titles import X_TITLES

_WIDTH, _ROW, _CURVE = 700, 22, 70
"""Pixels: the width, the height of a line of training, and that of a curve."""


def timeline_chart(
    marks: pl.DataFrame,
    *,
    rates: pl.DataFrame | None,
    batches: pl.DataFrame | None,
    x: str = "step",
    style: Style = PLAIN,
) -> AnyChart:
    """A tick for each revision in a row for each line of training; above them the learning rate and the tokens of a step.

    Takes one row per revision with `revision`, `line` and the time column `x`, which may count through all stages. `rates` has
    `x` and `learning_rate`, `batches` has `x` and `batch`; both may lack.
    """
    time = time_axis(marks, x, width=_WIDTH, style=style)
    ends = list(span(marks, x))
    curves = []
    if rates is not None and not rates.is_empty():
        curves.append(_curve(rates, "learning_rate", "learning rate", time, ends, step=False))
    if batches is not None and not batches.is_empty():
        curves.append(_curve(batches, "batch", "tokens per step", time, ends, step=True))
    parts: list[Any] = [*curves, _revisions(marks, time, ends)]
    return themed(alt.vconcat(*parts, spacing=20, bounds="flush"))


def _curve(
    frame: pl.DataFrame, field: str, title: str, time: TimeAxis, ends: list[float], *, step: bool
) -> alt.LayerChart:
    """One curve over the whole training, without labels on its time axis, which stand below."""
    at = _across(time, ends)
    at["axis"] = None
    base = alt.Chart(inline(frame), width=_WIDTH, height=_CURVE).encode(
        x=at,
        y=alt.Y(field, type="quantitative", title=title, axis=alt.Axis(tickCount=3, format=".3~g" if not step else ".3~s",
                titleAngle=0, titleAlign="left", titleX=4, titleY=-4), scale=alt.Scale(zero=True)),
        tooltip=[alt.Tooltip(name, type="quantitative", title=X_TITLES.get(name, title), format=".4~g" if name == field else ",d")
                 for name in frame.columns if name in (field, *X_TITLES)],
        detail=[alt.Detail(name, type="nominal") for name in (LINE,) if name in frame.columns],
    )  # fmt: skip
    line: dict[str, Any] = {"interpolate": "step-before"} if step else {}
    return alt.LayerChart(layer=[base.mark_line(**line), base.mark_point(opacity=0, size=40)])


def _revisions(marks: pl.DataFrame, time: TimeAxis, ends: list[float]) -> alt.Chart:
    """A row of ticks per line of training."""
    lines = marks[LINE].unique(maintain_order=True).to_list()
    hues = [CATEGORIES[place % len(CATEGORIES)] for place in range(len(lines))]
    told = [name for name in X_TITLES if name in marks.columns and marks[name].is_not_null().any()]
    chart: alt.Chart = (
        alt.Chart(inline(marks), width=_WIDTH, height=max(30, _ROW * len(lines)))
        .mark_tick(thickness=2, opacity=0.85)
        .encode(
            x=_across(time, ends),
            y=alt.Y(LINE, type="nominal", title=None, sort=lines, axis=_names(lines)),
            color=alt.Color(LINE, type="nominal", scale=alt.Scale(domain=lines, range=hues), legend=None),
            tooltip=[
                alt.Tooltip("revision", type="nominal"),
                *(alt.Tooltip(name, type="quantitative", title=X_TITLES[name], format=",d") for name in told),
            ],
        )
    )
    return chart


def _across(time: TimeAxis, ends: list[float]) -> alt.X:
    """The time axis with the same ends in every part."""
    return time.channel(domain=ends)


def _names(lines: list[str]) -> alt.Axis:
    """The axis of lines of training, whose names are told without what all begin with, such as the organisation."""
    columns = zip(*(name.split("/")[:-1] for name in lines), strict=False)
    shared = takewhile(lambda column: len(set(column)) == 1, columns if len(lines) > 1 else ())
    left_out = sum(len(column[0]) + 1 for column in shared)
    return alt.Axis(labelExpr=f"slice(datum.label, {left_out})", labelLimit=320, domain=False, ticks=False)
