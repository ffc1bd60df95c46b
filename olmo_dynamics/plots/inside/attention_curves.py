"""Attention through training, layer by layer: the collapse of its entropy, the birth of sinks, the size of its logits.

>>> import olmo_dynamics as od
>>> attention = od.open_store("run.zarr").table("attention")  # doctest: +SKIP
>>> od.plots.entropy_collapse(attention)  # doctest: +SKIP
>>> od.plots.sink_birth(attention)  # doctest: +SKIP
>>> od.plots.attention_logits(attention)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from olmo_dynamics.plots.inside.curve_panels import Panel, Rule, dashed, panel_chart, panel_grid
from olmo_dynamics.plots.table import require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition
from olmo_dynamics.quantities import find

_ENTROPY, _LOGIT = find("attention/entropy"), find("attention/max_logit")
_ROW_MAX, _VALUES = find("attention/row_max_mean"), find("attention/value_norm_ratio")


def entropy_collapse(
    frame: pl.DataFrame, *, uniform: Sequence[float] = (), x: str = "step", style: Style = PLAIN
) -> AnyChart:
    """Curves of attention entropy by layer: the mean over a layer's heads on the left, its lowest head on the right.

    `entropy` is the mean over queries of -Σ_j A_ij ln A_ij, in nats (Zhai et al. 2023, arXiv:2303.06296). Takes the table
    `attention`. `uniform` are the entropies of attention that is even over all visible keys, drawn dashed; see
    `olmo_dynamics.frames.uniform_attention`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "head", "entropy")
    layers = over_heads(frame, mean_entropy=_finite("entropy").mean(), lowest_entropy=_finite("entropy").min())
    even = tuple(Rule(level, "uniform attention") for level in uniform)
    panels = [
        Panel(field="mean_entropy", quantity=_ENTROPY, title="Mean over the layer's heads", rules=even, from_zero=True),
        Panel(field="lowest_entropy", quantity=_ENTROPY, title="The layer's lowest head", rules=even, from_zero=True),
    ]
    return _figure(layers, panels, "Attention entropy by layer during training", definition(_ENTROPY), x, style)


def sink_birth(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Curves of attention sinks by layer: their rate on the left, the norm of the first position's value on the right.

    The rate is the share of windows and heads whose mean attention to the first position exceeds 0.3, by the paper's rule over
    the first 64 queries where windows are long enough, or else over whole windows (Gu et al. 2024, arXiv:2410.10781). Takes
    the table `attention`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "head", "sink_rate", "sink_rate_64", "value_norm_ratio")
    short = bool(frame["sink_rate_64"].fill_nan(None).is_null().all())
    chosen = find("attention/sink_rate" if short else "attention/sink_rate_64")
    layers = over_heads(
        frame, mean_rate=_finite(chosen.name).mean(), mean_value_ratio=_finite("value_norm_ratio").mean()
    )
    rate = replace(chosen, symbol="share with a sink")
    panels = [
        Panel(field="mean_rate", quantity=rate, title="Share of windows and heads with a sink", from_zero=True),
        Panel(field="mean_value_ratio", quantity=_VALUES, title="Norm of the first value, mean over heads", from_zero=True,
              rules=(Rule(1, "as long as the others"),)),
    ]  # fmt: skip
    words = "over whole windows, which are shorter than 64 tokens" if short else "over the first 64 queries of a window"
    line = f"A sink: mean attention to the first position above 0.3, {words}."
    return _figure(layers, panels, "Attention sinks by layer during training", line, x, style)


def attention_logits(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Curves of attention logits by layer: the largest of all heads on the left, a query's largest as a mean on the right.

    Logits are z_ij = q_i·k_j / sqrt(head_dim) before the softmax (Wortsman et al. 2023, arXiv:2309.14322). Takes the table
    `attention`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "head", "max_logit", "row_max_mean")
    layers = over_heads(
        frame, largest_logit=_finite("max_logit").max(), mean_largest_logit=_finite("row_max_mean").mean()
    )
    panels = [
        Panel(field="largest_logit", quantity=_LOGIT, title="The layer's largest logit", scale="auto"),
        Panel(field="mean_largest_logit", quantity=_ROW_MAX, title="Mean over queries and heads", scale="auto"),
    ]
    return _figure(layers, panels, "Attention logits by layer during training", definition(_LOGIT), x, style)


def over_heads(frame: pl.DataFrame, **columns: pl.Expr) -> pl.DataFrame:
    """The table with one row per revision and layer, and the named reductions over heads."""
    leading = [
        name
        for name in ("revision", "stage", "ingredient", "step", "tokens", "line", "position_step", "position_tokens")
        if name in frame.columns
    ]
    by_layer = frame.group_by([*leading, "layer"], maintain_order=True)
    return by_layer.agg(*(expression.alias(name) for name, expression in columns.items()))


def _finite(column: str) -> pl.Expr:
    """The column without what is not finite."""
    return pl.col(column).filter(pl.col(column).is_finite())


def _figure(frame: pl.DataFrame, panels: list[Panel], title: str, line: str, x: str, style: Style) -> AnyChart:
    drawn = [panel_chart(frame, panel, hue="layer", x=x, style=style) for panel in panels]
    said = dashed(rule for panel in panels for rule in panel.rules)
    whole = panel_grid([chart for chart, _ in drawn])
    return finalize(whole, title, [line, f"{drawn[0][1].subtitle} {said}".strip()], style)
