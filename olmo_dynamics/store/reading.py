"""The reading half of a store.

Everything is read by the root's `zarr.json`, so all arrays are seen at one moment's shape. Whole arrays and whole rows of
numbers are read from the log's files, which hold them as they are; series and text are read through zarr.

    >>> store = Store.open("run.zarr")  # doctest: +SKIP
    >>> store.array("parameters", "rms").shape, len(store.done)  # doctest: +SKIP
    ((24, 147), 24)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from olmo_dynamics.errors import StoreError
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import STATUS, Group, Quantity
from olmo_dynamics.store.appending import growing
from olmo_dynamics.store.declarations import mark_of, marks, measured_names, read_group
from olmo_dynamics.store.files import stamp_of
from olmo_dynamics.store.layout import REVISION, Axis, Layout
from olmo_dynamics.store.log import read_rows
from olmo_dynamics.store.metadata import as_numpy, load_document, read_layout
from olmo_dynamics.store.schema import COMPLETE, PLANNED, PROBE, REVISIONS
from olmo_dynamics.store.series import has_series
from olmo_dynamics.store.zarr_format import DOCUMENT, TEXT, ArraySpec, array_spec, empty_rows, is_series

_KNOWN_WHEN_PLANNED = frozenset(column.name for column in PLANNED)


class ReadableStore:
    """The questions that a store answers without being written to."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stamp: tuple[int, int] | None = None
        self._nodes: dict[str, Any] = {}
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
        """The axes and groups, as read back; a group without a `status` is given one here, and in `quantities` not."""
        return read_layout(self._zarr, self._nodes, self._declared)

    @cached_property
    def _declared(self) -> dict[str, Group]:
        return {name: read_group(name, self._nodes) for name in self.groups}

    @cached_property
    def _marks(self) -> dict[str, list[str]]:
        return {name: marks(self._nodes, name) for name in self.groups}

    def group(self, name: str) -> Group:
        """The declaration of a group: base axes, introduction, quantities, attributes.

        Raises:
            StoreError: the store has no such group of measured numbers.
        """
        if name not in self._declared:
            raise StoreError(f"{self.path} has no group {name}; it has {', '.join(self.groups)}")
        return self._declared[name]

    def quantities(self, group: str) -> tuple[Quantity, ...]:
        """The quantities of a group, as the store declares them.

        Raises:
            StoreError: the store has no such group of measured numbers.
        """
        return self.group(group).quantities

    def quantity(self, group: str, name: str) -> Quantity:
        """The declaration of one quantity.

        Raises:
            StoreError: the store has no such group of measured numbers, or the group no such quantity.
        """
        for quantity in self.quantities(group):
            if quantity.name == name:
                return quantity
        known = ", ".join(each.name for each in self.quantities(group))
        raise StoreError(f"{self.path} has no quantity {name} in {group}; it has {known}")

    def lacking_quantities(self, layout: Layout) -> dict[str, tuple[Quantity, ...]]:
        """The quantities that a layout declares and the store's groups lack, by group; groups that lack none are left out."""
        found = {
            name: tuple(
                each for each in layout.quantities(name) if each.name not in self.group(name) and each.name != STATUS
            )
            for name in self.groups
            if name in layout.groups
        }
        return {name: lacking for name, lacking in found.items() if lacking}

    @property
    def done(self) -> frozenset[str]:
        """Names of the revisions that are wholly there."""
        return frozenset(self._names[self._complete()].tolist())

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the revisions that are planned and not yet there, in the order of their rows."""
        return tuple(self._names[~self._complete()].tolist())

    def recorded(self, revision: str, quantities: Collection[str] | None = None) -> frozenset[str]:
        """The groups whose quantities are all there for a revision; empty where it is missing or unknown.

        `quantities` are the keys of those that count: an addition to a group that holds none of them may be missing.
        """
        row = self._rows.get(revision)
        if row is None or not self._mark(f"{REVISIONS}/status", row):
            return frozenset()
        return frozenset(group for group in self.groups if not self._unset_marks(group, row, quantities))

    def revisions(self) -> list[Revision]:
        """The revisions that are wholly there; other parts of their names (label, prefix, suffix) are not kept."""
        columns = self.arrays(REVISIONS)
        names = ("revision", "stage", "ingredient", "step", "tokens", "commit")
        rows = zip(*(columns[name].tolist() for name in names), strict=True)
        return [
            Revision(name, _known(stage), ingredient or None, _known(step), _known(tokens), commit=commit)
            for name, stage, ingredient, step, tokens, commit in rows
        ]

    def lacking(self, group: str) -> tuple[str, ...]:
        """Names of the revisions that are there without a group, or without some of its quantities."""
        recorded = np.logical_and.reduce([self._recorded(mark) for mark in self._marks[group]])
        return tuple(self._names[self._complete() & ~recorded].tolist())

    @property
    def is_compact(self) -> bool:
        """True if series are read from shards, rather than from the log one file after another."""
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
        names = self._measured(group)
        complete, there = self._complete(), self._rows_there(group, names)
        found = {}
        for name in names:
            spec = self._spec(group, name)
            found[name] = _kept(self._read(spec), spec, complete, there[name], planned=planned)
        return found

    def array(
        self, group: str, name: str, *, at: Mapping[str, str | int | float] | None = None, planned: bool = False
    ) -> np.ndarray:
        """One array; `at` picks one label of an axis, and drops that axis. Rows as in `arrays`.

        Raises:
            StoreError: the store has no such array, or the axis no such label.
        """
        spec = self._spec(group, name)
        values = self._read(spec, {axis: self.axis(axis).position(label) for axis, label in (at or {}).items()})
        return _kept(values, spec, self._complete(), self._rows_there(group, [name])[name], planned=planned)

    def row(self, group: str, revision: str) -> dict[str, np.ndarray]:
        """The arrays of a group at one revision, by name, without the axis `revision`.

        Raises:
            StoreError: the store has no such group, or nothing of that group for that revision.
        """
        if group not in self.groups:
            raise StoreError(f"{self.path} has no group {group}; it has {', '.join(self.groups)}")
        start = self._rows.get(revision)
        if start is None or not self._mark(f"{REVISIONS}/status", start):
            raise StoreError(f"{self.path} does not hold {group} of {revision}; collect it")
        unset = self._unset_marks(group, start)
        if len(unset) == len(self._marks[group]):
            raise StoreError(f"{self.path} does not hold {group} of {revision}; collect it")
        specs = {name: self._spec(group, name) for name in self._measured(group)}
        return {
            name: empty_rows(spec, 1)[0]
            if mark_of(spec.path, self._nodes) in unset
            else read_rows(self.path, spec, start, start + 1)[0]
            for name, spec in specs.items()
        }

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
        if group == REVISIONS:
            return [path.partition("/")[2] for path in self._nodes if path.startswith(f"{REVISIONS}/")]
        return measured_names(self._nodes, group)

    def _load(self) -> None:
        """Read the root document, unless it is still the same file."""
        stamp = stamp_of(self.path / DOCUMENT)
        if stamp is not None and stamp == self._stamp:
            return
        self._stamp, self._document = stamp, load_document(self.path)
        nodes: dict[str, Any] = self._document["consolidated_metadata"]["metadata"]
        if nodes.keys() != self._nodes.keys():  # groups or quantities were added
            for name in ("layout", "_declared", "_marks"):
                vars(self).pop(name, None)
        self._nodes = nodes
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

    def _recorded(self, mark: str) -> np.ndarray:
        """By revision, true if the arrays under a mark are there, if the revision is."""
        group, _, name = mark.partition("/")
        is_recorded: np.ndarray = self._read(self._spec(group, name)) == COMPLETE
        return is_recorded

    def _rows_there(self, group: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        """By array of a group and revision, true if the row is there, if the revision is."""
        if group not in self.groups:
            return dict.fromkeys(names, np.ones(len(self._names), dtype=bool))
        by_mark = {mark: self._recorded(mark) for mark in self._marks[group]}
        return {name: by_mark[mark_of(f"{group}/{name}", self._nodes)] for name in names}

    def _marks_among(self, group: str, quantities: Collection[str] | None) -> list[str]:
        """The marks of a group under which some of these quantities lie; all of its marks where none are given."""
        if quantities is None:
            return self._marks[group]
        held = {mark_of(each.key, self._nodes) for each in self.quantities(group) if each.key in quantities}
        return [mark for mark in self._marks[group] if mark in held]

    def _unset_marks(self, group: str, row: int, quantities: Collection[str] | None = None) -> list[str]:
        """The marks of a group, of some quantities if given, that are not set for a row."""
        return [mark for mark in self._marks_among(group, quantities) if not self._mark(mark, row)]

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
    """The rows of revisions that are there, or all; fill where a row is not there."""
    if spec.dimensions[0] != REVISION:
        return values
    if len(spec.dimensions) > 1 or spec.path.partition("/")[2] not in _KNOWN_WHEN_PLANNED:
        values[~(complete & recorded)] = spec.fill
    return values if planned or complete.all() else np.compress(complete, values, axis=0)


def _known(number: int) -> int | None:
    return None if number < 0 else number
