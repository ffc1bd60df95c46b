"""Massive activations: their size by layer and step, and the features and tokens in which they lie.

>>> import olmo_dynamics as od
>>> store = od.open_store("run.zarr")  # doctest: +SKIP
>>> top, median = store.table("outliers.massive_top3"), store.table("outliers.massive_median")  # doctest: +SKIP
>>> od.plots.massive_activations(top, median)  # doctest: +SKIP
>>> od.plots.massive_places(store.table("outliers.massive"))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import time_axis, value_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.inside.chosen_revisions import PANEL, spread
from olmo_dynamics.plots.inside.curve_panels import panel_grid
from olmo_dynamics.plots.lines import time_column, with_line
from olmo_dynamics.plots.maps import bordered, cell_map, cells
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, INK, PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, tooltips
from olmo_dynamics.quantities import find

_DEPTH, _MAP = (330, 260), 300
_ROW, _LOWEST, _HIGHEST, _FEATURE, _LABEL = 16, 120, 380, 14, 13
_MOST_FEATURES = 16
_MEDIAN, _FLOOR, _RATIO = "median", 100.0, 1000.0
"""An activation is massive above the floor and this many times the median (Sun et al. 2024)."""

_TOP, _VALUE = find("outliers/massive_top3"), find("outliers/massive_value")
_RANKS = {1: "largest", 2: "second", 3: "third", _MEDIAN: "median"}
_HUES = (CATEGORIES[3], CATEGORIES[1], CATEGORIES[5], QUIET)


def massive_activations(top: pl.DataFrame, median: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """The largest activations of a sequence and their median by layer, at the last revision; beside it, the largest over time.

    Takes the tables `outliers.massive_top3` and `outliers.massive_median`: means over sequences of the k-th largest `|h|` and of
    the median `|h|` of the residual stream. The dashed line is the border above which an activation is massive: 100, and 1,000
    times the median (Sun et al. 2024, arXiv:2402.17762).

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(top, "layer", "top", "value")
    require(median, "layer", "value")
    blocks = top.filter(pl.col("layer").is_not_null())
    if blocks.is_empty():
        raise OptionError("the table must hold the largest activations of some layer to draw (got none)")
    last, name = _last(blocks, x)
    lines = pl.concat(
        [last, _last(median.filter(pl.col("layer").is_not_null()), x)[0].with_columns(top=None)], how="diagonal_relaxed"
    )
    charts: list[alt.Chart | alt.LayerChart] = [_by_depth(lines, name, style)]
    line = f"Dashed: massive, above {_FLOOR:g} and {_RATIO:,.0f} times the median."
    largest = blocks.filter(pl.col("top") == 1)
    if largest["revision"].n_unique() > 1 and largest[x].is_not_null().any():
        cell, subtitle = _map(largest.drop("top"), x=x, style=style)
        charts.append(cell)
    else:
        subtitle = drawable(last, "value", x=None).subtitle
    line = f"{line} {subtitle}"
    words = "Means over sequences of the largest |h| of the residual stream."
    return finalize(panel_grid(charts), "Massive activations by layer", [words, line], style)


def massive_places(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Discs of the largest activations of each layer by feature, coloured by the token's position, one panel per revision.

    A disc is one feature of a layer among its eight largest activations; it grows with their number, and is dark if they
    are at the first position of a window, which is where massive activations are found (Sun et al. 2024, arXiv:2402.17762).
    Takes the table `outliers.massive`. Of many revisions, `style.columns` are shown, and of many features the most frequent.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "rank", "value", "position", "token_id", "feature")
    rows = drawable(
        frame.filter(pl.col("layer").is_not_null()), "value", x=None, also=["token_id", "sequence"], most=None
    )
    shown, note = spread(rows.frame, min(style.columns, 3), x=x, style=style)
    counted, cut = _frequent(_counted(shown))
    order = shown[PANEL].unique(maintain_order=True).to_list()
    header = alt.Header(labelExpr="split(datum.label, ' · ')")
    split = alt.Facet(PANEL, type="nominal", title=None, sort=order, header=header)
    whole = _discs(counted, style).facet(split, columns=style.columns, spacing={"row": 40, "column": 30})
    line = "; ".join(part for part in (note, cut, rows.left_out) if part)
    title = "Largest activations by layer, feature and position"
    return finalize(whole, title, [f"{line}." if line else rows.subtitle], style)


