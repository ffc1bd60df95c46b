"""Several stores seen as one: read-only, read when it is asked for, with the arrays and tables of a store.

    >>> joined = od.join(["c4-seed1.zarr", "c4-seed2.zarr"])                               # doctest: +SKIP
    >>> joined.table("parameters").select("revision", "run", "seed", "tensor", "rms")      # doctest: +SKIP

A revision is named `RUN@REVISION`, and its line of training begins with its run. The group `revisions` has the columns `run`,
`recipe`, `size` and `family` besides, and `seed` is that of the revision's name or of the run's. Tensors, layers and sites that a
run does not have are absent there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreError, counted, did_you_mean
from olmo_dynamics.files import Place
from olmo_dynamics.frames.joining.comparable import shared_layout
from olmo_dynamics.frames.joining.joined_axes import places
from olmo_dynamics.frames.joining.joined_phases import with_phases
from olmo_dynamics.frames.joining.joined_run import JoinedRun
from olmo_dynamics.frames.recorded import RecordedStore
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import STATUS, Group, Quantity, Status
from olmo_dynamics.store import Axis, Check, Layout

_FILLS = {"f": np.nan, "i": -1, "u": Status.NOT_MEASURED, "U": ""}
"""The value of a cell that a store does not hold, by kind of dtype."""


class JoinedStore(RecordedStore):
    """Stores of several runs as one store that can only be read.

    `runs` are its runs with their stores, and `left_out` tells by `group` or `group/quantity` what does not compare between them.
    """

    def __init__(self, runs: Sequence[JoinedRun], path: Place | None = None) -> None:
        self.runs = tuple(runs)
        self.path = path or Path(" + ".join(str(run.store.path) for run in self.runs[:2]) + _more(len(self.runs) - 2))
        self.mode, self._holds_lock, self._part = "r", False, None

    @cached_property
    def _shared(self) -> tuple[Layout, dict[str, str]]:
        return shared_layout([run.store for run in self.runs])

    @property
    def layout(self) -> Layout:
        """The axes with the labels of all runs, and the groups whose numbers compare."""
        return self._shared[0]

    @property
    def left_out(self) -> dict[str, str]:
        """By `group` or `group/quantity`, the reason for which it does not compare between the runs."""
        return dict(self._shared[1])

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes; `runs` maps each run to its source, model type and config, and others are those of all."""
        each = [run.store.attributes for run in self.runs]
        found = {name: _common([held.get(name) for held in each]) for name in ("model_type", "compute_dtype")}
        probes = [held.get("probe") or {} for held in each]
        same = all(probe.get("sha256") == probes[0].get("sha256") for probe in probes)
        return found | {
            "source": ", ".join(dict.fromkeys(run.name for run in self.runs)),
            "model_config": each[0]["model_config"] if len(self.runs) == 1 else {},
            "probe": probes[0] if same else {},
            "groups": list(self.groups),
            "layout_version": min(held["layout_version"] for held in each),
            "olmo_dynamics_version": _common([held["olmo_dynamics_version"] for held in each]),
            "runs": {run.name: run.described for run in self.runs},
        }

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of measured numbers that compare between the runs."""
        return tuple(self.layout.groups)

    def group(self, name: str) -> Group:
        """The declaration of a group, with the quantities that compare.

        Raises:
            StoreError: there is no such group, or its numbers do not compare between the runs.
        """
        if name in self.left_out:
            raise StoreError(f"{name} of these runs cannot be joined: {self.left_out[name]}")
        if name not in self.layout.groups:
            raise StoreError(
                f"{self.path} has no group {name}; it has {', '.join(self.groups)}{did_you_mean(name, self.groups)}"
            )
        return self.layout.groups[name]

    def quantity(self, group: str, name: str) -> Quantity:
        """The declaration of one quantity.

        Raises:
            StoreError: there is no such quantity, or its numbers do not compare between the runs.
        """
        declared, key = self.group(group), f"{group}/{name}"
        if key in self.left_out:
            raise StoreError(f"{key} of these runs cannot be joined: {self.left_out[key]}")
        if name not in declared:
            known = [each.name for each in declared.quantities]
            raise StoreError(
                f"{self.path} has no quantity {name} in {group}; it has {', '.join(known)}{did_you_mean(name, known)}"
            )
        return declared[name]

    @property
    def done(self) -> frozenset[str]:
        """Names of the revisions that are wholly there."""
        return frozenset(run.joined(name) for run in self.runs for name in run.store.done)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the revisions that are planned and not yet there."""
        return tuple(run.joined(name) for run in self.runs for name in run.store.missing)

    @property
    def is_checked(self) -> bool:
        """True if every store has checksums."""
        return all(run.store.is_checked for run in self.runs)

    @property
    def is_compact(self) -> bool:
        """True if every store reads series from shards."""
        return all(run.store.is_compact for run in self.runs)

    def revisions(self) -> list[Revision]:
        """The revisions that are wholly there; the run is a word of their names."""
        return [
            replace(each, name=run.joined(each.name), suffix="-".join(filter(None, (run.name, each.suffix))))
            for run in self.runs
            for each in run.store.revisions()
        ]

    def recorded(self, revision: str, quantities: Collection[str] | None = None) -> frozenset[str]:
        """The groups whose quantities are all there for a revision; empty where it is missing or unknown."""
        run, name = self._run_of(revision)
        return run.store.recorded(name, quantities).intersection(self.groups) if run else frozenset()

    def lacking(self, group: str) -> tuple[str, ...]:
        """Names of the revisions that are there without a group, or without some of its quantities."""
        return tuple(
            run.joined(name)
            for run in self.runs
            for name in (run.store.lacking(group) if group in run.store.groups else sorted(run.store.done))
        )

    def excluded(self) -> dict[str, tuple[str, ...]]:
        """By revision, the tensors that were left out since their published bytes are not this revision's."""
        return {run.joined(name): tensors for run in self.runs for name, tensors in run.store.excluded().items()}

    def axis(self, name: str) -> Axis:
        """One axis with the labels of all runs.

        Raises:
            StoreError: no group lies on it.
        """
        if name not in self.layout.axes:
            raise StoreError(f"{self.path} has no axis {name}; it has {', '.join(self.layout.axes)}")
        return self.layout.axes[name]

    def arrays(self, group: str, *, planned: bool = False) -> dict[str, np.ndarray]:
        """Every measured array of a group by name, one run's rows after another's.

        Raises:
            StoreError: there is no such group, or its numbers do not compare between the runs.
        """
        if group == "revisions":
            return with_phases(_stacked([run.facts(planned=planned) for run in self.runs]), self.runs)
        if group == "probe":
            return self.probe()
        return {each.name: self.array(group, each.name, planned=planned) for each in self.group(group).quantities}

    def array(
        self, group: str, name: str, *, at: Mapping[str, str | int | float] | None = None, planned: bool = False
    ) -> np.ndarray:
        """One array, with the fill of its dtype where a run has no such tensor or layer, and there the status absent.

        Raises:
            StoreError: there is no such array, its numbers do not compare between the runs, or no run has the label.
        """
        if group == "revisions":
            return self.arrays(group, planned=planned)[name]
        quantity, wanted = self.quantity(group, name), dict(at or {})
        for axis, label in wanted.items():
            self.axis(axis).position(label)
        return np.concatenate([self._of_run(run, quantity, wanted, planned=planned) for run in self.runs])

    def row(self, group: str, revision: str) -> dict[str, np.ndarray]:
        """The arrays of a group at one revision, by name, without the axis `revision`.

        Raises:
            StoreError: there is no such group, or nothing of that group for that revision.
        """
        run, name = self._run_of(revision)
        if run is None:
            raise StoreError(f"{self.path} does not hold {group} of {revision}; collect it")
        found = run.store.row(group, name)
        return {
            each.name: self._placed(run, each, found.get(each.name), {}, lead=())
            for each in self.group(group).quantities
        }

    def probe(self) -> dict[str, np.ndarray]:
        """The tokens that every revision read; nothing where the runs read different ones."""
        return self.runs[0].store.probe() if self.attributes["probe"] else {}

    def sizes(self) -> dict[str, int]:
        """Bytes on disk, by group."""
        found: dict[str, int] = {}
        for run in self.runs:
            for group, nbytes in run.store.sizes().items():
                found[group] = found.get(group, 0) + nbytes
        return found

    def check(self) -> Check:
        """Verify every checksum of every store; the run stands before the array of each damage."""
        each = [(run, run.store.check()) for run in self.runs]
        damages = [
            replace(damage, array=f"{run.name}: {damage.array}") for run, found in each for damage in found.damages
        ]
        return replace(
            each[0][1],
            damages=tuple(damages),
            verified=sum(found.verified for _, found in each),
            unverified=sum(found.unverified for _, found in each),
        )

    def _of_run(
        self, run: JoinedRun, quantity: Quantity, at: Mapping[str, str | int | float], *, planned: bool
    ) -> np.ndarray:
        """One run's rows of an array."""
        store = run.store
        rows = len(store.done) + (len(store.missing) if planned else 0)
        values = None
        if quantity.group in store.groups and all(_has(store, axis, label) for axis, label in at.items()):
            if quantity.name in store.group(quantity.group):
                values = store.array(quantity.group, quantity.name, at=at, planned=planned)
            elif quantity.name == STATUS:
                values = run.status(quantity, planned=planned)
        return self._placed(run, quantity, values, at, lead=(rows,))

    def _placed(
        self,
        run: JoinedRun,
        quantity: Quantity,
        values: np.ndarray | None,
        at: Mapping[str, str | int | float],
        *,
        lead: tuple[int, ...],
    ) -> np.ndarray:
        """A run's values at their places along the axes of all runs."""
        axes = [self.axis(name) for name in quantity.axes if name not in at]
        shape = (*lead, *map(len, axes))
        fill = _FILLS[np.dtype(quantity.dtype).kind]
        if values is None:
            return np.full(shape, fill, dtype=quantity.dtype)
        held = [run.store.axis(axis.name) for axis in axes]
        if all(mine is whole for mine, whole in zip(held, axes, strict=True)):
            return values
        fill = Status.ABSENT if quantity.name == STATUS else fill
        found = np.full(shape, fill, dtype=values.dtype)
        where = [places(whole, mine) for mine, whole in zip(held, axes, strict=True)]
        found[np.ix_(*(np.arange(size) for size in lead), *where)] = values
        return found

    def _run_of(self, revision: str) -> tuple[JoinedRun | None, str]:
        """The run of a joined name, and its own name of the revision."""
        if revision not in self._places:  # a store may have grown since
            self.__dict__.pop("_places", None)
        return self._places.get(revision, (None, revision))

    @cached_property
    def _places(self) -> dict[str, tuple[JoinedRun | None, str]]:
        """The run and the own name of each revision, by its joined name."""
        return {run.joined(own): (run, own) for run in self.runs for own in (*run.store.done, *run.store.missing)}

    def __repr__(self) -> str:
        runs = counted(len({run.name for run in self.runs}), "run")
        return f"JoinedStore({runs}, {counted(len(self.done), 'revision')}; {', '.join(self.groups)})"


def _has(store: RecordedStore, axis: str, label: str | int | float) -> bool:
    return label in store.axis(axis).labels.tolist()


def _common(values: Sequence[Any]) -> Any:
    """The one value that all have, or all of them as text."""
    return ", ".join(dict.fromkeys(map(str, values)))


def _more(count: int) -> str:
    return f" + {count} more" if count > 0 else ""


def _stacked(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Columns of all parts, one after another; fill where a part lacks one."""
    names = dict.fromkeys(name for part in parts for name in part)
    found = {}
    for name in names:
        like = next(part[name] for part in parts if name in part)
        rows = [
            part[name] if name in part else np.full(len(part["revision"]), _FILLS[like.dtype.kind], dtype=like.dtype)
            for part in parts
        ]
        found[name] = np.concatenate(rows)
    return found
