"""One explored picture: its menus, its chart, and the three lines of Python that draw the same.

>>> view = look(Explored.at("cache/demo/store.zarr"), {"quantity": "parameters/rms"})  # doctest: +SKIP
>>> print(view.code)  # doctest: +SKIP
import olmo_dynamics as od
table = od.open_store('cache/demo/store.zarr').table('parameters').filter(role='embed_tokens')
od.plots.overview(table, 'rms')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from olmo_dynamics.errors import OptionError
from olmo_dynamics.plots.explorer.explored import Explored
from olmo_dynamics.plots.explorer.menus import Menu, constraints, drawing_menus, label_menus, narrowed
from olmo_dynamics.plots.explorer.overview import overview
from olmo_dynamics.plots.theme import AnyChart, Style
from olmo_dynamics.plots.titles import notice

_FIRST = ("loss/cross_entropy", "training/loss", "parameters/rms")
"""The quantities that are looked at first, the first of them that there is."""


@dataclass(frozen=True)
class ExploredView:
    """A picture that was asked for, with the menus that lead to others."""

    menus: tuple[Menu, ...]
    chart: AnyChart
    code: str

    @property
    def choice(self) -> dict[str, str]:
        """The chosen text of each menu."""
        return {menu.name: menu.value for menu in self.menus}

    def to_json(self) -> dict[str, Any]:
        """Menus, the chart in Vega-Lite, and the code, as plain values."""
        menus = [{"name": menu.name, "options": list(menu.options), "value": menu.value} for menu in self.menus]
        return {"menus": menus, "spec": self.chart.to_dict(validate=False), "code": self.code}


def look(explored: Explored, asked: Mapping[str, str]) -> ExploredView:
    """The picture of a choice; what is not asked for, or cannot be had, gets its default.

    A picture that cannot be drawn is a chart that says why.

    Raises:
        OptionError: there is nothing to explore yet.
    """
    known = list(explored.quantities)
    if not known:
        raise OptionError("a store must hold at least one measured revision to be explored (got none)")
    first = next((key for key in _FIRST if key in known), known[0])
    quantity = Menu.of("quantity", known, asked, first)
    key = quantity.value
    frame, column = explored.frame(key), key.partition("/")[2]
    labels = label_menus(frame, column, asked)
    drawing = {menu.name: menu.value for menu in drawing_menus(asked)}
    options = _options(drawing)
    try:
        chart = overview(narrowed(frame, labels), column, **options)
    except OptionError as error:
        chart = notice(f"{key} cannot be drawn", str(error))
    code = _code(explored.code(key), constraints(frame, labels), column, options)
    return ExploredView((quantity, *labels, *drawing_menus(asked)), chart, code)


def _options(drawing: Mapping[str, str]) -> dict[str, Any]:
    """The choices of how to draw, as `overview` takes them, without those left at their default."""
    scales = {"scale": drawing["scale"], "x_scale": drawing["x scale"]}
    given = {name: value for name, value in scales.items() if value != "auto"}
    found: dict[str, Any] = {} if drawing["x"] == "step" else {"x": drawing["x"]}
    if float(drawing["smoothing"]):
        found["smoothing"] = float(drawing["smoothing"])
    return found | ({"style": Style(**given)} if given else {})  # type: ignore[arg-type]


def _code(table: str, constraints: Mapping[str, Any], column: str, options: Mapping[str, Any]) -> str:
    """Three lines that draw the same picture."""
    rows = f".filter({_arguments(constraints)})" if constraints else ""
    words = {name: _style(value) if isinstance(value, Style) else repr(value) for name, value in options.items()}
    more = "".join(f", {name}={value}" for name, value in words.items())
    return f"import olmo_dynamics as od\ntable = {table}{rows}\nod.plots.overview(table, {column!r}{more})"


def _style(style: Style) -> str:
    given = {name: getattr(style, name) for name in ("scale", "x_scale")}
    return f"od.plots.Style({_arguments({name: value for name, value in given.items() if value != 'auto'})})"


def _arguments(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())
