"""Several pictures as one: small multiples of one chart, and charts side by side that share their selections.

>>> import olmo_dynamics as od
>>> od.plots.linked(od.plots.layer_step_map(q, "rms"), od.plots.trajectory(q, "rms"))  # doctest: +SKIP
"""

from __future__ import annotations

import warnings

import altair as alt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.look import AnyChart, dressed
from olmo_dynamics.plots.rows import Rows, in_order

MAX_PANELS = 64
"""More panels than this are no picture any more."""

_SPACING = {"row": 84, "column": 66}  # room for one panel's axes, titles included, in pixels


def small_multiples(
    chart: alt.Chart | alt.LayerChart, rows: Rows, facet: str, *, columns: int, free: bool = True
) -> AnyChart:
    """One panel for each value of `facet`, ranked by depth or as the forward pass meets them; `free` gives each its own y."""
    order = in_order(rows.frame, facet)
    if len(order) > MAX_PANELS:
        raise OptionError(
            f"at most {MAX_PANELS} panels were wanted; {facet!r} has {len(order)} values; filter the table"
        )
    split = alt.Facet(facet, type="nominal", title=None, sort=order)
    grid: AnyChart = chart.facet(split, columns=min(columns, len(order)), bounds="flush", spacing=_SPACING)
    grid = grid.resolve_scale(y="independent") if free else grid
    apart: AnyChart = grid.resolve_axis(x="independent", y="independent")
    return apart


def linked(*charts: AnyChart, columns: int = 2) -> AnyChart:
    """Charts of this room side by side, sharing selections of the same name: a layer picked in one is picked in all.

    Raises OptionError if there is nothing to put together.
    """
    if not charts:
        raise OptionError("at least one chart was wanted to link; none came")
    return dressed(beside(*(_bare(chart) for chart in charts), columns=columns))


def beside(*charts: AnyChart, columns: int = 2) -> alt.ConcatChart:
    """Undressed charts side by side; selections of one name become one, which altair would else warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        return alt.concat(*charts, columns=columns, spacing=36)


def _bare(chart: AnyChart) -> AnyChart:
    """A copy without what only the outermost chart may carry."""
    bare: AnyChart = chart.copy(deep=True)
    bare.config = bare.usermeta = alt.Undefined
    return bare
