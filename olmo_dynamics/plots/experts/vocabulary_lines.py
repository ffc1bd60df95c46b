"""Specialisation of experts in token ids, by layer and by expert: how far an id decides its expert.

>>> import olmo_dynamics as od
>>> shares = od.open_store("olmoe.zarr").table("routing.vocabulary_specialisation")  # doctest: +SKIP
>>> od.plots.vocabulary_specialisation(shares.filter(revision="main"))  # doctest: +SKIP
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.table import Rows, drawable, inline, require
from olmo_dynamics.plots.theme import CATEGORIES, PLAIN, AnyChart, Style, finalize
from olmo_dynamics.plots.titles import axis_title, definition, tooltips
from olmo_dynamics.quantities import find

_WIDE, _OF_EXPERTS = (520, 300), (900, 300)
_MOST_EXPERTS = 128
_DASH = [5, 4]
_NAMES = {"input": "input token", "predicted": "predicted next token", "true": "true next token"}
_COLORS = dict(zip(_NAMES.values(), (CATEGORIES[4], CATEGORIES[5], CATEGORIES[0]), strict=True))
_KIND = "token counted"


def vocabulary_specialisation(frame: pl.DataFrame, *, style: Style = PLAIN) -> AnyChart:
    """Lines of the mean share of an id's occurrences that go to its most frequent expert, by kind of id; OLMoE's figure.

    The axis is the layer. A table with the column `expert`, which must be of one layer, has dots for its experts and a dashed
    line at their mean. Takes the tables `routing.vocabulary_specialisation` and `routing.expert_vocabulary_specialisation`
    of one revision, or that of `olmo_dynamics.frames.vocabulary_specialisation`, whose column `value` is drawn.

    Raises:
        OptionError: a column is missing, there is nothing, or too much, to draw, there are several revisions or kinds that
            are unknown, or a table by expert has several layers.
    """
    of_experts = "expert" in frame.columns
    require(frame, "vocabulary", "layer", *(["expert"] if of_experts else []), "value")
    _check(frame, of_experts=of_experts)
    named = frame.with_columns(pl.col("vocabulary").replace_strict(_NAMES).alias(_KIND))
    rows = drawable(named, "value", x=None, also=[_KIND])
    axis = "expert" if of_experts else "layer"
    if of_experts and rows.frame["expert"].n_unique() > _MOST_EXPERTS:
        raise OptionError(f"at most {_MOST_EXPERTS} experts can be drawn (got {rows.frame['expert'].n_unique()})")
    width, height = _OF_EXPERTS if of_experts else _WIDE
    chart = _lines(rows, axis, width=style.width or width).properties(
        width=style.width or width, height=style.height or height
    )
    quantity = find(f"routing/{'expert_' if of_experts else ''}vocabulary_specialisation")
    where = f" of layer {frame['layer'][0]}" if of_experts else ""
    dashed = "Dashed: the mean over experts. " if of_experts else ""
    title = f"Specialisation in token ids by {axis}{where}"
    return finalize(chart, title, [definition(quantity), f"{dashed}{rows.subtitle}"], style)


def _check(frame: pl.DataFrame, *, of_experts: bool) -> None:
    for column in ("revision", *(["layer"] if of_experts else [])):
        count = frame[column].n_unique()
        if count > 1:
            raise OptionError(f"vocabulary_specialisation() needs exactly one {column} (got {count}); filter the table")
    unknown = sorted(set(frame["vocabulary"]) - set(_NAMES))
    if unknown:
        raise OptionError(f"vocabulary must be one of {', '.join(_NAMES)} (got {unknown[0]!r})")


def _lines(rows: Rows, axis: str, *, width: int) -> alt.LayerChart:
    """A line with dots for each kind of token id; of experts, which have no order, dots and a dashed mean."""
    kinds = [kind for kind in _COLORS if kind in set(rows.frame[_KIND])]
    scale = alt.Scale(domain=kinds, range=[_COLORS[kind] for kind in kinds])
    places = list(range(int(rows.frame[axis].to_numpy().max()) + 1))
    every = max(1, -(-len(places) * 20 // width))
    quantity = find("routing/vocabulary_specialisation")
    value = alt.Y("value", type="quantitative", title="share of an id's tokens", axis=alt.Axis(format="%"))
    color = alt.Color(
        _KIND,
        type="nominal",
        title=_KIND,
        scale=scale,
        legend=alt.Legend(symbolType="stroke" if axis == "layer" else "circle", orient="bottom"),
    )
    base = alt.Chart(inline(rows.frame)).encode(
        x=alt.X(axis, type="ordinal", title="layer (0 is shallowest)" if axis == "layer" else axis,
                scale=alt.Scale(domain=places), axis=alt.Axis(values=places[::every], tickSize=0, labelAngle=0)),
        y=value,
        color=color,
    )  # fmt: skip
    tooltip = tooltips(rows.frame, value=axis_title(quantity))
    dots = base.mark_point(filled=True, size=36, opacity=1).encode(tooltip=tooltip)
    if axis == "layer":
        return alt.LayerChart(layer=[base.mark_line(strokeWidth=2), dots])
    means = alt.Chart(inline(rows.frame)).mark_rule(strokeDash=_DASH).encode(
        y=alt.Y("value", type="quantitative", aggregate="mean"), color=color
    )  # fmt: skip
    return alt.LayerChart(layer=[dots, means])
