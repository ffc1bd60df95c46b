"""Every number we measure, declared once: a TOML file per group.

A recorder names the quantity it measured, the store writes its declaration into the array's attributes, frames and plots
take their titles from it, and the glossary in the docs is printed from it. A file holds the group's `introduction`, its base
`axes`, and a table `[quantity.NAME]` for each quantity; keys left out take the default: the group's axes, unit "1", dtype
float64, any value valid. `without_first = true` declares a second quantity that leaves out position 0 of every window.

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
from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

from olmo_dynamics.quantities.declaration import GROUP_AXES, Group, Quantity

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""Levels of every `quantile` axis (linear interpolation between order statistics, NumPy's default)."""

TOKEN_QUANTILES = (0.05, 0.5, 0.95)
"""Levels of the `token_quantile` axis."""

THRESHOLDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0, 64.0, 128.0)
"""Levels of the `threshold` axis: magnitudes in activation units. 6.0 is LLM.int8's."""

RMS_THRESHOLDS = (3.0, 6.0, 12.0, 24.0, 48.0)
"""Levels of the `rms_threshold` axis: magnitudes in units of the token's own RMS over features."""

MASSIVE_RANKS = 8
"""The number of largest activations per layer that are kept, with their coordinates."""

WITHOUT_FIRST = "_without_first"
"""The end of the name of a quantity that leaves out position 0 of every window."""

_FILES = (
    "parameters",
    "embeddings",
    "activations",
    "outliers",
    "logits",
    "loss",
    "tokens",
    "routing",
    "experts",
    "sketches",
    "optimizer",
    "spectra",
    "head_spectra",
    "attention",
    "writes",
    "lens",
    "induction",
    "ngram",
    "representations",
    "gradients",
    "gradient_stream",
    "gradient_rows",
    "evaluation",
)


def _read(name: str) -> Group:
    document = tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    quantities = tuple(_quantities(document["quantity"]))
    return Group(name, tuple(document["axes"]), document["introduction"], quantities)


def _quantities(tables: dict[str, dict[str, Any]]) -> Iterator[Quantity]:
    for name, fields in tables.items():
        quantity = Quantity(
            name,
            long_name=fields["long_name"],
            axes=tuple(fields.get("axes", GROUP_AXES)),
            formula=fields["formula"],
            source=fields["source"],
            unit=fields.get("unit", "1"),
            symbol=fields.get("symbol", ""),
            valid=tuple(fields.get("valid", (-math.inf, math.inf))),
            dtype=fields.get("dtype", "float64"),
            note=fields.get("note", ""),
        )
        yield quantity
        if fields.get("without_first"):
            yield _without_first(quantity)


def _without_first(quantity: Quantity) -> Quantity:
    return replace(
        quantity,
        name=quantity.name + WITHOUT_FIRST,
        long_name=quantity.long_name + " (without first position)",
        formula=quantity.formula + ", position 0 left out",
    )


GROUPS: dict[str, Group] = {name: _read(name) for name in _FILES}
"""The groups that this package measures, by name, in the order in which a store holds them."""

ALL: tuple[Quantity, ...] = tuple(quantity for group in GROUPS.values() for quantity in group.quantities)
"""Every quantity of these groups."""

TRAINING: Group = _read("training")
"""The quantities of each update while a run trains: columns of its `metrics.parquet`."""

_BY_KEY = {quantity.key: quantity for quantity in ALL}


def find(key: str) -> Quantity:
    """The built-in quantity called `group/name`; KeyError if there is none."""
    return _BY_KEY[key]


def find_training(name: str) -> Quantity:
    """The quantity of that name among those known of each update; KeyError if there is none."""
    return {quantity.name: quantity for quantity in TRAINING.quantities}[name]


def in_order(groups: Iterable[str]) -> tuple[str, ...]:
    """Names of groups: the built-in ones in their order, then others as they come."""
    order = list(GROUPS)
    return tuple(sorted(groups, key=lambda name: order.index(name) if name in order else len(order)))


def of_group(group: str) -> tuple[Quantity, ...]:
    """The quantities of one built-in group, in declared order."""
    return GROUPS[group].quantities


_REMEMBERED: dict[str, Group] = {}


def remember(group: Group) -> None:
    """Keep a group's declaration for the rest of the process, so that pictures of its tables find their words.

    A table is a bare frame, which cannot carry declarations. `frames` remembers the groups of which it makes tables.
    """
    earlier = _REMEMBERED.get(group.name)
    others = earlier.quantities if earlier else ()
    kept = tuple(each for each in others if each.name not in group)
    _REMEMBERED[group.name] = replace(group, quantities=(*group.quantities, *kept))


def known() -> tuple[Quantity, ...]:
    """Every quantity of the built-in groups, of those remembered, and of training; a remembered one wins over a built-in.

    >>> remember(Group("silent", ("layer",), "", (Quantity("silent_share"),)))
    >>> [quantity.key for quantity in known() if quantity.name == "silent_share"], "silent" in known_groups()
    (['silent/silent_share'], True)
    """
    declared = {quantity.key: quantity for group in known_groups().values() for quantity in group.quantities}
    return (*({**_BY_KEY, **declared}).values(), *TRAINING.quantities)


def known_groups() -> dict[str, Group]:
    """The built-in groups and those remembered, by name; a remembered one wins over a built-in."""
    return {**GROUPS, **_REMEMBERED}


def known_axes() -> tuple[str, ...]:
    """The axes of every known group, without repeats: columns of tables that tell which series a row belongs to."""
    axes = (name for quantity in known() for name in quantity.axes)
    return tuple(dict.fromkeys(axes))
