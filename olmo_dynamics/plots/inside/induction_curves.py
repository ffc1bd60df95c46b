"""The induction bump: prefix matching and the loss of repeated tokens on two axes, and learning from context.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import per_revision
>>> store = od.open_store("run.zarr")  # doctest: +SKIP
>>> od.plots.induction_bump(store.table("induction"), per_revision(store, "induction"))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import TimeAxis, stage_borders, time_axis
from olmo_dynamics.plots.inside.curve_panels import Panel, Rule, panel_chart, panel_grid
from olmo_dynamics.plots.lines import LINE, with_borders
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition, tooltips
from olmo_dynamics.quantities import find

_WIDE, _LOW = (560, 300), 160
_SCORE, _LOSS = CATEGORIES[0], CATEGORIES[3]
_BEST, _REPEATED, _RANDOM = "prefix matching, best head", "loss of repeated tokens", "loss of random tokens"
_LOOKS = {_BEST: (_SCORE, [1, 0]), _REPEATED: (_LOSS, [1, 0]), _RANDOM: (_LOSS, [5, 4])}
_CONTEXT = find("induction/in_context_score")


def induction_bump(
    heads: pl.DataFrame,
    losses: pl.DataFrame,
    *,
    uniform: float | None = None,
    chance: float | None = None,
    x: str = "step",
    style: Style = PLAIN,
) -> AnyChart:
    """The best head's score (left axis) with the loss of random and repeated tokens (right axis); below, the in-context score.

    Takes the table `induction` and the losses as `olmo_dynamics.frames.per_revision` gives them. `uniform` is the score of
    uniform attention and `chance` the loss of a uniform prediction, in nats; both are drawn as dotted lines (Olsson et al. 2022,
    arXiv:2209.11895).

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(heads, "layer", "head", "prefix_matching")
    require(losses, "first_half_loss", "second_half_loss", "in_context_score")
    score = drawable(_best(heads), "value", x=x, also=["series"])
    loss = drawable(_long(losses), "value", x=x, also=["series"])
    width, height = style.width or _WIDE[0], style.height or _WIDE[1]
    time = time_axis(score.frame, score.x, width=width, style=style)
    left = _lines(score, time, "prefix-matching score", _SCORE, level=uniform, ends=_score_ends(score, uniform))
    right = _lines(loss, time, "loss (nat/token)", _LOSS, level=chance, ends=_loss_ends(loss, chance))
    both = alt.layer(left.add_params(zoom()), right).resolve_scale(y="independent")
    charts: list[Any] = [both.properties(width=width, height=height)]
    lines: list[str] = [definition(find("induction/prefix_matching"))]
    if losses["in_context_score"].fill_null(float("nan")).is_finite().any():
        panel = Panel(field="in_context_score", quantity=_CONTEXT, rules=(Rule(0, "no learning from context"),))
        below, _ = panel_chart(losses, panel, hue=LINE, x=x, style=style, size=(width, _LOW))
        charts.append(below.properties(width=width, height=_LOW))
        lines.append(definition(_CONTEXT))
    dotted = [f"uniform attention scores {uniform:.3g}"] if uniform is not None else []
    dotted += [f"guessing costs {chance:.3g} nat"] if chance is not None else []
    lines.append(f"Dotted: {'; '.join(dotted)}." if dotted else "")
    whole = panel_grid(charts, columns=1).resolve_scale(color="independent", strokeDash="independent")
    return finalize(whole, "Induction during training", [*lines, score.subtitle], style)


def _best(heads: pl.DataFrame) -> pl.DataFrame:
    """The best head of each revision, with its place."""
    finite = heads.filter(pl.col("prefix_matching").is_finite())
    best = finite.sort("prefix_matching", descending=True).unique("revision", keep="first", maintain_order=True)
    order = heads.select("revision").unique(maintain_order=True)
    placed = order.join(best, on="revision", how="inner", maintain_order="left")
    where = pl.format("layer {}, head {}", "layer", "head").alias("place")
    return placed.select(
        pl.exclude("layer", "head", "prefix_matching"), where, pl.lit(_BEST).alias("series"), value="prefix_matching"
    )


def _long(losses: pl.DataFrame) -> pl.DataFrame:
    named = {"second_half_loss": _REPEATED, "first_half_loss": _RANDOM}
    parts = [losses.with_columns(pl.lit(words).alias("series"), value=pl.col(name)) for name, words in named.items()]
    return pl.concat(parts)


def _score_ends(score: Rows, uniform: float | None) -> tuple[float, float]:
    """From 0; a score as low as that of uniform attention stays low in the picture."""
    highest = max(float(score.frame["value"].to_numpy().max()), 4 * (uniform or 0.0))
    return 0.0, min(1.0, 1.08 * highest) if highest < 1 else 1.0


def _loss_ends(loss: Rows, chance: float | None) -> tuple[float, float]:
    return 0.0, 1.05 * max(float(loss.frame["value"].to_numpy().max()), chance or 0.0)


def _lines(
    rows: Rows, time: TimeAxis, title: str, color: str, *, level: float | None, ends: tuple[float, float]
) -> alt.LayerChart:
    """The lines of one axis, in its colour, and the dotted line at a known value."""
    frame = with_borders(rows.frame, rows.x) if rows.counts_through else rows.frame
    data, at = inline(frame), time.channel(seen=zoomed(time.field))
    axis = alt.Axis(titleColor=color, labelColor=color, grid=False, tickCount=6, format=".3~g")
    y = alt.Y("value", type="quantitative", title=title, axis=axis, scale=alt.Scale(domain=list(ends), nice=False))
    base = alt.Chart(data).encode(
        x=at, y=y, color=_hue(), detail=[alt.Detail(LINE, type="nominal")] if LINE in frame.columns else []
    )
    line = base.mark_line(strokeWidth=2).encode(strokeDash=_dash())
    dots = base.mark_point(filled=True, size=14).encode(tooltip=tooltips(rows.frame, value=title))
    marks = [line, dots]
    if level is not None:
        known = alt.Y(
            "level", type="quantitative", title=title, axis=axis, scale=alt.Scale(domain=list(ends), nice=False)
        )
        rule = alt.Chart(inline(pl.DataFrame({"level": [level]}))).encode(y=known)
        marks.append(rule.mark_rule(strokeDash=[1, 4], color=color, strokeWidth=1.4))
    return alt.LayerChart(layer=[*marks, *(stage_borders(frame, data, at) if color == _SCORE else [])])


def _hue() -> alt.Color:
    scale = alt.Scale(domain=list(_LOOKS), range=[color for color, _ in _LOOKS.values()])
    return alt.Color("series", type="nominal", title=None, scale=scale, legend=_legend())


def _dash() -> alt.StrokeDash:
    scale = alt.Scale(domain=list(_LOOKS), range=[dash for _, dash in _LOOKS.values()])
    return alt.StrokeDash("series", type="nominal", title=None, scale=scale, legend=_legend())


def _legend() -> alt.Legend:
    return alt.Legend(orient="top", columns=3, symbolType="stroke")
