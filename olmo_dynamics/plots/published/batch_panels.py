"""Losses of branches against their batch size, and the critical batch size against training time.

>>> import olmo_dynamics as od
>>> branches = pl.read_parquet("cbs/branches.parquet")  # doctest: +SKIP
>>> od.plots.critical_batch(branches, x="tokens")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.errors import counted
from olmo_dynamics.frames.batch_sizes.critical_batch import TOLERANCE, Rule, critical_batch_sizes
from olmo_dynamics.plots.axes import short_number, span, time_axis, value_axis
from olmo_dynamics.plots.panels import side_by_side, small_multiples
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, inline, require
from olmo_dynamics.plots.theme import AXES, CATEGORIES, INK, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import NUMBER, axis_title, tooltips
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Quantity

_WIDE, _PANEL = (600, 300), (165, 130)
_PANELS = "panel"
_LOSS = find("loss/cross_entropy")
_BATCH = Quantity("batch_tokens", "", "batch size", (), "", "", unit="token")
_CRITICAL = Quantity("critical_batch", "", "critical batch size", (), "", "", unit="token")
_LARGE = 100_000  # tokens of a batch whose label is shortened
_SHADE, _MARK = "#CFE1F0", CATEGORIES[3]
_OPEN = 2.0  # times the lower end: the length of an interval without an upper end


def critical_batch(
    branches: pl.DataFrame,
    *,
    rule: Rule = "max",
    tolerance: float = TOLERANCE,
    loss: str = "loss",
    x: str = "step",
    style: Style = PLAIN,
) -> AnyChart:
    """Panels of loss against batch size, one per revision, above the critical batch size against step or tokens.

    A ring marks the largest batch whose loss is at most `tolerance` above that of every smaller one; the shade reaches to the
    next batch that was tested. Below, a bar is that interval and the dot its geometric mean; an arrow has no upper end, since the
    largest batch tested was sufficient (Merrill et al. 2025, arXiv:2505.23971).

    Args:
        branches: the table of `od.critical_batch`.
        rule: see `frames.critical_batch_sizes`.
        tolerance: nats per token.
        loss: the column to compare: `loss`, `training_loss` or `held_out_loss`.
        x: `step` or `tokens`.
        style: the look.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(branches, "revision", "step", "tokens", "batch_tokens", "branch_tokens", "loss_kind", loss)
    found = critical_batch_sizes(branches, rule=rule, tolerance=tolerance, loss=loss)
    rows = drawable(branches.sort("step", "batch_tokens"), loss, x=None, also=["batch_tokens", "multiplier"])
    kinds = " and ".join(branches["loss_kind"].unique().sort())
    kind = {"training_loss": "training, smoothed", "held_out_loss": "held-out"}.get(loss, kinds)
    budget = branches["branch_tokens"].to_numpy()
    charts = [_losses(rows, found, loss, style), _sizes(found, x, style)]
    lines = [
        f"Above: {kind} loss of branches of {int(budget.min()):,} tokens at batches of other sizes. Ring: the largest batch "
        f"within {tolerance:g} nat/token of every smaller one; shade: up to the next one tested.",
        f"Below: that interval and its geometric mean. {counted(found.height, 'revision')}; branches: {branches.height}.",
    ]
    return finalize(_stacked(charts), "Critical batch size by branching", lines, style)


def _stacked(charts: list[AnyChart]) -> alt.ConcatChart:
    whole = side_by_side(*charts, columns=1)
    whole.bounds, whole.spacing = "full", 30
    return whole


