"""Colour: depth and time dark to light, magnitudes on viridis, names in Okabe and Ito's eight.

>>> import polars as pl
>>> series_color(pl.DataFrame({"layer": [0, 1]}), "layer").to_dict()["scale"]["domain"]
[0, 1]
"""

from __future__ import annotations

import math
import textwrap
from typing import Any, Literal

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import is_log, number_format, short_number, span, time_axis
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.theme import CATEGORIES, SEQUENTIAL, Style, YScale
from olmo_dynamics.plots.titles import X_TITLES, axis_title
from olmo_dynamics.quantities.declaration import Quantity

_LOG_FROM = 100.0  # colours turn logarithmic above this ratio of largest to smallest
_LEGEND_ROWS = _LEGEND_COLUMNS = 16
_TITLES = {"layer": "layer", LINE: "line of training"}
_TITLE = 32  # letters in a line of a legend's title
_DEPTH, _DEPTH_TICKS = 160, 8  # length in pixels of the bar of layers, and its most ticks
_GRADIENT = 220  # length in pixels of the legend of a time colour

NULLS = {"norm_sparsity": math.sqrt(math.pi / 2), "load_over_mean": 1.0, "experts/cosine": 0.0}
"""Null values by the name or key of a quantity: that of a Gaussian, the fair share of an expert, unrelated weights."""

_FACTOR = 10.0  # the most that logarithmic colours reach to each side of a null value; what is further out has the last


def series_color(frame: pl.DataFrame, column: str, *, panels: bool = False) -> alt.Color:
    """The colour of a series: depth and other numbers dark to light, up to eight names in Okabe and Ito's colours.

    Of many panels, the legend is below and its entries stand side by side.
    """
    values = frame[column].drop_nulls().unique(maintain_order=True).to_list()
    columns = _LEGEND_COLUMNS if panels else math.ceil(len(values) / _LEGEND_ROWS)
    legend = alt.Legend(columns=columns, symbolType="stroke", symbolOpacity=1)
    title = _TITLES.get(column) or column.replace("_", " ")
    kind: Literal["ordinal", "nominal"] = "ordinal"
    if column == "layer":
        return _depth_color(sorted(values), title, below=panels)
    if frame[column].dtype.is_numeric():
        scale = alt.Scale(domain=sorted(values), scheme=SEQUENTIAL)
    elif len(values) > len(CATEGORIES):
        scale = alt.Scale(domain=values, scheme=SEQUENTIAL)
    else:
        kind, scale = "nominal", alt.Scale(domain=values, range=list(CATEGORIES[: len(values)]))
    return alt.Color(column, type=kind, title=title, scale=scale, legend=legend)


def _depth_color(layers: list[int], title: str, *, below: bool) -> alt.Color:
    """The colour of a layer on one continuous bar, at the picture's side or below its panels."""
    most = max(1, layers[-1] - layers[0])
    ticks = layers[:: max(1, math.ceil(most / _DEPTH_TICKS))]
    place: dict[str, Any] = {"orient": "bottom", "gradientLength": _GRADIENT} if below else {"gradientLength": _DEPTH}
    legend = alt.Legend(type="gradient", values=ticks, format="d", **place)
    scale = alt.Scale(domain=[layers[0], layers[-1]], scheme=SEQUENTIAL)
    return alt.Color("layer", type="quantitative", title=title, scale=scale, legend=legend)


def magnitude_color(
    frame: pl.DataFrame, field: str, quantity: Quantity, *, scale: YScale = "auto", below: int = 0
) -> alt.Color:
    """The colour of a quantity in a map: logarithmic where the values are positive and span more than a factor of 100.

    The legend is at the picture's side, or under it and `below` pixels long. Colours of a quantity with a null value, such as
    that of a Gaussian, run from it to both sides alike.
    """
    low, high = span(frame, field)
    log = is_log(field, scale, low, high / low if low > 0 else 0.0, enough=_LOG_FROM)
    shades = alt.Scale(type="log", scheme="viridis") if log else alt.Scale(zero=False, scheme="viridis")
    null = NULLS.get(quantity.key, NULLS.get(quantity.name))
    if null is not None:
        shades = _log_diverging(null, low, high) if log else _diverging(null, low, high)
    place: dict[str, Any] = {"orient": "bottom", "gradientLength": below} if below else {}
    legend = alt.Legend(format=number_format(high), tickCount=5, **place)
    title = axis_title(quantity) if below else textwrap.wrap(axis_title(quantity), _TITLE)
    return alt.Color(field, type="quantitative", title=title, scale=shades, legend=legend)


def _diverging(null: float, low: float, high: float) -> alt.Scale:
    """Two hues that part at the null value, equally strong at equal distances from it."""
    reach = max(high - null, null - low) or 1.0
    return alt.Scale(domain=[null - reach, null + reach], scheme="purpleorange", reverse=True)


def _log_diverging(null: float, low: float, high: float) -> alt.Scale:
    """The same two hues, equally strong at equal factors above and below the null value."""
    factor = min(_FACTOR, max(high / null, null / low))
    return alt.Scale(type="log", domain=[null / factor, null * factor], clamp=True, scheme="purpleorange", reverse=True)


def time_color(frame: pl.DataFrame, x: str, style: Style) -> alt.Color:
    """The colour of a revision by its step or tokens, dark to light from early to late; a single one needs no legend."""
    axis = time_axis(frame, x, width=_GRADIENT, style=style)
    words = short_number("datum.value")
    bar = alt.Legend(
        type="gradient", values=list(axis.ticks) or alt.Undefined, labelExpr=words, gradientLength=_GRADIENT
    )
    legend = bar if frame[x].n_unique() > 1 else None
    title = textwrap.wrap(X_TITLES[x], _TITLE)
    return alt.Color(
        x, type="quantitative", title=title, scale=alt.Scale(**axis.scale.words, scheme=SEQUENTIAL), legend=legend
    )
