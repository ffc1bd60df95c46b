"""Square maps of experts against experts, one panel for each pair of layers or matrix.

>>> pair_map(rows, "value", quantity, style=style)  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.table import Rows, inline
from olmo_dynamics.plots.theme import AnyChart, Style
from olmo_dynamics.plots.titles import axis_title, tooltips
from olmo_dynamics.quantities.declaration import Quantity

PANEL = "panel"
"""The column that names the panel of a cell."""

_ALONE, _SIDE, _APART = 420, 220, 4  # pixels: a single map, one of several, and the least between two labels
_MOST = 9


def pair_map(rows: Rows, value: str, quantity: Quantity, titles: tuple[str, str], *, style: Style) -> AnyChart:
    """Cells of expert (down) and partner (across), by number, with the colours of a quantity.

    Raises:
        OptionError: there are too many panels, or two values fall on one cell.
    """
    panels = rows.frame[PANEL].unique(maintain_order=True).to_list()
    if len(panels) > _MOST:
        raise OptionError(f"a figure can have at most {_MOST} maps of experts (got {len(panels)}); filter the table")
    if rows.frame.select(PANEL, "expert", "partner").is_duplicated().any():
        raise OptionError(
            "a map needs one value per expert and partner (got several); filter the table to one revision"
        )
    side = style.width or (_SIDE if len(panels) > 1 else _ALONE)
    places = sorted({*rows.frame["expert"], *rows.frame["partner"]})
    axis = alt.Axis(tickSize=0, labelAngle=0, labelOverlap="greedy", labelSeparation=_APART)
    cells: alt.Chart = alt.Chart(inline(rows.frame), width=side, height=style.height or side).mark_rect().encode(
        x=alt.X("partner", type="ordinal", title=titles[1], sort=places, axis=axis),
        y=alt.Y("expert", type="ordinal", title=titles[0], sort=places, axis=axis),
        color=magnitude_color(rows.frame, value, quantity, scale="linear" if style.scale == "auto" else style.scale),
        tooltip=tooltips(rows.frame, **{value: axis_title(quantity)}),
    )  # fmt: skip
    if len(panels) == 1:
        return cells
    header = alt.Header(labelAnchor="start")
    split = alt.Facet(PANEL, type="nominal", title=None, sort=panels, header=header)
    whole: AnyChart = cells.facet(
        split, columns=min(style.columns, 2 if len(panels) == 4 else 3), spacing={"row": 60, "column": 50}
    )
    apart: AnyChart = whole.resolve_scale(x="independent", y="independent").resolve_axis(
        x="independent", y="independent"
    )
    return apart
