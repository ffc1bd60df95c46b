"""A statistic against a score over training: one dot per revision, joined in training order.

>>> import olmo_dynamics as od
>>> pairs = beside_score(table, "cross_entropy", joined.scores, task="piqa", metric="acc")  # doctest: +SKIP
>>> od.plots.score_relation(pairs, "cross_entropy")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.frames.scores.score_relations import rank_correlation
from olmo_dynamics.plots.axes import number_format, short_number, time_scale, value_axis
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.table import Rows, drawable, inline, require
from olmo_dynamics.plots.theme import INK, PLAIN, QUIET, SEQUENTIAL, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import X_TITLES, axis_title, quantity_of, tooltips
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Quantity

_WIDTH, _HEIGHT = 460, 340
_DOT = 48
_ORDER, _LOW, _HIGH = "place_in_training", "score_low", "score_high"


def score_relation(frame: pl.DataFrame, y: str, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """The score of a task along the vertical axis against the statistic `y`, for the rows of `frames.beside_score`.

    Dots are revisions, coloured by step or tokens and joined in training order; bars are one standard error of the score. The
    subtitle gives Spearman's rank correlation with its 95 % block-bootstrap interval. Several lines of training are drawn apart,
    each with its own correlation.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "task", "metric", "score", "score_se")
    rows = drawable(frame, y, x=x, also=["task", "metric", "score", "score_se"])
    shown = _placed(rows)
    statistic, score = quantity_of(frame.drop("task", "metric"), y), _quantity(frame)
    across = value_axis(shown, y, statistic, scale=style.scale)
    up = value_axis(shown, "score", score, scale="linear")
    width, height = style.width or _WIDTH, style.height or _HEIGHT
    kind: dict[str, Any] = {"type": "log", "nice": False} if across.log else {"type": "linear", "zero": False}
    axis = alt.Axis(
        format=number_format(across.high), tickCount=6, values=list(across.ticks) or alt.Undefined, grid=False
    )
    at = alt.X(y, type="quantitative", title=across.title, axis=axis, scale=alt.Scale(**kind, padding=8))
    apart = [alt.Detail(LINE, type="nominal")] if rows.has_several(LINE) else []
    base = alt.Chart(inline(shown)).encode(x=at, y=up.channel(), detail=apart)
    path = base.mark_line(color=QUIET, strokeWidth=1, opacity=0.6).encode(order=alt.Order(_ORDER, type="quantitative"))
    bars = base.mark_rule(color=QUIET, opacity=0.5).encode(y=alt.Y(_LOW, type="quantitative", title=up.title), y2=_HIGH)
    told = tooltips(shown, **{y: axis_title(statistic), "score": axis_title(score), "score_se": "standard error"})
    dots = base.mark_point(filled=True, size=_DOT, opacity=1, stroke=INK, strokeWidth=0.4)
    dots = dots.encode(color=_time(rows, style), tooltip=told)
    chart = alt.LayerChart(layer=[path, bars.transform_filter(f"isValid(datum.{_LOW})"), dots])
    title = f"{statistic.long_name[:1].upper()}{statistic.long_name[1:]} and {frame['task'][0]} during training"
    words = "; ".join(correlations(rows, y)) + " (Spearman, 95 % block bootstrap)."
    return finalize(chart.properties(width=width, height=height), title, [words, rows.subtitle], style)


def correlations(rows: Rows, y: str) -> list[str]:
    """The rank correlation of each line of training, in words."""
    ordered = rows.frame.sort(rows.x, maintain_order=True)
    parts = ordered.partition_by(LINE, maintain_order=True) if LINE in ordered.columns else [ordered]
    named = [f"{part[LINE][0]}: " if len(parts) > 1 else "" for part in parts]
    return [name + rank_correlation(part[y], part["score"]).words for name, part in zip(named, parts, strict=True)]


def _placed(rows: Rows) -> pl.DataFrame:
    """The rows in training order, with the ends of the bars."""
    ordered = rows.frame.sort(rows.x, maintain_order=True).with_row_index(_ORDER)
    known = pl.col("score_se").fill_null(float("nan")).is_finite()
    ends = {_LOW: pl.col("score") - pl.col("score_se"), _HIGH: pl.col("score") + pl.col("score_se")}
    return ordered.with_columns(**{name: pl.when(known).then(end) for name, end in ends.items()})


def _quantity(frame: pl.DataFrame) -> Quantity:
    """The score as a quantity: that of the group `evaluation` if it has one of the metric's name."""
    task, metric = str(frame["task"][0]), str(frame["metric"][0])
    try:
        unit = find(f"evaluation/{metric}").unit
    except KeyError:
        unit = ""
    return Quantity("score", "", f"{task}: {metric.replace('_', ' ')}", (), "", "", unit="" if unit == "1" else unit)


def _time(rows: Rows, style: Style) -> alt.Color:
    scale = time_scale(rows.frame, rows.x, style)
    legend = alt.Legend(title=X_TITLES[rows.x].split(",")[0], labelExpr=short_number("datum.value"), gradientLength=140)
    words = {name: value for name, value in scale.words.items() if name != "zero"}
    return alt.Color(rows.x, type="quantitative", scale=alt.Scale(scheme=SEQUENTIAL, **words), legend=legend)
