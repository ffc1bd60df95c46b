"""Stores opened by their path: of one run, or of all runs of a folder as one.

>>> open_store("datadecide")  # doctest: +SKIP
JoinedStore(3 runs, 54 revisions; parameters, loss)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from olmo_dynamics.errors import OptionError, StoreError, counted
from olmo_dynamics.files import ObjectPath, Place
from olmo_dynamics.frames.joining.joined_run import joined_runs
from olmo_dynamics.frames.joining.joined_store import JoinedStore
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.store.several.run_folder import RunFolder, require_stores
from olmo_dynamics.store.store import Mode

Runs = Mapping[str, RecordedStore | str | Place] | Iterable[RecordedStore | str | Place]


def open_store(path: str | Place, *, mode: Mode = "r") -> RecordedStore:
    """Open a store, to read (`r`) or to append to as well (`a`); a folder of runs is read as one store of all of them.

    Raises:
        StoreError: there is no store, it is not one of ours, or a folder of runs is to be appended to.
        StoreMismatchError: the store has another layout version.
    """
    folder = RunFolder(path)
    if not folder.exists:
        return RecordedStore.open(folder.path, mode=mode)
    stores = require_stores(folder)
    if mode == "a":
        each = next(iter(stores.values()))
        raise StoreError(
            f"{path} holds the stores of {counted(len(stores), 'run')}, which are opened one by one, as {each}"
        )
    opened = [("", RecordedStore.open(each)) for each in stores.values()]
    return JoinedStore(joined_runs(opened, {}), folder.path)


def join(stores: Runs, *, labels: Mapping[str, Mapping[str, str]] | None = None) -> JoinedStore:
    """View several stores as one, with the tables, plots and report of a store; nothing is copied.

    A run is named by its source: a repo by its id, a folder by as many parts of its path as tell it apart. Recipe, size and
    seed are read from that name (`pythia-160m-seed3`), the family is the model type.

    Args:
        stores: stores or their paths, or a mapping of them by the names that their runs are to have.
        labels: by run, other values for `recipe`, `size`, `seed` or `family`.

    Raises:
        OptionError: no store is given, two hold the same revision of one run, or labels name no run.
        StoreError: a path holds no store.
    """
    named = isinstance(stores, Mapping)
    given = list(stores.items()) if isinstance(stores, Mapping) else [("", each) for each in _listed(stores)]
    if not given:
        raise OptionError("join() needs at least one store (got none)")
    opened: list[tuple[str, RecordedStore]] = []
    for name, each in given:
        store = each if isinstance(each, RecordedStore) else open_store(each)
        inner = [(run.name, run.store) for run in store.runs] if isinstance(store, JoinedStore) else [(name, store)]
        opened += [(name if named and len(inner) == 1 else told, held) for told, held in inner]
    return JoinedStore(joined_runs(opened, labels or {}))


def _listed(stores: Iterable[RecordedStore | str | Place]) -> list[RecordedStore | str | Place]:
    return [stores] if isinstance(stores, RecordedStore | str | Path | ObjectPath) else list(stores)
