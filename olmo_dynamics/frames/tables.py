"""Every table of a store, by name.

- `revisions`: one row per revision.
- a group (`parameters`, `activations`, `loss`, …): one row per measured cell of its base axes, one column per quantity.
- `group.quantity` (`parameters.element_quantile`, `activations.feature_rms`, …): quantities on other axes, one row per value.
- `outliers.massive`: the largest activations with their coordinates.

    >>> table(store, "parameters").filter(role="q_proj").select("step", "layer", "rms")  # doctest: +SKIP

Rows are sorted by stage, ingredient and step. A cell that was not measured has no row; `status` is `non-finite` where the
weights or activations hold NaN or Inf, `degenerate` where a ratio's denominator is zero, and `excluded` where the published
bytes are not this revision's: such a row has no numbers. A layer outside the blocks
is null. The store itself declares its groups and quantities, so tables of a user's own group need no code of theirs.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import Grid, exists, numbers, revisions_table, status_words
from olmo_dynamics.quantities import remember
from olmo_dynamics.quantities.declaration import STATUS, Quantity, Status
from olmo_dynamics.store import Store

MASSIVE = "outliers.massive"
_WITHOUT_ROW = (Status.NOT_MEASURED, Status.ABSENT)
_MASSIVE_COLUMNS = ("value", "sequence", "position", "token_id", "feature")


def table_names(store: Store) -> tuple[str, ...]:
    """The tables of a store."""
    further = [
        f"{group}.{quantity.name}"
        for group in store.groups
        for quantity in store.quantities(group)
        if quantity.axes != store.group(group).axes and quantity.name != STATUS
    ]
    massive = [MASSIVE] if _has(store, "outliers", *(f"massive_{name}" for name in _MASSIVE_COLUMNS)) else []
    return ("revisions", *store.groups, *further, *massive)


def table(store: Store, name: str) -> pl.DataFrame:
    """One table of a store.

    Raises:
        OptionError: the store has no such table; the message names those it has.
    """
    known = table_names(store)
    if name not in known:
        raise OptionError(f"{store.path} has no table {name}; it has {', '.join(known)}{did_you_mean(name, known)}")
    if name == "revisions":
        return revisions_table(store).drop("row")
    group, _, quantity = name.partition(".")
    remember(store.group(group))
    grid = Grid(store)
    if name == MASSIVE:
        return _massive(grid)
    if name == "tokens" and _has(store, "tokens", "token_cross_entropy"):
        return _tokens(grid)
    return _further(grid, store.quantity(group, quantity)) if quantity else _group(grid, group)


def _has(store: Store, group: str, *quantities: str) -> bool:
    return group in store.groups and all(name in store.group(group) for name in quantities)


def _group(grid: Grid, group: str) -> pl.DataFrame:
    """The quantities on the group's base axes, one column each."""
    axes = grid.store.group(group).axes
    status = grid.status(group, axes)
    kept = ~np.isin(status, _WITHOUT_ROW)
    return grid.rows(axes, kept).with_columns(status_words(status[kept]), *_on_base_axes(grid, group, kept))


def _on_base_axes(grid: Grid, group: str, kept: np.ndarray) -> list[pl.Series]:
    axes = grid.store.group(group).axes
    names = [each.name for each in grid.store.quantities(group) if each.axes == axes and each.name != STATUS]
    return [numbers(name, grid.array(group, name)[kept]) for name in names]


def _further(grid: Grid, quantity: Quantity) -> pl.DataFrame:
    """One quantity, one row per value. A value that does not exist (a norm over no row) has no row."""
    values = grid.array(quantity.group, quantity.name)
    status = grid.status(quantity.group, quantity.axes)
    kept = (status == Status.NONFINITE) | (exists(values) & ~np.isin(status, _WITHOUT_ROW))
    return grid.rows(quantity.axes, kept).with_columns(status_words(status[kept]), numbers("value", values[kept]))


def _massive(grid: Grid) -> pl.DataFrame:
    arrays = {name: grid.array("outliers", f"massive_{name}") for name in _MASSIVE_COLUMNS}
    kept = ~np.isnan(arrays["value"])
    measured = (numbers(name, values[kept]) for name, values in arrays.items())
    return grid.rows(("layer", "rank"), kept).with_columns(*measured)


def _tokens(grid: Grid) -> pl.DataFrame:
    """The loss of every scored token of the probe, with the token."""
    probe, axes = grid.store.probe(), grid.store.group("tokens").axes
    status = grid.status("tokens", axes)
    scored = probe["mask"] & (np.arange(status.shape[2]) > 0)
    kept = ~np.isin(status, _WITHOUT_ROW) & scored
    ids = np.broadcast_to(probe["token_id"], status.shape)
    return grid.rows(axes, kept).with_columns(
        numbers("token_id", ids[kept]), status_words(status[kept]), *_on_base_axes(grid, "tokens", kept)
    )
