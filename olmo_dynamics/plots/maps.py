"""Layer against training time, the quantity as colour.

A cell reaches half-way to the revisions before and after it, so the map's time axis is as exact as a curve's.

    >>> import olmo_dynamics as od
    >>> activations = od.open_store("run.zarr").table("activations")  # doctest: +SKIP
    >>> od.plots.layer_step_map(activations, "kurtosis")  # doctest: +SKIP
    >>> od.plots.norms_panel(activations, "kurtosis")  # doctest: +SKIP
"""

from __future__ import annotations

import math
from dataclasses import replace

import altair as alt
import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import TimeScale, stage_borders, time_axis, time_scale, value_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.lines import LINE, paths, with_borders
from olmo_dynamics.plots.panels import side_by_side, small_multiples
from olmo_dynamics.plots.selections import brush, faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import PARTS, Rows, drawable, in_order, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips
from olmo_dynamics.plots.trajectories import series_lines

_WIDE, _PANEL = 560, 220
_OVERLAP = 0.8
_ROW, _LABEL, _LOWEST, _HIGHEST = 22, 13, 150, 460
"""In pixels: a layer's row, the least height of one with a label, and the least and the greatest height of a map."""

_HALF, _TALL = 330, 300  # pixels of a map with its curves beside it
_HINT = "Brush the map to zoom the curves; click a layer to highlight it."
_SHOWN = alt.TitleParams(text=alt.ExprRef("shown"), fontSize=12)


