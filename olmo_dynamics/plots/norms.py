"""A map and curves of one quantity, linked: a click selects a layer in both, a brush over the map zooms the curves.

>>> import olmo_dynamics as od
>>> od.plots.norms_panel(od.open_store("run.zarr").table("parameters"), "rms")  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import time_axis, value_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.maps import cell_map, cells, pickable
from olmo_dynamics.plots.panels import side_by_side
from olmo_dynamics.plots.selections import brush
from olmo_dynamics.plots.table import Rows, in_order
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition, heading, quantity_of
from olmo_dynamics.plots.trajectories import series_lines

_WIDTH, _HEIGHT = 330, 300
_HINT = "Brush the map to zoom the curves; click a layer to highlight it."
_SHOWN = alt.TitleParams(text=alt.ExprRef("shown"), fontSize=12)


def norms_panel(frame: pl.DataFrame, value: str = "rms", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """A map of `value` over layers and time on the left, the layers' curves on the right.

    Clicking a layer in either, or in the legend, highlights it in both. Brushing steps on the map zooms the curves. If the
    table holds several roles or sites, a menu below selects one.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw, or two values fall on one cell.
    """
    rows = cells(frame, value, x=x, facet=style.facet)
    width, height = style.width or _WIDTH, style.height or _HEIGHT
    quantity = quantity_of(frame, value)
    time = time_axis(rows.frame, x, width=width)
    brushed, menu = brush("x"), _menu(rows)
    color = magnitude_color(rows.frame, value, quantity, scale=style.scale, below=width)
    cell = cell_map(rows, value, time.channel("start"), style=replace(style, height=height)).encode(color=color)
    left = pickable(cell).properties(width=width).add_params(brushed)
    axis = value_axis(rows.frame, value, quantity, scale=style.scale)
    curves = series_lines(rows, axis, time.channel(seen="brush.start", domain=brushed), hue="layer")
    right = curves.properties(width=width, height=height)
    if menu:
        left = left.transform_filter(_chosen(menu)).properties(title=_SHOWN)
        right = right.transform_filter(_chosen(menu))
    both = side_by_side(left, right).add_params(menu) if menu else side_by_side(left, right)
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
