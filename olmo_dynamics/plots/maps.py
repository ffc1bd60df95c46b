"""Layer against training time, the quantity as colour.

A cell reaches half-way to the revisions before and after it, so the map's time axis is as exact as a curve's.

    >>> import olmo_dynamics as od
    >>> activations = od.open_store("run.zarr").table("activations")  # doctest: +SKIP
    >>> od.plots.layer_step_map(activations, "kurtosis")  # doctest: +SKIP
"""

from __future__ import annotations

import math
from dataclasses import replace

import altair as alt
import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import TimeAxis, time_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, require, with_branch
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips

_WIDE, _PANEL = 560, 220
_OVERLAP = 0.8
_ROW, _LABEL, _LOWEST, _HIGHEST = 22, 13, 150, 460
"""In pixels: a layer's row, the least height of one with a label, and the least and the greatest height of a map."""


def layer_step_map(frame: pl.DataFrame, value: str, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """A map of the column `value` over layers and step or tokens, one panel for each role, site or line of training.

    Colours are logarithmic if the values are positive and span more than a factor of 100. Rows outside the blocks are not
    drawn. In a single map, a click highlights a layer.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw, or two values fall on one cell.
    """
    rows = cells(frame, value, x=x, facet=style.facet)
    several = rows.has_several("panel")
    width = style.width or (_PANEL if several else _WIDE)
    layers = rows.frame["layer"].n_unique()
    height = style.height or max(_LOWEST, min(_HIGHEST, _ROW * layers)) // (2 if several else 1)
    time = time_axis(rows.frame, x, width=width).channel("start", seen="" if several else zoomed("start"))
    chart = cell_map(rows, value, time, style=replace(style, height=height)).properties(width=width)
    if several:
        whole: AnyChart = small_multiples(chart, rows, "panel", columns=min(style.columns, 3), free=False)
    else:
        whole = pickable(chart).add_params(zoom())
    quantity = quantity_of(frame, value)
    title = heading(rows.frame, quantity, " by layer and " + x)
    return finalize(whole, title, [definition(quantity), rows.subtitle], style)


def cells(frame: pl.DataFrame, value: str, *, x: str, facet: str | None = None, row: str = "layer") -> Rows:
    """The rows of a map: those with a layer (or expert), their panel's name and the two ends of each cell."""
    require(frame, row)
    named = [facet] if facet else []
    rows = with_branch(drawable(frame.filter(pl.col(row).is_not_null()), value, x=x, also=named))
    names = [facet] if facet else ["role", "site", "input"] if facet is None else []
    parts = [pl.col(name).cast(pl.String) for name in (*names, "branch") if rows.has_several(name)] or [pl.lit("")]
    labelled = rows.frame.with_columns(pl.concat_str(parts, separator=" · ", ignore_nulls=True).alias("panel"))
    if labelled.select("panel", x, row).is_duplicated().any():
        raise OptionError(f"a map needs one value of {value!r} per {row} and {x} (got several); filter the table")
    axis = time_axis(labelled, x, width=_WIDE)
    ends = pl.concat([_ends(part, axis) for part in labelled.select("panel", x).unique().partition_by("panel")])
    return Rows(labelled.join(ends, on=["panel", x]), rows.left_out)


def cell_map(rows: Rows, value: str, x: alt.X, *, style: Style, row: str = "layer") -> alt.Chart:
    """The coloured cells, each from `start` to `stop`, without width, title, selections and theme."""
    quantity = quantity_of(rows.frame, value)
    height = style.height or _HIGHEST
    ladder = sorted(rows.frame[row].unique())
    labels = alt.Axis(values=ladder[:: math.ceil(len(ladder) * _LABEL / height)], tickSize=0)
    title = "layer (0 is shallowest)" if row == "layer" else row
    # Cells overlap by most of a pixel; otherwise hairlines of the background would show between them.
    taller = alt.RelativeBandSize(1 + _OVERLAP * len(ladder) / height)
    cell = alt.Chart(rows.frame, height=height).mark_rect(x2Offset=_OVERLAP, height=taller)
    chart: alt.Chart = cell.encode(
        x=x,
        x2="stop",
        y=alt.Y(row, type="ordinal", title=title, sort="descending", axis=labels),
        color=magnitude_color(rows.frame, value, quantity, scale=style.scale),
        tooltip=tooltips(rows.frame, **{value: axis_title(quantity)}),
    )
    return chart


def pickable(chart: alt.Chart) -> alt.Chart:
    """The map with a click that highlights a layer."""
    chosen = pick("layer")
    shaded: alt.Chart = chart.encode(opacity=faded(chosen, full=1.0, faint=0.25)).add_params(chosen)
    return shaded


def _ends(times: pl.DataFrame, axis: TimeAxis) -> pl.DataFrame:
    """Start and stop of each cell: half-way to its neighbours on the axis; a tenth to each side if it is alone."""
    ordered = times.sort(axis.field)
    place = axis.place(ordered[axis.field].to_numpy().astype(np.float64))
    halves = np.diff(place) / 2 if len(place) > 1 else np.array([0.1 * max(abs(place[0]), 1.0)])
    before, after = np.r_[halves[:1], halves][: len(place)], np.r_[halves, halves[-1:]][: len(place)]
    start, stop = axis.unplace(place - before), axis.unplace(place + after)
    return ordered.with_columns(pl.Series("start", start), pl.Series("stop", stop))
