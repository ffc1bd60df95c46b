"""A forest of runs: the parent, first step and overrides of each fork, and their metrics as one table.

    >>> found = forest("olmo-demo/run", "forks/anneal", "forks/hot")                            # doctest: +SKIP
    >>> found.runs                                                                              # doctest: +SKIP
    >>> od.plots.branches(found.metrics(), "loss")                                              # doctest: +SKIP

Only the first `lineage.json` in a run's folder is read. A parent is recognised by its path or, if it was moved, by the hash
of the weights from which the fork began.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.curves import METRICS_FILE, metrics
from olmo_dynamics.frames.recorded import RecordedStore, open_store

STORE = "store.zarr"
"""The default name of a run's store, in its folder or next to it."""

_NO_CHANGE = frozenset({"save", "keep", "workers", "tokenizer", "parent_loss", "accept_loss_jump"})
"""Options of a fork without effect on the weights."""


@dataclass(frozen=True)
class Line:
    """One run written by this package: its folder, its steps, and the lineage of its first checkpoint."""

    folder: Path
    steps: tuple[int, ...]
    lineage: Mapping[str, Any]

    @property
    def origin(self) -> Mapping[str, Any]:
        """The checkpoint it was forked from: `source`, `revision`, `step`, …; empty if it was trained from scratch."""
        return self.lineage.get("parent") or {}

    @property
    def overrides(self) -> str:
        """The differences from its parent, in words."""
        given = self.lineage.get("overrides") or {}
        return ", ".join(f"{name} {_short(value)}" for name, value in given.items() if name not in _NO_CHANGE)

    @property
    def description(self) -> str:
        """Its origin in one line."""
        if not self.origin:
            return "trained from scratch"
        return f"forked from {self.origin['source']}@{self.origin['revision']}, " + (self.overrides or "unchanged")


def read_line(folder: str | Path) -> Line | None:
    """Read the run in a folder; None if the folder holds no checkpoint with a `lineage.json`."""
    place = Path(folder).expanduser()
    names = {path.parent.name for path in place.glob("*/lineage.json")}
    found = [each for each in FolderSource(place).revisions() if each.name in names] if names else []
    if not found:
        return None
    lineage = json.loads((place / found[0].name / "lineage.json").read_bytes())
    return Line(place, tuple(each.step for each in found if each.step is not None), lineage)


def forest(*folders: str | Path, stores: Iterable[str | Path] = ()) -> Forest:
    """Find how runs written by this package descend from each other.

    A run's store is searched as `store.zarr` in its folder and next to it; others are given as `stores`.

    Raises:
        OptionError: a folder does not hold a run written by this package, or is given twice.
    """
    lines = [(folder, read_line(folder)) for folder in folders]
    strange = [str(folder) for folder, line in lines if line is None]
    if strange or not lines:
        raise OptionError(
            "forest() needs folders of checkpoints with lineage.json, as training writes them "
            f"(got {', '.join(strange) or 'none'})"
        )
    kept = [line for _, line in lines if line is not None]
    if len({line.folder.resolve() for line in kept}) < len(kept):
        raise OptionError("forest() needs every folder once (got one twice)")
    return Forest(dict(zip(_names([line.folder for line in kept]), kept, strict=True)), tuple(map(Path, stores)))