def layer_step_map(frame: pl.DataFrame, value: str, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """A map of the column `value` over layers and step or tokens, one panel for each role, site or line of training.

    The map of a later stage's line begins with those that it continues; a dashed border parts them. Colours are logarithmic
    if the values are positive and span more than a factor of 100. Rows outside the blocks are not drawn. In a single map, a
    click highlights a layer.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw, or two values fall on one cell.
    """
    rows = cells(frame, value, x=x, style=style, facet=style.facet)
    several = rows.has_several("panel")
    width = style.width or (_PANEL if several else _WIDE)
    layers = rows.frame["layer"].n_unique()
    height = style.height or max(_LOWEST, min(_HIGHEST, _ROW * layers)) // (2 if several else 1)
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    data, sized = inline(rows.frame), replace(style, height=height)
    start = time.channel("start", seen="" if several else zoomed("start"))
    chart = cell_map(rows, data, value, start, style=sized).properties(width=width)
    chart = chart if several else pickable(chart).add_params(zoom())
    single = bordered(chart, rows, data, start)
    columns = min(style.columns, 3)
    whole = small_multiples(single, rows, "panel", columns=columns, free=False) if several else single
    quantity = quantity_of(frame, value)
    title = heading(rows.frame, quantity, " by layer and " + x)
    return finalize(whole, title, [definition(quantity), rows.subtitle], style)


def norms_panel(frame: pl.DataFrame, value: str = "rms", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """A map of `value` over layers and time on the left, the layers' curves on the right.

    Clicking a layer in either, or in the legend, highlights it in both. Brushing steps on the map zooms the curves. If the
    table holds several roles or sites, a menu below selects one.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw, or two values fall on one cell.
    """
    rows = cells(frame, value, x=x, style=style, facet=style.facet)
    width, height = style.width or _HALF, style.height or _TALL
    quantity = quantity_of(frame, value)
    time, data = time_axis(rows.frame, rows.x, width=width, style=style), inline(rows.frame)
    start = time.channel("start")
    brushed, menu = brush("x"), _menu(rows)
    color = magnitude_color(rows.frame, value, quantity, scale=style.scale, below=width)
    cell = cell_map(rows, data, value, start, style=replace(style, height=height)).encode(color=color)
    left = bordered(pickable(cell).properties(width=width).add_params(brushed), rows, data, start)
    of_panel = value_axis(rows.frame, value, quantity, scale=style.scale, panels="panel" if menu else "")
    axis = replace(of_panel, title=axis_title(quantity), crowded=False)
    curves = series_lines(rows, axis, time, hue="layer", domain=brushed)
    right = curves.properties(width=width, height=height)
    if menu:
        left = left.transform_filter(_chosen(menu)).properties(title=_SHOWN)
        right = right.transform_filter(_chosen(menu))
    both = side_by_side(left, right).resolve_scale(color="independent")
    both = both.add_params(menu) if menu else both
    title = heading(rows.frame, quantity, f" by layer and {x}")
    return finalize(both, title, [_HINT, definition(quantity), rows.subtitle], style)


def _menu(rows: Rows) -> alt.Parameter | None:
    """A menu of the roles, sites or lines of training in the table; None if there is only one."""
    if not rows.has_several("panel"):
        return None
    options = in_order(rows.frame, "panel")
    return alt.param(name="shown", value=options[0], bind=alt.binding_select(options=options, name="shown "))


def _chosen(menu: alt.Parameter) -> alt.Predicate:
    chosen: alt.Predicate = alt.datum.panel == menu
    return chosen


def cells(
    frame: pl.DataFrame, value: str, *, x: str, style: Style, facet: str | None = None, row: str = "layer"
) -> Rows:
    """The rows of a map: those with a layer (or expert), their panel's name and the two ends of each cell.

    A line that others continue is in the panel of each.
    """
    require(frame, row)
    rows = drawable(frame.filter(pl.col(row).is_not_null()), value, x=x, also=[facet] if facet else [])
    names = [facet] if facet else ["role", "site", "input"] if facet is None else []
    whole = paths(rows.frame, rows.x).drop(LINE) if rows.has_several(LINE) else rows.frame
    whole = with_borders(whole, rows.x) if rows.counts_through else whole
    several = [name for name in (*names, "path") if name in whole.columns and whole[name].n_unique() > 1]
    parts = [pl.col(name).cast(pl.String) for name in several] or [pl.lit("")]
    labelled = whole.with_columns(pl.concat_str(parts, separator=PARTS, ignore_nulls=True).alias("panel"))
    if labelled.select("panel", rows.x, row).is_duplicated().any():
        raise OptionError(f"a map needs one value of {value!r} per {row} and {x} (got several); filter the table")
    scale, places = time_scale(labelled, rows.x, style), labelled.select("panel", rows.x).unique()
    ends = pl.concat([_ends(part, rows.x, scale) for part in places.partition_by("panel")])
    columns = pl.exclude("path") if "path" in labelled.columns else pl.all()
    return Rows(labelled.join(ends, on=["panel", rows.x], maintain_order="left").select(columns), rows.left_out, rows.x)


def bordered(chart: alt.Chart, rows: Rows, data: alt.InlineData, x: alt.X) -> alt.Chart | alt.LayerChart:
    """A map with the borders of stages, if it has several."""
    borders = stage_borders(rows.frame, data, x)
    return alt.LayerChart(layer=[chart, *borders]) if borders else chart


def cell_map(rows: Rows, data: alt.InlineData, value: str, x: alt.X, *, style: Style, row: str = "layer") -> alt.Chart:
    """The coloured cells, each from `start` to `stop`, without width, title, selections and theme."""
    quantity = quantity_of(rows.frame, value)
    height = style.height or _HIGHEST
    ladder = sorted(rows.frame[row].unique())
    labels = alt.Axis(values=ladder[:: math.ceil(len(ladder) * _LABEL / height)], tickSize=0)
    title = "layer (0 is shallowest)" if row == "layer" and height >= _LOWEST else row
    # Cells overlap by most of a pixel; otherwise hairlines of the background would show between them.
    taller = alt.RelativeBandSize(1 + _OVERLAP * len(ladder) / height)
    cell = alt.Chart(data, height=height).mark_rect(x2Offset=_OVERLAP, height=taller)
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


def _ends(times: pl.DataFrame, x: str, scale: TimeScale) -> pl.DataFrame:
    """Start and stop of each cell: half-way to its neighbours on the axis; a tenth to each side if it is alone."""
    ordered = times.sort(x)
    place = scale.place(ordered[x].to_numpy().astype(np.float64))
    halves = np.diff(place) / 2 if len(place) > 1 else np.array([0.1 * max(abs(place[0]), 1.0)])
    before, after = np.r_[halves[:1], halves][: len(place)], np.r_[halves, halves[-1:]][: len(place)]
    start, stop = scale.unplace(place - before), scale.unplace(place + after)
    return ordered.with_columns(pl.Series("start", start), pl.Series("stop", stop))
