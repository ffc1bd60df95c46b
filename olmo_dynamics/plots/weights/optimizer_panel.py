"""The optimiser's state against training time: five quantities side by side, one line per layer.

>>> import olmo_dynamics as od
>>> od.plots.optimizer_panel(od.open_store("run.zarr").table("optimizer"))  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import time_axis, value_axis
from olmo_dynamics.plots.panels import side_by_side
from olmo_dynamics.plots.selections import zoom
from olmo_dynamics.plots.table import drawable, in_order, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title
from olmo_dynamics.plots.trajectories import series_lines
from olmo_dynamics.plots.weights.weight_quantities import OPTIMIZER
from olmo_dynamics.quantities.declaration import Quantity

_PANEL = (225, 165)
_COLUMNS = 3
_SPACING = 88  # between panels, for the axes of one
_HINT = "Click a line or a legend entry to follow one layer in all panels; the menu below chooses the role."


def optimizer_panel(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Panels of the moments, the update, the signal-to-noise ratio and the dominance of ε, one line per layer.

    Takes the table `optimizer`. If it holds several roles, a menu below selects one; quantities that no tensor has are left
    out.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    require(frame, "tensor", "layer", "role")
    drawn = [each for each in OPTIMIZER if each.name in frame.columns and _has_values(frame, each.name)]
    if not drawn:
        raise OptionError(
            f"the table must hold values of {', '.join(each.name for each in OPTIMIZER)} to draw (got none)"
        )
    roles = in_order(frame, "role")
    menu = alt.param(name="shown", value=_first(roles), bind=alt.binding_select(options=roles, name="shown "))
    charts = [_curves(frame, each, x, style, menu if len(roles) > 1 else None) for each in drawn]
    whole = side_by_side(*charts, columns=_COLUMNS)
    whole.bounds, whole.spacing = "flush", _SPACING
    whole = whole.add_params(menu) if len(roles) > 1 else whole
    rows = drawable(frame, drawn[0].name, x=x)
    formulas = "; ".join(f"{each.symbol} = {each.formula}" for each in drawn if each.symbol != each.formula)
    return finalize(
        whole,
        "The state of the optimiser by layer",
        [_HINT if len(roles) > 1 else "", f"{formulas}.", rows.subtitle],
        style,
    )


def _curves(
    frame: pl.DataFrame, quantity: Quantity, x: str, style: Style, menu: alt.Parameter | None
) -> alt.LayerChart:
    rows = drawable(frame, quantity.name, x=x)
    width, height = style.width or _PANEL[0], style.height or _PANEL[1]
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    value = replace(value_axis(rows.frame, quantity.name, quantity, scale=style.scale), title=quantity.symbol)
    hue = "layer" if rows.has_several("layer") else None
    chart = series_lines(rows, value, time, hue=hue).add_params(zoom())
    chart = chart.transform_filter(alt.datum.role == menu) if menu else chart
    title = alt.TitleParams(text=axis_title(quantity), fontSize=12)
    sized: alt.LayerChart = chart.properties(width=width, height=height, title=title)
    return sized


def _has_values(frame: pl.DataFrame, column: str) -> bool:
    return bool(frame[column].fill_null(float("nan")).is_finite().any())


def _first(roles: list[str]) -> str:
    """A role of matrices, if there is one, since the embedding has no layers."""
    return next((role for role in ("q_proj", "down_proj") if role in roles), roles[0])
