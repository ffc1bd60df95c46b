"""The state of a store on the disk: its documents as they are in force, and the rows that are there.

A row is there when its marks are set and, in layout 3, each array under them has it. A copy that was taken while the store
was written may hold marks that are newer than rows, or a root that is newer than both: such rows count as not there.

>>> StoreState("run.zarr").done  # doctest: +SKIP
frozenset({'step1000'})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import zarr

from olmo_dynamics.errors import StoreDamagedError, StoreError
from olmo_dynamics.files import ObjectPath, Place, Stamp, as_place, stamp_of
from olmo_dynamics.quantities.declaration import Group
from olmo_dynamics.store import row_files
from olmo_dynamics.store.appending import growing
from olmo_dynamics.store.declarations import mark_of, marks, read_group
from olmo_dynamics.store.layout import Layout
from olmo_dynamics.store.log import read_rows
from olmo_dynamics.store.metadata import as_names, in_force, load_document, read_fixed, read_layout, read_names
from olmo_dynamics.store.remote.zarr_access import zarr_store
from olmo_dynamics.store.row_files import DamagedRowsError, Found
from olmo_dynamics.store.schema import ALONG_REVISION, COMPLETE, PLANNED, REVISIONS
from olmo_dynamics.store.zarr_format import CHECKED_LAYOUT, DOCUMENT, TEXT, ArraySpec, array_spec, chunk_path

_Value = TypeVar("_Value")
_NOT_THERE = -1
_LABELS = frozenset(column.name for column in ALONG_REVISION)
_KNOWN_WHEN_PLANNED = frozenset(column.name for column in PLANNED)


class StoreState:
    """An open store, as its documents and marks describe it."""

    def __init__(self, path: str | Place) -> None:
        self.path = as_place(path)
        self._stamp: Stamp | None = None
        self._nodes: dict[str, Any] = {}
        self._present: dict[str, np.ndarray] = {}
        self._states: dict[str, tuple[list[Stamp | None], np.ndarray]] = {}
        self._lost: dict[str, set[int]] = {}
        self._load()

    @property
    def attributes(self) -> dict[str, Any]:
        """The root attributes: source, model config, probe, compute dtype, versions."""
        return dict(self._document["attributes"])

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of measured numbers."""
        return tuple(self._document["attributes"]["groups"])

    @property
    def is_checked(self) -> bool:
        """True if the store has checksums: from layout version 3 on."""
        return bool(self._document["attributes"]["layout_version"] >= CHECKED_LAYOUT)

    @cached_property
    def layout(self) -> Layout:
        """The axes and groups, as read back; a group without a `status` is given one here, and in `quantities` not.

        Raises:
            StoreDamagedError: labels are damaged.
        """
        return read_layout(self._read_fixed, self._nodes, self._declared)

    @cached_property
    def _declared(self) -> dict[str, Group]:
        return {name: read_group(name, self._nodes) for name in self.groups}

    @cached_property
    def _marks(self) -> dict[str, list[str]]:
        return {name: marks(self._nodes, name) for name in self.groups}

    @cached_property
    def _zarr(self) -> zarr.Group:
        return zarr.open_group(zarr_store(self.path), mode="r", use_consolidated=True)

    @cached_property
    def _under(self) -> dict[str, list[ArraySpec]]:
        """By mark, the arrays along revision that have a row wherever it is set."""
        found: dict[str, list[ArraySpec]] = {}
        every = {mark for group in self.groups for mark in self._marks[group]} | {_STATUS}
        for path, spec in growing(self._nodes).items():
            group, _, name = path.partition("/")
            if path not in every:
                mark = (
                    _STATUS
                    if group == REVISIONS
                    else self._marks[group][0]
                    if name in _LABELS
                    else mark_of(path, self._nodes)
                )
                found.setdefault(mark, []).append(spec)
        return found

    def _refuse_old_objects(self) -> None:
        """Refuse to append where layout 2 would have to write into the middle of an object.

        Raises:
            StoreError: the store is of layout 2, in a bucket.
        """
        if not self.is_checked and isinstance(self.path, ObjectPath):
            raise StoreError(
                f"{self.path} has layout version 2, which can only be read there; copy it into a folder, and run olmo-dyn "
                "compact on that"
            )

    def _load(self) -> None:
        """Read the root document, unless it is still the same file."""
        stamp = stamp_of(self.path / DOCUMENT)
        if stamp is not None and stamp == self._stamp:
            return
        document = load_document(self.path)
        if isinstance(self.path, ObjectPath):
            row_files.fetch_shared(self.path, growing(document["consolidated_metadata"]["metadata"]).values())
        self._document = in_force(self.path, document)
        for name in ("layout", "_declared", "_marks", "_zarr", "_under"):
            vars(self).pop(name, None)
        self._stamp, self._nodes = stamp, self._document["consolidated_metadata"]["metadata"]
        self._names = self._named(lambda: read_names(self.path, self._nodes))
        self._rows = {name: row for row, name in enumerate(self._names.tolist())}
        self._present, self._states = {}, {}

    def _named(self, work: Callable[[], _Value]) -> _Value:
        """Do some reading; an error names the array, and the revisions whose rows are damaged."""
        try:
            return work()
        except DamagedRowsError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: DamagedRowsError) -> StoreDamagedError:
        return damaged_error(self.path, error, getattr(self, "_names", None))

    def _spec(self, group: str, name: str) -> ArraySpec:
        path = f"{group}/{name}"
        if path not in self._nodes:
            raise StoreError(f"{self.path} has no {path}; its groups are {', '.join(self._all_groups)}")
        return array_spec(path, self._nodes[path])

    @property
    def _all_groups(self) -> tuple[str, ...]:
        return tuple(path for path in self._nodes if "/" not in path)

    def _rows_of(self, spec: ArraySpec, needed: np.ndarray) -> np.ndarray:
        """All rows of an array that grows; fill where they are not needed."""
        found = self._named(lambda: read_rows(self.path, spec, needed))
        return as_names(found) if spec.dtype == TEXT else found

    def _read_fixed(self, path: str) -> np.ndarray:
        """An array of labels, or of the probe."""
        return self._named(lambda: read_fixed(self.path, array_spec(path, self._nodes[path])))

    def _complete(self, rows: np.ndarray | None = None) -> np.ndarray:
        """By revision, true if it is wholly there; of some rows where given."""
        complete: np.ndarray = self._state(_STATUS, rows) == COMPLETE
        if self.is_checked:
            for group in self.groups:
                for mark in self._marks[group]:
                    complete &= self._state(mark, rows) != _NOT_THERE
        return complete

    def _recorded(self, mark: str, rows: np.ndarray | None = None) -> np.ndarray:
        """By revision, true if the arrays under a mark are there, if the revision is; of some rows where given."""
        recorded: np.ndarray = self._state(mark, rows) == COMPLETE
        return recorded

    def _state(self, mark: str, rows: np.ndarray | None = None) -> np.ndarray:
        """By revision, a mark's value; `_NOT_THERE` where the mark, or a row under it, is not on the disk.

        What was found for all rows is kept for as long as the mark's files are the same.
        """
        spec = array_spec(mark, self._nodes[mark])
        everywhere = np.ones(len(self._names), dtype=bool)
        if not self.is_checked:
            return self._named(lambda: read_rows(self.path, spec, everywhere)).astype(np.int8)
        if rows is not None:
            return self._find_state(spec, rows)
        numbers = range(-(-len(self._names) // spec.chunks[0]))
        stamps = [stamp_of(chunk_path(self.path / mark, spec, number)) for number in numbers]
        if mark not in self._states or self._states[mark][0] != stamps or None in stamps:
            self._states[mark] = stamps, self._find_state(spec, everywhere)
        return self._states[mark][1]

    def _find_state(self, spec: ArraySpec, needed: np.ndarray) -> np.ndarray:
        row_files.fetch_shared(self.path, [spec, *self._under.get(spec.path, [])])
        lost = np.isin(np.arange(len(needed)), list(self._lost.get(spec.path, ())))
        values = np.full(len(needed), _NOT_THERE, dtype=np.int8)
        for numbers, found in self._named(lambda: list(row_files.read(self.path, spec, needed & ~lost))):
            values[numbers] = found
        values[lost] = 0
        held = values == COMPLETE
        for each in self._under.get(spec.path, []):
            values[self._is_absent(each, held)] = _NOT_THERE
        return values

    def _is_absent(self, spec: ArraySpec, rows: np.ndarray) -> np.ndarray:
        """By row, true if an array does not have it yet; a row that was found once is not looked for again."""
        known = self._present.setdefault(spec.path, np.zeros(len(rows), dtype=bool))
        unknown = rows & ~known
        if not unknown.any():
            return np.zeros(len(rows), dtype=bool)
        found = row_files.find(self.path, spec, unknown)
        known |= found == Found.PRESENT
        absent: np.ndarray = unknown & (found == Found.ABSENT)
        return absent

    def _only(self, row: int) -> np.ndarray:
        """One row among all, as a mask."""
        only: np.ndarray = np.arange(len(self._names)) == row
        return only

    def _is_set(self, mark: str, row: int) -> bool:
        """True if a mark is set for a row, and the row is there."""
        return bool(self._recorded(mark, self._only(row))[row])

    def _is_complete(self, row: int) -> bool:
        return bool(self._complete(self._only(row))[row])

    def _rows_there(self, group: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        """By array of a group and revision, true if the row is there, if the revision is."""
        if group not in self.groups:
            return dict.fromkeys(names, np.ones(len(self._names), dtype=bool))
        by_mark = {mark: self._recorded(mark) for mark in self._marks[group]}
        return {name: by_mark[mark_of(f"{group}/{name}", self._nodes)] for name in names}

    def _kept_rows(self) -> Mapping[str, np.ndarray]:
        """By array along revision, the rows that a compaction keeps."""
        complete, everywhere = self._complete(), np.ones(len(self._names), dtype=bool)
        kept = {}
        for path in growing(self._nodes):
            group, _, name = path.partition("/")
            of_labels = name in (_KNOWN_WHEN_PLANNED if group == REVISIONS else _LABELS)
            is_mark = group == REVISIONS or path in self._marks[group]
            kept[path] = everywhere if of_labels else complete if is_mark else (
                complete & self._recorded(mark_of(path, self._nodes)))  # fmt: skip
        return kept


_STATUS = f"{REVISIONS}/status"


def damaged_error(path: Place, error: DamagedRowsError, names: np.ndarray | None) -> StoreDamagedError:
    """The error for a user: the array, the revisions, the reason and the remedy."""
    rows = [row for row in error.rows if names is not None and row < len(names)]
    of = [str(names[row]) for row in rows] if names is not None else []
    shown = f" of {', '.join(of[:3])}{', …' if len(of) > 3 else ''}" if of else ""
    return StoreDamagedError(
        f"{path}: {error.array}{shown} is damaged ({error.reason}); run olmo-dyn collect again, which measures damaged "
        f"revisions anew, and olmo-dyn show {path} --check to see all damage"
    )
