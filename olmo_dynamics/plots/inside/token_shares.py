"""The shares of tokens that are learned, stagnated, unlearned or of high variance, as stacked areas over training.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import token_classes
>>> classes = token_classes(od.open_store("run.zarr"))  # doctest: +SKIP
>>> od.plots.token_trends(classes)  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import time_axis
from olmo_dynamics.plots.inside.curve_panels import Panel, panel_chart, panel_grid
from olmo_dynamics.plots.lines import with_line
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import tooltips
from olmo_dynamics.quantities.declaration import Quantity

_WIDE, _LOW = (560, 260), 120
_MOST_LINES = 4
_HUES = {"learned": CATEGORIES[0], "stagnated": "#c5cad1", "high variance": CATEGORIES[1], "unlearned": CATEGORIES[3]}
_FORGOTTEN = Quantity("forgotten", "", "share of tokens above their own best by more than 0.5 nat", (), "", "",
                      symbol="forgotten", unit="")  # fmt: skip


def token_trends(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Stacked shares of the probe's tokens by the trend of their loss up to each revision; below, the share that is forgotten.

    Takes the table of `olmo_dynamics.frames.token_classes`, which states the rules. Lines of training stand one below the
    other, at most four.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "trend", "share", "forgotten", "classified")
    drawable(frame, "share", x=x, also=["trend"])  # refuses a table without anything to draw
    named = with_line(frame)
    lines = named["line"].unique(maintain_order=True).to_list()[:_MOST_LINES]
    width = style.width or _WIDE[0]
    charts = [_areas(named.filter(pl.col("line") == line), line if len(lines) > 1 else "", x, style) for line in lines]
    once = named.filter(pl.col("trend") == named["trend"][0], pl.col("line").is_in(lines)).drop("trend", "share")
    panel = Panel(
        field="forgotten",
        quantity=_FORGOTTEN,
        title="Forgotten: more than 0.5 nat above their own best",
        from_zero=True,
    )
    below, rows = panel_chart(once, panel, hue="line", x=x, style=style, size=(width, _LOW))
    charts.append(below.properties(width=width, height=_LOW))
    rule = (
        "Learned (unlearned): the loss, fitted on ln(tokens), falls (rises) by more than 0.2 nat, p < 0.05. "
        "High variance: residuals above 0.5 nat."
    )
    count = f"{int(frame['classified'].to_numpy().max()):,} tokens; at each revision, the trend since the first after step 0."
    whole = panel_grid(charts, columns=1).resolve_scale(color="independent")
    return finalize(whole, "Tokens by the trend of their loss", [rule, f"{count} {rows.subtitle}"], style)


def _areas(frame: pl.DataFrame, line: str, x: str, style: Style) -> alt.LayerChart:
    """The stacked shares of one line of training; a single revision is a bar."""
    order = {name: place for place, name in enumerate(_HUES)}
    rows = drawable(frame, "share", x=x, also=["trend"])
    placed = rows.frame.with_columns(pl.col("trend").replace_strict(order).alias("order"))
    width, height = style.width or _WIDE[0], style.height or _WIDE[1]
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    scale = alt.Scale(domain=list(_HUES), range=list(_HUES.values()))
    base = alt.Chart(inline(placed)).encode(
        x=time.channel(seen=zoomed(time.field)),
        y=alt.Y("share", type="quantitative", title="share of tokens", stack="zero", axis=alt.Axis(format="%", tickCount=5),
                scale=alt.Scale(domain=[0, 1], nice=False)),
        color=alt.Color("trend", type="nominal", title="loss so far", scale=scale, legend=alt.Legend(symbolType="square")),
        order=alt.Order("order", type="quantitative"),
        tooltip=[alt.Tooltip("trend", type="nominal"), *tooltips(rows.frame, share="share of tokens")],
    )  # fmt: skip
    alone = rows.frame[rows.x].n_unique() == 1
    mark = base.mark_bar(size=24) if alone else base.mark_area(opacity=0.9, line=False)
    sized: alt.LayerChart = alt.LayerChart(layer=[mark.add_params(zoom())]).properties(width=width, height=height)
    return sized.properties(title=alt.TitleParams(text=line, fontSize=12)) if line else sized
