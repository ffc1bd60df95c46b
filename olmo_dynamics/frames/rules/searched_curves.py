"""The training curves that are searched for spikes: those given, or that of the run's own folder.

>>> searched_curves(open_store("olmo2-1b.zarr"), od.read_logs("metrics.jsonl"))  # doctest: +SKIP
[('', shape: (80, 8) …)]
"""

from __future__ import annotations

import polars as pl

from olmo_dynamics.checkpoints.identity import COMPARED_BYTES
from olmo_dynamics.errors import OlmoDynamicsError, OptionError
from olmo_dynamics.frames.curves import metrics
from olmo_dynamics.frames.joining.joined_store import JoinedStore
from olmo_dynamics.frames.lineage import run_folder
from olmo_dynamics.frames.logs.training_logs import TrainingLogs
from olmo_dynamics.frames.recorded import RecordedStore

Curve = tuple[str, pl.DataFrame]
"""A run's name, empty where there is one run alone, and its rows."""


def searched_curves(
    store: RecordedStore, given: pl.DataFrame | TrainingLogs | None, *, most_bytes: int | None = None
) -> list[Curve]:
    """The curves of a store's runs, each with one row per logged step.

    Args:
        store: a store of one run, or of several.
        given: a table with `step`, and `run` where it is of several; or logs. Logs that name runs are searched for the store's,
            which they name as its source does, or by the last part of that.
        most_bytes: the most bytes of checkpoints to read to recognise the run's folder, where nothing is given.

    Raises:
        OptionError: the logs name runs, and none is the store's.
    """
    if given is None:
        own = _own(store, COMPARED_BYTES if most_bytes is None else most_bytes)
        return [] if own is None else [("", own)]
    table = given.table if isinstance(given, TrainingLogs) else given
    if "run" not in table.columns or table["run"].is_null().all():
        return [("", table)]
    parts = {str(part["run"][0]): part for part in table.partition_by("run", maintain_order=True)}
    if not isinstance(given, TrainingLogs):
        return _named(parts)
    known = {each for source in _sources(store) for each in (source, source.rstrip("/").rsplit("/", 1)[-1])}
    mine = {run: part for run, part in parts.items() if run in known}
    if not mine:
        raise OptionError(
            f"the logs must be of {' or '.join(_sources(store))} (got {', '.join(parts)}); give read_logs() run="
            f"{_sources(store)[0]!r}"
        )
    return _named(mine)


def _named(parts: dict[str, pl.DataFrame]) -> list[Curve]:
    return [("" if len(parts) == 1 else run, part) for run, part in parts.items()]


def _sources(store: RecordedStore) -> list[str]:
    """The sources and names of a store's runs."""
    if isinstance(store, JoinedStore):
        return list(dict.fromkeys(name for run in store.runs for name in (run.name, run.source)))
    return [str(store.attributes["source"])]


def _own(store: RecordedStore, most_bytes: int) -> pl.DataFrame | None:
    """The training curve of the store's run, where its folder is found."""
    if isinstance(store, JoinedStore):
        return None
    try:
        folder = run_folder(store, most=most_bytes)
        return None if folder is None else metrics(folder)
    except (OlmoDynamicsError, OSError):
        return None