def _losses(rows: Rows, found: pl.DataFrame, loss: str, style: Style) -> AnyChart:
    """Curves of loss against batch size, one panel per revision."""
    at = found.select("revision", "low", "high", pl.col("multiplier").alias("best"))
    frame = rows.frame.join(at, on="revision", how="left", maintain_order="left").with_columns(
        pl.format("step {}", "step").alias(_PANELS), (pl.col("multiplier") == pl.col("best")).alias("chosen")
    )
    frame = frame.with_columns(pl.col("high").fill_null(_OPEN * pl.col("low")).alias("shade_end"))
    if frame.select("revision").n_unique() > frame.select(_PANELS).n_unique():
        frame = frame.with_columns(pl.col("revision").alias(_PANELS))
    value = value_axis(frame, loss, _LOSS, scale="linear", panels=_PANELS)
    low, high = span(frame, "batch_tokens")
    ticks = sorted({int(size) for size in frame["batch_tokens"]})
    scale = alt.Scale(type="log", domain=[low / 1.2, high * 1.2], nice=False)
    words = short_number("datum.value") if high >= _LARGE else alt.Undefined  # 512 to 8,192 are no round thousands
    axis = alt.Axis(values=ticks, format=",d", labelExpr=words, labelOverlap="greedy", grid=False)
    across = alt.X("batch_tokens", type="quantitative", title=axis_title(_BATCH), scale=scale, axis=axis)
    told = tooltips(frame, batch_tokens=axis_title(_BATCH), **{loss: axis_title(_LOSS)})
    base = alt.Chart(inline(frame)).encode(x=across, y=value.channel())
    ends = across.copy()
    ends.shorthand = "low"
    shade = alt.Chart(base.data).transform_filter("datum.chosen").encode(x=ends, x2="shade_end")
    layers = [
        shade.mark_rect(color=_SHADE, opacity=0.7, clip=True),
        base.mark_line(color=CATEGORIES[0]),
        base.mark_point(filled=True, size=22, color=CATEGORIES[0], opacity=1).encode(tooltip=told),
        base.transform_filter("datum.chosen").mark_point(filled=False, size=110, strokeWidth=1.6, color=INK),
    ]
    width, height = style.width or _PANEL[0], style.height or _PANEL[1]
    chart = alt.LayerChart(layer=layers).properties(width=width, height=height)
    if frame[_PANELS].n_unique() == 1:
        return chart.properties(width=style.width or _WIDE[0])
    grid = small_multiples(chart, Rows(frame, rows.left_out, rows.x), _PANELS, columns=style.columns)
    words = grid.usermeta[AXES]  # only the outermost chart may have any
    grid.usermeta = alt.Undefined
    return grid.properties(
        title=alt.TitleParams(text=words, fontSize=12, fontWeight="normal", anchor="start", offset=6)
    )


def _sizes(found: pl.DataFrame, x: str, style: Style) -> alt.LayerChart:
    """Intervals of the critical batch size against training time."""
    ended = found.with_columns(
        pl.col("high").is_null().alias("open"),
        pl.col("high").fill_null(_OPEN * pl.col("low")).cast(pl.Float64).alias("top"),
    )
    rows = drawable(ended, "low", x=x, also=["top", "open", "critical_batch", "multiplier"])
    width = style.width * min(style.columns, found.height) if style.width else _WIDE[0]  # as wide as the panels above
    height = style.height or _WIDE[1]
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    both = pl.concat([rows.frame.select(value="low"), rows.frame.select(value="top")])
    value = value_axis(both, "value", _CRITICAL, scale="log" if style.scale == "auto" else style.scale)
    domain = (value.low / 1.2, value.high * 1.2)
    low, top, middle = (value.channel(domain=domain) for _ in range(3))
    low.shorthand, top.shorthand, middle.shorthand = "low", "top", "critical_batch"
    base = alt.Chart(inline(rows.frame)).encode(x=time.channel(seen=zoomed(time.field)))
    titles = {"critical_batch": "geometric mean", "low": "largest sufficient", "top": "next tested"}
    told: list[Any] = tooltips(rows.frame, **titles)
    told.append(alt.Tooltip("multiplier", type="quantitative", title="over the parent's batch", format=NUMBER))
    bars = base.mark_rule(strokeWidth=3, color=CATEGORIES[0], opacity=0.6).encode(y=low, y2="top", tooltip=told)
    arrows = base.transform_filter("datum.open").mark_point(
        shape="triangle-up", filled=True, size=60, color=CATEGORIES[0]
    )
    known = base.transform_filter("isValid(datum.critical_batch)")
    line = known.mark_line(strokeWidth=1, color=_MARK, opacity=0.7).encode(y=middle)
    dots = known.mark_point(filled=True, size=40, color=_MARK, opacity=1).encode(y=middle, tooltip=told)
    layers = [bars.add_params(zoom()), arrows.encode(y=top, tooltip=told), line, dots]
    return alt.LayerChart(layer=layers).properties(width=width, height=height)
