"""The births of outlier features: their first step, and the layers that they reach.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import births
>>> od.plots.outlier_births(births(od.open_store("run.zarr")))  # doctest: +SKIP
"""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import span, stage_borders, time_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.lines import BORDER, BORDER_NAME, LINE, with_borders
from olmo_dynamics.plots.selections import brush
from olmo_dynamics.plots.table import Rows, drawable, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, tooltips
from olmo_dynamics.quantities import find

_WIDTH = 600
_ROW, _LABEL, _LOWEST, _HIGHEST = 15, 13, 110, 600
"""Pixels: a row, the least height of one with a label, and the least and the greatest height of a panel."""

_MOST_FEATURES, _MOST_PLACES = 40, 20_000
"""The most features, and rows of places that they reach, that a picture takes."""

_ROW_NAME = "row"  # a feature, or a feature of one line of training
_QUANTITY = find("outliers/feature_abs_max")


def outlier_births(births: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Discs where a feature is an outlier: features against step above, the places they reach below.

    A place is the input of a layer's attention or MLP; a disc grows with the number of places. Features are in the order
    of their first step; of very many, those with the largest magnitude, summed over revisions, are drawn. The lower panel
    shows the brushed features at the brushed steps, and everything until a reader brushes. Takes the table of
    `olmo_dynamics.frames.births`.

    Raises:
        OptionError: a column is missing, or no feature is an outlier in any revision.
    """
    require(births, "layer", "input", "feature", "magnitude", "fraction", "is_outlier", "first_step")
    also = ["fraction", "is_outlier", "first_step"]
    whole = drawable(births, "magnitude", x=x, also=also, most=None) if births["is_outlier"].any() else None
    hits = whole.frame.filter("is_outlier", pl.col("fraction") > 0) if whole else births.clear()
    if whole is None or hits.is_empty():
        raise OptionError(
            "outlier_births() needs at least one outlier feature (got none); lower the threshold or the shares"
        )
    shown, cut = strongest(hits)
    places = _with_row(shown, whole.x)
    width = style.width or _WIDTH
    time = time_axis(whole.frame, whole.x, width=width, style=style)
    channel, brushed = time.channel(domain=list(span(whole.frame, whole.x))), brush("x", "y")
    color = magnitude_color(places, "magnitude", _QUANTITY, below=_WIDTH // 2)
    above = _features(reach(places), channel, color).add_params(brushed)
    below = _places(places, channel, color.copy())
    panels = [above.properties(width=width), below.transform_filter(brushed).properties(width=width)]
    both = alt.vconcat(*(_bordered(panel, whole, channel) for panel in panels), spacing=40)
    count = hits["feature"].n_unique()
    title = f"{count:,} outlier feature{'s' if count > 1 else ''}, by the {x} of first appearance"
    return finalize(both.resolve_scale(color="shared", size="independent"), title, [cut, whole.subtitle], style)


def reach(hits: pl.DataFrame) -> pl.DataFrame:
    """One row per revision and feature: `places`, the (layer, input) pairs it reaches, and its largest `magnitude`."""
    of_place = ("layer", "input", "fraction", "magnitude", "is_outlier")
    keys = [name for name in hits.columns if name not in of_place]
    return hits.group_by(keys, maintain_order=True).agg(pl.len().alias("places"), pl.col("magnitude").max())


def strongest(hits: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Rows of the features whose largest magnitudes, summed over revisions, are the largest, and a note on the others.

    A feature that persists is thus chosen before one that is as strong in a single revision.
    """
    by_revision = hits.group_by("feature", "revision").agg(pl.col("magnitude").max(), pl.len())
    features = by_revision.group_by("feature").agg(pl.col("magnitude", "len").sum())
    ranked = features.sort(pl.col("magnitude"), -pl.col("feature"), descending=True).with_row_index("rank")
    fits = (pl.col("rank") < _MOST_FEATURES) & (pl.col("len").cum_sum() <= _MOST_PLACES)
    kept = ranked.filter(fits | (pl.col("rank") == 0))
    if kept.height == ranked.height:
        return hits, ""
    shown = hits.filter(pl.col("feature").is_in(kept["feature"].implode()))
    rows = f"{shown.height:,} of {hits.height:,} rows"
    return (
        shown,
        f"The {kept.height:,} features of {ranked.height:,} with the largest sum of magnitudes over revisions; {rows}.",
    )


def _with_row(hits: pl.DataFrame, x: str) -> pl.DataFrame:
    """The rows with their place in the upper panel: the feature, and its line where several lines have it at one time."""
    words = pl.col("feature").cast(pl.String)
    if LINE in hits.columns and hits.select(LINE, "feature", x).unique().select("feature", x).is_duplicated().any():
        words = pl.format("{} · {}", "feature", LINE)
    return hits.with_columns(words.alias(_ROW_NAME), pl.col(x).min().over("feature").alias("born"))


def _features(reached: pl.DataFrame, time: alt.X, color: alt.Color) -> alt.Chart:
    order = reached.sort("born", "feature", _ROW_NAME)[_ROW_NAME].unique(maintain_order=True).to_list()
    numbers = {"places": "places reached", "magnitude": axis_title(_QUANTITY), "first_step": "first step"}
    return _discs(reached.drop("born"), _ROW_NAME, order, "feature (first born on top)").encode(
        x=time,
        size=_size("places", "places it reaches", most=reached["places"].to_numpy().max()),
        color=color,
        tooltip=tooltips(reached, **numbers),
    )


def _places(hits: pl.DataFrame, time: alt.X, color: alt.Color) -> alt.Chart:
    """The places that the brushed features reach; the chart itself counts them, because a reader moves the brush."""
    named = hits.with_columns(pl.format("{} {}", "layer", "input").alias("place"))
    order = named.sort("layer", "input", descending=True)["place"].unique(maintain_order=True).to_list()
    at_once = named.group_by(time.shorthand, "place").agg(pl.col("feature").n_unique())
    size = _size("feature", "features that reach it", most=at_once["feature"].to_numpy().max())
    needed = named.select(time.shorthand, _ROW_NAME, "place", "feature", "magnitude")
    return _discs(needed, "place", order, "place: layer and input (deepest on top)").encode(
        x=time,
        size=size.aggregate("distinct"),
        color=color.aggregate("max"),
        tooltip=[
            "place:N",
            alt.Tooltip("feature", type="quantitative", aggregate="distinct", title="features that reach it"),
        ],
    )


def _bordered(discs: alt.Chart, whole: Rows, x: alt.X) -> alt.Chart | alt.LayerChart:
    """A panel with the borders of stages, if there are several."""
    if not whole.counts_through:
        return discs
    begun = with_borders(whole.frame, whole.x).select(BORDER, BORDER_NAME).unique().drop_nulls()
    return alt.LayerChart(layer=[discs, *stage_borders(begun, inline(begun), x)])


def _discs(frame: pl.DataFrame, y: str, order: list[Any], title: str) -> alt.Chart:
    """Discs in rows of the given order, with as many rows labelled as fit."""
    height = max(_LOWEST, min(_HIGHEST, _ROW * len(order)))
    labels = alt.Axis(values=order[:: math.ceil(len(order) * _LABEL / height)], grid=True, titleAngle=0, titleAlign="left",
                      titleX=0, titleY=-10)  # fmt: skip
    rows = alt.Y(y, type="ordinal", sort=order, scale=alt.Scale(domain=order), title=title, axis=labels)
    discs: alt.Chart = alt.Chart(inline(frame), height=height).mark_circle(opacity=0.9).encode(y=rows)
    return discs


def _size(field: str, title: str, *, most: int) -> alt.Size:
    """Discs whose area is proportional to a count."""
    scale = alt.Scale(domain=[0, int(most)], range=[0, 0.7 * _ROW**2])
    legend = alt.Legend(format="d", values=sorted({1, (1 + int(most)) // 2, int(most)}))
    return alt.Size(field, type="quantitative", title=title, scale=scale, legend=legend)
