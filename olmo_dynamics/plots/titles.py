"""Words on a picture: titles, axis titles and tooltips, all taken from the quantity that is shown.

>>> from olmo_dynamics.quantities import find
>>> axis_title(find("loss/cross_entropy"))
'cross-entropy (nat/token)'
"""

from __future__ import annotations

import altair as alt
import polars as pl

from olmo_dynamics.names import Quantity
from olmo_dynamics.plots.rows import LABELS, XS
from olmo_dynamics.quantities import ALL, TRAINING

X_TITLES = {"step": "step", "tokens": "tokens seen"}
"""What the time axis is called."""

NUMBER = ".4~g"
"""How a tooltip prints a measured number: four digits, no trailing zeros."""

_GROUP_OF_COLUMN = {"tensor": "parameters", "site": "activations", "embedding": "embeddings", "domain": "loss"}
"""The column that tells which group a table came from."""

_THINGS = {"parameters": " of weights", "activations": " of activations"}
"""What the quantities of a group are of, where their names leave it open."""


def quantity_of(frame: pl.DataFrame, column: str) -> Quantity:
    """The declared quantity a column holds; a plain one, without unit or formula, for a column of the user's own."""
    group = next((group for name, group in _GROUP_OF_COLUMN.items() if name in frame.columns), None)
    matches = [found for found in (*ALL, *TRAINING) if found.name == column and group in (None, found.group)]
    return matches[0] if len(matches) == 1 else Quantity(column, "", column.replace("_", " "), (), "", "", unit="")


def axis_title(quantity: Quantity, *, short: bool = False) -> str:
    """Name and unit, as an axis or legend prints them; `short` prefers the symbol, for a small panel."""
    name = quantity.symbol if short and quantity.symbol else quantity.long_name
    unit = {"1": "dimensionless"}.get(quantity.unit, quantity.unit)
    return f"{name} ({unit})" if unit else name


def definition(quantity: Quantity) -> str:
    """The quantity's symbol and formula, for a subtitle."""
    return f"{quantity.symbol or quantity.long_name} = {quantity.formula}." if quantity.formula else ""


def heading(frame: pl.DataFrame, quantity: Quantity, by: str = "") -> str:
    """A title: what is measured, of what, and what tells the series apart."""
    single = [name for name in ("role", "site", "embedding") if name in frame.columns and frame[name].n_unique() == 1]
    where = f" ({', '.join(str(frame[name][0]) for name in single)})" if single else ""
    return quantity.long_name[:1].upper() + quantity.long_name[1:] + _THINGS.get(quantity.group, "") + where + by


def tooltips(frame: pl.DataFrame, **numbers: str) -> list[alt.Tooltip]:
    """What a reader sees on pointing at a mark: revision, position in training, labels, then numbers by their titles."""
    names = [name for name in ("revision", "branch", "band", *LABELS) if name in frame.columns and name not in numbers]
    told = [alt.Tooltip(name, type="nominal", title=name.replace("_", " ")) for name in names]
    times = [alt.Tooltip(name, type="quantitative", title=X_TITLES[name], format=",d") for name in XS]
    values = [alt.Tooltip(name, type="quantitative", title=title, format=NUMBER) for name, title in numbers.items()]
    return [*told[:1], *times, *told[1:], *values]
