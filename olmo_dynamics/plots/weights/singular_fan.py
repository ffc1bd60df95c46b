"""The largest singular values of matrices against training time, as a fan of lines.

>>> import olmo_dynamics as od
>>> values = od.open_store("run.zarr").table("spectra.singular_value")  # doctest: +SKIP
>>> od.plots.singular_values(values.filter(layer=5))  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import stage_borders, time_axis, value_axis
from olmo_dynamics.plots.lines import LINE, paths, with_borders
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import zoom, zoomed
from olmo_dynamics.plots.table import PARTS, Rows, drawable, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, tooltips
from olmo_dynamics.plots.weights.weight_quantities import SINGULAR

_WIDE, _PANEL = (600, 340), (180, 150)
_RANK = "singular_rank"


def singular_values(frame: pl.DataFrame, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of each singular value against step or tokens, from dark (the largest) to light, one panel per matrix.

    Takes the table `spectra.singular_value`, filtered to a few matrices, such as those of one layer.

    Raises:
        OptionError: a column is missing, a matrix has several values of one rank at a revision, or there is nothing, or too
            much, to draw.
    """
    require(frame, "tensor", _RANK, "value")
    several = [name for name in ("role", "layer", "expert") if name in frame.columns and frame[name].n_unique() > 1]
    text = [pl.col(name).cast(pl.String) if name == "role" else pl.format(f"{name} {{}}", name) for name in several]
    panel = pl.concat_str(text or [pl.lit("")], separator=PARTS, ignore_nulls=True)
    rows = drawable(frame.with_columns(panel.alias("panel")), "value", x=x, also=["panel", _RANK])
    rows = _whole_trainings(rows)
    if rows.frame.select("revision", "panel", _RANK).is_duplicated().any():
        raise OptionError("a fan needs one value per revision, matrix and rank (got several); filter the table")
    panels = rows.has_several("panel")
    width, height = _PANEL if panels else _WIDE
    time = time_axis(rows.frame, rows.x, width=style.width or width, style=style)
    value = value_axis(rows.frame, "value", SINGULAR, scale=style.scale, panels="panel" if panels else "")
    data, at = inline(rows.frame), time.channel(seen=zoomed(time.field))
    color = alt.Color(_RANK, type="quantitative", title="place, the largest is 1", sort="ascending",
                      scale=alt.Scale(scheme=alt.SchemeParams(name="viridis", extent=[0.0, 0.92]), zero=False),
                      legend=alt.Legend(tickCount=4, format="d", tickMinStep=1))  # fmt: skip
    base = alt.Chart(data).encode(x=at, y=value.channel(), color=color, detail=alt.Detail(_RANK, type="nominal"))
    tooltip = tooltips(rows.frame, value=axis_title(SINGULAR))
    line = base.mark_line(strokeWidth=1.1).add_params(zoom())
    chart = alt.LayerChart(
        layer=[line, base.mark_point(filled=True, size=7).encode(tooltip=tooltip), *stage_borders(rows.frame, data, at)]
    )
    chart = chart.properties(width=style.width or width, height=style.height or height)
    whole = small_multiples(chart, rows, "panel", columns=style.columns) if panels else chart
    most = int(rows.frame[_RANK].max())  # type: ignore[arg-type]
    one = f" of {rows.frame['role'][0]}" if "role" in rows.frame.columns and rows.frame["role"].n_unique() == 1 else ""
    title = f"The {most} largest singular values{one}"
    return finalize(whole, title, [definition(SINGULAR), rows.subtitle], style)


def _whole_trainings(rows: Rows) -> Rows:
    """The rows with one panel for each training: a line of a later stage begins with those that it continues."""
    whole = paths(rows.frame, rows.x).drop(LINE) if rows.has_several(LINE) else rows.frame
    whole = with_borders(whole, rows.x) if rows.counts_through else whole
    if "path" in whole.columns and whole["path"].n_unique() > 1:
        named = pl.concat_str(["panel", "path"], separator=PARTS).str.strip_chars(PARTS)
        whole = whole.with_columns(named.alias("panel"))
    return Rows(whole, rows.left_out, rows.x)
