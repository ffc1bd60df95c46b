"""A quantity on three linked pictures: a map over layers and time, its curves, and one revision's profile.

>>> import olmo_dynamics as od
>>> queries = od.open_store("run.zarr").table("parameters").filter(role="q_proj")  # doctest: +SKIP
>>> od.plots.overview(queries, "rms", smoothing=0.6)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import TimeAxis, ValueAxis, time_axis, value_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.explorer.smoothing import smoothed
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.maps import bordered, cell_map, cells
from olmo_dynamics.plots.panels import side_by_side
from olmo_dynamics.plots.selections import brush, faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import LABELS, Rows, drawable, in_order, inline, labels
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips
from olmo_dynamics.plots.trajectories import series_lines

_WIDTH, _HEIGHT, _TALL = 380, 260, 170
"""In pixels: the width of each picture, the height of the map and curves, and the height of the profile."""

_HINT = (
    "Brush the map to zoom the curves; click a cell or a dot for that revision's profile, and to highlight its line."
)
_ROWS = ("layer", "head", "expert")
"""Labels that are rows of the map where a table has several of them, the first of them that it has."""


def overview(
    frame: pl.DataFrame, value: str, *, x: str = "step", smoothing: float = 0.0, style: Style = PLAIN
) -> AnyChart:
    """A map of the column `value` over layers (or heads, domains, …) and time, the same as curves, and one revision's profile.

    Brushing the map zooms the curves. A click on a cell or a dot shows the profile of its revision and highlights its row.
    The rows of the map are the one label that has several values; a table in which none has is drawn as a curve. A table
    without revisions, such as `od.metrics`, is drawn step by step.

    Args:
        frame: a table of a store, filtered to one tensor role, site or head.
        value: the column to draw.
        x: the time axis, `step` or `tokens`; positions take its place where the table has several stages.
        smoothing: the weight from 0 to below 1 that an exponential moving average gives to its past; the curves as they were
            measured stay behind, faint.
        style: title and note, the scales of values and time, and the size of one picture.

    Raises:
        OptionError: a column is missing, several labels have several values, there is nothing to draw, or smoothing is not from
            0 to below 1.
    """
    if not 0 <= smoothing < 1:
        raise OptionError(f"smoothing must be from 0 to below 1 (got {smoothing:g})")
    named = _with_revisions(frame)
    row = row_of(named, value)
    if row is None:
        return _curves_alone(named, value, x=x, smoothing=smoothing, style=style)
    sized = replace(style, height=style.height or _HEIGHT, width=style.width or _WIDTH)
    rows = cells(named, value, x=x, style=sized, facet="", row=row)
    time, data = time_axis(rows.frame, rows.x, width=sized.width or _WIDTH, style=style), inline(rows.frame)
    chosen, brushed, menu = _revision(rows), brush("x"), _menu(rows)
    axis = _value_axis(rows, value, style)
    parts = [
        _map(rows, data, value, time, row, sized).add_params(chosen, brushed),
        _curves(rows, axis, time, row, smoothing, domain=brushed).add_params(chosen).properties(height=sized.height),
        _profile(rows, data, axis, row, chosen).properties(height=_TALL),
    ]
    shown = [part.transform_filter(alt.datum.panel == menu) if menu else part for part in parts]
    whole = side_by_side(*(part.properties(width=sized.width) for part in shown)).resolve_scale(color="independent")
    whole = whole.add_params(menu) if menu else whole
    quantity = quantity_of(rows.frame, value)
    title = heading(rows.frame, quantity, f" by {row} and {x}")
    return finalize(whole, title, [_HINT, definition(quantity), _subtitle(rows, smoothing)], style)


def _map(
    rows: Rows, data: alt.InlineData, value: str, time: TimeAxis, row: str, style: Style
) -> alt.Chart | alt.LayerChart:
    """The cells, with the borders of stages; a click highlights a row."""
    color = magnitude_color(
        rows.frame, value, quantity_of(rows.frame, value), scale=style.scale, below=style.width or _WIDTH
    )
    start, picked = time.channel("start"), pick(row)
    cell = cell_map(rows, data, value, start, style=style, row=row).encode(color=color)
    shaded = cell.encode(opacity=faded(picked, full=1.0, faint=0.25)).add_params(picked)
    return bordered(shaded, rows, data, start)


def row_of(frame: pl.DataFrame, value: str) -> str | None:
    """The label that tells the rows of a map apart; None where each revision has one value.

    Raises:
        OptionError: several labels have several values.
    """
    several = free_labels(frame, value)
    if len(several) > 1 and (apart := _beside_layers(frame, several)):
        raise OptionError(
            f"overview() needs a table with one label of several values (got {', '.join(several)}); filter it by all but one, "
            f"such as {apart}={frame[apart].drop_nulls()[0]!r}"
        )
    return next((name for name in _ROWS if name in several), several[0] if several else None)


def free_labels(frame: pl.DataFrame, value: str) -> list[str]:
    """The labels of a table that have several values; a tensor's name is none where layer, role and expert tell it."""
    known = [name for name in (*LABELS, *labels()) if name in frame.columns and name != value]
    several = [name for name in dict.fromkeys(known) if frame[name].n_unique() > 1]
    if "tensor" in several and {"layer", "role"} <= set(frame.columns):
        apart = [name for name in ("layer", "role", "expert") if name in frame.columns]
        if frame.select("tensor").n_unique() == frame.select(apart).n_unique():
            several.remove("tensor")
    return several


