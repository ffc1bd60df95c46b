"""Writes to the residual stream: their size against the stream, their direction, and their share of the logits.

>>> import olmo_dynamics as od
>>> writes = od.open_store("run.zarr").table("writes")  # doctest: +SKIP
>>> od.plots.write_ratios(writes)  # doctest: +SKIP
>>> od.plots.logit_shares(writes)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import span, time_axis, value_axis
from olmo_dynamics.plots.inside.curve_panels import Panel, Rule, dashed, panel_chart, panel_grid
from olmo_dynamics.plots.maps import bordered, cell_map, cells
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition
from olmo_dynamics.quantities import find

_NAMES = {"attention": "attention", "mlp": "MLP"}
_RATIO, _COSINE, _SHARE = (find(f"writes/{name}") for name in ("write_ratio", "write_cosine", "logit_share"))
_TOTALS, _MAP, _ROW, _LOWEST, _HIGHEST = (270, 230), 190, 22, 150, 320
_ORTHOGONAL = Rule(0, "a write orthogonal to the stream")
_PARTS = ("embedding", "attention", "MLP")


def write_ratios(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Curves of how much attention and the MLP add to the stream, by layer: the ratio of norms above, the cosine below.

    The ratio is the mean over tokens of ‖w‖ / ‖x‖ with w the write and x the stream before it; the cosine is that of the two.
    Takes the table `writes`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "part", "write_ratio", "write_cosine")
    blocks = frame.filter(pl.col("layer").is_not_null())
    parts = [part for part in _NAMES if part in blocks["part"].to_list()]
    drawn, named = [], {_RATIO: "size of a write", _COSINE: "direction of a write"}
    for quantity, words in named.items():
        ends = drawable(blocks, quantity.name, x=None).frame
        scale = value_axis(ends, quantity.name, quantity).log and quantity is _RATIO
        for part in parts:
            title = f"{_NAMES[part][:1].upper()}{_NAMES[part][1:]}: {words}"
            panel = Panel(field=quantity.name, quantity=quantity, title=title, scale="log" if scale else "linear",
                          rules=(_ORTHOGONAL,) if quantity is _COSINE else (), span=span(ends, quantity.name))  # fmt: skip
            drawn.append(panel_chart(blocks.filter(pl.col("part") == part), panel, hue="layer", x=x, style=style))
    if not drawn:
        raise OptionError(f"the table must hold writes of {' or '.join(_NAMES)} (got none)")
    whole = panel_grid([chart for chart, _ in drawn], columns=len(parts))
    return finalize(
        whole,
        "Writes to the residual stream by layer",
        [definition(_RATIO), definition(_COSINE), f"{drawn[0][1].subtitle} {dashed([_ORTHOGONAL])}"],
        style,
    )


def logit_shares(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """The shares of the logits' variance: totals of embedding, attention and MLP as curves, and maps of the two by layer.

    A share is cov_v(c_v, z_v) / var_v(z_v) with c the part's contribution to the logits z; all sum to 1, and a negative one
    works against the prediction. Takes the table `writes`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "layer", "part", "logit_share")
    held = frame.filter(pl.col("logit_share").is_finite())
    if held.is_empty():
        raise OptionError("the table must hold values of 'logit_share' to draw (got none: no pass reached the head)")
    totals, rows = _totals(held, x=x, style=style)
    charts: list[alt.Chart | alt.LayerChart] = [totals]
    largest = float(held.filter(pl.col("layer").is_not_null())["logit_share"].abs().to_numpy().max(initial=0.0)) or 1.0
    for part, name in _NAMES.items():
        blocks = held.filter(pl.col("layer").is_not_null(), pl.col("part") == part)
        charts += [_map(blocks, name, largest, x=x, style=style)] if blocks.height else []
    whole = panel_grid(charts, columns=3).resolve_scale(color="independent")
    whole.spacing = 66
    return finalize(whole, "Shares of the logits' variance", [definition(_SHARE), rows], style)


def _totals(held: pl.DataFrame, *, x: str, style: Style) -> tuple[alt.LayerChart, str]:
    """Curves of the sums over layers."""
    part = pl.when(pl.col("layer").is_null()).then(pl.lit("embedding")).otherwise(pl.col("part").replace(_NAMES))
    keys = [name for name in held.columns if name not in ("layer", "part", "status", *_own())]
    sums = held.with_columns(part.alias("part")).group_by([*keys, "part"], maintain_order=True)
    total = sums.agg(pl.col("logit_share").sum().alias("total_share"))
    ordered = pl.concat([total.filter(pl.col("part") == name) for name in _PARTS])
    quantity = replace(_SHARE, symbol="share of the variance")
    panel = Panel(
        field="total_share", quantity=quantity, title="Sum over layers", rules=(Rule(0, ""),), legend="bottom"
    )
    chart, rows = panel_chart(
        ordered, panel, hue="part", x=x, style=replace(style, width=None, height=None), size=_TOTALS
    )
    return chart, rows.subtitle


def _map(blocks: pl.DataFrame, name: str, largest: float, *, x: str, style: Style) -> alt.Chart | alt.LayerChart:
    """A map of one part, blue where it gives to the prediction and orange where it works against it."""
    height = style.height or max(_LOWEST, min(_HIGHEST, _ROW * blocks["layer"].n_unique()))
    sized = replace(style, height=height, facet="")
    rows = cells(blocks, "logit_share", x=x, style=sized, facet="")
    time, data = time_axis(rows.frame, rows.x, width=_MAP, style=style), inline(rows.frame)
    start = time.channel("start")
    scale = alt.Scale(scheme="blueorange", domain=[-largest, largest], reverse=True)
    legend = alt.Legend(orient="bottom", gradientLength=_MAP, tickCount=5, format=".2~g")
    title = axis_title(replace(_SHARE, unit=""))
    color = alt.Color("logit_share", type="quantitative", title=title, scale=scale, legend=legend)
    cell = cell_map(rows, data, "logit_share", start, style=sized).encode(color=color).properties(width=_MAP)
    words = alt.TitleParams(text=f"{name[:1].upper()}{name[1:]}, by layer", fontSize=12)
    return bordered(cell, rows, data, start).properties(title=words)


def _own() -> tuple[str, ...]:
    return _RATIO.name, _COSINE.name, _SHARE.name
