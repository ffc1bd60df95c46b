"""One run among several: its store, and its name, recipe, size, seed and family.

>>> [run.name for run in joined_runs([("", open_store("a.zarr")), ("", open_store("b.zarr"))], {})]  # doctest: +SKIP
['allenai/DataDecide-c4-300M', 'allenai/DataDecide-dclm-baseline-300M']
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.checkpoints.catalog.run_labels import run_labels
from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.frames.grid import exists
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.names import RUN
from olmo_dynamics.quantities.declaration import Quantity, Status

_SETTABLE = ("recipe", "size", "seed", "family")


@dataclass(frozen=True)
class JoinedRun:
    """A run of a joined store; `seed` is that of its name, and empty where it tells none."""

    name: str
    store: RecordedStore
    recipe: str
    size: str
    seed: str
    family: str

    def joined(self, revision: str) -> str:
        """The name of a revision among those of several runs."""
        return f"{self.name}@{revision}"

    @property
    def source(self) -> str:
        """The source that its store names."""
        return str(self.store.attributes["source"])

    @property
    def described(self) -> dict[str, Any]:
        """The run as the root attribute `runs` has it."""
        held = self.store.attributes
        labels = {name: getattr(self, name) for name in _SETTABLE}
        return {name: held[name] for name in ("source", "model_type", "model_config")} | labels

    def facts(self, *, planned: bool) -> dict[str, np.ndarray]:
        """The group `revisions`, with the columns that tell runs apart."""
        columns = dict(self.store.arrays("revisions", planned=planned))
        names = columns["revision"].tolist()
        columns["revision"] = np.array([self.joined(name) for name in names], dtype=np.str_)
        lines = (f"/{line}" if line != RUN else "" for line in columns["line"].tolist())
        columns["line"] = np.array([f"{self.name}{line}" for line in lines], dtype=np.str_)
        columns["seed"] = np.array([seed or self.seed for seed in columns["seed"].tolist()], dtype=np.str_)
        labels = {"run": self.name, "recipe": self.recipe, "size": self.size, "family": self.family}
        return columns | {name: np.array([labels[name]] * len(names), dtype=np.str_) for name in labels}

    def status(self, quantity: Quantity, *, planned: bool) -> np.ndarray:
        """The status of a group that declares none: measured where some quantity of its base axes has a value."""
        group = self.store.group(quantity.group)
        held = [each.name for each in group.quantities if each.axes == group.axes]
        found = [exists(self.store.array(group.name, name, planned=planned)) for name in held]
        shape = (len(self.store.done) + planned * len(self.store.missing), *map(len, map(self.store.axis, group.axes)))
        there = np.logical_or.reduce(found) if found else np.ones(shape, dtype=bool)
        return np.where(there, np.uint8(Status.MEASURED), np.uint8(Status.NOT_MEASURED))


def joined_runs(
    stores: Sequence[tuple[str, RecordedStore]], labels: Mapping[str, Mapping[str, str]]
) -> list[JoinedRun]:
    """Stores with the names of their runs, made from the source where none is given, and the labels that these tell.

    Raises:
        OptionError: two stores hold the same revision of one run, or labels name no run, or no such label.
    """
    names = _told_apart([store.attributes["source"] for name, store in stores if not name])
    runs = [_run(name or names[store.attributes["source"]], store) for name, store in stores]
    for name, given in labels.items():
        if name not in {run.name for run in runs}:
            known = [run.name for run in runs]
            raise OptionError(f"labels must name a run of these stores (got {name!r}){did_you_mean(name, known)}")
        for label in given:
            if label not in _SETTABLE:
                raise OptionError(f"labels of a run are {', '.join(_SETTABLE)} (got {label!r})")
    changes: dict[str, dict[str, Any]] = {name: dict(given) for name, given in labels.items()}
    found = [replace(run, **changes.get(run.name, {})) for run in runs]
    _require_once([run.joined(name) for run in found for name in (*run.store.done, *run.store.missing)])
    return found


def _run(name: str, store: RecordedStore) -> JoinedRun:
    told = run_labels(name)
    return JoinedRun(name, store, told.recipe, told.size, told.seed or "", str(store.attributes["model_type"]))


def _require_once(revisions: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in revisions:
        if name in seen:
            raise OptionError(f"joined stores must hold different revisions (got {name} twice); name their runs apart")
        seen.add(name)


def _told_apart(sources: Iterable[str]) -> dict[str, str]:
    """Names of sources: a repo's id, and as many of the last parts of a path as make it unique among them."""
    found = {}
    paths = {source: Path(source).parts for source in dict.fromkeys(sources)}
    for source, parts in paths.items():
        is_repo = len(parts) == 2 and not source.startswith((".", "~", "/"))
        counts = range(2 if is_repo else 1, len(parts) + 1)
        alone = (n for n in counts if [each[-n:] for each in paths.values()].count(parts[-n:]) == 1)
        found[source] = source if "://" in source else "/".join(parts[-next(alone, len(parts)) :])
    return found
