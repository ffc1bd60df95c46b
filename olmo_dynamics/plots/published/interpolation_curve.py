"""The loss along the line between the weights of two revisions, with the chord and the barrier.

>>> import olmo_dynamics as od
>>> curve = od.interpolate("cache/demo/run", "step94-tokens96256", "step400-tokens409600")  # doctest: +SKIP
>>> od.plots.interpolation(curve)  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.landscape.interpolated import ALL_TOKENS, barriers
from olmo_dynamics.plots.axes import ValueAxis, value_axis
from olmo_dynamics.plots.line_labels import end_labels, padded_domain
from olmo_dynamics.plots.selections import faded
from olmo_dynamics.plots.table import inline, require
from olmo_dynamics.plots.theme import CATEGORIES, INK, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import NUMBER, axis_title
from olmo_dynamics.quantities import find
from olmo_dynamics.quantities.declaration import Quantity

_WIDTH, _HEIGHT = 520, 340
_SERIES, _CHORD = "series", "chord"
_TITLE = "share of the way between the weights"
_HUES = tuple(hue for hue in CATEGORIES if hue != "#000000")  # ink is that of all tokens
_DRAWN = ("cross_entropy", "bits_per_byte")
_FEW = 4  # barriers in a subtitle


def interpolation(frame: pl.DataFrame, y: str = "cross_entropy", *, style: Style = PLAIN) -> AnyChart:
    """Lines of the loss along the way from one revision's weights to another's; dashed chords join the ends.

    Of one pair of revisions, each domain has a line and the mean over all tokens a thick one. Of several pairs, whose tables are
    stacked, each has a line of that mean. The horizontal axis is the share a of (1 - a) θ₁ + a θ₂, not time: draw `barrier` of
    `frames.barriers` against the step of a fork for that. The subtitle gives the barrier of the mean, max E - (E₁ + E₂) / 2, and
    that over the chord.

    Args:
        frame: the table of `od.interpolate`, or several stacked.
        y: `cross_entropy` or `bits_per_byte`.
        style: the look; `x_scale` has no meaning here.

    Raises:
        OptionError: a column is missing, an end has no loss, or there is nothing to draw.
    """
    require(frame, "start", "end", "share", "domain", "scored_tokens", *_DRAWN)
    if y not in _DRAWN:
        raise OptionError(f"y must be {' or '.join(_DRAWN)} (got {y!r})")
    known = frame.drop_nulls(y)
    if known.is_empty():
        raise OptionError(f"the table must hold values of {y!r} to draw (got none)")
    found = barriers(known, y)
    shown = _series(known)
    quantity = find(f"loss/{y}")
    value = value_axis(shown, y, quantity, scale="linear" if style.scale == "auto" else style.scale)
    width, height = style.width or _WIDTH, style.height or _HEIGHT
    chart = _layers(shown, value, axis_title(quantity), height).properties(width=width, height=height)
    tokens = int(known["scored_tokens"].to_numpy().max())
    lines = [
        "E(θ(a)) with θ(a) = (1 - a) θ₁ + a θ₂. Dashed: the chord between both ends.",
        _told(found.filter(pl.col("domain") == ALL_TOKENS), quantity),
        f"{known['share'].n_unique()} points, {tokens:,} scored tokens.",
    ]
    named = quantity.long_name[:1].upper() + quantity.long_name[1:]
    return finalize(chart, f"{named} between two revisions", lines, style)


def _series(frame: pl.DataFrame) -> pl.DataFrame:
    """The rows to draw, each with its series and the loss on the chord."""
    several = frame.select("start", "end").n_unique() > 1
    name = pl.format("{} → {}", "start", "end") if several else pl.col("domain")
    kept = frame.filter(pl.col("domain") == ALL_TOKENS) if several else frame
    if kept.is_empty():
        raise OptionError(f"the table must hold rows of the domain {ALL_TOKENS!r} to compare several pairs (got none)")
    return kept.with_columns(name.alias(_SERIES)).sort(_SERIES, "share", maintain_order=True)


def _layers(shown: pl.DataFrame, value: ValueAxis, title: str, height: int) -> alt.LayerChart:
    ends = padded_domain(value)
    names = shown[_SERIES].unique(maintain_order=True).to_list()
    hues = [INK if name == ALL_TOKENS else _HUES[place % len(_HUES)] for place, name in enumerate(names)]
    chosen = alt.selection_point(name="picked_series", fields=[_SERIES], on="click", clear="dblclick")
    look = {
        "color": alt.Color(_SERIES, type="nominal", scale=alt.Scale(domain=names, range=hues), legend=None),
        "opacity": faded(chosen),
    }
    axis = alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], grid=False, format=".2~f")
    at = alt.X("share", type="quantitative", title=_TITLE, scale=alt.Scale(domain=[0, 1]), axis=axis)
    base = alt.Chart(inline(shown)).encode(x=at, y=value.channel(domain=ends), **look)
    thick = alt.when(alt.datum[_SERIES] == ALL_TOKENS).then(alt.value(3.5)).otherwise(alt.value(1.6))
    told = [
        alt.Tooltip(_SERIES, type="nominal", title="line"),
        alt.Tooltip("share", type="quantitative", title="share of the way", format=NUMBER),
        alt.Tooltip(value.field, type="quantitative", title=title, format=NUMBER),
    ]
    chords = shown.filter(pl.col("share").is_in([0.0, 1.0])).rename({value.field: _CHORD})
    on_chord = replace(value, field=_CHORD).channel(domain=ends)
    chord = alt.Chart(inline(chords)).encode(x=at, y=on_chord, **look).mark_line(strokeDash=[5, 4], strokeWidth=1)
    labels = end_labels(shown, _SERIES, value, height=height, x="share")
    labels = labels.encode(x=alt.value(alt.ExprRef("width + 8")), **look)
    line = base.mark_line().encode(size=thick).add_params(chosen)
    return alt.LayerChart(layer=[line, base.mark_point(filled=True, size=22).encode(tooltip=told), chord, labels])


def _told(found: pl.DataFrame, quantity: Quantity) -> str:
    """The barriers in words, those of the largest few where there are many."""
    rows = found.sort("barrier", descending=True, maintain_order=True).head(_FEW).iter_rows(named=True)
    words = [
        f"{row['start']} → {row['end']}: {row['barrier']:.3g}, {row['chord_barrier']:.3g} over the chord"
        for row in rows
    ]
    more = f", and {found.height - _FEW} lower ones" if found.height > _FEW else ""
    return f"Barrier ({quantity.unit}): {'; '.join(words)}{more}."
