"""The reading half of a store.

Everything is read by the root's `zarr.json`, so all arrays are seen at one moment's shape. Whole arrays and whole rows of
numbers come from the log's files, which hold them as they are; series and text come through zarr.

    >>> store = Store.open("run.zarr")  # doctest: +SKIP
    >>> store.array("parameters", "rms").shape, len(store.done)  # doctest: +SKIP
    ((24, 147), 24)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from olmo_dynamics.errors import StoreError
from olmo_dynamics.names import Revision
from olmo_dynamics.store.appending import growing
from olmo_dynamics.store.documents import as_numpy, coordinate_names, load_document, read_layout
from olmo_dynamics.store.files import stamp_of
from olmo_dynamics.store.layout import REVISION, Axis, Layout
from olmo_dynamics.store.log import read_rows
from olmo_dynamics.store.schema import COMPLETE, PLANNED, PROBE, RECORDED, REVISIONS
from olmo_dynamics.store.series import has_series
from olmo_dynamics.store.zarr_format import DOCUMENT, TEXT, ArraySpec, array_spec, is_series

_KNOWN_WHEN_PLANNED = frozenset(column.name for column in PLANNED)


class ReadableStore:
    """What can be asked of a store without writing to it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, int] | None = None
        self._load()

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes: source, model config, probe, compute dtype, versions."""
        return dict(self._document["attributes"])

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of measured numbers."""
        return tuple(self._document["attributes"]["groups"])

    @cached_property
    def layout(self) -> Layout:
        """The axes and groups, as read back."""
        return read_layout(self._zarr, self._nodes, self.groups)

    @property
    def done(self) -> frozenset[str]:
        """Names of the revisions that are wholly there."""
        return frozenset(self._names[self._complete()].tolist())

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the revisions that are planned and not there, in the order of their rows."""
        return tuple(self._names[~self._complete()].tolist())

    def recorded(self, revision: str) -> frozenset[str]:
        """The groups that are wholly there for a revision; none where it is missing or unknown."""
        row = self._rows.get(revision)
        if row is None or not self._mark(f"{REVISIONS}/status", row):
            return frozenset()
        return frozenset(group for group in self.groups if self._mark(f"{group}/{RECORDED}", row))

    def revisions(self) -> list[Revision]:
        """The revisions that are wholly there; a name's other parts (label, prefix, suffix) are not kept."""
        columns = self.arrays(REVISIONS)
        names = ("revision", "stage", "ingredient", "step", "tokens", "commit")
        rows = zip(*(columns[name].tolist() for name in names), strict=True)
        return [
            Revision(name, _known(stage), ingredient or None, _known(step), _known(tokens), commit=commit)
            for name, stage, ingredient, step, tokens, commit in rows
        ]

    def lacking(self, group: str) -> tuple[str, ...]:
        """Names of the revisions that are there without a group."""
        return tuple(self._names[self._complete() & ~self._recorded(group)].tolist())

    @property
    def is_compact(self) -> bool:
        """Whether series are read from shards, rather than from the log one file after another."""
        return not any(
            has_series(spec) and not is_series(self._nodes[path]) for path, spec in growing(self._nodes).items()
        )

    def axis(self, name: str) -> Axis:
        """One axis with its labels and coordinates.

        Raises:
            StoreError: no group of this store lies on it.
        """
        if name not in self.layout.axes:
            raise StoreError(f"{self.path} has no axis {name}; it has {', '.join(self.layout.axes)}")
        return self.layout.axes[name]

    def arrays(self, group: str, *, planned: bool = False) -> dict[str, np.ndarray]:
        """Every measured array of a group by name; its coordinates are in `layout`.

        Args:
            group: a group of quantities, `revisions` or `probe`.
            planned: rows of revisions that are not there as well, holding fill (NaN, -1, 0 or empty text).

        Raises:
            StoreError: the store has no such group.
        """
        if group not in self._all_groups:
            raise StoreError(f"{self.path} has no group {group}; it has {', '.join(self._all_groups)}")
        complete, recorded = self._complete(), self._recorded(group)
        return {
            name: _kept(
                self._read(self._spec(group, name)), self._spec(group, name), complete, recorded, planned=planned
            )
            for name in self._measured(group)
        }

    def array(
        self, group: str, name: str, *, at: Mapping[str, str | int | float] | None = None, planned: bool = False
    ) -> np.ndarray:
        """One array; `at` picks one label of an axis, and drops that axis. Rows as in `arrays`.

        Raises:
            StoreError: the store has no such array, or the axis no such label.
        """
        spec = self._spec(group, name)
        values = self._read(spec, {axis: self.axis(axis).position(label) for axis, label in (at or {}).items()})
        return _kept(values, spec, self._complete(), self._recorded(group), planned=planned)

    def row(self, group: str, revision: str) -> dict[str, np.ndarray]:
        """What a group holds of one revision, by name, without the axis `revision`.

        Raises:
            StoreError: the store has no such group, or not that group of that revision.
        """
        if group not in self.groups:
            raise StoreError(f"{self.path} has no group {group}; it has {', '.join(self.groups)}")
        if group not in self.recorded(revision):
            raise StoreError(f"{self.path} does not hold {group} of {revision}; collect it")
        start = self._rows[revision]
        specs = {name: self._spec(group, name) for name in self._measured(group)}
        return {name: read_rows(self.path, spec, start, start + 1)[0] for name, spec in specs.items()}

    def probe(self) -> dict[str, np.ndarray]:
        """The tokens that every revision read: `token_id`, `mask`, `domain`; nothing where there was no probe."""
        return self.arrays(PROBE) if PROBE in self._all_groups else {}

    def sizes(self) -> dict[str, int]:
        """Bytes on disk, by group."""
        return {
            group: sum(file.stat().st_size for file in (self.path / group).rglob("*") if file.is_file())
            for group in self._all_groups
        }

    @property
    def _all_groups(self) -> tuple[str, ...]:
        return tuple(path for path in self._nodes if "/" not in path)

    def _measured(self, group: str) -> list[str]:
        """The arrays of a group, less those that label its axes; all of `revisions`."""
        prefix = f"{group}/"
        nodes = {path.removeprefix(prefix): node for path, node in self._nodes.items() if path.startswith(prefix)}
        if group == REVISIONS:
            return list(nodes)
        labels = coordinate_names(self._nodes, group)
        return [name for name, node in nodes.items() if name not in labels and node["dimension_names"] != [name]]

    def _load(self) -> None:
        """Read the root document, unless it is still the same file: what the store holds at this moment."""
        stamp = stamp_of(self.path / DOCUMENT)
        if stamp is not None and stamp == self._stamp:
            return
        self._stamp, self._document = stamp, load_document(self.path)
        if "layout" in vars(self) and self.layout.groups != self.groups:
            del self.layout  # another writer added groups
        self._nodes: dict[str, Any] = self._document["consolidated_metadata"]["metadata"]
        self._zarr = zarr.open_group(self.path, mode="r", use_consolidated=True)
        self._names = as_numpy(self._zarr[f"{REVISIONS}/{REVISION}"], ())
        self._rows = {name: row for row, name in enumerate(self._names.tolist())}

    def _spec(self, group: str, name: str) -> ArraySpec:
        path = f"{group}/{name}"
        if path not in self._nodes:
            raise StoreError(f"{self.path} has no {path}; its groups are {', '.join(self._all_groups)}")
        return array_spec(path, self._nodes[path])

    def _complete(self) -> np.ndarray:
        is_complete: np.ndarray = self._read(self._spec(REVISIONS, "status")) == COMPLETE
        return is_complete

    def _recorded(self, group: str) -> np.ndarray:
        """Whether each revision's row of a group is there, if the revision is."""
        if group not in self.groups:
            return np.ones(len(self._names), dtype=bool)
        is_recorded: np.ndarray = self._read(self._spec(group, RECORDED)) == COMPLETE
        return is_recorded

    def _mark(self, path: str, row: int) -> bool:
        return bool(read_rows(self.path, array_spec(path, self._nodes[path]), row, row + 1)[0] == COMPLETE)

    def _read(self, spec: ArraySpec, places: Mapping[str, int] | None = None) -> np.ndarray:
        """An array, at certain places of some axes."""
        selection = tuple((places or {}).get(axis, slice(None)) for axis in spec.dimensions)
        in_series = places and is_series(self._nodes[spec.path])
        if in_series or spec.dtype == TEXT or spec.dimensions[0] != REVISION:
            return as_numpy(self._zarr[spec.path], selection)
        values: np.ndarray = read_rows(self.path, spec, 0, spec.shape[0])[selection]
        return values


def _kept(
    values: np.ndarray, spec: ArraySpec, complete: np.ndarray, recorded: np.ndarray, *, planned: bool
) -> np.ndarray:
    """Rows of revisions that are there, or all; fill where nothing is."""
    if spec.dimensions[0] != REVISION:
        return values
    if len(spec.dimensions) > 1 or spec.path.partition("/")[2] not in _KNOWN_WHEN_PLANNED:
        values[~(complete & recorded)] = spec.fill
    return values if planned or complete.all() else np.compress(complete, values, axis=0)


def _known(number: int) -> int | None:
    return None if number < 0 else number