def _discs(counted: pl.DataFrame, style: Style) -> alt.Chart:
    """Layers against features, the most frequent feature at the left."""
    layers = sorted(counted["layer"].unique())
    height = style.height or max(_LOWEST, min(_HIGHEST, _ROW * len(layers)))
    totals = counted.group_by("feature").agg(pl.col("number").sum())
    features = totals.sort("number", "feature", descending=[True, False])["feature"].to_list()
    data, width = inline(counted), style.width or _FEATURE * len(features) + 40
    labels = alt.Axis(values=layers[:: -(-len(layers) * _LABEL // height)], grid=True)
    legend = alt.Legend(values=[1, 4, 8], format="d", orient="bottom")
    words = "among the eight largest"
    told = [
        alt.Tooltip(name, type="nominal", title=name.replace("_", " ")) for name in ("where", "positions", "token_ids")
    ]
    discs: alt.Chart = alt.Chart(data, width=width, height=height).mark_circle(opacity=0.9).encode(
        x=alt.X("feature", type="ordinal", title="feature", sort=features, axis=alt.Axis(labelAngle=-90)),
        y=alt.Y("layer", type="ordinal", title="layer", sort="descending", axis=labels),
        size=alt.Size("number", type="quantitative", title=words, scale=alt.Scale(domain=[0, 8], range=[0, 150]), legend=legend),
        color=_position_color(),
        tooltip=[*tooltips(counted, greatest=axis_title(_VALUE), number=words), *told],
    )  # fmt: skip
    return discs


def _last(frame: pl.DataFrame, x: str) -> tuple[pl.DataFrame, str]:
    """The rows of the last revision on the time axis, or of the last row without one; and its name."""
    time = time_column(with_line(frame), x)
    held = frame.filter(pl.col(time).is_not_null())
    name = str((held.sort(time, maintain_order=True) if held.height else frame)["revision"][-1])
    return frame.filter(pl.col("revision") == name), name


def _by_depth(lines: pl.DataFrame, name: str, style: Style) -> alt.LayerChart:
    rank = (
        pl.col("top")
        .cast(pl.String)
        .replace_strict({str(k): word for k, word in _RANKS.items()}, default=_RANKS[_MEDIAN])
    )
    rows = drawable(lines.with_columns(rank.fill_null(_RANKS[_MEDIAN]).alias("size")), "value", x=None, also=["size"])
    border = pl.max_horizontal(pl.lit(_FLOOR), _RATIO * pl.col("value")).alias("border")
    borders = rows.frame.filter(pl.col("size") == _RANKS[_MEDIAN]).select("layer", border)
    ends = pl.concat([rows.frame.select("value"), borders.select(value="border")])
    value = replace(value_axis(ends, "value", _TOP, scale=style.scale), title="|h|")
    y, ruled = value.channel(), value.channel()
    ruled.shorthand = "border"
    deepest = int(rows.frame["layer"].to_numpy().max())
    axis = alt.Axis(values=list(range(0, deepest + 1, max(1, -(-deepest // 10)))), format="d", grid=False)
    at = alt.X(
        "layer",
        type="quantitative",
        title="layer (0 is shallowest)",
        scale=alt.Scale(zero=False, nice=False, padding=5),
        axis=axis,
    )
    color = alt.Color("size", type="nominal", title=None, legend=alt.Legend(orient="bottom", symbolType="stroke"),
                      scale=alt.Scale(domain=list(_RANKS.values()), range=list(_HUES)))  # fmt: skip
    base = alt.Chart(inline(rows.frame)).encode(x=at, y=y, color=color)
    dots = base.mark_point(filled=True, size=16).encode(tooltip=tooltips(rows.frame, value=axis_title(_TOP)))
    dashed = alt.Chart(inline(borders)).mark_line(strokeDash=[5, 4], color=INK, strokeWidth=1.2).encode(x=at, y=ruled)
    title = alt.TitleParams(text=f"By depth, {name}", fontSize=12)
    sized: alt.LayerChart = alt.LayerChart(layer=[base.mark_line(), dots, dashed]).properties(
        width=style.width or _DEPTH[0], height=style.height or _DEPTH[1], title=title
    )
    return sized


def _map(largest: pl.DataFrame, *, x: str, style: Style) -> tuple[alt.Chart | alt.LayerChart, str]:
    sized = replace(style, height=style.height or _DEPTH[1], facet="")
    rows = cells(largest, "value", x=x, style=sized, facet="")
    time, data = time_axis(rows.frame, rows.x, width=_MAP, style=style), inline(rows.frame)
    start = time.channel("start")
    color = magnitude_color(rows.frame, "value", _TOP, scale=style.scale, below=_MAP).title("largest |h|")
    cell = cell_map(rows, data, "value", start, style=sized).encode(color=color).properties(width=_MAP)
    title = alt.TitleParams(text="The largest, by layer and " + x, fontSize=12)
    return bordered(cell, rows, data, start).properties(title=title), rows.subtitle


def _counted(shown: pl.DataFrame) -> pl.DataFrame:
    """One row per revision, layer, feature and kind of position, with the number of activations and the greatest of them."""
    first = pl.when(pl.col("position") == 0).then(pl.lit("first position")).otherwise(pl.lit("later position"))
    own = ("rank", "value", "position", "token_id", "sequence")
    keys = [name for name in shown.columns if name not in own]
    listed = {name: pl.col(column).unique(maintain_order=True).cast(pl.String).head(4).str.join(", ") for name, column in
              (("positions", "position"), ("token_ids", "token_id"))}  # fmt: skip
    grouped = shown.with_columns(first.alias("where")).group_by([*keys, "where"], maintain_order=True)
    greatest = pl.col("value").get(pl.col("value").abs().arg_max()).alias("greatest")
    return grouped.agg(pl.len().alias("number"), greatest, *(each.alias(name) for name, each in listed.items()))


def _frequent(counted: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """The rows of the features that occur most often, and a note on the others."""
    totals = counted.group_by("feature").agg(pl.col("number").sum()).sort("number", "feature", descending=[True, False])
    if totals.height <= _MOST_FEATURES:
        return counted, ""
    kept = counted.filter(pl.col("feature").is_in(totals["feature"].head(_MOST_FEATURES).implode()))
    share = int(kept["number"].sum()) / int(counted["number"].sum())
    return (
        kept,
        f"the {_MOST_FEATURES} most frequent of {totals.height:,} features, {100 * share:.0f} % of the activations",
    )


def _position_color() -> alt.Color:
    scale = alt.Scale(domain=["first position", "later position"], range=[CATEGORIES[3], CATEGORIES[5]])
    return alt.Color("where", type="nominal", title="token at", scale=scale, legend=alt.Legend(orient="bottom"))