@dataclass(frozen=True)
class Forest:
    """Runs by name (the last part of their folders), and the stores given for them."""

    lines: Mapping[str, Line]
    stores: tuple[Path, ...] = ()

    @cached_property
    def parents(self) -> dict[str, str]:
        """The parent of each run, without runs whose parent is not in this forest."""
        found = {name: self._parent(line) for name, line in self.lines.items()}
        return {name: parent for name, parent in found.items() if parent is not None}

    @property
    def runs(self) -> pl.DataFrame:
        """One row per run, parents before forks: run, parent, revision, forked_at, overrides, first and last step, folder.

        `parent` is a run's name, or the source of one that is not in this forest.
        """
        rows = []
        for name in self._in_order():
            line = self.lines[name]
            origin = line.origin
            parent = self.parents.get(name, origin.get("source"))
            rows.append((name, parent, origin.get("revision"), origin.get("step"), line.overrides, line.steps[0], line.steps[-1],
                         len(line.steps), str(line.folder)))  # fmt: skip
        return pl.DataFrame(rows, schema=_RUNS, orient="row")

    def metrics(self) -> pl.DataFrame:
        """The metrics of every run that has some, joined by `branched`."""
        return self.branched(
            {name: metrics(line.folder) for name, line in self.lines.items() if (line.folder / METRICS_FILE).is_file()}
        )

    def table(self, name: str) -> pl.DataFrame:
        """One table (`parameters`, `activations.feature_rms`, …) of every run that has a store, joined by `branched`."""
        return self.branched({run: store.table(name) for run, store in self.open_stores().items()})

    def branched(self, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Join the tables of several runs: `run`, `parent` and `forked_at`, then their own columns.

        A fork without a row at its first step gets its parent's row, so that its line begins on the parent's.
        """
        parts = []
        for name in self._in_order():
            if name not in frames:
                continue
            parent, start = self.parents.get(name), self.lines[name].origin.get("step")
            own = frames[name]
            if parent is not None and parent in frames and not (own["step"] == start).any():
                own = pl.concat([frames[parent].filter(pl.col("step") == start), own], how="diagonal_relaxed")
            labels = {"run": name, "parent": parent, "forked_at": start}
            columns = [pl.lit(value, dtype=_RUNS[key]).alias(key) for key, value in labels.items()]
            parts.append(own.select(*columns, pl.all()))
        if not parts:
            raise OptionError(
                "a table of a forest needs at least one run that has it (got none); record the runs, or give stores="
            )
        return pl.concat(parts, how="diagonal_relaxed")

    def history(self, frame: pl.DataFrame, run: str) -> pl.DataFrame:
        """The rows of one run's whole past in a table of `branched`: those of its ancestors up to each fork, then its own.

        Raises:
            OptionError: there is no such run.
        """
        if run not in self.lines:
            raise OptionError(f"run must be one of {', '.join(self.lines)} (got {run!r})")
        parts, end = [], None
        at: str | None = run
        while at is not None:
            rows = frame.filter(pl.col("run") == at)
            parts.append(rows if end is None else rows.filter(pl.col("step") < end))
            end, at = self.lines[at].origin.get("step"), self.parents.get(at)
        return pl.concat(parts[::-1])

    def open_stores(self) -> dict[str, RecordedStore]:
        """The store of each run that has one; given stores are matched by the folder they were collected from."""
        given = {Path(store.attributes["source"]).resolve(): store for store in map(open_store, self.stores)}
        found = {}
        for name in self._in_order():
            folder = self.lines[name].folder
            near = [given[folder.resolve()]] if folder.resolve() in given else _stores_near(folder)
            if near:
                found[name] = near[0]
        return found

    def _parent(self, line: Line) -> str | None:
        origin = line.origin
        if not origin:
            return None
        here = {name: other for name, other in self.lines.items() if other is not line}
        for test in (_is_at_path, _has_weights):
            for name, other in here.items():
                if test(other, origin):
                    return name
        return None

    def _in_order(self) -> list[str]:
        """The runs' names, parents before their forks, otherwise in the given order."""
        order: list[str] = []

        def add(name: str) -> None:
            if name in self.parents and self.parents[name] not in order:
                add(self.parents[name])
            if name not in order:
                order.append(name)

        for name in self.lines:
            add(name)
        return order


_RUNS = {
    "run": pl.String,
    "parent": pl.String,
    "revision": pl.String,
    "forked_at": pl.Int64,
    "overrides": pl.String,
    "first_step": pl.Int64,
    "last_step": pl.Int64,
    "checkpoints": pl.Int64,
    "folder": pl.String,
}


def _short(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )


def _is_at_path(line: Line, origin: Mapping[str, Any]) -> bool:
    return Path(origin["source"]).expanduser().resolve() == line.folder.resolve()


def _has_weights(line: Line, origin: Mapping[str, Any]) -> bool:
    """True if the run holds the same weights under the same name of the revision."""
    file = line.folder / origin["revision"] / "model.safetensors"
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == origin.get("weights_sha256")


def _stores_near(folder: Path) -> list[RecordedStore]:
    """The store in a run's folder, or the one next to it that was collected from it."""
    inside, adjacent = folder / STORE, folder.parent / STORE
    if inside.is_dir():
        return [open_store(inside)]
    if not adjacent.is_dir():
        return []
    store = open_store(adjacent)
    return [store] if Path(store.attributes["source"]).resolve() == folder.resolve() else []


def _names(folders: list[Path]) -> list[str]:
    """The last parts of the paths, as many as make them distinct."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(each) for each in parts]
