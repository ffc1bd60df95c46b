"""Gradients through training: their total norm, their norm by tensor, and growth along the depth.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import per_revision
>>> store = od.open_store("run.zarr")  # doctest: +SKIP
>>> totals = per_revision(store, "gradients")  # doctest: +SKIP
>>> od.plots.gradient_size(totals)  # doctest: +SKIP
>>> od.plots.growth_exponents(totals)  # doctest: +SKIP
>>> od.plots.gradient_norms(store.table("gradients"))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import stage_borders, time_axis, value_axis
from olmo_dynamics.plots.inside.curve_panels import Panel, Rule, dashed, panel_chart, panel_grid, short_title
from olmo_dynamics.plots.lines import LINE, with_borders
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, tooltips
from olmo_dynamics.plots.trajectories import series_lines
from olmo_dynamics.quantities import find

_WIDE, _PANEL = (600, 320), (152, 130)
_INTERVAL = 1.96  # standard errors to each side hold 95 %
_WINDOW, _PROBE = "one window, mean over windows", "the whole probe"
_SERIES = {"total_l2_norm": _WINDOW, "total_probe_l2_norm": _PROBE}
_TOTAL, _NORM = find("gradients/total_l2_norm"), "probe_l2_norm"
_EXPONENTS = {"vecmean": "Norm of the mean", "meannorm": "Mean of the norms"}
_KEPT = Rule(0, "keeps its size")
_OF = {"activation": "activations", "gradient": "gradients"}


def gradient_size(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Curves of the total gradient norm: that of one window with its 95 % interval, and that of the whole probe.

    Norms are sqrt(Σ over tensors ‖g‖²) before clipping, in nats per weight unit. Takes the numbers of the group `gradients` as
    `olmo_dynamics.frames.per_revision` gives them.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, *_SERIES, "total_l2_norm_se")
    spread = (_INTERVAL * pl.col("total_l2_norm_se")).fill_nan(None)
    parts = [
        frame.with_columns(pl.lit(words).alias("series"), value=pl.col(name), low=low, high=high)
        for (name, words), (low, high) in zip(
            _SERIES.items(),
            (
                (_floored(pl.col("total_l2_norm"), spread), pl.col("total_l2_norm") + spread),
                (pl.lit(None), pl.lit(None)),
            ),
            strict=True,
        )
    ]
    long = pl.concat(parts, how="diagonal_relaxed")
    rows = drawable(long, "value", x=x, also=["series", "low", "high"])
    width, height = style.width or _WIDE[0], style.height or _WIDE[1]
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    value = value_axis(rows.frame, "value", _TOTAL, scale=style.scale)
    drawn = with_borders(rows.frame, rows.x) if rows.counts_through else rows.frame
    data, at = inline(drawn), time.channel(seen=zoomed(time.field))
    detail = [alt.Detail(LINE, type="nominal")] if LINE in drawn.columns else []
    scale = alt.Scale(domain=list(_SERIES.values()), range=[CATEGORIES[0], CATEGORIES[3]])
    color = alt.Color(
        "series", type="nominal", title="gradient of", scale=scale, legend=alt.Legend(symbolType="stroke")
    )
    base = alt.Chart(data).encode(x=at, y=value.channel(), color=color, detail=detail)
    low = value.channel()
    low.shorthand = "low"
    of_window = base.transform_filter("isValid(datum.low)")
    alone = rows.frame[rows.x].n_unique() == 1  # an area needs two ends
    band = (of_window.mark_rule(strokeWidth=5, opacity=0.3) if alone else of_window.mark_area(opacity=0.22)).encode(
        y=low, y2="high"
    )
    dots = base.mark_point(filled=True, size=14).encode(tooltip=tooltips(rows.frame, value=axis_title(_TOTAL)))
    layers = [base.mark_line().add_params(zoom()), band, dots, *stage_borders(drawn, data, at)]
    chart = alt.LayerChart(layer=layers).properties(width=width, height=height)
    line = "Band: 95 % interval over the probe's windows." if long["low"].is_not_null().any() else ""
    return finalize(
        chart, "Total gradient norm during training", [definition(_TOTAL), f"{rows.subtitle} {line}".strip()], style
    )


def gradient_norms(frame: pl.DataFrame, y: str = "probe_l2_norm", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Curves of each tensor's gradient norm, coloured by layer, in panels by role that share one axis.

    `probe_l2_norm` is ‖G‖₂ with G the gradient of the mean loss over all scored tokens, where the experts of a layer are taken
    together as one tensor, sqrt(Σ ‖G‖²); `l2_norm` is the mean over windows, where each expert is a line. Takes the table
    `gradients`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "tensor", "layer", "role", y)
    quantity = find(f"gradients/{y}")
    rows = drawable(pooled_gradients(frame) if y == _NORM else frame, y, x=x)
    facet = "role" if rows.has_several("role") and style.facet is None else style.facet or ""
    width, height = (
        (style.width or _PANEL[0], style.height or _PANEL[1])
        if facet
        else (style.width or _WIDE[0], style.height or _WIDE[1])
    )
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    axis = value_axis(rows.frame, y, quantity, scale=style.scale)
    value = replace(axis, title=quantity.symbol if facet else short_title(quantity), crowded=bool(facet))
    hue = "layer" if rows.has_several("layer") else None
    chart = series_lines(rows, value, time, hue=hue, panels=bool(facet)).add_params(zoom())
    chart = chart.properties(width=width, height=height)
    whole = small_multiples(chart, rows, facet, columns=style.columns, free=False) if facet else chart
    return finalize(
        whole,
        "Gradient norms by layer during training",
        [definition(quantity), rows.subtitle],
        style,
    )


def pooled_gradients(frame: pl.DataFrame) -> pl.DataFrame:
    """The table `gradients` with the experts of a layer as one row of the norm of them all."""
    if "expert" not in frame.columns or frame["expert"].is_null().all():
        return frame
    experts = frame.filter(pl.col("expert").is_not_null())
    own = ("tensor", "expert", "status", "l2_norm", "l2_norm_se", "probe_l2_norm")
    keys = [name for name in frame.columns if name not in own]
    together = experts.group_by(keys, maintain_order=True).agg(
        pl.col("tensor").first(), (pl.col("probe_l2_norm") ** 2).sum().sqrt()
    )
    single = frame.filter(pl.col("expert").is_null()).select(*keys, "tensor", "probe_l2_norm")
    return pl.concat([single, together.select(single.columns)])


def growth_exponents(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Curves of the growth exponents λ of activations and gradients, in the paper's convention and with norms before means.

    λ = ln(‖h_L‖ / ‖h_1‖) / L from the first block to the last: 0 keeps the size, and gradients that grow on their way back
    have a negative one (OLMo 2, arXiv:2501.00656, section 3.2). Takes the numbers of the group `gradients` as
    `olmo_dynamics.frames.per_revision` gives them.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, *(f"lambda_{kind}_{of}" for kind in _EXPONENTS for of in _OF))
    drawn = []
    found = frame.select(pl.col(r"^lambda_.*$").fill_nan(None))
    ends = (
        (min(found.min().row(0)), max(found.max().row(0)))
        if found.height and not any(value is None for value in found.max().row(0))
        else None
    )
    for kind, title in _EXPONENTS.items():
        parts = [
            frame.with_columns(pl.lit(words).alias("growth_of"), exponent=pl.col(f"lambda_{kind}_{name}"))
            for name, words in _OF.items()
        ]
        quantity = find(f"gradients/lambda_{kind}_activation")
        panel = Panel(field="exponent", quantity=quantity, title=title, rules=(_KEPT,), span=ends)
        drawn.append(panel_chart(pl.concat(parts), panel, hue="growth_of", x=x, style=style))
    formulas = (
        "λ = ln(|h_L| / |h_1|) / L, h_1 and h_L the stream (or its gradient) leaving the first and last of L blocks."
    )
    whole = panel_grid([chart for chart, _ in drawn])
    return finalize(
        whole, "Growth from the first block to the last", [formulas, f"{drawn[0][1].subtitle} {dashed([_KEPT])}"], style
    )


def _floored(value: pl.Expr, spread: pl.Expr) -> pl.Expr:
    """The lower end of an interval, at least half of the value, so that a logarithmic axis can show it."""
    return pl.max_horizontal(value - spread, value / 2)
