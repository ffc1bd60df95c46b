"""Names at the ends of lines, kept apart, in place of a legend.

>>> apart([10.0, 12.0], height=300)
[10.0, 24.0]
"""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import ValueAxis

_LINE = 14.0  # pixels that a name takes


def ends(value: ValueAxis) -> tuple[float, float]:
    """The ends of the value axis, written out so that names can be kept apart in pixels."""
    if value.log:
        return value.low / 1.05, value.high * 1.05
    edge = 0.03 * (value.high - value.low) or 0.05 * abs(value.high) or 1.0
    return value.low - edge, value.high + edge


def names_at_ends(
    frame: pl.DataFrame, series: str, value: ValueAxis, *, height: int, aligned: bool = True
) -> alt.Chart:
    """Each series' name at the height of its line's end, moved up or down where two would overlap.

    `aligned` names stand in one column; others each at their own line's last step, where only those that end together meet.
    The data keep the rows that the names stand for, so that x can be encoded.
    """
    last = frame.sort("step").unique(series, keep="last", maintain_order=True).sort(value.field)
    columns = [last] if aligned else last.partition_by("step", maintain_order=True)
    named = pl.concat(_beside(column, value, height) for column in columns)
    # Vega lets a name be clicked only if it has a tooltip.
    text = alt.Chart(named).mark_text(align="left", fontSize=11, clip=False, cursor="pointer")
    chart: alt.Chart = text.encode(
        y=alt.Y("beside", type="quantitative"),
        text=alt.Text(series, type="nominal"),
        tooltip=alt.Tooltip(series, type="nominal"),
    )
    return chart


def _beside(column: pl.DataFrame, value: ValueAxis, height: int) -> pl.DataFrame:
    """Rows in ascending order of value, with the values at which their names stand."""
    forth, back = (math.log, math.exp) if value.log else (float, float)
    low, high = (forth(end) for end in ends(value))
    pixels = height / (high - low)
    places = apart([(forth(at) - low) * pixels for at in column[value.field]], height=height)
    return column.with_columns(pl.Series("beside", [back(low + place / pixels) for place in places]))


def apart(places: list[float], *, height: float) -> list[float]:
    """Ascending places, moved as little as a sweep up and one down need to leave a line of text between any two."""
    up: list[float] = []
    for place in places:
        up.append(max(place, up[-1] + _LINE) if up else place)
    down: list[float] = []
    for place in reversed(up):
        down.append(min(place, down[-1] - _LINE if down else height))
    return down[::-1]
