"""A run and its forks on one axis, from the step they have in common.

>>> import olmo_dynamics as od
>>> forest = od.forest("cache/demo/run", "forks/anneal", "forks/hot")  # doctest: +SKIP
>>> od.plots.branches(forest.metrics(), "loss")  # doctest: +SKIP
>>> od.plots.branches(forest.table("activations").filter(site="residual_out"), "rms")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.axes import ValueAxis, time_axis, value_axis
from olmo_dynamics.plots.line_labels import end_labels, padded_domain
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.panels import small_multiples
from olmo_dynamics.plots.selections import faded, pick, zoom, zoomed
from olmo_dynamics.plots.table import Rows, drawable, inline, labels, require
from olmo_dynamics.plots.theme import CATEGORIES, INK, PLAIN, QUIET, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, heading, quantity_of, tooltips

_WIDE, _PANEL = (600, 360), (190, 150)
"""Width and height in pixels of a single picture, and of one panel among several."""

_BEFORE, _AFTER = 0.2, 0.4
"""The time drawn before the first fork and after the last one, as shares of the time between them."""

_DOTS = 40  # steps of a run; where there are more, dots would hide the lines
_HUES = tuple(hue for hue in CATEGORIES if hue != "#000000")  # ink is the parent's
_PANELS = "panel"  # the column of panels' names
_FORKED = "datum.step == datum.forked_at"


def branches(frame: pl.DataFrame, y: str, *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """Lines of the column `y` against step or tokens, one per run: the first parent in ink, its forks in colours.

    Takes a table of a forest: `run`, `parent`, `forked_at`, and one value per run and step. The picture runs from shortly
    before the first fork to shortly after the last fork's end. A dashed line and a ring mark each fork, and runs are
    named at their ends. If `layer`, `site`, `role` or `domain` has several values, each gets a panel, and a legend names
    the runs.

    Raises:
        OptionError: a column is missing, a step has several values, or there is nothing, or too much, to draw.
    """
    rows = _shown(frame, y, x, style.facet)
    facet = style.facet if style.facet is not None else _first_several(rows)
    rows = _by_run(rows, facet, y)
    if facet:
        words = pl.format(f"{facet} {{}}", facet) if rows.frame[facet].dtype.is_numeric() else pl.col(facet)
        rows = Rows(rows.frame.with_columns(words.alias(_PANELS)), rows.left_out, rows.x)
    width, height = _PANEL if facet else _WIDE
    width, height = style.width or width, style.height or height
    quantity = quantity_of(frame, y)
    value = value_axis(rows.frame, y, quantity, scale=style.scale, panels=_PANELS if facet else "")
    time = time_axis(rows.frame, rows.x, width=width, style=style).channel(seen=zoomed(rows.x))
    chosen = pick("run", panels=True) if facet else alt.selection_point(
        name="picked_run", fields=["run"], on="click", clear="dblclick"
    )  # fmt: skip
    look = {"color": _color(rows, named=bool(facet)), "opacity": faded(chosen)}
    data = inline(rows.frame)
    layers = _lines(rows, data, value, time, look=look, free=bool(facet))
    layers[0] = layers[0].add_params(chosen, zoom())
    if not facet:
        layers += _names(rows, value, time, look=look, height=height)
    chart = alt.LayerChart(layer=[*layers, *_forks(data, value, time, labelled=not facet)])
    chart = chart.properties(width=width, height=height)
    whole = small_multiples(chart, rows, _PANELS, columns=style.columns) if facet else chart
    title = heading(rows.frame, quantity, " of a run and its forks")
    return finalize(whole, title, [definition(quantity), _subtitle(rows)], style)


def _shown(frame: pl.DataFrame, y: str, x: str, facet: str | None) -> Rows:
    """The rows to draw: all runs around the time of the forks, a longer parent up to its first row beyond."""
    require(frame, "run", "parent", "forked_at", "step", x)
    if "revision" not in frame.columns:
        frame = frame.with_columns(pl.format("{}, step {}", "run", "step").alias("revision"))
    forks = frame.filter(pl.col("parent").is_in(frame["run"].unique().to_list()))
    starts = forks.filter(pl.col("step") == pl.col("forked_at"))[x].drop_nulls().to_list()
    if starts:
        first, last = min(starts), max(forks[x].drop_nulls().to_list())
        beyond = pl.col(x).filter(pl.col(x) >= last + _AFTER * (last - first)).min().over("run")
        frame = frame.filter(pl.col(x) >= first - _BEFORE * (last - first), (pl.col(x) <= beyond).fill_null(True))
    return drawable(frame, y, x=x, also=[name for name in ("run", "parent", "forked_at", facet) if name])


def _first_several(rows: Rows) -> str | None:
    return next((name for name in ("layer", "site", "role", "domain") if rows.has_several(name)), None)


def _by_run(rows: Rows, facet: str | None, y: str) -> Rows:
    """The rows without their line of training, unless a run has several of them at one time."""
    keys = ["run", rows.x, *([facet] if facet else [])]
    if LINE in rows.frame.columns and not rows.frame.select(keys).is_duplicated().any():
        return Rows(rows.frame.drop(LINE), rows.left_out, rows.x)
    keys += [LINE] if LINE in rows.frame.columns else []
    if rows.frame.select(keys).n_unique() < rows.frame.height:
        apart = [name for name in labels() if name != facet and rows.has_several(name)] or ["no column"]
        raise OptionError(
            f"branches() needs one value of {y!r} per run and step (got several, which differ in {', '.join(apart)}); "
            "filter the table"
        )
    return rows


def _color(rows: Rows, *, named: bool) -> alt.Color:
    """Ink for runs whose parent is not drawn, a colour for each fork, and a legend if lines are not named."""
    runs = rows.frame.unique("run", keep="first", maintain_order=True)
    drawn, hues = set(runs["run"]), iter(_HUES * runs.height)
    shades = [next(hues) if parent in drawn else INK for parent in runs["parent"]]
    legend = alt.Legend(symbolType="stroke", symbolOpacity=1) if named else None
    scale = alt.Scale(domain=runs["run"].to_list(), range=shades)
    return alt.Color("run", type="nominal", title="run", scale=scale, legend=legend)


def _lines(
    rows: Rows, data: alt.InlineData, value: ValueAxis, time: alt.X, *, look: dict[str, Any], free: bool
) -> list[alt.Chart]:
    y = value.channel() if free else value.channel(domain=padded_domain(value))
    base = alt.Chart(data).encode(x=time, y=y, **look)
    tooltip = tooltips(rows.frame, **{value.field: axis_title(quantity_of(rows.frame, value.field))})
    crowded = rows.frame["step"].n_unique() > _DOTS
    dots = base.mark_point(filled=True, size=14).encode(tooltip=tooltip)
    if crowded:  # invisible dots keep their tooltips
        dots = dots.encode(opacity=alt.value(0))
    # A parent is thick, so that it shows beneath a fork that has the same values.
    thick = alt.when("datum.parent === null").then(alt.value(3.0)).otherwise(alt.value(1.5))
    detail = [alt.Detail(name, type="nominal") for name in ("run", LINE) if name in rows.frame.columns]
    return [base.mark_line().encode(detail=detail, size=thick), dots]


def _names(rows: Rows, value: ValueAxis, time: alt.X, *, look: dict[str, Any], height: int) -> list[alt.Chart]:
    """Each run's name at its line's end, with a white rim for where it crosses another line."""
    names = end_labels(rows.frame, "run", value, height=height, x=rows.x, aligned=False).encode(x=time)
    words: dict[str, Any] = {"align": "left", "fontSize": 12, "dx": 7, "clip": False}
    rim = names.mark_text(**words, stroke="white", strokeWidth=4, strokeJoin="round")
    return [rim, names.mark_text(**words, cursor="pointer").encode(**look)]


def _forks(data: alt.InlineData, value: ValueAxis, time: alt.X, *, labelled: bool) -> list[alt.Chart]:
    """A dashed line where forks begin, a ring on the value they begin with, and the step in words if `labelled`."""
    base = alt.Chart(data).transform_filter(_FORKED).encode(x=time)
    rule = base.mark_rule(color=QUIET, strokeDash=[4, 4])
    ring = base.mark_point(fill="white", stroke=INK, size=50, strokeWidth=1.5, opacity=1).encode(y=value.channel())
    if not labelled:
        return [rule, ring]
    words = base.transform_aggregate(groupby=[time.shorthand, "forked_at"]).mark_text(
        align="left", baseline="top", dx=5, color=QUIET, fontSize=11
    )
    text = words.encode(y=alt.value(0), text=alt.Text("label", type="nominal"))
    return [rule, text.transform_calculate(label="'fork at step ' + format(datum.forked_at, ',d')"), ring]


def _subtitle(rows: Rows) -> str:
    runs, steps = rows.frame["run"].n_unique(), rows.frame["step"].to_numpy()
    words = f"{runs} run{'s' if runs > 1 else ''}, step {int(steps.min()):,} to {int(steps.max()):,}"
    return "; ".join(part for part in (words, rows.left_out) if part) + "."
