"""A store as notebooks and terminals show it: groups, revisions done and missing, sizes, the probe.

Each quantity tells its unit and formula when it is pointed at.

>>> open_store("run.zarr")._repr_html_()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from olmo_dynamics.errors import counted
from olmo_dynamics.quantities.amounts import human_bytes
from olmo_dynamics.quantities.as_html import Cell, Html, as_text, hovers, shown, table
from olmo_dynamics.quantities.declaration import STATUS, Group, Quantity
from olmo_dynamics.store import Store

_FEW = 3  # names of revisions that are shown
_HEADER = ("group", "axes", "size", "quantities (point at one for its unit)", "")


def store_html(store: Store) -> Html:
    """A store as HTML: facts, then one row per group with its quantities, their units and formulas on hover."""
    sizes = store.sizes()
    return shown(_title(store), _facts(store, sizes), _groups(store, sizes))


def store_text(store: Store) -> str:
    """A store as lines of text."""
    sizes = store.sizes()
    groups = {
        f"group {name}": f"{len(_measured(store.group(name)))} quantities by {_axes(store.group(name))}, "
        f"{human_bytes(sizes.get(name, 0))}"
        for name in store.groups
    }
    return as_text(_title(store), _facts(store, sizes) | groups)


def _title(store: Store) -> str:
    return f"Store {store.path}"


def _facts(store: Store, sizes: dict[str, int]) -> dict[str, str]:
    attributes = store.attributes
    facts = {
        "source": str(attributes["source"]),
        "model": f"{attributes['model_type']}, measured in {attributes['compute_dtype']}",
        "done": _some(sorted(store.done)),
        "missing": _some(store.missing),
        "size": human_bytes(sum(sizes.values())),
        "probe": _probe(attributes.get("probe") or {}),
    }
    return facts | ({"runs": ", ".join(attributes["runs"])} if attributes.get("runs") else {})


def _groups(store: Store, sizes: dict[str, int]) -> Html:
    """The groups as a table; a quantity tells its unit when it is pointed at."""
    rows: list[list[Cell]] = []
    for name in store.groups:
        group, lacking = store.group(name), len(store.lacking(name))
        quantities = hovers({each.name: each.described for each in _measured(group)})
        missing = f"missing for {counted(lacking, 'revision')}" if lacking else ""
        rows.append([(name, group.introduction), _axes(group), human_bytes(sizes.get(name, 0)), quantities, missing])
    return table(_HEADER, rows)


def _measured(group: Group) -> list[Quantity]:
    return [each for each in group.quantities if each.name != STATUS]


def _axes(group: Group) -> str:
    return ", ".join(("revision", *group.axes))


def _some(names: Collection[str]) -> str:
    if not names:
        return "none"
    few = list(names)[:_FEW]
    return f"{counted(len(names), 'revision')}: {', '.join(few)}{', …' if len(names) > _FEW else ''}"


def _probe(probe: dict[str, Any]) -> str:
    if not probe:
        return "none"
    sequences, positions = probe["shape"]
    return f"{probe['tokens']:,} tokens in {sequences} windows of {positions} ({', '.join(probe['domains'])})"
