"""The gradient noise scale through training, with its interval.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import per_revision
>>> totals = per_revision(od.open_store("run.zarr"), "gradients")  # doctest: +SKIP
>>> od.plots.gradient_noise(totals)  # doctest: +SKIP
"""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import span, stage_borders, time_axis, value_axis
from olmo_dynamics.plots.lines import LINE, with_borders
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, tooltips
from olmo_dynamics.quantities import find

_WIDE = (600, 320)
_SCALE = find("gradients/noise_scale")
_FEW, _NOT_POSITIVE = 0, 3
"""Of `noise_status`: fewer than 8 windows, and a squared norm of the gradient that is not positive."""


def gradient_noise(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Points of the gradient noise scale in tokens, each with its 95 % interval; an interval without an upper end has an arrow.

    `B_simple = tr Σ / |G|²` (McCandlish et al. 2018, arXiv:1812.06162). A revision at which `|G|²` is not positive has no point,
    only an interval from its lower end on. Takes the numbers of the group `gradients` as `olmo_dynamics.frames.per_revision`
    gives them.

    Raises:
        OptionError: a column is missing, no revision has an interval, or there is too much to draw.
    """
    require(frame, "noise_scale", "noise_scale_low", "noise_scale_high", "noise_status")
    held = frame.filter(pl.col("noise_scale_low").is_finite(), pl.col("noise_scale_low") > 0)
    if held.is_empty():
        few = (frame["noise_status"] == _FEW).any()
        reason = "the probe has fewer than 8 windows" if few else "none could be estimated"
        raise OptionError(f"the table must hold noise scales with an interval to draw (got none: {reason})")
    top = _top(held)
    ended = held.with_columns(
        pl.when(pl.col("noise_scale_high").is_finite()).then("noise_scale_high").otherwise(top).alias("high"),
        pl.col("noise_scale_high").is_infinite().alias("open"),
        pl.col("noise_scale").fill_nan(None).round_sig_figs(6).alias("middle"),
    )
    rows = drawable(ended, "noise_scale_low", x=x, also=["high", "open", "middle"])
    width, height = style.width or _WIDE[0], style.height or _WIDE[1]
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    ends = pl.concat([rows.frame.select(value="noise_scale_low"), rows.frame.select(value="high")])
    value = value_axis(ends, "value", _SCALE, scale="log" if style.scale == "auto" else style.scale)
    drawn = with_borders(rows.frame, rows.x) if rows.counts_through else rows.frame
    data, at = inline(drawn), time.channel(seen=zoomed(time.field))
    low, high, middle = (value.channel(domain=_ends(span(ends, "value"))) for _ in range(3))
    low.shorthand, high.shorthand, middle.shorthand = "noise_scale_low", "high", "middle"
    shade = alt.Color(LINE, type="nominal") if LINE in drawn.columns else alt.value(CATEGORIES[0])
    base = alt.Chart(data).encode(x=at, color=shade)
    numbers = {"middle": axis_title(_SCALE), "noise_scale_low": "lower end", "noise_scale_high": "upper end"}
    told = tooltips(rows.frame, **{name: title for name, title in numbers.items() if name in rows.frame.columns})
    bars = base.mark_rule(strokeWidth=2, opacity=0.55).encode(y=low, y2="high", tooltip=told)
    arrows = base.transform_filter("datum.open").mark_point(shape="triangle-up", filled=True, size=60, opacity=0.8)
    line = base.transform_filter("isValid(datum.middle)").mark_line(strokeWidth=1, opacity=0.6).encode(y=middle)
    points = base.transform_filter("isValid(datum.middle)").mark_point(filled=True, size=36, opacity=1)
    layers = [bars.add_params(zoom()), arrows.encode(y=high), line, points.encode(y=middle, tooltip=told)]
    chart = alt.LayerChart(layer=[*layers, *stage_borders(drawn, data, at)]).properties(width=width, height=height)
    return finalize(
        chart,
        "Gradient noise scale during training",
        [
            "B_simple = tr Σ / |G|², from windows of the probe. Bars: 95 % intervals.",
            f"{rows.subtitle} {_said(frame)}".strip(),
        ],
        style,
    )


def _top(held: pl.DataFrame) -> float:
    """The end of the axis: twice the greatest finite end, rounded up to one digit."""
    ends = [*held["noise_scale_low"].to_list(), *held["noise_scale"].fill_nan(None).drop_nulls().to_list(),
            *(end for end in held["noise_scale_high"].to_list() if math.isfinite(end))]  # fmt: skip
    greatest = 2.0 * float(max(ends))
    power = float(10.0 ** math.floor(math.log10(greatest)))
    return math.ceil(greatest / power) * power


def _ends(found: tuple[float, float]) -> tuple[float, float]:
    return found[0] / 1.15, found[1] * 1.15


def _said(frame: pl.DataFrame) -> str:
    """The revisions without a point, by the reason."""
    unknown, few = ((frame["noise_status"] == code).sum() for code in (_NOT_POSITIVE, _FEW))
    words = (
        f"|G|² not positive at {unknown:,} revision{'s' if unknown > 1 else ''}: no point, a lower end alone."
        if unknown
        else ""
    )
    return words + (f" Fewer than 8 windows at {few:,} revision{'s' if few > 1 else ''}." if few else "")
