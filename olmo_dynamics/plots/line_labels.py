"""Names at the ends of lines in place of a legend, without overlap.

>>> spread_apart([10.0, 12.0], height=300)
[10.0, 24.0]
"""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import ValueAxis
from olmo_dynamics.plots.table import inline

_LINE = 14.0  # height of a name in pixels


def padded_domain(value: ValueAxis) -> tuple[float, float]:
    """The ends of the value axis, made explicit so that distances between names are known in pixels."""
    if value.log:
        return value.low / 1.05, value.high * 1.05
    edge = 0.03 * (value.high - value.low) or 0.05 * abs(value.high) or 1.0
    return value.low - edge, value.high + edge


def end_labels(
    frame: pl.DataFrame, series: str, value: ValueAxis, *, height: int, x: str = "step", aligned: bool = True
) -> alt.Chart:
    """Each series' name at the height of its line's end, moved up or down where two would overlap.

    `aligned` names form one column. Other names are at their own line's last step, where only lines that end together can
    overlap. The data keep the last row of each series, so that x can be encoded.
    """
    last = frame.sort(x, maintain_order=True).unique(series, keep="last", maintain_order=True).sort(value.field)
    columns = [last] if aligned else last.partition_by(x, maintain_order=True)
    named = pl.concat(_with_label_y(column, value, height) for column in columns)
    # Vega lets a name be clicked only if it has a tooltip.
    text = alt.Chart(inline(named)).mark_text(align="left", fontSize=11, clip=False, cursor="pointer")
    chart: alt.Chart = text.encode(
        y=alt.Y("label_y", type="quantitative"),
        text=alt.Text(series, type="nominal"),
        tooltip=alt.Tooltip(series, type="nominal"),
    )
    return chart


def _with_label_y(column: pl.DataFrame, value: ValueAxis, height: int) -> pl.DataFrame:
    """Rows in ascending order of value, with the values at which their names are drawn."""
    forth, back = (math.log, math.exp) if value.log else (float, float)
    low, high = (forth(end) for end in padded_domain(value))
    pixels = height / (high - low)
    places = spread_apart([(forth(at) - low) * pixels for at in column[value.field]], height=height)
    return column.with_columns(pl.Series("label_y", [back(low + place / pixels) for place in places]))


def spread_apart(places: list[float], *, height: float) -> list[float]:
    """Ascending positions in pixels, moved apart in one sweep up and one down until no two names overlap."""
    up: list[float] = []
    for place in places:
        up.append(max(place, up[-1] + _LINE) if up else place)
    down: list[float] = []
    for place in reversed(up):
        down.append(min(place, down[-1] - _LINE if down else height))
    return down[::-1]
