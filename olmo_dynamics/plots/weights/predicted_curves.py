"""Measurements beside what the learning rate and the weight decay alone predict, which is dashed.

>>> import olmo_dynamics as od
>>> od.plots.embedding_decay(od.embedding_decay(od.open_store("run.zarr")))  # doctest: +SKIP
>>> od.plots.rotation(od.rotation(od.open_store("run.zarr")))  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import stage_borders, time_axis, value_axis
from olmo_dynamics.plots.colors import series_color
from olmo_dynamics.plots.lines import LINE, with_borders
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, inline, labels, require
from olmo_dynamics.plots.theme import INK, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, tooltips
from olmo_dynamics.plots.weights.weight_quantities import PADDING, TURN
from olmo_dynamics.quantities.declaration import Quantity

_WIDE, _PANEL = (600, 320), (165, 130)
_DASH = [5, 4]
_KIND = "kind"  # measured or predicted


def embedding_decay(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Points of the measured size of embedding rows without gradient, and the dashed line that weight decay alone predicts.

    Takes the table of `od.embedding_decay`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "measured", "predicted")
    rows = _long(frame, "measured", x)
    worst = frame.select((pl.col("measured") / pl.col("predicted") - 1).abs().max()).item()
    said = f"Largest relative difference: {worst:.2g}." if worst is not None else "No prediction reaches these steps."
    chart, _ = _curves(rows, PADDING, x=x, style=style)
    return finalize(
        chart, "Embedding rows without gradient", [f"Dashed: {PADDING.formula}.", f"{rows.subtitle} {said}"], style
    )


def rotation(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of the measured angle between neighbouring revisions by layer, and the dashed one of rotational equilibrium.

    Takes the table of `od.rotation`; each role has a panel.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "angle", "predicted", "role")
    rows = _long(frame, "angle", x)
    chart, facet = _curves(rows, TURN, x=x, style=style)
    whole = small_multiples(chart, rows, facet, columns=style.columns) if facet else chart
    return finalize(whole, "Rotation between revisions", [f"Dashed: {TURN.formula}.", rows.subtitle], style)


def _long(frame: pl.DataFrame, measured: str, x: str) -> Rows:
    """Measured and predicted values as one column `value`."""
    parts = [
        frame.with_columns(pl.col(column).alias("value"), pl.lit(kind).alias(_KIND))
        for column, kind in ((measured, "measured"), ("predicted", "predicted"))
    ]
    return drawable(pl.concat(parts).filter(pl.col("value").is_not_null()), "value", x=x, also=[_KIND])


def _curves(rows: Rows, quantity: Quantity, *, x: str, style: Style) -> tuple[alt.LayerChart, str | None]:
    facet = "role" if rows.has_several("role") and style.facet != "" else None
    width, height = _PANEL if facet else _WIDE
    width, height = style.width or width, style.height or height
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    value = value_axis(rows.frame, "value", quantity, scale=style.scale, panels=facet or "")
    frame = with_borders(rows.frame, rows.x) if rows.counts_through else rows.frame
    data, at = inline(frame), time.channel(seen=zoomed(time.field))
    apart = [name for name in (*labels(), LINE) if rows.has_several(name)]
    base = alt.Chart(data).encode(x=at, y=value.channel(), detail=[alt.Detail(name, type="nominal") for name in apart])
    tooltip = tooltips(rows.frame, value=axis_title(quantity))
    points = base.transform_filter(alt.datum.kind == "measured").mark_point(
        filled=not rows.has_several("layer"), size=22, opacity=1
    )
    points = points.encode(tooltip=tooltip)
    line = base.transform_filter(alt.datum.kind == "measured").mark_line(strokeWidth=1.2)
    dashed = base.transform_filter(alt.datum.kind == "predicted").mark_line(
        strokeDash=_DASH, color=INK, strokeWidth=1.4
    )
    if rows.has_several("layer"):
        chosen, color = pick("layer", panels=bool(facet)), series_color(rows.frame, "layer", panels=bool(facet))
        line = line.encode(color=color, opacity=faded(chosen)).add_params(chosen)
        points = points.encode(color=color, opacity=faded(chosen))
    layers = [line, points, dashed.add_params(zoom()), *stage_borders(frame, data, at)]
    return alt.LayerChart(layer=layers).properties(width=width, height=height), facet
