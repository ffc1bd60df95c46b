"""A quantity against training time with its mean over seeds, a band around it, and the seeds as thin lines behind.

>>> import olmo_dynamics as od
>>> joined = od.join(["c4.zarr", "dclm.zarr"])  # doctest: +SKIP
>>> od.plots.trajectory(joined.table("loss"), "bits_per_byte")  # doctest: +SKIP
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.plots.axes import stage_borders, time_axis, value_axis
from olmo_dynamics.plots.colors import series_color
from olmo_dynamics.plots.lines import JOINT, LINE, joined, with_borders
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.seeds.phase_rows import PhaseRows, joined_phases, phase_rows
from olmo_dynamics.plots.seeds.replicates import (
    KIND,
    LOWER,
    MEAN,
    ONE_SEED,
    RUN_LABELS,
    TRAINING,
    UPPER,
    over_seeds,
    with_training,
)
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, inline, labels
from olmo_dynamics.plots.theme import INK, PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips

_WIDE, _PANEL = (640, 340), (190, 150)
"""Width and height in pixels of a single picture, and of one panel among several."""

_SERIES = ("layer", "domain", "embedding", "role", "site")
_PANELS = ("role", "site", "input", "domain", "layer")
_WORDS = "Line: mean over seeds; band: ± 1 standard deviation over seeds; thin lines: one seed each."


def seed_bands(
    frame: pl.DataFrame, y: str, *, x: str = "step", color: str | None = None, style: Style = PLAIN
) -> AnyChart:
    """The mean of the column `y` over seeds against step or tokens, with a band of ± 1 standard deviation and the seeds behind.

    Takes a table of a joined store. Trainings that differ in recipe, size or family have a colour each; with one training, layers
    or domains have. A mean is drawn where every seed of the training has a value; a training of one seed is a line. Post-training
    whose tokens are not known is drawn behind a dashed border, by its own steps.

    Raises:
        OptionError: a column is missing, or there is nothing, or too much, to draw.
    """
    named = [name for name in ("run", "seed", *RUN_LABELS, color, style.facet) if name and name in frame.columns]
    asked = [name for name in (color, style.facet) if name]
    also = list(dict.fromkeys([*named, *asked]))
    rows = phase_rows(frame, y, x=x, also=also, style=style) or drawable(frame, y, x=x, also=also)
    rows = replace(rows, frame=with_training(rows.frame))
    hue = color or (TRAINING if rows.has_several(TRAINING) else _first_several(rows, _SERIES, but=style.facet))
    facet = style.facet if style.facet is not None else _first_several(rows, _PANELS, but=hue)
    shown = _shown(rows, y)
    width, height = _PANEL if facet else _WIDE
    width, height = style.width or width, style.height or height
    chart = _layers(replace(rows, frame=shown), y, hue=hue, facet=facet, style=style, width=width)
    chart = chart.properties(width=width, height=height)
    whole = small_multiples(chart, rows, facet, columns=style.columns) if facet else chart
    has_band = bool(shown[LOWER].is_not_null().any())
    title = heading(rows.frame, quantity_of(frame, y), f"{' over seeds' * has_band} during training")
    words = [definition(quantity_of(frame, y)), _WORDS if has_band else "", rows.subtitle]
    return finalize(whole, title, words, style)


def _first_several(rows: Rows, columns: tuple[str, ...], *, but: str | None = None) -> str | None:
    return next((column for column in columns if rows.has_several(column) and column != but), None)


def _shown(rows: Rows, y: str) -> pl.DataFrame:
    """The rows of all seeds, then those of their means, each line drawn from where it begins on its parent."""
    series = [name for name in labels() if name in rows.frame.columns and name != y]
    seeds = rows.frame if LINE in rows.frame.columns else rows.frame.with_columns(pl.col("run").alias(LINE))
    means = over_seeds(seeds, y, rows.x, series)
    means = means.with_columns(pl.col(y).round_sig_figs(6))
    both = pl.concat([seeds.with_columns(pl.lit(ONE_SEED).alias(KIND)), means], how="diagonal_relaxed")
    if isinstance(rows, PhaseRows):
        return joined_phases(both, rows.axis, [*series, KIND])
    several = rows.counts_through
    return with_borders(joined(both, rows.x, [*series, KIND]), rows.x) if several else both


def _layers(rows: Rows, y: str, *, hue: str | None, facet: str | None, style: Style, width: int) -> alt.LayerChart:
    """Band, seeds, means and dots on one set of axes, which hold the band as well."""
    frame, quantity = rows.frame, quantity_of(rows.frame, y)
    ends = pl.concat([frame.with_columns(pl.col(end).alias(y)) for end in (y, LOWER, UPPER)]).drop_nulls(y)
    value = value_axis(ends, y, quantity, scale=style.scale, panels=facet or "")
    data, at = inline(frame), _time(rows, style, width)
    held = (y, facet, hue if hue != "layer" else "")  # a colour on a continuous scale does not part lines
    apart = [name for name in (*labels(), LINE) if rows.has_several(name) and name not in held]
    base = alt.Chart(data).encode(x=at, y=value.channel(), detail=[alt.Detail(name, type="nominal") for name in apart])
    look, chosen = _look(frame, hue, panels=bool(facet))
    means, seeds = (base.transform_filter(alt.datum[KIND] == kind) for kind in (MEAN, ONE_SEED))
    band = means.mark_area(opacity=0.18).encode(y=_end(value.channel(), LOWER), y2=alt.Y2(UPPER))
    band = band.transform_filter(f"isValid(datum.{LOWER})")
    thin, line = seeds.mark_line(strokeWidth=0.7, opacity=0.45), means.mark_line(strokeWidth=2.2)
    tooltip = tooltips(frame, **{y: axis_title(quantity), LOWER: "mean - 1 sd", UPPER: "mean + 1 sd"})
    dots = means.mark_point(filled=True, size=14).encode(tooltip=tooltip)
    if JOINT in frame.columns:
        dots = dots.transform_filter(f"!datum.{JOINT}")
    first = line.encode(**look).add_params(zoom(), *chosen)
    faint = {name: channel for name, channel in look.items() if name != "opacity"}
    layers = [first, band.encode(**faint), thin.encode(**faint), dots.encode(**look)]
    return alt.LayerChart(layer=[*layers, *stage_borders(frame, data, at)])


def _time(rows: Rows, style: Style, width: int) -> alt.X:
    """The channel of the time axis."""
    if isinstance(rows, PhaseRows):
        return rows.axis.channel()
    time = time_axis(rows.frame, rows.x, width=width, style=style)
    return time.channel(seen=zoomed(time.field))


def _end(channel: alt.Y, field: str) -> alt.Y:
    """The channel of the value axis for another column."""
    moved = channel.copy()
    moved.shorthand = field
    return moved


def _look(frame: pl.DataFrame, hue: str | None, *, panels: bool) -> tuple[dict[str, Any], list[alt.Parameter]]:
    """The colour and opacity of each series, and the selection that decides the latter."""
    if not hue:
        return {"color": alt.value(INK)}, []
    chosen = pick(hue, panels=panels)
    color: Any = series_color(frame, hue, panels=panels)
    if frame[hue].has_nulls():  # tensors outside the blocks have no layer
        color = alt.when(f"isValid(datum[{json.dumps(hue)}])").then(color).otherwise(alt.value(QUIET))
    return {"color": color, "opacity": faded(chosen)}, [chosen]
