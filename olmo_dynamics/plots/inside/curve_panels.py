"""Panels of curves side by side: each of one quantity against training time, with a dashed line at a known value.

>>> Rule(3.2057, "uniform attention").words
'uniform attention (3.206)'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import ValueAxis, time_axis, value_axis
from olmo_dynamics.plots.panels import side_by_side
from olmo_dynamics.plots.selections import zoom
from olmo_dynamics.plots.table import Rows, drawable, inline
from olmo_dynamics.plots.theme import QUIET, Style, YScale
from olmo_dynamics.plots.titles import axis_title
from olmo_dynamics.plots.trajectories import series_lines
from olmo_dynamics.quantities.declaration import Quantity

PANEL = (300, 220)
"""Width and height in pixels of one panel of two in a row."""

SPACING = 78  # between panels, for the axes of one
_DASH = [5, 4]
_MARGIN = 0.04  # of an axis' length, beyond its outermost value


@dataclass(frozen=True, slots=True)
class Rule:
    """A known value to read curves against, such as that of uniform attention; a dashed line."""

    level: float
    name: str

    @property
    def words(self) -> str:
        """The name and the value."""
        return f"{self.name} ({self.level:.4g})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: the column it draws, its quantity, its title, and the values to read it against."""

    field: str
    quantity: Quantity
    title: str = ""
    rules: tuple[Rule, ...] = ()
    scale: YScale = "linear"
    from_zero: bool = False  # the axis begins at 0
    span: tuple[float, float] | None = None  # values that the axis holds beside its own
    legend: Literal["right", "bottom"] = "right"


def panel_chart(
    frame: pl.DataFrame, panel: Panel, *, hue: str | None, x: str, style: Style, size: tuple[int, int] = PANEL
) -> tuple[alt.LayerChart, Rows]:
    """The curves of one panel, one per value of `hue`, and the rows that they show.

    Raises:
        OptionError: there is nothing, or too much, to draw.
    """
    rows = drawable(frame, panel.field, x=x, also=[hue] if hue and hue in frame.columns else [])
    width, height = style.width or size[0], style.height or size[1]
    scale = style.scale if style.scale != "auto" else panel.scale
    value = replace(value_axis(rows.frame, panel.field, panel.quantity, scale=scale), title=short_title(panel.quantity))
    time, ends = time_axis(rows.frame, rows.x, width=width, style=style), _ends(value, panel)
    chart = series_lines(rows, value, time, hue=hue if hue and rows.has_several(hue) else None)
    for each in chart.layer:
        if ends and isinstance(each.encoding.y, alt.Y):
            each.encoding.y = value.channel(domain=ends)
        if panel.legend == "bottom" and isinstance(each.encoding.color, alt.Color):
            each.encoding.color = each.encoding.color.legend(orient="bottom", symbolType="stroke")
    chart = chart.add_params(zoom())
    for mark in rule_marks(panel.rules, value, domain=ends):
        chart += mark  # a layer in a layer would share the name of its view with other panels
    chart = chart.properties(width=width, height=height)
    return chart.properties(title=alt.TitleParams(text=panel.title, fontSize=12)) if panel.title else chart, rows


def panel_grid(charts: Sequence[alt.Chart | alt.LayerChart], *, columns: int = 2) -> alt.ConcatChart:
    """Panels in a grid, with room for the axes of each."""
    whole = side_by_side(*charts, columns=columns)
    whole.bounds, whole.spacing = "flush", SPACING
    return whole


def rule_marks(
    rules: Iterable[Rule], value: ValueAxis, *, domain: tuple[float, float] | None = None
) -> list[alt.Chart]:
    """Dashed lines across a panel; those that a logarithmic axis cannot show are left out."""
    marks = []
    for rule in rules:
        if value.log and rule.level <= 0:
            continue
        y = value.channel(domain=domain)
        y.shorthand = "level"
        base = alt.Chart(inline(pl.DataFrame({"level": [rule.level]}))).encode(y=y)
        marks.append(base.mark_rule(strokeDash=_DASH, color=QUIET))
    return marks


def dashed(rules: Iterable[Rule]) -> str:
    """The sentence of a subtitle that says what dashed lines mean; empty without any."""
    words = list(dict.fromkeys(rule.words for rule in rules))
    return f"Dashed: {', '.join(words)}." if words else ""


def short_title(quantity: Quantity) -> str:
    """The symbol, or else the name, and the unit, as the axis of a small panel prints them."""
    return axis_title(quantity, short=True)


def _ends(value: ValueAxis, panel: Panel) -> tuple[float, float] | None:
    """The ends of the axis, such that every dashed line is in it; None where Vega may choose them."""
    levels = [*(rule.level for rule in panel.rules), *(panel.span or ())]
    levels = [level for level in levels if level > 0 or not value.log]
    if not levels and not panel.from_zero:
        return None
    low, high = min([value.low, *levels]), max([value.high, *levels])
    if value.log:
        return low / 1.1, high * 1.1
    low = min(low, 0.0) if panel.from_zero else low
    edge = _MARGIN * (high - low) or 0.05 * abs(high) or 1.0
    return (low if panel.from_zero and low == 0 else low - edge), high + edge
