"""The controls of an explored picture: what can be chosen, and what is.

A choice is a mapping of names of menus to texts, as a form sends it; whatever cannot be chosen gives the default, so a choice
stays good when another quantity is looked at.

>>> table = pl.DataFrame({"revision": ["a", "a"], "layer": [0, 1], "role": ["q_proj", "q_proj"], "rms": [1.0, 2.0]})
>>> [(menu.name, menu.value) for menu in label_menus(table, "rms", {"layer": "1"})]
[('layer', '1')]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import polars as pl

from olmo_dynamics.plots.explorer.overview import free_labels
from olmo_dynamics.plots.lines import LINE
from olmo_dynamics.plots.table import XS, in_order
from olmo_dynamics.plots.theme import XScale, YScale

ALL = "all"
"""The choice of every value of a label."""

SMOOTHINGS = ("0", "0.3", "0.6", "0.8", "0.9", "0.95", "0.99")
_ACROSS = ("run", "recipe", "seed")  # labels of joined runs
_MOST_OPTIONS = 512
_STEERED = ("layer", "head", "expert")
"""Labels of which all values can be seen at once, the first of them that is free."""


@dataclass(frozen=True)
class Menu:
    """One control: its name, the texts that can be chosen, and the chosen one."""

    name: str
    options: tuple[str, ...]
    value: str

    @classmethod
    def of(cls, name: str, options: Sequence[str], asked: Mapping[str, str], default: str = "") -> Menu:
        """A menu with what was asked for chosen, or the default (the first option) if that is not among the options."""
        value = asked.get(name, default)
        return cls(name, tuple(options), value if value in options else default or options[0])


def label_menus(frame: pl.DataFrame, value: str, asked: Mapping[str, str]) -> list[Menu]:
    """The menus of a table's labels, narrowed one after another, so that at most one label keeps several values.

    All layers can be seen at once, or one layer with all its heads. Names such as roles and sites come first.
    """
    menus: list[Menu] = []
    rest = frame
    for name in _ordered(rest, value):
        if name not in rest.columns or rest[name].n_unique() < 2:
            continue
        options = _options(rest, name)
        whole = name in (LINE, *_STEERED[:1], _spread(rest, value, asked))
        menu = Menu.of(name, [ALL, *options] if whole else options, asked)
        menus.append(menu)
        rest = narrowed(rest, [menu])
    return menus


def drawing_menus(asked: Mapping[str, str]) -> list[Menu]:
    """The menus of how to draw: the time axis, the scales, smoothing."""
    return [
        Menu.of("x", XS, asked),
        Menu.of("x scale", get_args(XScale), asked),
        Menu.of("scale", get_args(YScale), asked),
        Menu.of("smoothing", SMOOTHINGS, asked),
    ]


def narrowed(frame: pl.DataFrame, menus: Sequence[Menu]) -> pl.DataFrame:
    """The rows that menus of labels leave."""
    given = constraints(frame, menus)
    return frame.filter(**given) if given else frame


def constraints(frame: pl.DataFrame, menus: Sequence[Menu]) -> dict[str, Any]:
    """The chosen values of labels, as the columns hold them; without those of which all are shown."""
    found: dict[str, Any] = {}
    for menu in menus:
        if menu.value != ALL:
            values = {str(each): each for each in frame[menu.name].drop_nulls().unique()}
            found[menu.name] = values[menu.value]
    return found


def _ordered(frame: pl.DataFrame, value: str) -> list[str]:
    """Runs and lines of training, then labels that cannot all be seen at once, then those that can."""
    several = [name for name in free_labels(frame, value) if frame[name].n_unique() <= _MOST_OPTIONS]
    named = [name for name in several if name not in _STEERED]
    across = [name for name in (*_ACROSS, LINE) if name in frame.columns]
    return [*across, *named, *(name for name in _STEERED if name in several)]


def _spread(frame: pl.DataFrame, value: str, asked: Mapping[str, str]) -> str | None:
    """The label of which all values may be shown: the first steered one that no choice fixes, or else the last."""
    several = free_labels(frame, value)
    steered = [name for name in _STEERED if name in several]
    open_ones = [name for name in steered if asked.get(name, ALL) == ALL]
    if steered:
        return (open_ones or steered)[0]
    return several[-1] if several else None


def _options(frame: pl.DataFrame, name: str) -> list[str]:
    if frame[name].dtype.is_numeric():
        return [str(each) for each in sorted(frame[name].drop_nulls().unique())]
    return in_order(frame, name)
