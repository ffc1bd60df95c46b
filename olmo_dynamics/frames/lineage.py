"""A forest of runs: the parent, first step and overrides of each fork, and their metrics as one table.

    >>> found = forest("cache/demo/run", "forks/anneal", "forks/hot")                            # doctest: +SKIP
    >>> found.runs                                                                              # doctest: +SKIP
    >>> od.plots.branches(found.metrics(), "loss")                                              # doctest: +SKIP

Of a run's folder only the first sound `lineage.json` is read. A parent is the run that holds the weights from which a fork began,
and a store belongs to the run that holds the weights it was measured from, wherever both are now; paths are hints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from olmo_dynamics.checkpoints.folder import FolderSource
from olmo_dynamics.checkpoints.identity import COMPARED_BYTES, LINEAGE_FILE, compare_weights, find_folder
from olmo_dynamics.checkpoints.tensors import parse_object
from olmo_dynamics.errors import CheckpointError, OptionError, UnknownSourceError
from olmo_dynamics.frames.curves import METRICS_FILE, metrics
from olmo_dynamics.frames.recorded import RecordedStore, open_store
from olmo_dynamics.frames.shown.forest_tree import ShownForest
from olmo_dynamics.names import FORK, RUN, Revision
from olmo_dynamics.store.identity import held_weights

STORE = "store.zarr"
"""The default name of a run's store, in its folder or next to it."""

_NO_CHANGE = frozenset({"save", "keep", "workers", "tokenizer", "parent_loss", "accept_loss_jump"})
"""Options of a fork without effect on the weights."""


@dataclass(frozen=True)
class Line:
    """One run written by this package: its folder, its steps, the lineage of its first checkpoint, and its line of training."""

    folder: Path
    steps: tuple[int, ...]
    lineage: Mapping[str, Any]
    line: str = RUN

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
    """Read the run in a folder; None if the folder holds no checkpoint with a `lineage.json`.

    Raises:
        CheckpointError: none of these files can be read.
    """
    place = Path(folder).expanduser()
    names = {path.parent.name for path in place.glob(f"*/{LINEAGE_FILE}")}
    found = [each for each in FolderSource(place).revisions() if each.name in names] if names else []
    if not found:
        return None
    steps = tuple(each.step for each in found if each.step is not None)
    return Line(place, steps, _lineage(place, found), found[0].line)


def _lineage(place: Path, revisions: Sequence[Revision]) -> dict[str, Any]:
    """The lineage in the first file that is sound; those of a run are the same."""
    problem: CheckpointError | None = None
    for each in revisions:
        path = place / each.name / LINEAGE_FILE
        try:
            return parse_object(path.read_bytes(), str(path), CheckpointError)
        except CheckpointError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def run_folder(store: RecordedStore, near: Path | None = None, *, most: int = COMPARED_BYTES) -> Path | None:
    """The folder of the run that a store was measured from, from any working directory; None if it is not found.

    A copy beside or above the store (or `near`) comes before the path that it names; at most `most` bytes of weights are read.
    """
    hint = store.attributes["source"]
    return find_folder(hint, near=near or store.path, accept=lambda each: _is_run_of(store, each, most))


def require_run_folder(store: RecordedStore, forks: Sequence[str | Path]) -> Path:
    """The folder of the store's run, found from the store or from one of the forks.

    Raises:
        OptionError: it is in none of the places where it may be.
    """
    for near in (None, *(Path(fork).expanduser() / STORE for fork in forks)):
        if (found := run_folder(store, near)) is not None:
            return found
    raise OptionError(
        f"the folder of the run in {store.path} must be at {store.attributes['source']}, or beside the store or the fork, "
        "with the weights that were measured; copy it there"
    )


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
    return Forest(dict(zip(_names([line.folder for line in kept]), kept, strict=True)), tuple(map(str, stores)))


@dataclass(frozen=True, repr=False)
class Forest(ShownForest):
    """Runs by name (the last part of their folders), and the stores given for them."""

    lines: Mapping[str, Line]
    stores: tuple[str, ...] = ()

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

        A fork without a row at its first step gets its parent's row, so that its line begins on the parent's. The column
        `line` of its rows is the line of its parent and `/fork`.
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
            if parent is not None or "line" not in own.columns:
                own = own.with_columns(pl.lit(self._line(name)).alias("line"))
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
        """The store of each run that has one; given stores are matched by the weights that they were measured from."""
        folders = {name: line.folder for name, line in self.lines.items()}
        beside = dict.fromkeys(folder.parent.resolve() / STORE for folder in folders.values())
        own = {name: folder / STORE for name, folder in folders.items()}
        found: dict[str, RecordedStore] = {}
        for store in self.stores:
            self._assign(found, open_store(store))
        found = {name: open_store(path) for name, path in own.items() if path.is_dir()} | found
        for path in beside:
            if path.is_dir() and path not in map(Path.resolve, map(Path, self.stores)):
                self._assign(found, open_store(path))
        return {name: found[name] for name in self._in_order() if name in found}

    def _assign(self, found: dict[str, RecordedStore], store: RecordedStore) -> None:
        """Give a store to the run that it was measured from, unless that has one."""
        folders = {line.folder.resolve(): name for name, line in self.lines.items() if _is_run_of(store, line.folder)}
        place = find_folder(store.attributes["source"], near=store.path, accept=lambda each: each.resolve() in folders)
        if folders:
            nearest = place or max(folders, key=lambda folder: _shared_names(store, folder))
            found.setdefault(folders[nearest.resolve()], store)

    def _line(self, run: str) -> str:
        """The line of training of a run; that of a fork of a fork ends in `/fork/fork`."""
        parent = self._line(self.parents[run]) if run in self.parents else ""
        return f"{parent}/{FORK}" if parent.endswith(f"/{FORK}") else self.lines[run].line

    def _parent(self, line: Line) -> str | None:
        """The run at the place of the fork's parent, unless its weights differ; else one that holds the parent's weights."""
        origin = line.origin
        if not origin:
            return None
        here = {other.folder.resolve(): name for name, other in self.lines.items() if other is not line}
        held = {origin["revision"]: origin.get("weights_sha256", "")}
        compared = {each: compare_weights(FolderSource(each), held, limit=COMPARED_BYTES) for each in here}
        allowed = {each for each, comparison in compared.items() if not comparison.differing}
        place = find_folder(origin["source"], near=line.folder / STORE, accept=lambda each: each.resolve() in allowed)
        if place is not None:
            return here[place.resolve()]
        return next((here[each] for each in allowed if compare_weights(FolderSource(each), held).same), None)

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
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_run_of(store: RecordedStore, folder: Path, most: int = COMPARED_BYTES) -> bool:
    """True if a folder is the run that a store was measured from, as far as its revisions can be compared."""
    try:
        comparison = compare_weights(FolderSource(folder), held_weights(store), limit=most, room=most)
    except UnknownSourceError:
        return False
    if comparison.compared:
        return comparison.same
    hint, here = store.attributes["source"], folder.resolve()
    return find_folder(hint, near=store.path, accept=lambda each: each.resolve() == here) is not None


def _shared_names(store: RecordedStore, folder: Path) -> int:
    """The number of finished revisions of a store that the run in a folder has: a fork shares one with its parent."""
    return len(store.done.intersection(each.name for each in FolderSource(folder).revisions()))


def _names(folders: list[Path]) -> list[str]:
    """The last parts of the paths, as many as make them distinct."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(each) for each in parts]
