"""Maps of heads: layer against head, the quantity as colour, one panel per revision.

>>> import olmo_dynamics as od
>>> attention = od.open_store("run.zarr").table("attention")  # doctest: +SKIP
>>> od.plots.head_map(attention, ["entropy_normalised", "sink_mass"])  # doctest: +SKIP
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import is_log, number_format, span
from olmo_dynamics.plots.inside.chosen_revisions import PANEL, spread
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, quantity_of, tooltips
from olmo_dynamics.quantities.declaration import Quantity

_LEAST, _MOST, _CELL = 96, 164, 24
"""Pixels: the least and the greatest side of a panel, and a head's cell where they allow it."""

_OVERLAP = 0.8  # of a pixel
_LABEL = 16  # the least pixels from one labelled row to the next
_LOG_FROM = 100.0  # colours turn logarithmic above this ratio of largest to smallest
_TITLE = 22  # letters in a line of a legend's title


def head_map(frame: pl.DataFrame, value: str | Sequence[str], *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Maps of `value` over layers and heads, one panel per revision; of several quantities, each has a row of panels.

    Takes the table `attention` or `induction`, or any with the columns `layer` and `head`. Of many revisions,
    `style.columns` are shown, evenly spaced on the time axis, or twice as many of a single quantity. All panels of a quantity
    have one scale of colours, logarithmic where the values are positive and span more than a factor of 100.

    Raises:
        OptionError: a column is missing, a head has several values at a revision, or there is nothing, or too much, to draw.
    """
    names = [value] if isinstance(value, str) else list(value)
    require(frame, "layer", "head", *names)
    most = style.columns * (2 if len(names) == 1 else 1)
    maps, subtitles, formulas = [], [], []
    for name in names:
        rows = drawable(frame.filter(pl.col(name).is_not_null()), name, x=None, most=None)
        shown, note = spread(rows.frame, most, x=x, style=style)
        if shown.select("revision", "layer", "head").is_duplicated().any():
            raise OptionError(f"a map needs one value of {name!r} per revision, layer and head (got several)")
        quantity = quantity_of(frame, name)
        maps.append(_row(shown, name, quantity, style=style))
        formulas.append(definition(quantity))
        subtitles.append("; ".join(part for part in (note or rows.span, rows.left_out) if part) + ".")
    whole = alt.vconcat(*maps, spacing=26).resolve_scale(color="independent") if len(maps) > 1 else maps[0]
    named = quantity_of(frame, names[0]).long_name
    title = f"{named[:1].upper()}{named[1:]} by layer and head" if len(names) == 1 else "Heads by layer"
    return finalize(whole, title, [*formulas, " ".join(dict.fromkeys(subtitles))], style)


def _row(shown: pl.DataFrame, name: str, quantity: Quantity, *, style: Style) -> alt.FacetChart:
    """The panels of one quantity."""
    heads, layers = (shown[column].n_unique() for column in ("head", "layer"))
    width = style.width or max(_LEAST, min(_MOST, _CELL * heads))
    height = style.height or max(_LEAST, min(_MOST, _CELL * layers))
    # Cells overlap by a part of a pixel; otherwise hairlines of the background would show between them.
    wider, taller = (
        alt.RelativeBandSize(1 + _OVERLAP * count / side) for count, side in ((heads, width), (layers, height))
    )
    cell = alt.Chart(inline(shown), width=width, height=height).mark_rect(width=wider, height=taller)
    chart = cell.encode(
        x=alt.X("head", type="ordinal", title="head", axis=_axis(shown, "head", width)),
        y=alt.Y("layer", type="ordinal", title="layer", sort="descending", axis=_axis(shown, "layer", height)),
        color=_color(shown, name, quantity, style),
        tooltip=tooltips(shown, **{name: axis_title(quantity)}),
    )  # fmt: skip
    order = shown[PANEL].unique(maintain_order=True).to_list()
    split = alt.Facet(
        PANEL, type="nominal", title=None, sort=order, header=alt.Header(labelExpr="split(datum.label, ' · ')")
    )
    row: alt.FacetChart = chart.facet(split, columns=style.columns, spacing={"row": 30, "column": 22})
    return row


def _axis(shown: pl.DataFrame, column: str, length: int) -> alt.Axis:
    labels = sorted(shown[column].unique())
    return alt.Axis(values=labels[:: math.ceil(len(labels) * _LABEL / length)], tickSize=0, labelAngle=0)


def _color(shown: pl.DataFrame, name: str, quantity: Quantity, style: Style) -> alt.Color:
    """Colours on one scale for all panels; those of a share begin at 0."""
    low, high = span(shown, name)
    share = quantity.valid == (0.0, 1.0)
    log = not share and is_log(name, style.scale, low, high / low if low > 0 else 0.0, enough=_LOG_FROM)
    ends = {"domain": [0.0, high or 1.0]} if share else {"zero": False}
    scale = alt.Scale(type="log", scheme="viridis") if log else alt.Scale(scheme="viridis", **ends)
    legend = alt.Legend(orient="right", format=number_format(high), tickCount=4, gradientLength=_LEAST)
    title = textwrap.wrap(axis_title(quantity), _TITLE)
    return alt.Color(name, type="quantitative", title=title, scale=scale, legend=legend)
