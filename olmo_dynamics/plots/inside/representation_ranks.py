"""The dimensions that representations use against training time: RankMe and the participation ratio, one line per layer.

>>> import olmo_dynamics as od
>>> od.plots.representation_ranks(od.open_store("run.zarr").table("representations"))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import time_axis, value_axis
from olmo_dynamics.plots.panels import side_by_side
from olmo_dynamics.plots.selections import zoom
from olmo_dynamics.plots.table import drawable, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.trajectories import series_lines
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Quantity

_PANEL = (330, 260)
_DRAWN = ("rank_me", "participation_ratio")
_HINT = "Click a line or a legend entry to follow one layer in both panels."


def representation_ranks(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Panels of RankMe and of the participation ratio, one line per layer.

    Takes the table `representations` of one site.

    Raises:
        OptionError: a column is missing, the table holds several sites, or there is nothing, or too much, to draw.
    """
    require(frame, "site", "layer", *_DRAWN)
    if frame["site"].n_unique() > 1:
        raise OptionError(f"representation_ranks() needs one site (got {frame['site'].n_unique()}); filter the table")
    quantities = [find(f"representations/{name}") for name in _DRAWN]
    whole = side_by_side(*(_curves(frame, each, x, style) for each in quantities))
    formulas = "; ".join(f"{each.symbol} = {each.formula}" for each in quantities)
    title = f"Dimensions that representations use ({frame['site'][0]})" if frame.height else "Dimensions in use"
    return finalize(whole, title, [_HINT, f"{formulas}.", drawable(frame, _DRAWN[0], x=x).subtitle], style)


def _curves(frame: pl.DataFrame, quantity: Quantity, x: str, style: Style) -> alt.LayerChart:
    rows = drawable(frame, quantity.name, x=x)
    width, height = style.width or _PANEL[0], style.height or _PANEL[1]
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    value = replace(value_axis(rows.frame, quantity.name, quantity, scale=style.scale), title=quantity.symbol)
    hue = "layer" if rows.has_several("layer") else None
    chart = series_lines(rows, value, time, hue=hue).add_params(zoom())
    title = alt.TitleParams(text=quantity.long_name, fontSize=12)
    sized: alt.LayerChart = chart.properties(width=width, height=height, title=title)
    return sized
