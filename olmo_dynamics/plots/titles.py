"""Words on a picture: titles, axis titles and tooltips, all taken from the quantity that is shown.

>>> from olmo_dynamics.quantities import find
>>> axis_title(find("loss/cross_entropy"))
'cross-entropy (nat/token)'
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace

import altair as alt
import polars as pl

from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.table import XS, inline
from olmo_dynamics.plots.table import labels as label_columns
from olmo_dynamics.plots.theme import Definition
from olmo_dynamics.quantities import known, known_groups
from olmo_dynamics.quantities.declaration import Quantity

X_TITLES = {"step": "step", "tokens": "tokens seen", "position_step": "step, counted through all stages",
            "position_tokens": "tokens seen, counted through all stages"}  # fmt: skip
"""Titles of the time axis."""

_NOTICE = 130  # letters in a line
_OWN = re.compile(r"(weight|activation|gradient) unit")

NUMBER = ".4~g"
"""The format of a measured number in a tooltip: four digits, no trailing zeros."""

_GROUP_OF_COLUMN = {"tensor": "parameters", "site": "activations", "embedding": "embeddings", "domain": "loss"}
"""The built-in group of a table, by a column that only its tables have."""

THINGS = {"parameters": " of weights", "activations": " of activations"}
"""The things that a group measures, where the names of its quantities leave them open."""


def quantity_of(frame: pl.DataFrame, column: str) -> Quantity:
    """The declared quantity that a column holds; a plain one, without unit or formula, for a column that nobody declared.

    Where several groups declare the name, the frame's other columns decide: those that only one built-in table has, then
    the base axes of each group, of which the frame must have all.
    """
    named = [found for found in known() if found.name == column]
    group = next((group for name, group in _GROUP_OF_COLUMN.items() if name in frame.columns), None)
    matches = [found for found in named if group in (None, found.group)]
    if len(matches) != 1:
        matches = _fitting(frame, named)
    plain = column.replace("_", " ")
    if len(matches) != 1:
        return Quantity(column, "", plain, (), "", "", unit="")
    return matches[0] if matches[0].long_name else replace(matches[0], long_name=plain)


def _fitting(frame: pl.DataFrame, quantities: list[Quantity]) -> list[Quantity]:
    """The quantities whose groups have the most base axes among those whose base axes are all columns of the frame."""
    groups = known_groups()
    axes = [groups[each.group].axes if each.group in groups else None for each in quantities]
    counts = [len(each) if each is not None and set(each) <= set(frame.columns) else -1 for each in axes]
    most = max(counts, default=-1)
    return [each for each, count in zip(quantities, counts, strict=True) if count == most >= 0]


def axis_title(quantity: Quantity, *, short: bool = False) -> str:
    """Name and unit, as an axis or legend prints them; `short` prefers the symbol, for a small panel, if it has no index.

    Numbers without a unit, and the units of weights, activations and gradients, which nothing else is measured in, are left out.
    """
    name = quantity.symbol if short and quantity.symbol and "_" not in quantity.symbol else quantity.long_name
    return f"{name} ({quantity.unit})" if quantity.unit not in ("", "1") and not _OWN.search(quantity.unit) else name


def definition(quantity: Quantity) -> Definition:
    """The quantity's symbol and formula, for a subtitle."""
    words = f"{quantity.symbol or quantity.long_name} = {quantity.formula}." if quantity.formula else ""
    return Definition(words)


def heading(frame: pl.DataFrame, quantity: Quantity, by: str = "") -> str:
    """A title: the measure, the things measured, and the column that tells the series apart."""
    single = [name for name in ("role", "site", "embedding") if name in frame.columns and frame[name].n_unique() == 1]
    where = f" ({', '.join(str(frame[name][0]) for name in single)})" if single else ""
    return quantity.long_name[:1].upper() + quantity.long_name[1:] + THINGS.get(quantity.group, "") + where + by


def tooltips(frame: pl.DataFrame, **numbers: str) -> list[alt.Tooltip]:
    """The tooltip of a mark: revision, position in training, labels, then numbers by their titles."""
    labels = ("revision", LINE, "band", *label_columns())
    names = [name for name in labels if name in frame.columns and name not in numbers]
    told = [alt.Tooltip(name, type="nominal", title=name.replace("_", " ")) for name in names]
    known = [name for name in XS if frame[name].is_not_null().any()]
    times = [alt.Tooltip(name, type="quantitative", title=X_TITLES[name], format=",d") for name in known]
    values = [alt.Tooltip(name, type="quantitative", title=title, format=NUMBER) for name, title in numbers.items()]
    return [*told[:1], *times, *told[1:], *values]


def notice(title: str, text: str) -> alt.Chart:
    """Words in the place of a chart, such as the reason why there is none."""
    lines = textwrap.wrap(text, _NOTICE) or [""]
    rows = pl.DataFrame({"text": ["\n".join(lines)]})
    words = alt.Chart(inline(rows)).mark_text(align="left", baseline="top", lineBreak="\n", fontSize=12)
    chart = words.encode(x=alt.value(0), y=alt.value(0), text=alt.Text("text", type="nominal"))
    named: alt.Chart = chart.properties(
        title=alt.TitleParams(text=title, anchor="start"), width=900, height=16 * len(lines)
    )
    bare: alt.Chart = named.configure_view(stroke=None)
    return bare
