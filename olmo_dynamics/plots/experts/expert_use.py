"""Use of experts: their loads over time, the saturation of routing, and their specialisation in domains.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import saturation
>>> store = od.open_store("olmoe.zarr")  # doctest: +SKIP
>>> od.plots.saturation(saturation(store))  # doctest: +SKIP
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import time_axis, value_axis
from olmo_dynamics.plots.colors import series_color
from olmo_dynamics.plots.maps import bordered, cell_map, cells
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import INK, PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, tooltips
from olmo_dynamics.plots.trajectories import series_lines
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Quantity

_WIDE, _PANEL = 560, 240
_EXPERT, _LOWEST, _HIGHEST = 6, 120, 400
"""Pixels: an expert's row, and the least and the greatest height of a map."""

_CURVES, _PANELS = (600, 340), (360, 260)
_BARS, _LABEL = (220, 64), 20
"""Width and height of one panel of bars, and the least pixels from one labelled expert to the next."""

_DASH = [5, 4]
_LOAD = Quantity("load_over_mean", "", "load over the mean", (), "N_i / (N k / E)", "", unit="")
_SATURATION = Quantity("saturation", "", "saturation", (), "mean over tokens of |chosen ∩ chosen by the reference| / k", "",
                       valid=(0.0, 1.0))  # fmt: skip


def expert_load(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """A map of each expert's load over experts and step or tokens, one panel per layer; 1 if all are used equally.

    Takes the table `routing.expert_load` with all experts of the layers to draw.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "revision", "layer", "expert", "value")
    load = (pl.col("value") / pl.col("value").mean().over("revision", "layer")).alias(_LOAD.name)
    named = frame.with_columns(load, pl.format("layer {}", "layer").alias("where"))
    rows = cells(named, _LOAD.name, x=x, style=style, facet="where", row="expert")
    several = rows.has_several("panel")
    width = style.width or (_PANEL if several else _WIDE)
    height = style.height or max(_LOWEST, min(_HIGHEST, _EXPERT * rows.frame["expert"].n_unique()))
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    sized, data = replace(style, height=height), inline(rows.frame)
    start = time.channel("start", seen="" if several else zoomed("start"))
    chart = cell_map(rows, data, _LOAD.name, start, style=sized, row="expert").properties(width=width)
    single = bordered(chart if several else chart.add_params(zoom()), rows, data, start)
    columns = min(style.columns, 3)
    whole = small_multiples(single, rows, "panel", columns=columns, free=False) if several else single
    return finalize(whole, f"Load of experts by {x}", [definition(_LOAD), rows.subtitle], style)


def saturation(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of router saturation against step or tokens, one per layer; the dashed line is random routing. OLMoE's figure.

    Takes the table of `olmo_dynamics.frames.saturation`; of tables for several `top`, stacked, each has a panel.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "saturation", "baseline", "reference")
    of_top = "top" in frame.columns and frame["top"].n_unique() > 1
    named = frame.with_columns(pl.format("top {}", "top").alias("panel")) if of_top else frame
    rows = drawable(named, "saturation", x=x, also=["panel", "baseline"] if of_top else ["baseline"])
    width, height = _PANELS if of_top else _CURVES
    width, height = style.width or width, style.height or height
    value = value_axis(rows.frame, "saturation", _SATURATION, scale=style.scale)
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    curves = series_lines(rows, value, time, hue="layer", panels=of_top).add_params(zoom())
    levels: Any = curves.data if of_top else inline(pl.DataFrame({"baseline": [frame["baseline"][0]]}))
    chart = alt.LayerChart(layer=[curves, *_baseline(levels, "child_width" if of_top else "width")]).properties(
        width=width, height=height
    )
    whole = small_multiples(chart, rows, "panel", columns=style.columns, free=False) if of_top else chart
    reference = f"The reference is {frame['reference'][0]}."
    return finalize(
        whole, f"Router saturation by {x}", [definition(_SATURATION), f"{rows.subtitle} {reference}"], style
    )


def domain_specialisation(frame: pl.DataFrame, *, style: Style = PLAIN) -> AnyChart:
    """Bars of the share of a domain's tokens that each expert sees in one revision: domains as rows, layers as columns.

    The dashed line is k / E, what random routing would give. Takes the table `routing.domain_specialisation`.

    Raises:
        OptionError: a column is missing, there is nothing or too much to draw, or the table has several revisions.
    """
    require(frame, "domain", "layer", "expert", "value")
    quantity = find("routing/domain_specialisation")
    rows = drawable(frame, "value", x=None)
    if rows.has_several("revision"):
        count = rows.frame["revision"].n_unique()
        raise OptionError(f"domain_specialisation() needs exactly one revision (got {count}); filter the table")
    baseline = pl.col("value").mean().over("domain", "layer").alias("baseline")
    shown = rows.frame.with_columns(baseline, pl.format("layer {}", "layer").alias("where"))
    chart = _bars(shown, quantity, width=style.width or _BARS[0], height=style.height or _BARS[1])
    header = alt.Header(labelAngle=0, labelAlign="left", labelBaseline="middle")
    whole = chart.facet(
        row=alt.Row("domain", type="nominal", title=None, sort=_appearing(shown, "domain"), header=header),
        column=alt.Column("where", type="nominal", title=None, sort=_appearing(shown, "where")),
        spacing={"row": 14, "column": 26},
    )
    line = f"{definition(quantity)} Dashed: k / E, what random routing would give."
    return finalize(whole, "Specialisation of experts in domains", [line, rows.subtitle], style)


def _bars(shown: pl.DataFrame, quantity: Quantity, *, width: int, height: int) -> alt.LayerChart:
    experts = sorted(shown["expert"].unique())
    every = 1 << max(0, math.ceil(math.log2(len(experts) * _LABEL / width)))
    axis = alt.Axis(values=experts[::every], tickSize=0, labelAngle=0)
    base = alt.Chart(inline(shown), width=width, height=height)
    share = alt.Y("value", type="quantitative", title=None, axis=alt.Axis(format="%", tickCount=3))
    bars = base.mark_bar().encode(
        x=alt.X("expert", type="ordinal", title="expert", axis=axis),
        y=share,
        color=series_color(shown, "domain").legend(None),
        tooltip=tooltips(shown, value=axis_title(quantity), baseline="random routing"),
    )
    rule = base.mark_rule(strokeDash=_DASH, color=INK).encode(
        y=alt.Y("baseline", type="quantitative", aggregate="mean")
    )
    return alt.LayerChart(layer=[bars, rule])


def _appearing(shown: pl.DataFrame, field: str) -> list[str]:
    return [str(value) for value in shown[field].unique(maintain_order=True)]


def _baseline(levels: Any, end: str) -> tuple[alt.Chart, alt.Chart]:
    """A dashed line across, and its name at the right, where the curves are high; `end` is the signal of a panel's width."""
    base = alt.Chart(levels).encode(y=alt.Y("baseline", type="quantitative", aggregate="mean"))
    rule = base.mark_rule(strokeDash=_DASH, color=QUIET)
    name = base.mark_text(align="right", dx=-4, dy=-7, color=QUIET).encode(
        x=alt.value(alt.ExprRef(end)), text=alt.value("random routing")
    )
    return rule, name
