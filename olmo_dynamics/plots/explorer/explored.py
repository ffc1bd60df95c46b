"""The numbers that can be explored: the quantities of a store, and the metrics that a run wrote while it trained.

>>> explored = Explored.at("cache/demo/store.zarr")  # doctest: +SKIP
>>> explored.frame("parameters/rms").columns  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import polars as pl

from olmo_dynamics.errors import OptionError, StoreError, did_you_mean
from olmo_dynamics.files import Place, as_place
from olmo_dynamics.frames import JoinedStore, RecordedStore, metrics, open_store
from olmo_dynamics.frames.curves import METRICS_FILE
from olmo_dynamics.frames.lineage import STORE
from olmo_dynamics.quantities import TRAINING
from olmo_dynamics.quantities.declaration import STATUS, Quantity
from olmo_dynamics.store.several.run_folder import RunFolder

_MOST_CELLS = 2_000_000
"""The most values of a quantity that are offered: its table is made each time one is chosen."""

_OF_SKETCHES = "component"
"""The end of the names of axes of sketches, whose values mean nothing one by one."""

_NOT_MEASURED = ("step", "tokens")


class Explored:
    """A store, the metrics of a run, or both."""

    def __init__(self, store: RecordedStore | None, folder: Path | None = None) -> None:
        self.store = store
        self.folder = folder

    @classmethod
    def at(cls, path: str | Place) -> Explored:
        """The store at a path, or in the folder of a run beside its metrics; of a folder that holds neither yet, nothing.

        Raises:
            StoreError: there is no such folder.
        """
        place = as_place(path)
        if not isinstance(place, Path):
            return cls(open_store(place))
        if not place.is_dir():
            raise StoreError(f"there is no store or run at {path}; give the folder that collect or fork writes")
        folder = place if (place / METRICS_FILE).is_file() else None
        candidates = [place / STORE] if folder else [place, place / STORE]
        found = next((each for each in candidates if _holds_store(each)), None)
        return cls(open_store(found) if found else None, folder)

    @cached_property
    def quantities(self) -> Mapping[str, Quantity]:
        """The quantities that can be drawn, by `group/name`; those of training first."""
        names = [name for name in self._metrics.columns if name.isidentifier() and name not in _NOT_MEASURED]
        training = {f"training/{name}": _training(name) for name in names}
        return training | {each.key: each for each in self._recorded()}

    def require(self, key: str) -> Quantity:
        """The quantity called `group/name`.

        Raises:
            OptionError: there is none that can be drawn.
        """
        if key not in self.quantities:
            known = list(self.quantities)
            raise OptionError(
                f"quantity must be one that the store holds, as group/name (got {key!r}){did_you_mean(key, known)}"
            )
        return self.quantities[key]

    def frame(self, key: str) -> pl.DataFrame:
        """The table that holds a quantity, in a column of its name."""
        if key.startswith("training/"):
            return self._metrics
        assert self.store is not None
        name = self._table_name(key)
        if name not in self._tables:
            self._tables[name] = self.store.table(name)
        return self._tables[name].rename(_renamed(name))

    def code(self, key: str) -> str:
        """The expression that gives the table, in Python."""
        if key.startswith("training/"):
            return f"od.metrics({str(self.folder)!r})"
        assert self.store is not None
        name = self._table_name(key)
        renamed = f".rename({_renamed(name)!r})" if _renamed(name) else ""
        return f"{_opening(self.store)}.table({name!r}){renamed}"

    @property
    def state(self) -> tuple[int, int, int]:
        """Revisions done and missing, and the updates made; another state, another picture."""
        done, missing = (len(self.store.done), len(self.store.missing)) if self.store else (0, 0)
        return done, missing, self._metrics.height

    @cached_property
    def _metrics(self) -> pl.DataFrame:
        return metrics(self.folder) if self.folder else pl.DataFrame()

    @cached_property
    def _tables(self) -> dict[str, pl.DataFrame]:
        return {}

    def _table_name(self, key: str) -> str:
        assert self.store is not None
        quantity = self.store.quantity(*key.split("/"))
        base = quantity.axes == self.store.group(quantity.group).axes
        return quantity.group if base else f"{quantity.group}.{quantity.name}"

    def _recorded(self) -> list[Quantity]:
        store = self.store
        if store is None or not store.done:
            return []
        every = [
            each for group in store.groups for each in store.group(group).quantities if not each.name.endswith(STATUS)
        ]
        revisions = len(store.done)
        return [
            each
            for each in every
            if not any(axis.endswith(_OF_SKETCHES) for axis in each.axes)
            and revisions * math.prod(len(store.axis(axis)) for axis in each.axes) <= _MOST_CELLS
        ]


def _renamed(table: str) -> dict[str, str]:
    """The new name of the values of a table that holds one quantity alone."""
    quantity = table.partition(".")[2]
    return {"value": quantity} if quantity else {}


def _holds_store(place: Path) -> bool:
    return (place / "zarr.json").is_file() or RunFolder(place).exists


def _training(name: str) -> Quantity:
    known = {each.name: each for each in TRAINING.quantities}
    return known.get(name) or Quantity(name, "training", long_name=name.replace("_", " "))


def _opening(store: RecordedStore) -> str:
    """The expression that opens a store; of several joined ones, that joins them."""
    if isinstance(store, JoinedStore) and not store.path.exists():
        paths = {run.name: str(run.store.path) for run in store.runs}
        return f"od.join({paths!r})"
    return f"od.open_store({str(store.path)!r})"
