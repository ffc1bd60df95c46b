"""Declarations of quantities and groups, as attributes of a store's nodes, and read back from them.

Every array carries its whole declaration: name, dtype and axes as Zarr holds them, all else as attributes. Every group
carries its base axes, its introduction, and how it was measured. So a store needs no code to explain it.

    >>> from olmo_dynamics.quantities import find
    >>> quantity_attributes(find("loss/cross_entropy"))["units"]
    'nat/token'
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from olmo_dynamics import quantities
from olmo_dynamics.quantities.declaration import DTYPES, RESERVED_GROUPS, STATUS, Group, Quantity, Status
from olmo_dynamics.store.layout import RECORDED, RESERVED_ATTRIBUTES, REVISION

MARK = "mark"
"""The attribute that names an array's mark, where that is not `recorded`: the array was added to its group later."""

Nodes = Mapping[str, Any]
"""The `zarr.json` of every node of a store, by path."""


def quantity_attributes(quantity: Quantity) -> dict[str, Any]:
    """The attributes of a quantity's array: its declaration, less what Zarr itself holds."""
    attributes = describe(quantity.unit, quantity.long_name, quantity.formula, quantity.source)
    attributes |= {key: text for key, text in (("symbol", quantity.symbol), ("note", quantity.note)) if text}
    bounds = zip(("valid_min", "valid_max"), quantity.valid, strict=True)
    attributes |= {key: bound for key, bound in bounds if math.isfinite(bound)}
    if quantity.name == STATUS:
        attributes |= flags({status.value: status.name.lower() for status in Status})
    return attributes


def describe(unit: str, long_name: str, formula: str, source: str) -> dict[str, Any]:
    """The attributes that every array has."""
    return {"units": unit, "long_name": long_name, "formula": formula, "source": source}


def flags(meanings: Mapping[int, str]) -> dict[str, Any]:
    """The attributes that explain an array of codes, after the CF conventions."""
    return {"flag_values": list(meanings), "flag_meanings": " ".join(meanings.values())}


def group_attributes(group: Group, coordinates: Iterable[str]) -> dict[str, Any]:
    """The attributes of a group; `coordinates` tells xarray which arrays are labels rather than measurements."""
    ours = {
        "title": group.name.replace("_", " "),
        "axes": list(group.axes),
        "introduction": group.introduction,
        "coordinates": " ".join(coordinates),
    }
    return ours | dict(group.attributes)


def read_quantity(path: str, node: Mapping[str, Any]) -> Quantity:
    """The quantity that an array holds."""
    group, _, name = path.partition("/")
    attributes = node["attributes"]
    return Quantity(
        name,
        group,
        long_name=attributes.get("long_name", ""),
        axes=tuple(node["dimension_names"][1:]),
        formula=attributes.get("formula", ""),
        source=attributes.get("source", ""),
        unit=attributes.get("units", "1"),
        symbol=attributes.get("symbol", ""),
        valid=(attributes.get("valid_min", -math.inf), attributes.get("valid_max", math.inf)),
        dtype=node["data_type"],
        note=attributes.get("note", ""),
    )


def read_group(name: str, nodes: Nodes) -> Group:
    """A group with its quantities, as its own nodes declare them.

    Stores of version 0.1.0 hold neither base axes nor introduction. There, and only there, a group of a built-in name takes
    both from this package; any other takes the axes of its `status`, or none.
    """
    held = nodes[name]["attributes"]
    declared = tuple(read_quantity(f"{name}/{each}", nodes[f"{name}/{each}"]) for each in measured_names(nodes, name))
    axes, introduction = held.get("axes"), held.get("introduction", "")
    if axes is None:
        built_in = quantities.GROUPS.get(name)
        of_status = next((quantity.axes for quantity in declared if quantity.name == STATUS), ())
        axes = built_in.axes if built_in else of_status
        introduction = built_in.introduction if built_in else ""
    attributes = {
        key: value
        for key, value in held.items()
        if key not in RESERVED_ATTRIBUTES and isinstance(value, str | int | float)
    }
    return Group(name, tuple(axes), introduction, declared, attributes)


def measured_names(nodes: Nodes, group: str) -> list[str]:
    """The arrays of a group that hold a quantity, and not labels or marks.

    Those of a dtype that no quantity has here, which a later version may write, are passed over.
    """
    prefix = f"{group}/"
    labels = coordinate_names(nodes, group)
    found = {path.removeprefix(prefix): node for path, node in nodes.items() if path.startswith(prefix)}
    measured = [name for name, node in found.items() if name not in labels and node["dimension_names"] != [name]]
    return [name for name in measured if group in RESERVED_GROUPS or found[name]["data_type"] in DTYPES]


def coordinate_names(nodes: Nodes, group: str) -> list[str]:
    """The arrays of a group that label its axes, beside each axis's own."""
    return str(nodes.get(group, {}).get("attributes", {}).get("coordinates", "")).split()


def mark_of(path: str, nodes: Nodes) -> str:
    """The path of the array that tells which rows of a measured array are there."""
    return f"{path.partition('/')[0]}/{nodes[path]['attributes'].get(MARK, RECORDED)}"


def marks(nodes: Nodes, group: str) -> list[str]:
    """The paths of a group's marks: `recorded`, and one for the quantities of each later addition."""
    held = dict.fromkeys(mark_of(f"{group}/{name}", nodes) for name in measured_names(nodes, group))
    return list(held) or [f"{group}/{RECORDED}"]


def along_axes(nodes: Nodes, group: str) -> dict[str, str]:
    """The one-dimensional arrays of a group that do not grow, with the axis that each lies along."""
    prefix = f"{group}/"
    found = {
        path.removeprefix(prefix): node["dimension_names"] for path, node in nodes.items() if path.startswith(prefix)
    }
    return {name: axes[0] for name, axes in found.items() if len(axes) == 1 and axes != [REVISION]}
