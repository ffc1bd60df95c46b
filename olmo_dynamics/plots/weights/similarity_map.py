"""A map of every revision against every other: the cosine, the angle or the distance of their weights.

>>> import olmo_dynamics as od
>>> od.plots.weight_similarity(od.pairwise(od.open_store("run.zarr")))  # doctest: +SKIP
"""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.colors import magnitude_color
from olmo_dynamics.plots.table import drawable, inline, require
from olmo_dynamics.plots.theme import PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, tooltips
from olmo_dynamics.plots.weights.weight_quantities import PAIRED
from olmo_dynamics.quantities.declaration import Quantity

_SIZE, _LABEL = 440, 15  # pixels: the map's side, and the least from one label to the next
_MOST = 120  # places whose cells can still be told apart


def weight_similarity(frame: pl.DataFrame, value: str = "cosine", *, x: str = "step", style: Style = PLAIN) -> AnyChart:
    """A square map of `cosine`, `angle` or `distance` between revisions, in training order, the earliest at the top left.

    Takes a table of `od.pairwise` of one group. Cells have one size, whatever the time between revisions; the labels are
    steps (or tokens), with the run or line of training where there are several.

    Raises:
        OptionError: a column is missing, there are several groups, or there is nothing, or too much, to draw.
    """
    if value not in ("cosine", "angle", "distance"):
        raise OptionError(f"value must be cosine, angle or distance (got {value!r})")
    require(frame, "other_revision", "other_step", value, f"{value}_se")
    if "group" in frame.columns and frame["group"].n_unique() > 1:
        raise OptionError(f"weight_similarity() needs one group (got {frame['group'].n_unique()}); filter the table")
    named = frame.with_columns(
        place_name(frame, "", x).alias("one"), place_name(frame, "other_", x).alias("other"),
        pl.col(f"{value}_se").round_sig_figs(3).alias("se"),
    )  # fmt: skip
    title = f"{value.capitalize()} between the weights of revisions"
    return square_map(named, PAIRED[value], title=title, axis=x, style=style)


def square_map(
    named: pl.DataFrame,
    quantity: Quantity,
    *,
    title: str,
    axis: str,
    style: Style,
    things: str = "revisions",
    domain: tuple[float, float] | None = None,
) -> AnyChart:
    """A square map of the pairs of a table that names them `one` and `other`, with their standard error as `se`.

    Places stand in the order of the table. `axis` is the title of both axes, where names have one part alone; `domain` the values
    at the ends of the colours, unless those are of the table.

    Raises:
        OptionError: there is nothing, or too much, to draw.
    """
    value = quantity.name
    rows = drawable(named, value, x=None, also=["one", "other", "se"])
    order = rows.frame["one"].unique(maintain_order=True).to_list()
    if len(order) > _MOST:
        raise OptionError(f"a map can have at most {_MOST} {things} a side (got {len(order)}); choose fewer")
    side = style.width or _SIZE
    shown = order[:: math.ceil(len(order) * _LABEL / side)]
    ticks = alt.Axis(values=shown, tickSize=0, labelAngle=0)
    color = magnitude_color(rows.frame, value, quantity, scale=style.scale if style.scale != "auto" else "linear")
    color = color if domain is None else color.scale(scheme="viridis", domain=domain)
    several = any("\n" in name or " · " in name for name in order)
    chart = alt.Chart(inline(rows.frame), width=side, height=side).mark_rect().encode(
        x=alt.X("other", type="nominal", title=None if several else axis, sort=order,
                axis=alt.Axis(values=shown, tickSize=0, labelAngle=-60, labelOverlap=False)),
        y=alt.Y("one", type="nominal", title=None if several else axis, sort=order, axis=ticks),
        color=color,
        tooltip=[*tooltips(rows.frame, **{value: axis_title(quantity), "se": "standard error"}),
                 alt.Tooltip("other", type="nominal", title="other")],
    )  # fmt: skip
    worst = rows.frame["se"].max()
    error = (
        f"Standard errors are at most {worst:.2g}." if isinstance(worst, float) and worst > 0 else "Values are exact."
    )
    return finalize(chart, title, [definition(quantity), f"{rows.subtitle} {error}"], style)


def place_name(frame: pl.DataFrame, prefix: str, x: str) -> pl.Expr:
    """The label of a revision: its step or tokens, after its run and line where there are several."""
    time = pl.col(f"{prefix}{x}")
    short = (
        pl.when(time >= 10_000_000_000).then(pl.format("{}B", time // 1_000_000_000)).otherwise(time.cast(pl.String))
    )
    parts = [f"{prefix}{name}" for name in ("run", "line") if name in frame.columns and frame[name].n_unique() > 1]
    own = pl.coalesce(short, pl.col(f"{prefix}revision"))
    return pl.concat_str([*map(pl.col, parts), own], separator=" · ")
