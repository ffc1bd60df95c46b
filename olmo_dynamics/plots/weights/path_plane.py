"""The path of one or several trainings on the plane of their first principal components.

>>> import olmo_dynamics as od
>>> od.plots.weight_path(od.trajectory(od.open_store("run.zarr")))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.colors import series_color, time_color
from olmo_dynamics.plots.lines import LINE, time_column, with_line
from olmo_dynamics.plots.selections import faded
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import INK, PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import definition, tooltips
from olmo_dynamics.plots.weights.weight_quantities import COORDINATE

_SIZE = 520  # of the longer side, in pixels
_SHORTEST = 240
_MARGIN = 0.06  # of the longer side's values, around the points
_SERIES = "training"


def weight_path(
    frame: pl.DataFrame, *, components: tuple[int, int] = (1, 2), x: str = "step", style: Style = PLAIN
) -> AnyChart:
    """Revisions as points of a plane, joined in training order; both axes have one scale, so that distances can be read.

    Takes a table of `od.trajectory` of one group. A single training is coloured from early to late; several lines of training
    (stages, forks, seeds) have a colour each. A ring marks the first revision of each, and the step is written at its last.

    Raises:
        OptionError: a column or a component is missing, there are several groups, or there is nothing to draw.
    """
    require(frame, "component", "coordinate", "share", "share_se", "step")
    if "group" in frame.columns and frame["group"].n_unique() > 1:
        raise OptionError(f"weight_path() needs one group (got {frame['group'].n_unique()}); filter the table")
    held = sorted(frame["component"].unique())
    if not set(components) <= set(held) or components[0] == components[1]:
        raise OptionError(f"components must be two of {', '.join(map(str, held))} (got {components})")
    points, shares = _points(frame, components)
    rows = drawable(points, "across", x=None, also=["along", _SERIES, "order"])
    several = rows.frame[_SERIES].n_unique() > 1
    width, height, domains = _sizes(rows.frame, style)
    axes = (
        alt.X("along", type="quantitative", title=_title(components[0], shares), scale=_scale(domains[0])),
        alt.Y("across", type="quantitative", title=_title(components[1], shares), scale=_scale(domains[1])),
    )
    field = time_column(with_line(rows.frame), x)
    placed = rows.frame[field].is_not_null().any()
    shade = (
        series_color(rows.frame, _SERIES)
        if several
        else time_color(rows.frame.filter(pl.col(field).is_not_null()), field, style)
    )
    chart = _layers(rows.frame, axes, shade if several or placed else None, several=several)
    chart = chart.properties(width=width, height=height)
    rest = 1 - sum(share for share, _ in shares.values())
    line = f"The plane holds {100 - 100 * rest:.3g} % of the variance over revisions; {100 * rest:.2g} % is not shown."
    drawn = finalize(chart, "The path through weight space", [definition(COORDINATE), line, rows.subtitle], style)
    drawn.usermeta["oneScale"] = True  # a page that widens it must keep the unit of both axes alike
    return drawn


def _points(frame: pl.DataFrame, components: tuple[int, int]) -> tuple[pl.DataFrame, dict[int, tuple[float, float]]]:
    """One row per revision with `along` and `across`, and the share of each component with its error."""
    named = with_line(frame)
    keys = ["revision", *([name for name in ("run",) if name in named.columns]), LINE]
    first, second = (named.filter(pl.col("component") == component) for component in components)
    across = second.select(*keys, pl.col("coordinate").alias("across"))
    joined = first.join(across, on=keys, how="inner", maintain_order="left").rename({"coordinate": "along"})
    names = [name for name in ("run", LINE) if name in joined.columns and joined[name].n_unique() > 1]
    parts = names[:1] if joined.select(names[:1]).n_unique() == joined.select(names).n_unique() else names
    series = pl.concat_str(parts, separator=" · ") if parts else pl.lit("training")
    shares = {
        component: (float(part["share"][0]), float(part["share_se"][0]))
        for component, part in zip(components, (first, second), strict=True)
    }
    placed = joined.with_columns(series.alias(_SERIES)).with_row_index("order")
    return placed.with_columns(pl.col("along").round_sig_figs(6)), shares


def _sizes(frame: pl.DataFrame, style: Style) -> tuple[int, int, list[tuple[float, float]]]:
    """Width and height in pixels and the ends of both axes, such that a unit has one length on both."""
    spans = [(float(frame[name].min()), float(frame[name].max())) for name in ("along", "across")]  # type: ignore[arg-type]
    margin = _MARGIN * max(high - low for low, high in spans) or 1.0
    lengths = [high - low + 2 * margin for low, high in spans]
    longest = style.width or style.height or _SIZE
    sides = [max(_SHORTEST, round(longest * length / max(lengths))) for length in lengths]
    unit = max(lengths) / longest
    middles = [(low + high) / 2 for low, high in spans]
    domains = [
        (middle - side * unit / 2, middle + side * unit / 2) for middle, side in zip(middles, sides, strict=True)
    ]
    return sides[0], sides[1], domains


def _scale(domain: tuple[float, float]) -> alt.Scale:
    return alt.Scale(domain=list(domain), nice=False, zero=False)


def _title(component: int, shares: dict[int, tuple[float, float]]) -> str:
    share, error = shares[component]
    spread = f" ± {196 * error:.1g}" if error > 0 else ""
    return f"component {component}: {100 * share:.3g}{spread} % of the variance"


def _layers(
    frame: pl.DataFrame, axes: tuple[alt.X, alt.Y], shade: alt.Color | None, *, several: bool
) -> alt.LayerChart:
    along, across = axes
    base = alt.Chart(inline(frame)).encode(x=along, y=across)
    chosen = alt.selection_point(
        name=f"picked_{_SERIES}", fields=[_SERIES], bind="legend", on="click", clear="dblclick"
    )
    line = base.mark_line(strokeWidth=1.2, color=QUIET).encode(
        order=alt.Order("order", type="quantitative"), detail=alt.Detail(_SERIES, type="nominal")
    )
    dots = base.mark_point(filled=True, size=34, opacity=1).encode(
        tooltip=tooltips(frame, along="first coordinate", across="second coordinate")
    )
    if several:
        line = line.encode(color=shade, opacity=faded(chosen, full=0.7)).add_params(chosen)
        dots = dots.encode(opacity=faded(chosen))
    dots = dots.encode(color=shade) if shade is not None else dots
    ends = frame.group_by(_SERIES, maintain_order=True)
    ring = alt.Chart(inline(ends.first())).encode(x=along, y=across)
    ring = ring.mark_point(fill="white", stroke=INK, size=60, strokeWidth=1.5, opacity=1)
    return alt.LayerChart(layer=[line, dots, ring, *_names(ends.last(), axes)])


def _names(last: pl.DataFrame, axes: tuple[alt.X, alt.Y]) -> list[alt.Chart]:
    """The step at each path's end, on the side where there is room, with a white rim."""
    low, high = axes[0]["scale"]["domain"]
    known = last.filter(pl.col("step").is_not_null())
    words = known["step"].map_elements(lambda step: f"step {step:,}", return_dtype=pl.String)
    named, marks = known.with_columns(words.alias("named")), []
    for left in (True, False):
        part = named.filter((pl.col("along") < (low + high) / 2) == left)
        base = alt.Chart(inline(part)).encode(x=axes[0], y=axes[1], text=alt.Text("named", type="nominal"))
        look: dict[str, Any] = {"align": "left" if left else "right", "dx": 8 if left else -8, "dy": 12, "fontSize": 11}
        rim = base.mark_text(**look, stroke="white", strokeWidth=4, strokeJoin="round")
        marks += [rim, base.mark_text(**look, color=INK)] if part.height else []
    return marks
