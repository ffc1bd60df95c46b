"""A quantity against depth, one line per revision.

>>> import olmo_dynamics as od
>>> activations = od.open_store("run.zarr").table("activations")  # doctest: +SKIP
>>> od.plots.depth_profile(activations, "rms")  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import Site
from olmo_dynamics.plots.axes import time_scale, value_axis
from olmo_dynamics.plots.colors import series_color, time_color
from olmo_dynamics.plots.inside.chosen_revisions import nearest
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import faded
from olmo_dynamics.plots.table import PARTS, XS, Rows, drawable, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips
from olmo_dynamics.plots.trajectories import line_dash

_WIDE, _PANEL = (560, 340), (200, 160)
_MOST = 8  # lines that an eye still tells apart


def depth_profile(frame: pl.DataFrame, y: str, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of the column `y` over depth, one per revision, coloured by step or tokens, one panel per role or site.

    Of more than eight revisions, eight are drawn, evenly spaced on the time axis.

    Later stages are coloured as later, and lines of training are told apart by dashes. Revisions of which none has a step
    are coloured by name.

    If the table has the embedding's site, that is depth 0, layer 0 is depth 1 and so on, and its point joins the residual
    stream's line. Otherwise the axis shows the layer. Pointing at a revision keeps its colour and fades the others.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    rows, fewer = _few(_by_depth(frame, y, x=x, facet=style.facet), style)
    several = rows.has_several("panel")
    width, height = _PANEL if several else _WIDE
    chart = _profiles(rows, y, style=style, panels=several)
    chart = chart.properties(width=style.width or width, height=style.height or height)
    whole = small_multiples(chart, rows, "panel", columns=style.columns) if several else chart
    quantity = quantity_of(frame, y)
    title = heading(rows.frame, quantity, " by depth, one line per revision")
    return finalize(whole, title, [definition(quantity), f"{fewer}{rows.subtitle}"], style)


def _few(rows: Rows, style: Style) -> tuple[Rows, str]:
    """The rows of at most eight revisions, evenly spaced on the time axis, and a note that counts them."""
    times = rows.frame.select("revision", rows.x).unique("revision", maintain_order=True)
    if times.height <= _MOST or times[rows.x].is_null().any():
        return rows, ""
    ordered = times.sort(rows.x, maintain_order=True)
    places = time_scale(ordered, rows.x, style).place(ordered[rows.x].to_numpy().astype(np.float64))
    chosen = nearest(places, _MOST)
    kept = rows.frame.filter(pl.col("revision").is_in(ordered["revision"][chosen].to_list()))
    return Rows(kept, rows.left_out, rows.x), f"{len(chosen)} of {times.height} revisions drawn; "


def _by_depth(frame: pl.DataFrame, y: str, *, x: str, facet: str | None) -> Rows:
    """The rows that have a depth, with the columns `depth` and `panel`."""
    require(frame, "layer")
    require(frame, *XS)
    placed = any(frame[name].is_not_null().any() for name in XS) or frame.is_empty()
    rows = drawable(frame, y, x=x if placed else None, also=[facet] if facet else [], most=None)
    site = pl.col("site") if "site" in rows.frame.columns else pl.lit(None, pl.String)
    at_input = site == Site.EMBEDDING.value
    first = 1 if rows.frame.select(at_input.any()).item() else 0
    stream = pl.when(at_input).then(pl.lit(Site.RESIDUAL_OUT.value)).otherwise(site)
    names = (
        [facet] if facet else [name for name in ("role", "site", "input") if facet is None and rows.has_several(name)]
    )
    columns = [stream if name == "site" else pl.col(name).cast(pl.String) for name in names]
    within = rows.frame.with_columns(
        pl.when(at_input).then(0).otherwise(pl.col("layer") + first).alias("depth"),
        pl.concat_str(columns or [pl.lit("")], separator=PARTS, ignore_nulls=True).alias("panel"),
    ).filter(pl.col("depth").is_not_null())
    if within.is_empty():
        raise OptionError(
            f"depth_profile() needs values of {y!r} inside the blocks; every row's layer is null; choose another table"
        )
    return Rows(within, rows.left_out, rows.x)


def _title(rows: Rows) -> str:
    embedded = "site" in rows.frame.columns and (rows.frame["site"] == Site.EMBEDDING.value).any()
    return "depth (0: embedding, 1: after layer 0, …)" if embedded else "layer (0 is shallowest)"


def _color(rows: Rows, style: Style) -> alt.Color:
    if rows.frame[rows.x].is_null().all():
        return series_color(rows.frame, "revision")
    return time_color(rows.frame, rows.x, style)


def _profiles(rows: Rows, y: str, *, style: Style, panels: bool) -> alt.LayerChart:
    quantity = quantity_of(rows.frame, y)
    deepest = int(rows.frame["depth"].to_numpy().max())
    ticks = list(range(0, deepest + 1, max(1, -(-deepest // (6 if panels else 16)))))
    base = alt.Chart(inline(rows.frame)).encode(
        x=alt.X("depth", type="quantitative", title=_title(rows),
                scale=alt.Scale(zero=False, nice=False, padding=5), axis=alt.Axis(values=ticks, format="d", grid=False)),
        y=value_axis(rows.frame, y, quantity, scale=style.scale, panels="panel" if panels else "").channel(),
        color=_color(rows, style),
        detail=alt.Detail("revision", type="nominal"),
    )  # fmt: skip
    # Dots are outlines: with filled dots the legend would be a list of discs instead of a gradient.
    line = base.mark_line().encode(strokeDash=line_dash()) if rows.has_several(LINE) else base.mark_line()
    dots = base.mark_point(filled=False, size=5, strokeWidth=2.4)
    dots = dots.encode(tooltip=tooltips(rows.frame, **{y: axis_title(quantity)}))
    if panels:
        return alt.LayerChart(layer=[line, dots])
    near = alt.selection_point(name="pointed_revision", fields=["revision"], on="pointerover", clear="pointerout")
    return alt.LayerChart(layer=[line.encode(opacity=faded(near)).add_params(near), dots.encode(opacity=faded(near))])
