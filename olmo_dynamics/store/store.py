"""A store of measurements: one Zarr folder, one row a revision, each row wholly there or marked as missing.

>>> store = Store.create("run.zarr", layout=layout, attributes=attributes, probe_arrays={})  # doctest: +SKIP
>>> store.append(Revision("step1000"), records, dtype="BF16", weights_sha256="…")  # doctest: +SKIP
>>> xarray.open_zarr("run.zarr", group="parameters").rms.sel(revision="step1000")  # doctest: +SKIP

Rows stand in the order they were planned in. Whoever reads with xarray rather than through `Store` reads
`revisions/status` too: where it is 0 the revision is planned only, and what its row holds is not to be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.names import Record, Revision, Status
from olmo_dynamics.store.appending import extend, write_rows
from olmo_dynamics.store.creation import build
from olmo_dynamics.store.documents import difference
from olmo_dynamics.store.files import locked, write_errors_named
from olmo_dynamics.store.layout import Layout
from olmo_dynamics.store.reading import ReadableStore
from olmo_dynamics.store.rows import lay
from olmo_dynamics.store.schema import COMPLETE, MISSING, REVISIONS
from olmo_dynamics.store.zarr_format import array_spec

Mode = Literal["r", "a"]


class Store(ReadableStore):
    """The measurements of many revisions of one run."""

    def __init__(self, path: str | Path, *, mode: Mode = "r") -> None:
        super().__init__(path)
        self.mode = mode
        self._holds_lock = False

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        layout: Layout,
        attributes: Mapping[str, Any],
        probe_arrays: Mapping[str, np.ndarray],
    ) -> Self:
        """Make a store with no revision in it, open for appending.

        Args:
            path: a folder that does not exist yet.
            layout: the axes, and the groups recorded.
            attributes: `source`, `model_type`, `model_config`, `compute_dtype`, `probe` (its `sha256`, …), and what else.
            probe_arrays: arrays [sequence] or [sequence, position]: `token_id`, `mask`, `domain`; none without a probe.

        Raises:
            StoreError: something is there already, or an attribute is missing.
            StoreBusyError: another process is making it.
            DiskFullError: no room; nothing is left behind.
        """
        build(Path(path), layout, attributes, probe_arrays)
        return cls.open(path, mode="a")

    @classmethod
    def open(cls, path: str | Path, *, mode: Mode = "r") -> Self:
        """Open a store, to read (`r`) or to append to as well (`a`).

        Raises:
            StoreError: there is none, or it is not one of ours.
            StoreMismatchError: another version of this library arranged it differently.
        """
        return cls(path, mode=mode)

    def check_same(self, layout: Layout, attributes: Mapping[str, Any]) -> None:
        """Make sure that what is about to be appended can be compared with what is there.

        Raises:
            StoreMismatchError: another source, model config, probe, compute dtype or layout; it says which and how.
        """
        found = difference(self.attributes, attributes) or self.layout.difference(layout)
        if found:
            raise StoreMismatchError(f"{self.path} holds other settings: {found}; use the same, or another store")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the store's only writer; `plan` and `append` take the lock themselves where it is not held.

        Raises:
            StoreBusyError: another process is writing it.
        """
        if self.mode != "a":
            raise StoreError(f'{self.path} is open for reading only; open it with mode="a" to append')
        if self._holds_lock:
            yield
            return
        with locked(self.path):
            self._holds_lock = True
            try:
                self._load()  # another writer may have been here since it was opened
                yield
            finally:
                self._holds_lock = False

    def plan(self, revisions: Iterable[Revision]) -> None:
        """Make room for revisions that are to come; those the store knows by name keep their row.

        Raises:
            StoreBusyError: another process is writing it.
            DiskFullError: no room; the store is as it was.
        """
        with self.lock(), write_errors_named(self.path):
            known = set(self._names.tolist())
            new = {each.name: each for each in revisions if each.name not in known}
            if new:
                extend(self.path, self._document, list(new.values()))
                self._load()

    def append(
        self,
        revision: Revision,
        records: Iterable[Record],
        *,
        dtype: str,
        weights_sha256: str,
        collected_at: datetime | None = None,
    ) -> None:
        """Write one revision's row in every array, and last the mark that it is complete.

        Args:
            revision: planned before, or given a row now.
            records: what was measured; quantities without a record stay NaN.
            dtype: of the weights as stored, such as `BF16`.
            weights_sha256: hash of the weights.
            collected_at: when it was measured; now, unless given.

        Raises:
            StoreError: a record has no place in the layout.
            StoreBusyError: another process is writing it.
            DiskFullError: no room; the revision counts as missing, the others stay.
        """
        when = (collected_at or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = {"commit": revision.commit, "dtype": dtype, "weights_sha256": weights_sha256, "collected_at": when}
        with self.lock(), write_errors_named(self.path):
            self.plan([revision])
            row = self._names.tolist().index(revision.name)
            self._write(f"{REVISIONS}/status", row, MISSING)
            nonfinite = self._write_records(row, records)
            for name, fact in {**facts, "nonfinite_tensors": nonfinite}.items():
                self._write(f"{REVISIONS}/{name}", row, fact)
            self._write(f"{REVISIONS}/status", row, COMPLETE)

    def _write_records(self, row: int, records: Iterable[Record]) -> int:
        """Write a row in every measured array; the count of tensors with NaN or Inf, -1 where none were recorded."""
        nonfinite = -1
        for key, values in lay(records, self.layout):
            self._write(key, row, values)
            if key == "parameters/status":
                nonfinite = int(np.count_nonzero(values == Status.NONFINITE))
        return nonfinite

    def _write(self, path: str, row: int, value: Any) -> None:
        spec = array_spec(path, self._nodes[path])
        write_rows(self.path, spec, row, np.asarray(value)[np.newaxis])
