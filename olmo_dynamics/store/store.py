"""A store of measurements: one Zarr folder, one row per revision, each row wholly there or marked as missing.

>>> store = Store.create("run.zarr", layout=layout, attributes=attributes, probe_arrays={})  # doctest: +SKIP
>>> store.append(Revision("step1000"), records, dtype="BF16", weights_sha256="…")  # doctest: +SKIP
>>> xarray.open_zarr("run.zarr", group="parameters").rms.sel(revision="step1000")  # doctest: +SKIP

Rows stand in the order in which they were planned. With xarray rather than `Store`, read each group's `recorded` too (and
`recorded_2`, … for arrays whose attribute `mark` names it): where it is 0 the row is not there, and must not be used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Literal, Self

import numpy as np

from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.files import Place, as_place, refresh, write_errors_named
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities import in_order
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.store.appending import complete_columns, extend, to_log, to_series, write_nodes
from olmo_dynamics.store.checking import Check
from olmo_dynamics.store.creation import add_groups, add_quantities, build
from olmo_dynamics.store.layout import Layout
from olmo_dynamics.store.locks import exclusive_append, locked
from olmo_dynamics.store.log import read_row
from olmo_dynamics.store.metadata import difference
from olmo_dynamics.store.reading import ReadableStore
from olmo_dynamics.store.repair import repair, restore_labels
from olmo_dynamics.store.rows import RowTarget
from olmo_dynamics.store.schema import ALONG_REVISION, REVISIONS
from olmo_dynamics.store.upgrade import upgrade

Mode = Literal["r", "a"]


class Store(ReadableStore):
    """The measurements of many revisions of one run."""

    def __init__(self, path: str | Place, *, mode: Mode = "r") -> None:
        super().__init__(path)
        self.mode = mode
        self._holds_lock = False
        self._part: str | None = None

    @classmethod
    def create(
        cls,
        path: str | Place,
        *,
        layout: Layout,
        attributes: Mapping[str, Any],
        probe_arrays: Mapping[str, np.ndarray],
        part: str | None = None,
    ) -> Self:
        """Make a store with no revision in it, open for appending.

        Args:
            path: a folder that does not exist yet.
            layout: the axes, and the groups recorded.
            attributes: `source`, `model_type`, `model_config`, `compute_dtype`, `probe` (its `sha256`, …), and any others.
            probe_arrays: arrays [sequence] or [sequence, position]: `token_id`, `mask`, `domain`; none without a probe.
            part: such as `2/8`, where several processes share one store: the first of them makes it, the others open it.

        Raises:
            StoreError: something is there already, or an attribute is missing.
            StoreBusyError: another process is making it.
            DiskFullError: no room; nothing is left behind.
        """
        build(as_place(path), layout, attributes, probe_arrays, part)
        return cls.open(path, mode="a")

    @classmethod
    def open(cls, path: str | Place, *, mode: Mode = "r") -> Self:
        """Open a store, to read (`r`) or to append to as well (`a`).

        Raises:
            StoreError: there is no store, or it is not one of ours.
            StoreMismatchError: the store has another layout version.
        """
        return cls(path, mode=mode)

    def check_same(self, layout: Layout, attributes: Mapping[str, Any]) -> None:
        """Check that new measurements can be compared with those that are there.

        Raises:
            StoreMismatchError: another source, model config, probe, compute dtype or layout; the message says which and how.
        """
        self._refuse(difference(self.attributes, attributes) or self.layout.difference(layout))

    @contextmanager
    def lock(self, part: str | None = None) -> Iterator[None]:
        """Hold the store, or a part of it such as `2/8`, as its only writer.

        Parts are written in parallel, each by one process; the whole only while no part is. `plan`, `append` and the like
        take the lock of the whole themselves where none is held.

        Raises:
            OptionError: the part is not of the form K/N.
            StoreError: the store is open for reading only.
            StoreBusyError: another process is writing it.
        """
        if self.mode != "a":
            raise StoreError(f'{self.path} is open for reading only; open it with mode="a" to append')
        if self._holds_lock:
            yield
            return
        self._refuse_old_objects()
        with locked(self.path, part):
            self._holds_lock, self._part = True, part
            try:
                refresh(self.path)
                self._load()  # another writer may have been here since it was opened
                yield
            finally:
                self._holds_lock, self._part = False, None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock, and among parts the exclusive append; begin from the state that other writers left."""
        with self.lock(), write_errors_named(self.path), exclusive_append(self.path) if self._part else nullcontext():
            if self._part:
                refresh(self.path)
            self._load()
            yield

    def plan(self, revisions: Iterable[Revision]) -> None:
        """Make room for further revisions; those that the store knows by name keep their row.

        Raises:
            StoreBusyError: another process is writing it.
            DiskFullError: no room; the store is as it was.
        """
        with self._writing():
            self._plan(revisions)

    def add_groups(
        self, layout: Layout, *, attributes: Mapping[str, Any], probe_arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Make room for the groups of a layout that the store lacks; nothing that is there changes.

        Quantities that its groups lack are added by `add_quantities`.

        Args:
            layout: with the same labels on the axes of groups that are there; it may lack some of these groups.
            attributes: as given to `create`.
            probe_arrays: as given to `create`; taken where the store has no probe yet.

        Raises:
            StoreMismatchError: another source, model config, probe, compute dtype or layout; the message says which and how.
            StoreBusyError: another process is writing it.
            DiskFullError: no room; the store is as it was.
        """
        with self._writing():
            held = self.attributes
            probe = held["probe"] or attributes["probe"]
            found = difference({**held, "probe": attributes["probe"] and probe}, attributes)
            self._refuse(found or self.layout.difference_in_shared(layout))
            groups = list(in_order(dict.fromkeys((*self.groups, *layout.groups))))
            document = {**self._document, "attributes": {**held, "probe": probe, "groups": groups}}
            planned = self.arrays(REVISIONS, planned=True)
            along = {column.name: planned[column.name] for column in ALONG_REVISION}
            add_groups(self.path, document, layout, probe_arrays, along, self._complete())
            self._load()

    def add_quantities(self, layout: Layout) -> None:
        """Make room for the quantities that `lacking_quantities` names; nothing that is there changes.

        They get a mark of their own in each group, such as `recorded_2`, which is not set for any revision yet. So each of
        these revisions lacks the group until `append` back-fills it.

        Raises:
            StoreMismatchError: a quantity or group of the layout contradicts the store's; the message says which and how.
            StoreBusyError: another process is writing it.
            DiskFullError: no room; the store is as it was.
        """
        with self._writing():
            self._refuse(self.layout.difference_in_shared(layout))
            add_quantities(self.path, self._document, layout, self.lacking_quantities(layout), self._complete())
            self._load()

    def append(
        self,
        revision: Revision,
        records: Iterable[Record],
        *,
        dtype: str,
        weights_sha256: str,
        groups: Collection[str] | None = None,
        quantities: Collection[str] | None = None,
        collected_at: datetime | None = None,
    ) -> None:
        """Write one revision's row in every array of some groups, and last the marks that it is there.

        Of a revision that is there already, only groups and quantities that it lacks are written; numbers that are there
        never change.

        Args:
            revision: planned before, or given a row now.
            records: the measured values; quantities without a record stay at fill. Records of other groups, and of quantities
                that the store lacks, are passed over.
            dtype: of the weights as stored, such as `BF16`.
            weights_sha256: hash of the weights.
            groups: those that were measured; all of the store's unless given.
            quantities: the keys of those that were measured; all of these groups' unless given. An addition to a group of
                which none was measured is still missing then.
            collected_at: when it was first measured; now, unless given.

        Raises:
            StoreError: a record has no place in the layout, or the store has no such group.
            StoreMismatchError: the revision's other numbers were measured from other weights, or a record's quantity has other
                axes or another dtype than the store's.
            StoreBusyError: another process is writing it.
            DiskFullError: no room; what was being written counts as missing, all else stays.
        """
        when = (collected_at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = {"commit": revision.commit, "dtype": dtype, "weights_sha256": weights_sha256, "collected_at": when}
        with self._writing():
            if revision.name not in self._rows:
                self._plan([revision])
            row = self._rows[revision.name]
            is_there = self._is_complete(row)
            marks = [mark for group in self._checked(groups) for mark in self._marks_among(group, quantities)]
            if is_there:
                marks = [mark for mark in marks if not self._is_set(mark, row)]
            if marks:
                if is_there:
                    self._check_weights(revision.name, weights_sha256)
                to_log(self.path, self._document)
                self._load()
                every = [mark for held in self._marks.values() for mark in held]
                target = RowTarget(self.path, self._nodes, self.layout, every, is_checked=self.is_checked)
                self._named(lambda: target.write(row, records, marks, {} if is_there else facts))
                self._load()

    def repair(self, revisions: Iterable[Revision] = ()) -> Check:
        """Mark damaged rows as missing, so that a collection measures them anew, and write again what the store holds twice.

        Planned facts that no other group holds are taken from `revisions`; damaged labels stay, see `restore_labels`.

        Raises:
            StoreDamagedError: the store's own `zarr.json` is damaged, or a planned fact of a revision that is not given.
            StoreBusyError: another process is writing it.
        """
        if not (found := self.check()).damages:
            return found
        with self._writing():
            self._named(lambda: repair(self.path, self._document, found, list(revisions)))
            self._load()
        return found

    def restore_labels(self, layout: Layout, probe_arrays: Mapping[str, np.ndarray]) -> None:
        """Write damaged labels and probe arrays again, from a layout and a probe that hold the same.

        Raises:
            StoreDamagedError: neither holds what a damaged array held.
            StoreBusyError: another process is writing it.
        """
        with self._writing():
            self._named(lambda: restore_labels(self.path, self._nodes, layout, probe_arrays))

    def rename_source(self, source: str) -> None:
        """Change the name or path of the run in the root attributes: a hint, for runs are known by their weights."""
        with self._writing():
            write_nodes(self.path, {**self._document, "attributes": {**self.attributes, "source": source}}, {})
            self._load()

    def compact(self, *, keep_layout: bool = False) -> None:
        """Write every array's series beside its log; readers take them from there until the next revision is appended.

        Readers that have the store open go on reading the numbers they read. A compaction that was stopped begins anew. A
        store of layout 2 is first written as layout 3, which has checksums, unless `keep_layout` is True; then readers must
        open it again.

        Raises:
            StoreBusyError: another process is writing the store, or a part of it.
            DiskFullError: no room; the store is as it was.
        """
        with self._writing():
            if not self.is_checked and not keep_layout:
                self._named(lambda: upgrade(self.path, self._document, self._kept_rows()))
                self._load()
            if not self.is_compact:
                self._named(lambda: to_series(self.path, self._document, self._kept_rows()))
                self._load()

    def _plan(self, revisions: Iterable[Revision]) -> None:
        if self.is_checked:
            self._named(
                lambda: complete_columns(self.path, self._document, lambda: self.arrays(REVISIONS, planned=True))
            )
        new = {each.name: each for each in revisions if each.name not in self._rows}
        if new:
            self._named(lambda: extend(self.path, self._document, list(new.values())))
            self._load()

    def _checked(self, groups: Collection[str] | None) -> Collection[str]:
        strange = [group for group in groups or () if group not in self.groups]
        if strange:
            raise StoreError(f"{self.path} has no group {strange[0]}; it has {', '.join(self.groups)}")
        return self.groups if groups is None else groups

    def _check_weights(self, revision: str, weights_sha256: str) -> None:
        spec = self._spec(REVISIONS, "weights_sha256")
        held = str(self._named(lambda: read_row(self.path, spec, self._rows[revision])))
        if held != weights_sha256:
            raise StoreMismatchError(
                f"{self.path} holds {revision} measured from weights of sha256 {held[:12]}, not {weights_sha256[:12]}; "
                "collect it into another store"
            )

    def _refuse(self, found: str) -> None:
        if found:
            raise StoreMismatchError(f"{self.path} holds other settings: {found}; use the same, or another store")
