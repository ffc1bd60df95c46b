"""A quantity against training time, with one line per tensor, site or domain.

>>> import olmo_dynamics as od
>>> parameters = od.open_store("run.zarr").table("parameters")  # doctest: +SKIP
>>> od.plots.trajectory(parameters, y="rms", color="layer")  # doctest: +SKIP
"""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import ValueAxis, time_axis, value_axis
from olmo_dynamics.plots.colors import series_color
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, labels, with_branch
from olmo_dynamics.plots.theme import PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips

_WIDE, _PANEL = (640, 340), (165, 130)
"""Width and height in pixels of a single picture, and of one panel among several."""

_DOT, _LONE_DOT = 14, 40
"""Area in square pixels of the dot at a revision, and of one in a short series."""


def trajectory(
    frame: pl.DataFrame, y: str, *, x: str = "step", color: str | None = None, style: Style = PLAIN
) -> AnyChart:
    """Lines of the column `y` against step or tokens, one per series, in panels if the table holds several roles.

    `color` names the column that colours the lines ("layer" if there is one). Clicking a line or a legend entry keeps its
    colour and fades the others. Dragging pans, and the wheel with ctrl zooms along x.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    named = [column for column in (color, style.facet) if column]
    rows = with_branch(drawable(frame, y, x=x, also=named))
    hue = color or _first_several(rows, ("layer", "domain", "embedding", "role", "site"))
    hue = None if hue and rows.frame[hue].is_null().all() else hue
    facet = style.facet if style.facet is not None else _first_several(rows, ("role", "site", "input"), but=hue)
    width, height = _PANEL if facet else _WIDE
    quantity = quantity_of(frame, y)
    time = time_axis(rows.frame, x, width=style.width or width).channel(seen=zoomed(x))
    value = value_axis(rows.frame, y, quantity, scale=style.scale, panels=facet or "")
    chart = series_lines(rows, value, time, hue=hue, panels=bool(facet)).add_params(zoom())
    chart = chart.properties(width=style.width or width, height=style.height or height)
    whole = small_multiples(chart, rows, facet, columns=style.columns) if facet else chart
    title = heading(rows.frame, quantity, f" by {hue} during training" if hue else " during training")
    return finalize(whole, title, [definition(quantity), rows.subtitle], style)


def series_lines(
    rows: Rows, value: ValueAxis, x: alt.X, *, hue: str | None = None, panels: bool = False
) -> alt.LayerChart:
    """Lines with a dot at each revision, one per series, coloured by `hue`, without size, title and theme."""
    apart = [name for name in (*labels(), "branch") if rows.has_several(name) and name not in (value.field, hue)]
    base = alt.Chart(rows.frame).encode(x=x, y=value.channel(), detail=apart)
    tooltip = tooltips(rows.frame, **{value.field: axis_title(quantity_of(rows.frame, value.field))})
    size = _DOT if rows.frame["revision"].n_unique() > 8 else _LONE_DOT
    line, dots = base.mark_line(), base.mark_point(filled=True, size=size).encode(tooltip=tooltip)
    if rows.has_several("branch"):
        line = line.encode(strokeDash=alt.StrokeDash("branch", type="nominal", title="line of training"))
    if not hue:
        return alt.LayerChart(layer=[line, dots])
    chosen = pick(hue, panels=panels)
    look = {"color": _shade(rows, hue), "opacity": faded(chosen)}
    # The selection goes on the lines: a legend can be clicked only if the first layer has the selection.
    return alt.LayerChart(layer=[line.encode(**look).add_params(chosen), dots.encode(**look)])


def _shade(rows: Rows, hue: str) -> Any:
    """The series' colour, and grey for series without one: tensors outside the blocks have no layer."""
    color = series_color(rows.frame, hue)
    if not rows.frame[hue].has_nulls():
        return color
    return alt.when(f"isValid(datum[{json.dumps(hue)}])").then(color).otherwise(alt.value(QUIET))


def _first_several(rows: Rows, columns: tuple[str, ...], *, but: str | None = None) -> str | None:
    return next((column for column in columns if rows.has_several(column) and column != but), None)
