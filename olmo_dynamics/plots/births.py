"""The births of outlier features: at which step, and in which layers.

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
from olmo_dynamics.plots.axes import span, time_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.selections import brush
from olmo_dynamics.plots.table import MAX_ROWS, Rows, drawable, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, tooltips
from olmo_dynamics.quantities import find

_WIDTH = 600
_ROW, _LABEL, _LOWEST, _HIGHEST = 15, 13, 110, 420
"""Pixels: a row, the least height of one with a label, and the least and the greatest height of a panel."""

_QUANTITY = find("outliers/feature_abs_max")


def outlier_births(births: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Discs where a feature is an outlier: features against step above, the places they reach below.

    A place is the input of a layer's attention or MLP; a disc grows with the number of places. Features are in the order
    of their first step. The lower panel shows the brushed features at the brushed steps, and everything until a reader
    brushes. Takes the table of `olmo_dynamics.frames.births`.

    Raises:
        OptionError: a column is missing, or no feature is an outlier in any revision.
    """
    require(births, "layer", "input", "feature", "magnitude", "fraction", "is_outlier", "first_step")
    hits = births.filter("is_outlier", pl.col("fraction") > 0)
    if hits.is_empty():
        raise OptionError(
            "outlier_births() needs at least one outlier feature (got none); lower the threshold or the shares"
        )
    shown, cut = _first_born(hits)
    features = drawable(reach(hits), "magnitude", x=x, also=["places", "first_step"])
    places = drawable(shown, "magnitude", x=x)
    whole = births.filter(pl.col(x).is_not_null())  # with the revisions that have no outlier
    width = style.width or _WIDTH
    time = time_axis(whole, x, width=width).channel(domain=list(span(whole, x)))
    brushed = brush("x", "y")
    above = _features(features, time).add_params(brushed)
    below = _places(places, time).transform_filter(brushed)
    both = alt.vconcat(above.properties(width=width), below.properties(width=width), spacing=30)
    count = features.frame["feature"].n_unique()
    title = f"{count:,} outlier feature{'s' if count > 1 else ''}, by the {x} of first appearance"
    lines = [cut, Rows(whole, features.left_out).subtitle]
    return finalize(both.resolve_scale(color="shared", size="independent"), title, lines, style)


def reach(hits: pl.DataFrame) -> pl.DataFrame:
    """One row per revision and feature: `places`, the (layer, input) pairs it reaches, and its largest `magnitude`."""
    keys = [
        name
        for name in ("revision", "stage", "ingredient", "step", "tokens", "feature", "first_step")
        if name in hits.columns
    ]
    return hits.group_by(keys, maintain_order=True).agg(pl.len().alias("places"), pl.col("magnitude").max())


def _first_born(hits: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Rows of the features born first, as many whole features as a picture takes, and a note if others are left out."""
    sizes = hits.group_by("feature", "first_step").len().sort("first_step", "feature")
    kept = sizes.filter(pl.col("len").cum_sum() <= MAX_ROWS)
    cut = f"Below: the {kept.height:,} features born first of {sizes.height:,}." if kept.height < sizes.height else ""
    return hits.filter(pl.col("feature").is_in(kept["feature"].implode())), cut


def _features(rows: Rows, time: alt.X) -> alt.Chart:
    order = rows.frame.sort("first_step", "feature")["feature"].unique(maintain_order=True).to_list()
    numbers = {"places": "places reached", "magnitude": axis_title(_QUANTITY), "first_step": "first step"}
    return _discs(rows.frame, "feature", order, "feature (first born on top)").encode(
        x=time,
        size=_size("places", "places it reaches", most=rows.frame["places"].to_numpy().max()),
        color=magnitude_color(rows.frame, "magnitude", _QUANTITY),
        tooltip=tooltips(rows.frame, **numbers),
    )


def _places(rows: Rows, time: alt.X) -> alt.Chart:
    """The places that the brushed features reach; the chart itself counts them, because a reader moves the brush."""
    named = rows.frame.with_columns(pl.format("{} {}", "layer", "input").alias("place"))
    order = named.sort("layer", "input", descending=True)["place"].unique(maintain_order=True).to_list()
    most = named.group_by("revision", "place").len()["len"].to_numpy().max()
    size, color = _size("feature", "features that reach it", most=most), magnitude_color(named, "magnitude", _QUANTITY)
    return _discs(named, "place", order, "place: layer and input (deepest on top)").encode(
        x=time,
        size=size.aggregate("distinct"),
        color=color.aggregate("max"),
        tooltip=["place:N", alt.Tooltip("feature", aggregate="distinct", title="features that reach it")],
    )


def _discs(frame: pl.DataFrame, y: str, order: list[Any], title: str) -> alt.Chart:
    """Discs in rows of the given order, with as many rows labelled as fit."""
    height = max(_LOWEST, min(_HIGHEST, _ROW * len(order)))
    labels = alt.Axis(values=order[:: math.ceil(len(order) * _LABEL / height)], grid=True)
    rows = alt.Y(y, type="ordinal", sort=order, scale=alt.Scale(domain=order), title=title, axis=labels)
    discs: alt.Chart = alt.Chart(frame, height=height).mark_circle(opacity=0.9).encode(y=rows)
    return discs


def _size(field: str, title: str, *, most: int) -> alt.Size:
    """Discs whose area is proportional to a count."""
    scale = alt.Scale(domain=[0, int(most)], range=[0, 0.7 * _ROW**2])
    legend = alt.Legend(format="d", values=sorted({1, (1 + int(most)) // 2, int(most)}))
    return alt.Size(field, type="quantitative", title=title, scale=scale, legend=legend)
