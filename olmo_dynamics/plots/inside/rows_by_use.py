"""Rows of the embedding and of the head by the use of their tokens: frequent, rare, not in the probe, padding.

>>> import olmo_dynamics as od
>>> store = od.open_store("run.zarr")  # doctest: +SKIP
>>> rows, deciles = store.table("embeddings"), store.table("embeddings.decile_rms")  # doctest: +SKIP
>>> od.plots.embedding_rows(rows, deciles)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import ValueAxis, stage_borders, time_axis, value_axis
from olmo_dynamics.plots.inside.curve_panels import panel_grid, short_title
from olmo_dynamics.plots.lines import LINE, joined, with_borders
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, tooltips
from olmo_dynamics.plots.trajectories import measured
from olmo_dynamics.quantities import find

_SIZE = (310, 240)
_KINDS = {
    "most frequent tenth of the probe's tokens": (CATEGORIES[0], [1, 0]),
    "rarest tenth of the probe's tokens": (CATEGORIES[5], [1, 0]),
    "tokens that the probe does not hold": (CATEGORIES[1], [1, 0]),
    "padding": (QUIET, [5, 4]),
}
_FREQUENT, _RARE, _UNSEEN, _PADDING = _KINDS
_MOST = 10  # the tenth with the most frequent tokens
_RMS = find("embeddings/decile_rms")


def embedding_rows(frame: pl.DataFrame, deciles: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Curves of the RMS of four kinds of rows, the input embedding and the head side by side.

    The kinds are the most frequent and the rarest tenth of the probe's tokens, tokens that the probe does not hold (training
    may have seen them), and padding rows beyond the tokenizer. Takes the tables `embeddings` and `embeddings.decile_rms`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "embedding", "unseen_rms", "padding_rms")
    require(deciles, "embedding", "decile", "value")
    rows = drawable(_long(frame, deciles), "value", x=x, also=["kind"])
    named = rows.frame["embedding"].unique().sort(descending=True).to_list()
    axis = replace(value_axis(rows.frame, "value", _RMS, scale=style.scale), title=short_title(_RMS))
    charts = [_curves(rows.frame.filter(pl.col("embedding") == name), axis, name, rows.x, style) for name in named]
    return finalize(
        panel_grid(charts), "Rows of the embedding by use", [f"RMS over rows and features of E. {rows.subtitle}"], style
    )


def _long(frame: pl.DataFrame, deciles: pl.DataFrame) -> pl.DataFrame:
    """One row per revision, embedding and kind of rows."""
    shared = [name for name in frame.columns if name in deciles.columns and name not in ("status", "value")]
    tenths = {_MOST: _FREQUENT, 1: _RARE}
    parts = [
        deciles.filter(pl.col("decile") == tenth).select(*shared, pl.lit(kind).alias("kind"), "value")
        for tenth, kind in tenths.items()
    ]
    columns = {"unseen_rms": _UNSEEN, "padding_rms": _PADDING}
    parts += [frame.select(*shared, pl.lit(kind).alias("kind"), value=pl.col(name)) for name, kind in columns.items()]
    return pl.concat(parts, how="vertical_relaxed")


def _curves(frame: pl.DataFrame, value: ValueAxis, name: str, x: str, style: Style) -> alt.LayerChart:
    """The curves of one embedding, on the scale that all share."""
    width, height = style.width or _SIZE[0], style.height or _SIZE[1]
    time = time_axis(frame, x, width=width, style=style)
    edge = (value.low / 1.1, value.high * 1.1) if value.log else (0.0, 1.04 * value.high)
    whole = joined(frame, x, ["kind"]) if LINE in frame.columns else frame
    drawn = with_borders(whole, x) if x.startswith("position") else whole
    data, at = inline(drawn), time.channel(seen=zoomed(time.field))
    legend = alt.Legend(orient="bottom", columns=1, symbolType="stroke", labelLimit=330)
    kinds = [kind for kind in _KINDS if (frame["kind"] == kind).any()]
    hues, dashes = ([_KINDS[kind][part] for kind in kinds] for part in (0, 1))
    color = alt.Color("kind", type="nominal", title=None, scale=alt.Scale(domain=kinds, range=hues), legend=legend)
    dash = alt.StrokeDash(
        "kind", type="nominal", title=None, scale=alt.Scale(domain=kinds, range=dashes), legend=legend
    )
    detail = [alt.Detail(LINE, type="nominal")] if LINE in drawn.columns else []
    base = alt.Chart(data).encode(x=at, y=value.channel(domain=edge), color=color, detail=detail)
    told = tooltips(frame, value=axis_title(_RMS))
    dots = measured(base, drawn).mark_point(filled=True, size=12).encode(tooltip=told)
    layers = [base.mark_line().encode(strokeDash=dash).add_params(zoom()), dots, *stage_borders(drawn, data, at)]
    title = alt.TitleParams(text=name, fontSize=12)
    sized: alt.LayerChart = alt.LayerChart(layer=layers).properties(width=width, height=height, title=title)
    return sized
