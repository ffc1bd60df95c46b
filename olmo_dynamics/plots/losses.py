"""Loss by domain, each line named at its end.

>>> import olmo_dynamics as od
>>> od.plots.loss_by_domain(od.open_store("run.zarr").table("loss"), "bits_per_byte")  # doctest: +SKIP
"""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import ValueAxis, time_axis, value_axis
from olmo_dynamics.plots.look import CATEGORIES, INK, PLAIN, AnyChart, Style, finished
from olmo_dynamics.plots.rows import Rows, drawable, with_branch
from olmo_dynamics.plots.selections import faded, zoom, zoomed
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips

MACRO_AVERAGE = "macro average"
"""The domain of rows that hold the mean over domains; their line is thick."""

_WIDTH, _HEIGHT = 600, 360
_LINE = 14.0  # pixels that a name takes


def loss_by_domain(frame: pl.DataFrame, y: str = "cross_entropy", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of a loss against step or tokens, one a domain, named at their ends; the macro average, if there, is thick.

    Clicking a line or its name keeps its colour and fades the others.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    rows = with_branch(drawable(frame, y, x=x, also=["domain"]))
    width, height = style.width or _WIDTH, style.height or _HEIGHT
    quantity = quantity_of(frame, y)
    value = value_axis(rows.frame, y, quantity, scale=style.scale)
    chosen = alt.selection_point(name="picked_domain", fields=["domain"], on="click", clear="dblclick")
    look = {"color": _colors(rows), "opacity": faded(chosen)}
    base = alt.Chart(rows.frame).encode(
        x=time_axis(rows.frame, x, width=width).channel(seen=zoomed(x)), y=value.channel(domain=_ends(value)), **look
    )
    thick = alt.when(alt.datum.domain == MACRO_AVERAGE).then(alt.value(3.5)).otherwise(alt.value(1.6))
    line = base.mark_line().encode(size=thick, detail=["branch"] if rows.several("branch") else [])
    dots = base.mark_point(filled=True, size=14).encode(tooltip=tooltips(rows.frame, **{y: axis_title(quantity)}))
    names = _names(rows, value, height=height).encode(x=alt.value(width + 8), **look)
    chart = alt.LayerChart(layer=[line.add_params(chosen, zoom()), dots, names]).properties(width=width, height=height)
    title = heading(rows.frame, quantity, " by domain during training")
    return finished(chart, title, [definition(quantity), rows.said], style)


def _colors(rows: Rows) -> alt.Color:
    """A colour for each domain, ink for their average; no legend, for the names stand at the lines."""
    domains = [domain for domain in rows.frame["domain"].unique(maintain_order=True) if domain != MACRO_AVERAGE]
    hues = [CATEGORIES[index % len(CATEGORIES)] for index in range(len(domains))]
    scale = alt.Scale(domain=[*domains, MACRO_AVERAGE], range=[*hues, INK])
    return alt.Color("domain", type="nominal", scale=scale, legend=None)


def _ends(value: ValueAxis) -> tuple[float, float]:
    """The ends of the value axis, written out so that names can be kept apart in pixels."""
    if value.log:
        return value.low / 1.05, value.high * 1.05
    edge = 0.03 * (value.high - value.low) or 0.05 * abs(value.high) or 1.0
    return value.low - edge, value.high + edge


def _names(rows: Rows, value: ValueAxis, *, height: int) -> alt.Chart:
    """Each domain's name beside the end of its line, moved up or down where two would overlap."""
    last = rows.frame.sort("step").unique("domain", keep="last", maintain_order=True).sort(value.field)
    forth, back = (math.log, math.exp) if value.log else (float, float)
    low, high = (forth(end) for end in _ends(value))
    pixels = height / (high - low)
    places = _apart([(forth(at) - low) * pixels for at in last[value.field]], height=height)
    named = last.select("domain").with_columns(pl.Series("beside", [back(low + place / pixels) for place in places]))
    # Vega lets a name be clicked only if it has a tooltip.
    text = alt.Chart(named).mark_text(align="left", fontSize=11, clip=False, cursor="pointer")
    chart: alt.Chart = text.encode(
        y=alt.Y("beside", type="quantitative"),
        text=alt.Text("domain", type="nominal"),
        tooltip=alt.Tooltip("domain", type="nominal"),
    )
    return chart


def _apart(places: list[float], *, height: float) -> list[float]:
    """Ascending places, moved as little as a sweep up and one down need to leave a line of text between any two."""
    up: list[float] = []
    for place in places:
        up.append(max(place, up[-1] + _LINE) if up else place)
    down: list[float] = []
    for place in reversed(up):
        down.append(min(place, down[-1] - _LINE if down else height))
    return down[::-1]
