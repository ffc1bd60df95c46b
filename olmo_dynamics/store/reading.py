"""The reading half of a store.

Everything is read by the root's `zarr.json`, so all arrays are seen at one moment's shape. Whole arrays and whole rows of
numbers are read from the log's files, which hold them as they are; series are read through zarr. In layout 3 every byte that
is read has its checksum, or the error names the array and the revisions.

    >>> store = Store.open("run.zarr")  # doctest: +SKIP
    >>> store.array("parameters", "rms").shape, len(store.done)  # doctest: +SKIP
    ((24, 147), 24)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from olmo_dynamics.errors import StoreError, did_you_mean
from olmo_dynamics.files import files_under
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities.declaration import STATUS, Group, Quantity, Status
from olmo_dynamics.store.appending import growing
from olmo_dynamics.store.checking import Check, check
from olmo_dynamics.store.declarations import mark_of, measured_names
from olmo_dynamics.store.layout import Axis, Layout
from olmo_dynamics.store.log import read_row
from olmo_dynamics.store.presence import StoreState
from olmo_dynamics.store.repair import lost_marks
from olmo_dynamics.store.schema import PLANNED, PROBE, REVISIONS, known_by_name, revision_from
from olmo_dynamics.store.series import has_series, is_current
from olmo_dynamics.store.zarr_format import ArraySpec, empty_rows, is_series

_KNOWN_WHEN_PLANNED = frozenset(column.name for column in PLANNED)


class ReadableStore(StoreState):
    """The questions that a store answers without being written to."""

    def group(self, name: str) -> Group:
        """The declaration of a group: base axes, introduction, quantities, attributes.

        Raises:
            StoreError: the store has no such group of measured numbers.
        """
        if name not in self._declared:
            raise StoreError(
                f"{self.path} has no group {name}; it has {', '.join(self.groups)}{did_you_mean(name, self.groups)}"
            )
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
        known = [each.name for each in self.quantities(group)]
        raise StoreError(
            f"{self.path} has no quantity {name} in {group}; it has {', '.join(known)}{did_you_mean(name, known)}"
        )

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
        if row is None or not self._is_complete(row):
            return frozenset()
        return frozenset(group for group in self.groups if not self._unset_marks(group, row, quantities))

    def revisions(self) -> list[Revision]:
        """The revisions that are wholly there."""
        columns = self.arrays(REVISIONS)
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        return [revision_from(dict(zip(columns, row, strict=True))) for row in rows]

    def lacking(self, group: str) -> tuple[str, ...]:
        """Names of the revisions that are there without a group, or without some of its quantities."""
        recorded = np.logical_and.reduce([self._recorded(mark) for mark in self._marks[group]])
        return tuple(self._names[self._complete() & ~recorded].tolist())

    def excluded(self) -> dict[str, tuple[str, ...]]:
        """By revision, the tensors that were left out since their published bytes are not this revision's; none are left out."""
        found: dict[str, dict[str, None]] = {}
        names = self._names[self._complete()].tolist()
        for group in self.groups:
            status = next((each for each in self.quantities(group) if each.name == STATUS), None)
            if status is not None and len(status.axes) == 1:
                labels = self.axis(status.axes[0]).labels.tolist()
                for row, place in np.argwhere(self.array(group, STATUS) == Status.EXCLUDED).tolist():
                    found.setdefault(names[row], {})[labels[place]] = None
        return {name: tuple(tensors) for name, tensors in found.items()}

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
            needed = _needed(spec, complete, there[name])
            found[name] = _kept(self._read(spec, needed), spec, complete, needed, planned=planned)
        return {**found, **known_by_name(found, self.attributes["source"])} if group == REVISIONS else found

    def array(
        self, group: str, name: str, *, at: Mapping[str, str | int | float] | None = None, planned: bool = False
    ) -> np.ndarray:
        """One array; `at` picks one label of an axis, and drops that axis. Rows as in `arrays`.

        Raises:
            StoreError: the store has no such array, or the axis no such label.
        """
        spec = self._spec(group, name)
        places = {axis: self.axis(axis).position(label) for axis, label in (at or {}).items()}
        complete = self._complete()
        needed = _needed(spec, complete, self._rows_there(group, [name])[name])
        return _kept(self._read(spec, needed, places), spec, complete, needed, planned=planned)

    def row(self, group: str, revision: str) -> dict[str, np.ndarray]:
        """The arrays of a group at one revision, by name, without the axis `revision`.

        Raises:
            StoreError: the store has no such group, or nothing of that group for that revision.
        """
        if group not in self.groups:
            raise StoreError(f"{self.path} has no group {group}; it has {', '.join(self.groups)}")
        start = self._rows.get(revision)
        if start is None or not self._is_complete(start):
            raise StoreError(f"{self.path} does not hold {group} of {revision}; collect it")
        unset = self._unset_marks(group, start)
        if len(unset) == len(self._marks[group]):
            raise StoreError(f"{self.path} does not hold {group} of {revision}; collect it")
        specs = {name: self._spec(group, name) for name in self._measured(group)}
        return {
            name: empty_rows(spec, 1)[0] if mark_of(spec.path, self._nodes) in unset else self._one_row(spec, start)
            for name, spec in specs.items()
        }

    def check(self) -> Check:
        """Verify every checksum, every length, and that every file is there; a store of layout 2 has no checksums.

        Raises:
            StoreDamagedError: the store's own `zarr.json` is damaged, which tells what the store holds.
        """
        return check(self.path)

    def disregard(self, found: Check) -> None:
        """Count damaged rows as missing from now on, as a collection does that measures them anew."""
        self._lost, self._states = lost_marks(found, self._nodes), {}

    def probe(self) -> dict[str, np.ndarray]:
        """The tokens that every revision read: `token_id`, `mask`, `domain`; nothing where there was no probe."""
        arrays = self.arrays(PROBE) if PROBE in self._all_groups else {}
        return {name: values.copy() for name, values in arrays.items()}  # torch warns of what cannot be written

    def sizes(self) -> dict[str, int]:
        """Bytes on disk, by group."""
        return {group: sum(files_under(self.path / group).values()) for group in self._all_groups}

    def _measured(self, group: str) -> list[str]:
        """The arrays of a group, less those that label its axes; all of `revisions`."""
        if group == REVISIONS:
            return [path.partition("/")[2] for path in self._nodes if path.startswith(f"{REVISIONS}/")]
        return measured_names(self._nodes, group)

    def _marks_among(self, group: str, quantities: Collection[str] | None) -> list[str]:
        """The marks of a group under which some of these quantities lie; all of its marks where none are given."""
        if quantities is None:
            return self._marks[group]
        held = {mark_of(each.key, self._nodes) for each in self.quantities(group) if each.key in quantities}
        return [mark for mark in self._marks[group] if mark in held]

    def _unset_marks(self, group: str, row: int, quantities: Collection[str] | None = None) -> list[str]:
        """The marks of a group, of some quantities if given, that are not set for a row."""
        return [mark for mark in self._marks_among(group, quantities) if not self._is_set(mark, row)]

    def _one_row(self, spec: ArraySpec, row: int) -> np.ndarray:
        return self._named(lambda: read_row(self.path, spec, row))

    def _read(self, spec: ArraySpec, needed: np.ndarray, places: Mapping[str, int] | None = None) -> np.ndarray:
        """An array at certain places of some axes; of one along revision only the rows that are needed, and fill."""
        selection = tuple((places or {}).get(axis, slice(None)) for axis in spec.dimensions)
        if not spec.grows:
            return np.asarray(self._read_fixed(spec.path)[selection])
        if places and is_series(self._nodes[spec.path]):
            in_series = self._read_series(spec, needed, selection)
            if in_series is not None:
                return in_series
        values: np.ndarray = self._rows_of(spec, needed)[selection]
        return values

    def _read_series(
        self, spec: ArraySpec, needed: np.ndarray, selection: tuple[int | slice, ...]
    ) -> np.ndarray | None:
        """The same from the shards; None where they are damaged, or lack a row, and the log has all that they have."""
        if spec.is_checked and not is_current(self.path, spec, needed):
            return None
        try:
            values = np.asarray(self._zarr[spec.path][(slice(len(needed)), *selection[1:])])  # type: ignore[index]
        except Exception:  # each of zarr's codecs has errors of its own
            return None
        return values


def _needed(spec: ArraySpec, complete: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """The rows of an array that are there; all of a column that is known when a revision is planned."""
    if len(spec.dimensions) == 1 and spec.path.partition("/")[2] in _KNOWN_WHEN_PLANNED:
        return np.ones(len(complete), dtype=bool)
    needed: np.ndarray = complete & recorded
    return needed


def _kept(
    values: np.ndarray, spec: ArraySpec, complete: np.ndarray, needed: np.ndarray, *, planned: bool
) -> np.ndarray:
    """The rows of revisions that are there, or all; fill where a row is not there."""
    if not spec.grows:
        return values
    values[~needed] = spec.fill
    return values if planned or complete.all() else np.compress(complete, values, axis=0)
