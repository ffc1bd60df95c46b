"""Every table of a store, by name.

- `revisions`: one row a revision.
- a group (`parameters`, `activations`, `loss`, …): one row a measured cell of its base axes, a column a quantity.
- `group.quantity` (`parameters.element_quantile`, `activations.feature_rms`, …): quantities on further axes, one row a value.
- `outliers.massive`: the largest activations with their coordinates.

    >>> table(store, "parameters").filter(role="q_proj").select("step", "layer", "rms")  # doctest: +SKIP

Rows come by stage, ingredient and step. What was not measured has no row; `status` says `non-finite` where the weights or
activations hold NaN or Inf, and `degenerate` where a ratio's denominator is zero. A layer outside the blocks is null.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.grid import Grid, numbers, revisions_table, status_words
from olmo_dynamics.names import Quantity, Status
from olmo_dynamics.quantities import BASE_AXES, find
from olmo_dynamics.store import Store

MASSIVE = "outliers.massive"


def table_names(store: Store) -> tuple[str, ...]:
    """The tables a store has."""
    further = [
        f"{group}.{quantity.name}"
        for group in store.groups
        for quantity in store.layout.quantities(group)
        if quantity.axes != BASE_AXES[group] and quantity.name != "status"
    ]
    massive = [MASSIVE] if "outliers" in store.groups else []
    return ("revisions", *store.groups, *further, *massive)


def table(store: Store, name: str) -> pl.DataFrame:
    """One table of a store.

    Raises:
        OptionError: the store has no such table; those it has are named.
    """
    known = table_names(store)
    if name not in known:
        raise OptionError(f"{store.path} has no table {name}; it has {', '.join(known)}")
    if name == "revisions":
        return revisions_table(store).drop("row")
    grid = Grid(store)
    if name == MASSIVE:
        return _massive(grid)
    if name == "tokens":
        return _tokens(grid)
    return _further(grid, find(name.replace(".", "/"))) if "." in name else _group(grid, name)


def _group(grid: Grid, group: str) -> pl.DataFrame:
    """The quantities on the group's base axes, one column each."""
    axes = BASE_AXES[group]
    status = grid.status(group, axes)
    kept = status != Status.NOT_MEASURED
    names = [each.name for each in grid.store.layout.quantities(group) if each.axes == axes and each.name != "status"]
    return grid.rows(axes, kept).with_columns(
        status_words(status[kept]), *(numbers(name, grid.array(group, name)[kept]) for name in names)
    )


def _further(grid: Grid, quantity: Quantity) -> pl.DataFrame:
    """One quantity, one row a value. A value that does not exist (a norm no row stands for) has no row."""
    values = grid.array(quantity.group, quantity.name)
    status = grid.status(quantity.group, quantity.axes)
    exists = ~np.isnan(values) if values.dtype.kind == "f" else values != -1
    kept = (status == Status.NONFINITE) | (exists & (status != Status.NOT_MEASURED))
    return grid.rows(quantity.axes, kept).with_columns(status_words(status[kept]), numbers("value", values[kept]))


def _massive(grid: Grid) -> pl.DataFrame:
    columns = ("value", "sequence", "position", "token_id", "feature")
    arrays = {name: grid.array("outliers", f"massive_{name}") for name in columns}
    kept = ~np.isnan(arrays["value"])
    measured = (numbers(name, values[kept]) for name, values in arrays.items())
    return grid.rows(("layer", "rank"), kept).with_columns(*measured)


def _tokens(grid: Grid) -> pl.DataFrame:
    """The loss of every scored token of the probe, with the token."""
    axes = BASE_AXES["tokens"]
    status = grid.status("tokens", axes)
    values = grid.array("tokens", "token_cross_entropy")
    scored = grid.store.probe()["mask"] & (np.arange(values.shape[2]) > 0)
    kept = (status != Status.NOT_MEASURED) & scored
    ids = np.broadcast_to(grid.store.probe()["token_id"], values.shape)
    return grid.rows(axes, kept).with_columns(
        numbers("token_id", ids[kept]), status_words(status[kept]), numbers("token_cross_entropy", values[kept])
    )
