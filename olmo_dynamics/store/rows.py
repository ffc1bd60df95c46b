"""The records of one revision, gathered into one row per array, and written.

>>> rows = records_to_row(records, layout, {"parameters/rms"})  # doctest: +SKIP
>>> dict(rows)["parameters/rms"].shape  # doctest: +SKIP
(147,)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.files import Place
from olmo_dynamics.quantities.declaration import STATUS, Group, Quantity, Record, Status
from olmo_dynamics.store.declarations import mark_of
from olmo_dynamics.store.layout import Layout
from olmo_dynamics.store.log import RowWriter, read_row
from olmo_dynamics.store.schema import COMPLETE, MISSING, REVISIONS
from olmo_dynamics.store.zarr_format import ArraySpec, array_spec

_FILLS: dict[str, float | int] = {"float64": np.nan, "float32": np.nan, "int64": -1, "int16": -1, "uint8": 0}

_STATUS = f"{REVISIONS}/status"
_NOT_COUNTED = -1
"""`revisions/nonfinite_tensors` of a revision whose parameters are not recorded."""

_ByKey = Mapping[str, list[Record]]


@dataclass(frozen=True)
class RowTarget:
    """A store that a row is written to: its nodes, its layout and all marks of its groups."""

    path: Place
    nodes: Mapping[str, Any]
    layout: Layout
    every: Collection[str]
    is_checked: bool

    def write(self, row: int, records: Iterable[Record], marks: Collection[str], facts: Mapping[str, str]) -> None:
        """Fill a row of the arrays under some marks; the first time, when `facts` are given, all of `revisions` as well.

        Three steps, each on the disk before the next: marks that an attempt left are taken away, rows, marks. A revision has
        all marks of layout 3, those of groups that were not measured unset: a copy that lacks one is told by that.
        """
        writer = RowWriter(self.path)
        for mark in [_STATUS, *self.every] if facts else marks:  # of all: an attempt that was killed may have left one
            if not self.is_checked or int(read_row(self.path, self._spec(mark), row)) == COMPLETE:
                self._add(writer, mark, row, MISSING)
        writer.flush()
        if facts:
            self._add(writer, f"{REVISIONS}/nonfinite_tensors", row, _NOT_COUNTED)
        for key, values in records_to_row(records, self.layout, self._keys_under(marks)):
            self._add(writer, key, row, values)
            if key == "parameters/status":
                self._add(writer, f"{REVISIONS}/nonfinite_tensors", row, np.count_nonzero(values == Status.NONFINITE))
        for name, fact in facts.items():
            self._add(writer, f"{REVISIONS}/{name}", row, fact)
        writer.flush()
        for mark in self.every if facts and self.is_checked else marks:
            self._add(writer, mark, row, COMPLETE if mark in marks else MISSING)
        if facts:
            self._add(writer, _STATUS, row, COMPLETE)
        writer.flush()

    def _keys_under(self, marks: Collection[str]) -> frozenset[str]:
        """The quantities whose mark is among these."""
        return frozenset(key for key in self.layout.keys if key in self.nodes and mark_of(key, self.nodes) in marks)

    def _spec(self, path: str) -> ArraySpec:
        return array_spec(path, self.nodes[path])

    def _add(self, writer: RowWriter, path: str, row: int, value: Any) -> None:
        writer.add(self._spec(path), row, np.asarray(value)[np.newaxis])


def records_to_row(
    records: Iterable[Record], layout: Layout, keys: Collection[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """The rows of some quantities by their keys `group/name`, each `status` last; fill where no record gives a value.

    Records of other quantities of the layout's groups are passed over. A `status` without a record, other than of cells that
    were left out, is derived from the group's other records.

    Raises:
        StoreError: a record belongs to a group that the layout lacks, or has no place in its quantity.
        StoreMismatchError: a record's quantity has other axes or another dtype than the layout's.
    """
    by_key: dict[str, list[Record]] = {}
    for record in records:
        by_key.setdefault(record.quantity.key, []).append(record)
    _check(by_key, layout)
    chosen = [quantity for group in layout.groups.values() for quantity in group.quantities if quantity.key in keys]
    for quantity in sorted(chosen, key=lambda each: each.name == STATUS):
        given = by_key.get(quantity.key, [])
        if quantity.name == STATUS and all(_is_left_out(record) for record in given):
            yield quantity.key, _status(quantity, layout.groups[quantity.group], by_key, layout)
        else:
            yield quantity.key, _row(quantity, by_key.get(quantity.key, []), layout)


def _check(by_key: _ByKey, layout: Layout) -> None:
    for key, [record, *_] in by_key.items():
        group, _, name = key.partition("/")
        if group not in layout.groups:
            raise StoreError(
                f"a store of {', '.join(layout.groups)} cannot hold a record of {key}; add its group first"
            )
        if name in layout.groups[group]:
            _check_same(layout.groups[group][name], record.quantity)


def _check_same(held: Quantity, given: Quantity) -> None:
    if (held.axes, held.dtype) != (given.axes, given.dtype):
        mine, theirs = (f"{each.dtype} on {', '.join(each.axes) or 'no axis'}" for each in (held, given))
        raise StoreMismatchError(
            f"the store holds {held.key} as {mine}, and the record is {theirs}; "
            "give the quantity another name, or use another store"
        )


def _row(quantity: Quantity, records: list[Record], layout: Layout) -> np.ndarray:
    row = np.full(layout.shape(quantity), _FILLS[quantity.dtype], dtype=quantity.dtype)
    filled = set()
    for record in records:
        place = _place(record, quantity.axes, layout)
        key = tuple(each if isinstance(each, int) else None for each in place)
        if key in filled:
            raise StoreError(f"{quantity.key} at {record.at} must be recorded once (got two records)")
        filled.add(key)
        values = _fitting(np.asarray(record.values), quantity, record)
        if values.shape != row[place].shape:
            raise StoreError(
                f"a record of {quantity.key} at {record.at} must have the shape {row[place].shape} (got {values.shape})"
            )
        row[place] = values
    return row


def _fitting(values: np.ndarray, quantity: Quantity, record: Record) -> np.ndarray:
    """Values that the quantity's dtype can hold: for floats any numbers, for integers whole ones within their range."""
    if values.dtype.kind in "biuf":
        if values.dtype == quantity.dtype or np.dtype(quantity.dtype).kind == "f":
            return values
        with np.errstate(invalid="ignore"):
            whole = values.astype(quantity.dtype)
        if np.array_equal(whole, values):
            return whole
    raise StoreError(f"a record of {quantity.key} at {record.at} must fit {quantity.dtype} (got {_some(values)})")


