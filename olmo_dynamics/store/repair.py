"""Damaged stores made whole: rows are marked as missing, and all that a store holds twice is written again.

A damaged row loses its mark before its file is rewritten, so a repair that is stopped is begun anew.

>>> repair(Path("run.zarr"), document, check(Path("run.zarr")), revisions)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from olmo_dynamics.files import Place, beside, write_together
from olmo_dynamics.names import Revision
from olmo_dynamics.store import row_files
from olmo_dynamics.store.appending import all_marks, growing, to_log
from olmo_dynamics.store.checking import FOLDER, NODE, SERIES, Check
from olmo_dynamics.store.checksums import VALUES_CHECKSUM, checksum
from olmo_dynamics.store.declarations import mark_of, marks
from olmo_dynamics.store.layout import Layout
from olmo_dynamics.store.log import RowWriter, read_row
from olmo_dynamics.store.metadata import read_fixed, read_names
from olmo_dynamics.store.row_files import DamagedRowsError, Found
from olmo_dynamics.store.schema import ALONG_REVISION, MISSING, PLANNED, REVISIONS, STATUS, planned_values, probe_arrays
from olmo_dynamics.store.zarr_format import DOCUMENT, ArraySpec, array_spec, chunk_path, encode, to_json, to_raw

_STATUS = f"{REVISIONS}/{STATUS.name}"
_COLUMNS = {column.name: column for column in PLANNED}
_LABELS = frozenset(column.name for column in ALONG_REVISION)


def lost_marks(found: Check, nodes: Mapping[str, Any]) -> dict[str, set[int]]:
    """By mark, the rows that a collection must measure anew."""
    lost: dict[str, set[int]] = {}
    for damage in found.damages:
        if damage.rows and not _is_column(damage.array):
            lost.setdefault(_mark(damage.array, nodes), set()).update(damage.rows)
    return lost


def repair(store: Place, document: Mapping[str, Any], found: Check, revisions: Sequence[Revision]) -> None:
    """Repair what `found` names, but for labels and the store's own `zarr.json`.

    Raises:
        DamagedRowsError: a planned fact is damaged of a revision that is not among those given.
    """
    nodes = document["consolidated_metadata"]["metadata"]
    damaged = {damage.array for damage in found.damages if damage.reason not in (NODE, FOLDER)}
    specs = {path: spec for path, spec in growing(nodes).items() if path in damaged}
    _unmark(store, nodes, lost_marks(found, nodes))
    writer = RowWriter(store)
    for path, spec in specs.items():
        if path not in all_marks(document):
            torn = _drop_damaged(store, spec, writer)
            if _is_column(path):
                _restore_column(store, nodes, spec, torn, {each.name: each for each in revisions}, writer)
    writer.flush()
    documents = [damage.array for damage in found.damages if damage.reason == NODE]
    if documents:
        files = [(store / path / DOCUMENT, to_json(nodes[path])) for path in documents]
        write_together(files, partial=beside(store, ".partial"))
    if any(damage.array.startswith(SERIES) for damage in found.damages):
        to_log(store, document)


def restore_labels(store: Place, nodes: Mapping[str, Any], layout: Layout, probe: Mapping[str, np.ndarray]) -> None:
    """Write damaged arrays of labels and of the probe again, where those given, or another group's, are the same.

    Raises:
        DamagedRowsError: none is the same.
    """
    files = []
    for path, node in nodes.items():
        spec = array_spec(path, node) if node["node_type"] == "array" else None
        if spec is None or spec.grows or not spec.is_checked:
            continue
        try:
            read_fixed(store, spec)
        except DamagedRowsError:
            same = [each for each in _candidates(store, nodes, spec, layout, probe) if _is_same(each, spec)]
            if not same:
                raise
            files.append((chunk_path(store / path, spec, 0), encode(same[0].reshape(spec.shape), spec)))
    if files:
        write_together(files, partial=beside(store, ".partial"))


def _candidates(
    store: Place, nodes: Mapping[str, Any], spec: ArraySpec, layout: Layout, probe: Mapping[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Arrays that may hold what a damaged one held."""
    name = spec.path.partition("/")[2]
    for axis in layout.axes.values():
        if name == axis.name:
            yield axis.labels
        if name in axis.coordinates:
            yield axis.coordinates[name]
    yield from (
        values for given, values in probe_arrays(layout, probe) if given.path == spec.path and values is not None
    )
    for path, node in nodes.items():
        if path.partition("/")[2] == name and path != spec.path and node["shape"] == list(spec.shape):
            try:
                yield read_fixed(store, array_spec(path, node))
            except DamagedRowsError:
                continue


