"""A quantity against training time, with one line per tensor, site or domain and line of training.

>>> import olmo_dynamics as od
>>> parameters = od.open_store("run.zarr").table("parameters")  # doctest: +SKIP
>>> od.plots.trajectory(parameters, y="rms", color="layer")  # doctest: +SKIP
"""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import TimeAxis, ValueAxis, stage_borders, time_axis, value_axis
from olmo_dynamics.plots.colors import series_color
from olmo_dynamics.plots.lines import JOINT, LINE, joined, with_borders
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.seeds.replicates import is_joined
from olmo_dynamics.plots.seeds.seed_bands import seed_bands
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, inline, labels
from olmo_dynamics.plots.theme import PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips

_WIDE, _PANEL = (640, 340), (165, 130)
"""Width and height in pixels of a single picture, and of one panel among several."""

_DOTS = {8: 40, 48: 14}
_SMALLEST_DOT = 5
"""Area in square pixels of the dot at a revision, by the most revisions for which it is used, and of more than these."""


def trajectory(
    frame: pl.DataFrame, y: str, *, x: str = "step", color: str | None = None, style: Style = PLAIN
) -> AnyChart:
    """Lines of the column `y` against step or tokens, one per series, in panels if the table holds several roles.

    `color` names the column that colours the lines ("layer" if there is one). Each line of training is a line of its own;
    later stages continue the first, from a dashed border on. Clicking a line or a legend entry keeps its colour and fades
    the others. Dragging pans, and the wheel with ctrl zooms along x. Of joined runs, each training's
    mean over seeds is drawn with a band around it: see `seed_bands`.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    if is_joined(frame):
        return seed_bands(frame, y, x=x, color=color, style=style)
    named = [column for column in (color, style.facet) if column]
    rows = drawable(frame, y, x=x, also=named)
    hue = color or _first_several(rows, ("layer", "domain", "embedding", "role", "site", LINE))
    hue = None if hue and rows.frame[hue].is_null().all() else hue
    facet = style.facet if style.facet is not None else _first_several(rows, ("role", "site", "input"), but=hue)
    width, height = _PANEL if facet else _WIDE
    quantity = quantity_of(frame, y)
    time = time_axis(rows.frame, rows.x, width=style.width or width, style=style)
    value = value_axis(rows.frame, y, quantity, scale=style.scale, panels=facet or "")
    chart = series_lines(rows, value, time, hue=hue, panels=bool(facet)).add_params(zoom())
    chart = chart.properties(width=style.width or width, height=style.height or height)
    whole = small_multiples(chart, rows, facet, columns=style.columns) if facet else chart
    title = heading(
        rows.frame, quantity, f" by {hue} during training" if hue not in (None, LINE) else " during training"
    )
    return finalize(whole, title, [definition(quantity), rows.subtitle], style)


def series_lines(
    rows: Rows,
    value: ValueAxis,
    time: TimeAxis,
    *,
    hue: str | None = None,
    panels: bool = False,
    domain: Any = alt.Undefined,
) -> alt.LayerChart:
    """Lines with a dot at each revision, one per series, coloured by `hue`, without size, title and theme.

    `domain` is a selection that decides the ends of the time axis, and by default what a reader zooms to.
    """
    held = (value.field, hue if hue != "layer" else "")  # a colour on a continuous scale does not part lines
    apart = [name for name in (*labels(), "panel", LINE) if rows.has_several(name) and name not in held]
    frame = continued(rows, value.field)
    seen = zoomed(time.field) if domain is alt.Undefined else f"{domain.name}.start"
    data = inline(frame)
    detail = [alt.Detail(name, type="nominal") for name in apart]
    x = time.channel(seen=seen, domain=domain)
    base = alt.Chart(data).encode(x=x, y=value.channel(), detail=detail)
    tooltip = tooltips(rows.frame, **{value.field: axis_title(quantity_of(rows.frame, value.field))})
    revisions = rows.frame["revision"].n_unique()
    size = next((area for most, area in _DOTS.items() if revisions <= most), _SMALLEST_DOT)
    kept: dict[str, Any] = {"invalid": "show"} if hue == "layer" else {}  # series without a layer
    line = base.mark_line(**kept)
    dots = measured(base, frame).mark_point(**_dot(hue, size), **kept).encode(tooltip=tooltip)
    borders = stage_borders(frame, data, x)
    if LINE in apart:
        line = line.encode(strokeDash=line_dash())
    if not hue:
        return alt.LayerChart(layer=[line, dots, *borders])
    chosen = pick(hue, panels=panels)
    look = {"color": _shade(rows, hue, panels=panels), "opacity": faded(chosen)}
    # The selection goes on the lines: a legend can be clicked only if the first layer has the selection.
    return alt.LayerChart(layer=[line.encode(**look).add_params(chosen), dots.encode(**look), *borders])


def _dot(hue: str | None, area: int) -> dict[str, Any]:
    """The look of a dot; one coloured by layer is an outline, since the legend of filled ones would be a list of discs."""
    return {"filled": True, "size": area} if hue != "layer" else {"filled": False, "size": area / 3, "strokeWidth": 2}


def continued(rows: Rows, value: str) -> pl.DataFrame:
    """The rows of lines that begin where the line they continue ends, with the borders of stages."""
    series = [name for name in labels() if name in rows.frame.columns and name != value]
    frame = joined(rows.frame, rows.x, series) if rows.has_several(LINE) else rows.frame
    return with_borders(frame, rows.x) if rows.counts_through else frame


def measured(chart: alt.Chart, frame: pl.DataFrame) -> alt.Chart:
    """The chart without the rows that only join two lines."""
    kept: alt.Chart = chart.transform_filter(f"!datum.{JOINT}") if JOINT in frame.columns else chart
    return kept


def line_dash() -> alt.StrokeDash:
    """The dashes that tell lines of training apart where colour shows something else."""
    return alt.StrokeDash(LINE, type="nominal", title="line of training")


def _shade(rows: Rows, hue: str, *, panels: bool) -> Any:
    """The series' colour, and grey for series without one: tensors outside the blocks have no layer."""
    color = series_color(rows.frame, hue, panels=panels)
    if not rows.frame[hue].has_nulls():
        return color
    return alt.when(f"isValid(datum[{json.dumps(hue)}])").then(color).otherwise(alt.value(QUIET))


def _first_several(rows: Rows, columns: tuple[str, ...], *, but: str | None = None) -> str | None:
    return next((column for column in columns if rows.has_several(column) and column != but), None)
