"""The sketches of many revisions, of one store or of several, as one array.

>>> stack = Stack.of({"run": open_store("run.zarr"), "fork": open_store("fork.zarr")})  # doctest: +SKIP
>>> stack.values.shape, stack.leading.columns[:2]  # doctest: +SKIP
((48, 47, 1024), ['run', 'revision'])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from olmo_dynamics.errors import OptionError, counted
from olmo_dynamics.frames.grid import Grid
from olmo_dynamics.frames.weights.estimates import PerTensor
from olmo_dynamics.frames.weights.sketched import SKETCHES, Sketches, require_store
from olmo_dynamics.frames.weights.weight_groups import By, Groups
from olmo_dynamics.store import Store

Stores = Store | Sequence[Store] | Mapping[str, Store]
"""One store, or several, whose names tell their rows apart."""

RUN = "run"


@dataclass(frozen=True)
class Stack:
    """The sketches of all tensors that every revision has in one size and that hold no NaN or Inf.

    `leading` has one row per revision: of several stores, the store's name as `run`, then the leading columns.
    """

    leading: pl.DataFrame
    labels: pl.DataFrame
    values: Float[np.ndarray, "revision tensor component"]
    spread: PerTensor

    @classmethod
    def of(cls, stores: Stores, *, least: int = 2) -> Stack:
        """Read the sketches of stores.

        Raises:
            OptionError: a store has no sketches, they cannot be compared, there are fewer than `least` revisions, or no
                tensor that all of them share.
        """
        named = named_stores(stores)
        held = {name: Sketches(store) for name, store in named.items()}
        first, *others = held.values()
        for other in others:
            first.check_comparable(other)
        leading = {name: _leading(each) for name, each in held.items()}
        rows = sum(map(len, leading.values()))
        if rows < least:
            raise OptionError(f"{told_paths(named)} must hold sketches of at least {least} revisions (got {rows})")
        read = [held[name].placed(each, first.tensors) for name, table in leading.items() for each in table["revision"]]
        values, counts = np.stack([each.values for each in read]), read[0].counts
        same = np.all([each.counts == counts for each in read], axis=0) & (counts >= 0)
        kept = same & np.isfinite(values).all(axis=(0, 2))
        if not kept.any():
            raise OptionError(f"{told_paths(named)} must share tensors of one name and size; compare other stores")
        column = [pl.lit(name).alias(RUN) for name in held]
        tables = [
            table.select(*([run] if others else []), pl.all())
            for run, table in zip(column, leading.values(), strict=True)
        ]
        return cls(pl.concat(tables), first.labels.filter(kept), values[:, kept], read[0].spread[kept])

    def groups(self, by: By) -> Iterator[tuple[str, np.ndarray]]:
        """The name of each group, and by tensor, whether it belongs to it; tensors without a layer are in none."""
        groups = Groups.of(self.labels, by)
        for place in range(groups.count):
            name = "all" if by == "all" else groups.labels[by][place]
            if name is not None:
                yield str(name), groups.places == place


def require_group(by: str) -> None:
    """Check that revisions can be compared by these groups of tensors.

    Raises:
        OptionError: they cannot.
    """
    if by not in ("all", "layer", "role"):
        raise OptionError(f"by must be all, layer or role (got {by!r})")


def named_stores(stores: Stores) -> dict[str, Store]:
    """Stores by name: of a list, the names of their folders, or the whole paths where two are the same.

    Raises:
        OptionError: none is given, one is given twice, or something else than a store.
    """
    if isinstance(stores, Store):
        return {"": stores}
    if isinstance(stores, Mapping):
        named = dict(stores)
    else:
        for each in [stores] if isinstance(stores, str | Path) else stores:
            require_store(each)
        names = [each.path.stem if each.path.stem != "store" else each.path.resolve().parent.name for each in stores]
        alike = len(set(names)) < len(names)
        named = {str(each.path) if alike else name: each for name, each in zip(names, stores, strict=True)}
        if len(named) < len(names):
            raise OptionError(f"stores must be given once each (got {', '.join(str(each.path) for each in stores)})")
    if not named:
        raise OptionError("at least one store must be given (got none)")
    return named


def _leading(sketches: Sketches) -> pl.DataFrame:
    store = sketches.store
    names = [name for name in store.done if SKETCHES in store.recorded(name)]
    return Grid(store).leading.filter(pl.col("revision").is_in(names))


def told_paths(named: Mapping[str, Store]) -> str:
    """The path of a single store, or the number of stores."""
    return str(next(iter(named.values())).path) if len(named) == 1 else counted(len(named), "store")
