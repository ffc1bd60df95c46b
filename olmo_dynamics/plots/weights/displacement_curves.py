"""Distance, angle and turns against training time, one line per layer with its 95 % interval.

>>> import olmo_dynamics as od
>>> moved = od.displacement(od.open_store("run.zarr"), by="layer")  # doctest: +SKIP
>>> od.plots.displacement(moved, "angle", x="tokens")  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import TimeAxis, ValueAxis, time_axis, value_axis
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, labels, require
from olmo_dynamics.plots.theme import PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition
from olmo_dynamics.plots.trajectories import continued, series_lines
from olmo_dynamics.plots.weights.weight_quantities import QUANTITIES

_WIDE, _PANEL = (640, 340), (165, 130)
_INTERVAL = 1.96  # standard errors to each side hold 95 %
_LOW, _HIGH, _FLOOR = "low", "high", "floor"
_ZERO_AT_REFERENCE = ("distance", "relative", "angle")
_NEAR = 20  # the floor is drawn if some value is less than so many times it


def displacement(frame: pl.DataFrame, y: str = "relative", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of `y` against step or tokens with bands of 95 %, coloured by layer, in panels if the table holds several roles.

    Takes a table of `od.displacement`, best `by="layer"` or of one role; `y` is `distance`, `relative`, `angle`, `cosine` or
    `successive_cosine`. The reference itself, at distance 0, is not drawn. A dashed line is the distance that rounding to the
    published dtype makes by itself, where some value is near it.

    Raises:
        OptionError: `y` is another column, a column is missing, or there is nothing, or too much, to draw.
    """
    if y not in QUANTITIES:
        raise OptionError(f"y must be {', '.join(QUANTITIES)} (got {y!r})")
    quantity = QUANTITIES[y]
    rows = _drawn(frame, y, x)
    hue = next((name for name in ("layer", "role") if rows.has_several(name)), None)
    facet = style.facet if style.facet is not None else _panels(rows, hue)
    width, height = _PANEL if facet else _WIDE
    time = time_axis(rows.frame, rows.x, width=style.width or width, style=style)
    scale = style.scale if y in _ZERO_AT_REFERENCE or style.scale != "auto" else "linear"
    value = value_axis(rows.frame, y, quantity, scale=scale, panels=facet or "")
    chart = _layers(rows, value, time, hue=hue, panels=bool(facet))
    chart = chart.add_params(zoom()).properties(width=style.width or width, height=style.height or height)
    whole = small_multiples(chart, rows, facet, columns=style.columns) if facet else chart
    title = f"{quantity.long_name[:1].upper()}{quantity.long_name[1:]} during training"
    return finalize(
        whole, title, [definition(quantity), f"{rows.subtitle}{_said(rows, near=_is_near_floor(rows, y))}"], style
    )


def _drawn(frame: pl.DataFrame, y: str, x: str) -> Rows:
    """The finite rows with the ends of their intervals; without those of the reference itself."""
    require(frame, "revision", y, f"{y}_se")
    away = frame.filter(pl.col("distance") > 0) if y in _ZERO_AT_REFERENCE and "distance" in frame.columns else frame
    if away.is_empty() and not frame.is_empty():
        raise OptionError("every revision is at distance 0 of its reference, so there is nothing to draw; take another")
    floor = pl.col("relative_floor") if "relative_floor" in frame.columns else pl.lit(None, pl.Float64)
    of_distance = floor * pl.col("distance") / pl.col("relative") if y == "distance" else floor
    error = _INTERVAL * pl.col(f"{y}_se").fill_null(0)
    low = pl.col(y) - error if y not in _ZERO_AT_REFERENCE else pl.max_horizontal(pl.col(y) - error, pl.col(y) / 2)
    ends = [low.round_sig_figs(6).alias(_LOW), (pl.col(y) + error).round_sig_figs(6).alias(_HIGH)]
    floors = of_distance.round_sig_figs(3).alias(_FLOOR) if y in _ZERO_AT_REFERENCE else pl.lit(None).alias(_FLOOR)
    extra = [name for name in ("concentrated",) if name in frame.columns]
    return drawable(away.with_columns(*ends, floors), y, x=x, also=[_LOW, _HIGH, _FLOOR, *extra])


def _panels(rows: Rows, hue: str | None) -> str | None:
    return "role" if hue != "role" and rows.has_several("role") else None


def _layers(rows: Rows, value: ValueAxis, time: TimeAxis, *, hue: str | None, panels: bool) -> alt.LayerChart:
    lines = series_lines(rows, value, time, hue=hue, panels=panels)
    data = continued(rows, value.field)
    apart = [name for name in (*labels(), "line") if name in data.columns and name != value.field]
    base = alt.Chart(lines.data).encode(x=time.channel(seen=zoomed(time.field)))
    band = base.mark_area().encode(
        y=value.channel().copy(), y2=_HIGH, detail=[alt.Detail(name, type="nominal") for name in apart]
    )
    band.encoding.y.shorthand = _LOW
    if hue:
        color = lines.layer[0].encoding.color
        band = band.encode(color=color, opacity=faded(pick(hue, panels=panels), full=0.25, faint=0.03))
    else:
        band = band.encode(opacity=alt.value(0.25))
    floor = [_floor(base, value)] if _is_near_floor(rows, value.field) else []
    whole = alt.layer(lines, band, *floor)
    assert isinstance(whole, alt.LayerChart)
    return whole


def _floor(base: alt.Chart, value: ValueAxis) -> alt.Chart:
    """The dashed line of rounding: that of the coarsest series, since they hardly differ."""
    y = value.channel().copy()
    y.shorthand = _FLOOR
    y["aggregate"] = "max"
    dashed: alt.Chart = base.mark_line(strokeDash=[5, 4], color=QUIET, strokeWidth=1.2).encode(y=y)
    return dashed


def _is_near_floor(rows: Rows, field: str) -> bool:
    near = rows.frame.filter(pl.col(_FLOOR).is_finite() & (pl.col(field) < _NEAR * pl.col(_FLOOR)))
    return not near.is_empty()


def _said(rows: Rows, *, near: bool) -> str:
    few = int(rows.frame["concentrated"].sum()) if "concentrated" in rows.frame.columns else 0
    narrow = f" {few:,} of {rows.frame.height:,} intervals are too narrow: few elements hold the mass."
    rounded = " Dashed: what rounding to the published dtype makes by itself."
    layers = rows.frame["layer"] if rows.has_several("layer") else None
    outside = " Grey lines lie outside the blocks." if layers is not None and layers.has_nulls() else ""
    return outside + (narrow if few else "") + (rounded if near else "")