def _some(values: np.ndarray) -> str:
    """The values, or the first three of them."""
    shown = ", ".join(str(each) for each in values.ravel()[:3].tolist())
    return f"{shown}, …" if values.size > 3 else shown


def _place(record: Record, axes: tuple[str, ...], layout: Layout) -> tuple[Any, ...]:
    """The index of a record's values in a row along some axes."""
    strange = [name for name in record.at if name not in record.quantity.axes]
    if strange:
        raise StoreError(
            f"a record of {record.quantity.key} must name axes among {', '.join(record.quantity.axes) or 'none'} "
            f"(got {strange[0]})"
        )
    return tuple(layout.position(name, record.at[name]) if name in record.at else slice(None) for name in axes)


def _status(status: Quantity, group: Group, by_key: _ByKey, layout: Layout) -> np.ndarray:
    """The status that follows from a group's records.

    A cell is measured where a quantity over all of the status's axes has a record, and not finite where the record of a
    quantity on just these axes holds NaN or Inf.
    """
    row = np.zeros(layout.shape(status), dtype=status.dtype)
    over = [each for each in group.quantities if each.name != STATUS and set(status.axes) <= set(each.axes)]
    for quantity in over:
        for record in by_key.get(quantity.key, []):
            place = _place(record, status.axes, layout)
            row[place] = np.maximum(row[place], _status_of(record, alone=quantity.axes == status.axes))
    for record in by_key.get(status.key, []):
        row[_place(record, status.axes, layout)] = record.values
    return row


def _is_left_out(record: Record) -> bool:
    """True for a status that says why nothing was measured."""
    return bool(np.isin(record.values, (Status.EXCLUDED, Status.ABSENT)).all())


def _status_of(record: Record, *, alone: bool) -> np.ndarray | int:
    values = np.asarray(record.values)
    if not alone or values.dtype.kind != "f":
        return Status.MEASURED
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(record.quantity.dtype))
    return np.where(finite, np.uint8(Status.MEASURED), np.uint8(Status.NONFINITE))
