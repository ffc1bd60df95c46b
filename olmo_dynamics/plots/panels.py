"""Figures of several charts: small multiples of one chart, and charts side by side that share their selections.

>>> import olmo_dynamics as od
>>> od.plots.linked(od.plots.layer_step_map(q, "rms"), od.plots.trajectory(q, "rms"))  # doctest: +SKIP
"""

from __future__ import annotations

import warnings

import altair as alt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.table import PARTS, Rows, in_order
from olmo_dynamics.plots.theme import AnyChart, themed

MAX_PANELS = 64
"""The most panels that one figure can have and still be read."""

_SPACING = {"row": 84, "column": 66}  # for one panel's axes, titles included, in pixels
_LINE = 15  # the height of a further line of a panel's title


def small_multiples(
    chart: alt.Chart | alt.LayerChart, rows: Rows, facet: str, *, columns: int, free: bool = True
) -> AnyChart:
    """One panel per value of `facet`, in the order of the forward pass; `free` gives each panel its own y axis."""
    order = in_order(rows.frame, facet)
    if len(order) > MAX_PANELS:
        raise OptionError(
            f"a figure can have at most {MAX_PANELS} panels; {facet!r} has {len(order)} values; filter the table"
        )
    header = alt.Header(labelExpr=f"split(datum.label, '{PARTS}')")  # long names in several lines
    split = alt.Facet(facet, type="nominal", title=None, sort=order, header=header)
    lines = max(name.count(PARTS) for name in order)
    spacing = {**_SPACING, "row": _SPACING["row"] + _LINE * lines}
    grid: AnyChart = chart.facet(split, columns=min(columns, len(order)), bounds="flush", spacing=spacing)
    grid = grid.resolve_scale(y="independent") if free else grid
    apart: AnyChart = grid.resolve_axis(x="independent", y="independent")
    return apart


def linked(*charts: AnyChart, columns: int = 2) -> AnyChart:
    """Charts of this package side by side, with shared selections: a layer selected in one is selected in all.

    Raises:
        OptionError: no chart is given.
    """
    if not charts:
        raise OptionError("linked() needs at least one chart (got none)")
    return themed(side_by_side(*(_bare(chart) for chart in charts), columns=columns))


def side_by_side(*charts: AnyChart, columns: int = 2) -> alt.ConcatChart:
    """Charts without a theme side by side; selections of the same name become one, without altair's warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")
        return alt.concat(*charts, columns=columns, spacing=36)


def _bare(chart: AnyChart) -> AnyChart:
    """A copy without the settings that only the outermost chart may have."""
    bare: AnyChart = chart.copy(deep=True)
    bare.config = bare.usermeta = alt.Undefined
    return bare