def _is_same(values: np.ndarray, spec: ArraySpec) -> bool:
    return values.shape == spec.shape and checksum(to_raw(values, spec.dtype)) == spec.attributes.get(VALUES_CHECKSUM)


def _is_column(path: str) -> bool:
    """True for what is known when a revision is planned."""
    group, _, name = path.partition("/")
    return name in (_COLUMNS if group == REVISIONS else _LABELS)


def _mark(path: str, nodes: Mapping[str, Any]) -> str:
    """The mark that tells of an array's rows; of a mark itself the mark."""
    group = path.partition("/")[0]
    if group == REVISIONS:
        return _STATUS
    return path if path in marks(nodes, group) else mark_of(path, nodes)


def _unmark(store: Place, nodes: Mapping[str, Any], lost: Mapping[str, Iterable[int]]) -> None:
    writer = RowWriter(store)
    for mark, rows in lost.items():
        spec = array_spec(mark, nodes[mark])
        _drop_damaged(store, spec, writer)
        for row in rows:
            writer.add(spec, row, np.array([MISSING], dtype=np.uint8))
    writer.flush()


def _drop_damaged(store: Place, spec: ArraySpec, writer: RowWriter) -> list[int]:
    """Take damaged rows out of an array's files; returns those that the array must have."""
    per_file, number, lost = spec.chunks[0], 0, []
    while number * per_file < max(1, spec.shape[0]) or chunk_path(store / spec.path, spec, number).exists():
        first = number * per_file
        try:
            held = row_files.read_file(store, spec, number, [])
            torn = list(row_files.damaged(spec, {first + place: data for place, data in held.items()}))
            for row in torn:
                writer.drop(spec, row)
        except DamagedRowsError:
            torn = list(range(first, first + per_file))
            writer.replace_file(spec, number)
        lost += [row for row in torn if row < spec.shape[0]]
        number += 1
    return lost


def _restore_column(
    store: Place,
    nodes: Mapping[str, Any],
    spec: ArraySpec,
    rows: Iterable[int],
    revisions: Mapping[str, Revision],
    writer: RowWriter,
) -> None:
    """Write rows of a planned column again: from another group's, or as the revision of that name has it."""
    name = spec.path.partition("/")[2]
    others = [array_spec(path, node) for path, node in nodes.items()
              if _is_column(path) and path.partition("/")[2] == name and path != spec.path]  # fmt: skip
    names = read_names(store, nodes)
    for row in rows:
        held = [value for each in others if (value := _intact(store, each, row)) is not None]
        if held:
            values = np.array(held[:1])
        elif str(names[row]) in revisions:
            values = planned_values(_COLUMNS[name], [revisions[str(names[row])]])
        else:
            raise DamagedRowsError(spec.path, [row], "select that revision too, since its name tells the value")
        writer.add(spec, row, values)


def _intact(store: Place, spec: ArraySpec, row: int) -> Any:
    """One row's value; None where it is absent or damaged."""
    if row_files.find(store, spec, np.arange(row + 1) == row)[row] != Found.PRESENT:
        return None
    try:
        return read_row(store, spec, row)
    except DamagedRowsError:
        return None
