"""The logit lens through training: cross-entropy, KL and agreement as maps of depth against step.

>>> import olmo_dynamics as od
>>> od.plots.lens_map(od.open_store("run.zarr").table("lens"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import number_format, time_axis
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.inside.curve_panels import panel_grid, short_title
from olmo_dynamics.plots.maps import bordered, cell_map, cells
from olmo_dynamics.plots.table import inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition
from olmo_dynamics.quantities import find

_WIDTH, _ROW, _LOWEST, _HIGHEST = 236, 22, 150, 320
_TITLES = {"cross_entropy": "Cross-entropy", "kl_to_final": "KL from the final prediction",
           "top1_agreement": "Agreement with the final prediction"}  # fmt: skip
MEASURES = ("cross_entropy", "kl_to_final", "top1_agreement")


def lens_map(
    frame: pl.DataFrame, values: Sequence[str] = MEASURES, *, x: str = "step", style: Style = PLAIN
) -> AnyChart:
    """Maps of the logit lens over layers and step or tokens, one for each of `values` side by side.

    Layer l is the prediction of the final norm and head after block l. Takes the table `lens`; its domains are averaged by
    their numbers of tokens, which is the mean over the whole sample. Filter it to one domain to see that alone.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "domain", "token_count", *values)
    pooled = over_domains(frame, values)
    layers = pooled["layer"].n_unique()
    height = style.height or max(_LOWEST, min(_HIGHEST, _ROW * layers))
    sized = replace(style, width=style.width or _WIDTH, height=height, facet="")
    drawn = [_map(pooled, name, x=x, style=sized) for name in values]
    formulas = [definition(find(f"lens/{name}")) for name in values]
    domains = frame["domain"].n_unique()
    line = drawn[0][1] + (f" Mean over the tokens of {domains} domains." if domains > 1 else "")
    whole = panel_grid([chart for chart, _ in drawn], columns=3).resolve_scale(color="independent")
    whole.spacing = 70
    return finalize(whole, f"The logit lens by layer and {x}", [*formulas, line], style)


def over_domains(frame: pl.DataFrame, values: Sequence[str] = MEASURES) -> pl.DataFrame:
    """One row per revision and layer: the mean over the tokens of all domains."""
    own = ("domain", "status", "token_count", *MEASURES)
    keys = [name for name in frame.columns if name not in own]
    weight = pl.col("token_count")
    held = frame.filter(weight > 0)
    means = [((pl.col(name) * weight).sum() / weight.sum()).alias(name) for name in values]
    return held.group_by(keys, maintain_order=True).agg(*means)


def _map(frame: pl.DataFrame, name: str, *, x: str, style: Style) -> tuple[alt.Chart | alt.LayerChart, str]:
    """One map and the line of its subtitle."""
    quantity, width = find(f"lens/{name}"), style.width or _WIDTH
    rows = cells(frame, name, x=x, style=style, facet="")
    time, data = time_axis(rows.frame, rows.x, width=width, style=style), inline(rows.frame)
    start = time.channel("start")
    color = magnitude_color(rows.frame, name, quantity, scale=style.scale, below=width)
    color = color.title(short_title(quantity))
    if quantity.valid == (0.0, 1.0):
        legend = alt.Legend(orient="bottom", gradientLength=width, tickCount=5, format=number_format(1.0))
        color = color.scale(alt.Scale(domain=[0, 1], scheme="viridis")).legend(legend)
    cell = cell_map(rows, data, name, start, style=style).encode(color=color).properties(width=width)
    title = alt.TitleParams(text=_TITLES[name], fontSize=12)
    return bordered(cell, rows, data, start).properties(title=title), rows.subtitle
