"""The four figures of OLMoE's section 5 in one: saturation, co-activation, and specialisation in domains and in token ids.

>>> import olmo_dynamics as od
>>> od.plots.routing_panels(saturated, together, domains, vocabulary)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.plots.experts import co_activation, domain_specialisation, saturation, vocabulary_specialisation
from olmo_dynamics.plots.panels import side_by_side
from olmo_dynamics.plots.theme import PLAIN, WORDS, AnyChart, Style, finalize

_NAMES = ("Saturation", "Co-activation", "Domain specialisation", "Token id specialisation")
_SIDE = 240  # pixels: the width of a single panel


def routing_panels(
    saturated: pl.DataFrame,
    together: pl.DataFrame,
    domains: pl.DataFrame,
    vocabulary: pl.DataFrame,
    *,
    x: str = "step",
    style: Style = PLAIN,
) -> AnyChart:
    """OLMoE's four figures side by side (arXiv:2409.02060, section 5); the first is over time, the others are of one revision.

    Args:
        saturated: the table of `frames.saturation`, of one `top`.
        together: the table of `frames.co_activation` of one layer and revision, best of `frames.most_together`.
        domains: the table `routing.domain_specialisation` of one revision, best of one layer.
        vocabulary: the table `routing.vocabulary_specialisation` of one revision.
        x: `step` or `tokens`.
        style: the look; `width` is that of each panel.

    Raises:
        OptionError: a column is missing, there is nothing, or too much, to draw, or a table has several revisions.
    """
    inner = replace(style, total_mm=None, legend="outside", title="", note="", probe_tokens=None)
    inner = replace(inner, width=style.width or _SIDE)
    drawn = (
        saturation(saturated, x=x, style=inner),
        co_activation(together, style=inner),
        domain_specialisation(domains, style=replace(inner, height=style.height or 64)),
        vocabulary_specialisation(vocabulary, style=inner),
    )
    lines = [f"{letter}: {_line(chart)}" for letter, chart in zip("abcd", drawn, strict=True)]
    parts = [_part(chart, f"{letter}  {name}") for letter, chart, name in zip("abcd", drawn, _NAMES, strict=True)]
    whole = side_by_side(*parts, columns=2).resolve_scale(color="independent")
    whole.bounds, whole.spacing = "flush", 96
    return finalize(whole, "Routing of experts", lines, style)


def _line(chart: AnyChart) -> str:
    """The definition of a panel's quantity, and its other lines."""
    told = chart.usermeta[WORDS]
    return " ".join(part.strip() for part in (*told["formulas"], *told["lines"]) if part.strip())


def _part(chart: AnyChart, title: str) -> AnyChart:
    """A chart without a theme and with a short title."""
    part: AnyChart = chart.copy(deep=True)
    part.config = part.usermeta = part.description = alt.Undefined
    titled: AnyChart = part.properties(title=alt.TitleParams(text=title, fontSize=12, anchor="start"))
    return titled
