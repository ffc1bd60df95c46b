"""Figures of several charts: small multiples of one chart, and charts side by side that share their selections.

>>> import olmo_dynamics as od
>>> od.plots.linked(od.plots.layer_step_map(q, "rms"), od.plots.trajectory(q, "rms"))  # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import altair as alt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.table import PARTS, Rows, in_order
from olmo_dynamics.plots.theme import AXES, AnyChart, themed

MAX_PANELS = 64
"""The most panels that one figure can have and still be read."""

_SPACING = {"row": 62, "column": 52}  # for one panel's axes, in pixels; their titles stand once above all panels
_LINE = 15  # the height of a further line of a panel's title


def small_multiples(
    chart: alt.Chart | alt.LayerChart, rows: Rows, facet: str, *, columns: int, free: bool = True
) -> AnyChart:
    """One panel per value of `facet`, in the order of the forward pass; `free` gives each panel its own y axis.

    The titles of the axes, which are those of every panel, stand once above them.
    """
    order = in_order(rows.frame, facet)
    if len(order) > MAX_PANELS:
        raise OptionError(
            f"a figure can have at most {MAX_PANELS} panels; {facet!r} has {len(order)} values; filter the table"
        )
    header = alt.Header(labelExpr=f"split(datum.label, '{PARTS}')")  # long names in several lines
    words = _without_titles(chart)
    split = alt.Facet(facet, type="nominal", title=None, sort=order, header=header)
    lines = max(name.count(PARTS) for name in order)
    spacing = {**_SPACING, "row": _SPACING["row"] + _LINE * lines}
    grid: AnyChart = chart.facet(split, columns=min(columns, len(order)), bounds="flush", spacing=spacing)
    grid = grid.resolve_scale(y="independent") if free else grid
    apart: AnyChart = grid.resolve_axis(x="independent", y="independent").properties(usermeta={AXES: words})
    return apart


def _without_titles(chart: Any) -> str:
    """Take the titles off the axes of a chart; returns them in words."""
    told: dict[str, str] = {}
    for leaf in _leaves(chart):
        for channel, arrow in ((leaf.encoding.y, "↑"), (leaf.encoding.x, "→")):
            if isinstance(channel, alt.X | alt.Y) and channel["axis"] is not None:
                if isinstance(channel["title"], str):
                    told.setdefault(arrow, f"{arrow} {channel['title']}")
                channel["axis"] = _untitled_axis(channel["axis"])
    return ", ".join(told[arrow] for arrow in "↑→" if arrow in told)


def _leaves(chart: Any) -> Iterator[Any]:
    """The parts of a layered chart that have a mark."""
    for part in chart.layer if isinstance(chart, alt.LayerChart) else ():
        yield from _leaves(part)
    if not isinstance(chart, alt.LayerChart):
        yield chart


def _untitled_axis(axis: Any) -> alt.Axis:
    if axis is alt.Undefined:
        return alt.Axis(title=None)
    axis["title"] = None
    untitled: alt.Axis = axis
    return untitled


def linked(*charts: AnyChart, columns: int = 2) -> AnyChart:
    """Charts of this package side by side, with shared selections: a layer selected in one is selected in all.

    Raises:
        OptionError: no chart is given.
    """
    if not charts:
        raise OptionError("linked() needs at least one chart (got none)")
    shown = side_by_side(*(_bare(chart) for chart in charts), columns=columns)
    return themed(shown.resolve_scale(color="independent"))


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