def _beside_layers(frame: pl.DataFrame, several: list[str]) -> str:
    """The first label that would have to be filtered; none where each row of the map has one value of it."""
    row = next((name for name in _ROWS if name in several), several[0])
    others = [name for name in several if name != row]
    counted = frame.group_by(row).agg(pl.struct(others).n_unique().alias("count"))["count"].max()
    return others[0] if counted != 1 else ""


def _with_revisions(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with a revision per row; rows of training metrics have only a step."""
    if "revision" in frame.columns or "step" not in frame.columns:
        return frame
    return frame.with_columns(pl.format("step {}", "step").alias("revision"))


def _value_axis(rows: Rows, value: str, style: Style) -> ValueAxis:
    quantity = quantity_of(rows.frame, value)
    axis = value_axis(rows.frame, value, quantity, scale=style.scale)
    return replace(axis, title=axis_title(quantity), crowded=False)


def _revision(rows: Rows) -> alt.Parameter:
    """The chosen revision: the last one, until a mark is clicked."""
    last = rows.frame.sort(rows.x)["revision"][-1]
    return alt.selection_point(
        name="chosen_revision",
        fields=["revision"],
        on="click[event.item && event.item.datum && event.item.datum.revision]",  # a brush that ends is no choice
        toggle=False,
        clear=False,
        empty=False,
        value=[{"revision": last}],
    )


def _menu(rows: Rows) -> alt.Parameter | None:
    """A menu of the lines of training, of which one map is drawn each."""
    if not rows.has_several("panel"):
        return None
    options = in_order(rows.frame, "panel")
    return alt.param(name="shown", value=options[0], bind=alt.binding_select(options=options, name="training "))


def _curves(
    rows: Rows, axis: ValueAxis, time: TimeAxis, row: str, smoothing: float, *, domain: alt.Parameter
) -> alt.LayerChart:
    """The rows of the map as curves, smoothed or not, each dot a revision that can be chosen."""
    hue = row if rows.has_several(row) else None
    series = [name for name in (row, "panel", LINE) if name in rows.frame.columns]
    smooth = Rows(smoothed(rows.frame, axis.field, rows.x, series, smoothing), rows.left_out, rows.x)
    lines = series_lines(smooth, axis, time, hue=hue, domain=domain)
    x = time.channel(seen=f"{domain.name}.start", domain=domain)
    return _before_smoothing(lines, rows, axis, x, series) if smoothing else lines


def _before_smoothing(
    lines: alt.LayerChart, rows: Rows, axis: ValueAxis, x: alt.X, series: list[str]
) -> alt.LayerChart:
    """Smoothed lines with the values as they were measured, faint."""
    raw = alt.Chart(inline(rows.frame)).mark_line(strokeWidth=0.8, opacity=0.25)
    detail = [alt.Detail(name, type="nominal") for name in series]
    return alt.LayerChart(layer=[lines, raw.encode(x=x, y=axis.channel(), detail=detail)])


def _profile(rows: Rows, data: alt.InlineData, axis: ValueAxis, row: str, chosen: alt.Parameter) -> alt.LayerChart:
    """The values of the chosen revision over the rows of the map, with its name."""
    base = alt.Chart(data).transform_filter(chosen)
    kind: Literal["ordinal", "nominal"] = "ordinal" if rows.frame[row].dtype.is_numeric() else "nominal"
    across = alt.X(row, type=kind, title="layer (0 is shallowest)" if row == "layer" else row, sort=None,
                   axis=alt.Axis(labelAngle=0 if kind == "ordinal" else -40, labelOverlap="greedy"))  # fmt: skip
    placed = base.encode(x=across, y=axis.channel())
    dots = placed.mark_point(filled=True, size=28).encode(tooltip=tooltips(rows.frame, **{axis.field: axis.title}))
    line = placed.mark_line(strokeWidth=1.2) if kind == "ordinal" else placed.mark_rule(opacity=0.3)
    name = base.transform_aggregate(groupby=["revision"]).mark_text(
        align="left", baseline="top", dx=6, dy=4, fontSize=11
    )
    named = name.encode(x=alt.value(0), y=alt.value(0), text=alt.Text("revision", type="nominal"))
    return alt.LayerChart(layer=[line, dots, named])


def _curves_alone(frame: pl.DataFrame, value: str, *, x: str, smoothing: float, style: Style) -> AnyChart:
    """One curve, where there is no label to make rows of."""
    rows = drawable(frame, value, x=x)
    quantity = quantity_of(frame, value)
    width = style.width or 2 * _WIDTH
    axis, time = _value_axis(rows, value, style), time_axis(rows.frame, rows.x, width=width, style=style)
    series = [LINE] if LINE in rows.frame.columns else []
    smooth = Rows(smoothed(rows.frame, value, rows.x, series, smoothing), rows.left_out, rows.x)
    lines = series_lines(smooth, axis, time, hue=LINE if rows.has_several(LINE) else None)
    seen = time.channel(seen=zoomed(time.field))
    lines = _before_smoothing(lines, rows, axis, seen, series) if smoothing else lines
    sized = lines.properties(width=width, height=style.height or _HEIGHT).add_params(zoom())
    return finalize(
        sized,
        heading(rows.frame, quantity, " during training"),
        [definition(quantity), _subtitle(rows, smoothing)],
        style,
    )


def _subtitle(rows: Rows, smoothing: float) -> str:
    """The line about the rows, and about smoothing."""
    words = (
        f" Curves: exponential moving average over revisions, weight of the past {smoothing:g}." if smoothing else ""
    )
    return rows.subtitle + words
