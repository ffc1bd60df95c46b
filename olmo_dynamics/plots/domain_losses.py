"""Loss by domain, with each line named at its end.

>>> import olmo_dynamics as od
>>> od.plots.loss_by_domain(od.open_store("run.zarr").table("loss"), "bits_per_byte")  # doctest: +SKIP
"""

from __future__ import annotations

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

MACRO_AVERAGE = "macro average"
"""The domain of rows that hold the mean over domains; their line is thick."""

_WIDTH, _HEIGHT = 600, 360


def loss_by_domain(frame: pl.DataFrame, y: str = "cross_entropy", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of a loss against step or tokens, one per domain, named at their ends; the macro average, if present, is thick.

    Lines of training are told apart by dashes, and a domain is named at the end of its longest. Clicking a line or its name
    keeps its colour and fades the others.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    rows = drawable(frame, y, x=x, also=["domain"])
    width, height = style.width or _WIDTH, style.height or _HEIGHT
    quantity = quantity_of(frame, y)
    value = value_axis(rows.frame, y, quantity, scale=style.scale)
    chosen = alt.selection_point(name="picked_domain", fields=["domain"], on="click", clear="dblclick")
    look = {"color": _colors(rows), "opacity": faded(chosen)}
    time, shown = time_axis(rows.frame, rows.x, width=width, style=style), continued(rows, y)
    data, at = inline(shown), time.channel(seen=zoomed(rows.x))
    base = alt.Chart(data).encode(
        x=at,
        y=value.channel(domain=padded_domain(value)),
        **look,
    )
    thick = alt.when(alt.datum.domain == MACRO_AVERAGE).then(alt.value(3.5)).otherwise(alt.value(1.6))
    line = base.mark_line().encode(size=thick)
    line = line.encode(strokeDash=line_dash()) if rows.has_several(LINE) else line
    dots = (
        measured(base, shown)
        .mark_point(filled=True, size=14)
        .encode(tooltip=tooltips(rows.frame, **{y: axis_title(quantity)}))
    )
    names = end_labels(rows.frame, "domain", value, height=height, x=rows.x).encode(
        x=alt.value(alt.ExprRef("width + 8")), **look
    )
    chart = alt.LayerChart(layer=[line.add_params(chosen, zoom()), dots, names, *stage_borders(shown, data, at)])
    chart = chart.properties(width=width, height=height)
    title = heading(rows.frame, quantity, " by domain during training")
    return finalize(chart, title, [definition(quantity), rows.subtitle], style)


def _colors(rows: Rows) -> alt.Color:
    """A colour for each domain and ink for their average; no legend, because the lines are named."""
    domains = [domain for domain in rows.frame["domain"].unique(maintain_order=True) if domain != MACRO_AVERAGE]
    hues = [CATEGORIES[index % len(CATEGORIES)] for index in range(len(domains))]
    scale = alt.Scale(domain=[*domains, MACRO_AVERAGE], range=[*hues, INK])
    return alt.Color("domain", type="nominal", scale=scale, legend=None)
