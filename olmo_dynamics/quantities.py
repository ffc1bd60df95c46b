"""Every number we measure, declared once, in `quantities.toml`.

A recorder names the quantity it measured, the store writes its units and formula into the array's attributes, frames and
plots take their titles from it, and the glossary in the docs is printed from it.

    >>> from olmo_dynamics.quantities import find
    >>> find("parameters/rms").formula
    'sqrt(sum(x**2) / n)'

Letters in formulas: x an element, n the number of elements (of tokens: N), d the width of the residual stream, T the
positions of a sequence, V the vocabulary, E the experts of a layer, k of which a token is sent to. Activation quantities
whose name ends in `_without_first` leave out position 0 of every sequence, where attention sinks and massive activations
sit.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

from olmo_dynamics.names import Cost, Quantity

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""Levels of every `quantile` axis (linear interpolation between order statistics, NumPy's default)."""

TOKEN_QUANTILES = (0.05, 0.5, 0.95)
"""Levels of the `token_quantile` axis."""

THRESHOLDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0)
"""Levels of the `threshold` axis: magnitudes in activation units. 6.0 is LLM.int8's."""

RMS_THRESHOLDS = (3.0, 6.0, 12.0, 24.0, 48.0)
"""Levels of the `rms_threshold` axis: magnitudes in units of the token's own RMS over features."""

MASSIVE_RANKS = 8
"""How many of the largest activations of a layer are kept, with their coordinates."""

WITHOUT_FIRST = "_without_first"
"""How the name ends of a quantity that leaves out position 0 of every window."""

BASE_AXES: dict[str, tuple[str, ...]] = {
    "parameters": ("tensor",),
    "embeddings": ("embedding",),
    "activations": ("site", "layer"),
    "outliers": (),
    "logits": (),
    "loss": ("domain",),
    "tokens": ("sequence", "position"),
    "routing": ("layer",),
}
"""The axes of a group's own table, beside revision; a quantity has these unless its declaration says others."""

GROUPS: tuple[str, ...] = tuple(BASE_AXES)
"""The store's groups of measured numbers; `collect --record` takes these names."""

PARAMETER_GROUPS = ("parameters", "embeddings")
"""The groups that need no forward pass."""


_DOCUMENT: dict[str, Any] = tomllib.loads(
    files("olmo_dynamics").joinpath("quantities.toml").read_text(encoding="utf-8")
)


def _declared() -> Iterator[Quantity]:
    for group, axes in BASE_AXES.items():
        for name, fields in _DOCUMENT[group].items():
            quantity = _quantity(name, group, {"axes": axes, **fields})
            yield quantity
            if fields.get("without_first"):
                yield _without_first(quantity)


def _quantity(name: str, group: str, fields: dict[str, Any]) -> Quantity:
    return Quantity(
        name,
        group,
        long_name=fields["long_name"],
        axes=tuple(fields["axes"]),
        formula=fields["formula"],
        source=fields["source"],
        unit=fields.get("unit", "1"),
        symbol=fields.get("symbol", ""),
        cost=Cost.PARAMETERS if group in PARAMETER_GROUPS else Cost.FORWARD,
        valid=tuple(fields.get("valid", (-math.inf, math.inf))),
        dtype=fields.get("dtype", "float64"),
        note=fields.get("note", ""),
    )


def _without_first(quantity: Quantity) -> Quantity:
    return replace(
        quantity,
        name=quantity.name + WITHOUT_FIRST,
        long_name=quantity.long_name + " (without first position)",
        formula=quantity.formula + ", position 0 left out",
    )


ALL: tuple[Quantity, ...] = tuple(_declared())
"""Every quantity that a store holds."""

TRAINING: tuple[Quantity, ...] = tuple(
    _quantity(name, "training", {"axes": (), **fields}) for name, fields in _DOCUMENT["training"].items()
)
"""What is known of each update while a run trains: columns of its `metrics.parquet`."""

_BY_KEY = {quantity.key: quantity for quantity in ALL}


def find(key: str) -> Quantity:
    """The quantity called `group/name`; KeyError if there is none."""
    return _BY_KEY[key]


def find_training(name: str) -> Quantity:
    """The quantity of that name among what is known of each update; KeyError if there is none."""
    return {quantity.name: quantity for quantity in TRAINING}[name]


def of_group(group: str) -> tuple[Quantity, ...]:
    """The quantities of one group, in declared order."""
    return tuple(quantity for quantity in ALL if quantity.group == group)
