"""Rows added to the arrays of a store, in an order that survives a kill, and a power cut, at any moment.

The store's own `zarr.json` holds every array's shape, and is written last when rows are added: until then a reader sees
the old shapes and reads nothing beyond them. A row's marks are written last when it is filled: those of each group
(`recorded`, `recorded_2`, …), then `revisions/status`. Each of these steps is on the disk before the next begins.

    >>> extend(path, document, [Revision("step1000")])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from olmo_dynamics.files import Place, PlaceFile, beside, write_atomic, write_together
from olmo_dynamics.names import Revision
from olmo_dynamics.store import row_files
from olmo_dynamics.store.checksums import seal_document
from olmo_dynamics.store.declarations import marks
from olmo_dynamics.store.log import RowWriter
from olmo_dynamics.store.row_files import Found
from olmo_dynamics.store.schema import ALONG_REVISION, PLANNED, REVISIONS, STATUS, planned_values
from olmo_dynamics.store.series import has_series, series_document, shard_bytes, shard_path
from olmo_dynamics.store.zarr_format import (
    CHECKED_LAYOUT,
    CHUNK_ROWS,
    DOCUMENT,
    ArraySpec,
    array_document,
    array_spec,
    is_series,
    root_document,
    to_json,
)

_SHARDS = 32
"""The number of shards that are written before they are renamed."""


def growing(nodes: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The arrays along `revision`, by path."""
    arrays = {path: array_spec(path, node) for path, node in nodes.items() if node["node_type"] == "array"}
    return {path: spec for path, spec in arrays.items() if spec.grows}


def extend(store: Place, document: Mapping[str, Any], revisions: Sequence[Revision]) -> None:
    """Add a row for each revision to every array; readers take all arrays from the log from now on."""
    columns = {column.name: planned_values(column, list(revisions)) for column in PLANNED}
    nodes = document["consolidated_metadata"]["metadata"]
    specs = growing(nodes)
    _drop_marks(store, [specs[path] for path in all_marks(document) if path in specs], len(revisions))
    changed = {}
    writer = RowWriter(store)
    for path, spec in specs.items():
        rows = spec.shape[0] + len(revisions)
        if spec.in_rows:
            writer.make_files(spec, rows)
        name = path.rpartition("/")[2]
        if len(spec.dimensions) == 1 and name in columns:
            writer.add(spec, spec.shape[0], columns[name])
        changed[path] = array_document(replace(spec, shape=(rows, *spec.shape[1:])))
    writer.flush()
    write_nodes(store, document, changed)


def all_marks(document: Mapping[str, Any]) -> list[str]:
    """The paths of all marks: those of each group, and last `revisions/status`."""
    nodes = document["consolidated_metadata"]["metadata"]
    of_groups = [mark for group in document["attributes"]["groups"] if group in nodes for mark in marks(nodes, group)]
    return [*of_groups, f"{REVISIONS}/{STATUS.name}"]


def _drop_marks(store: Place, specs: Iterable[ArraySpec], rows: int) -> None:
    """Take out marks of rows that are about to be planned: a copy may hold those that a writer set meanwhile."""
    writer = RowWriter(store)
    for spec in specs:
        if spec.in_rows:
            needed = np.arange(spec.shape[0] + rows) >= spec.shape[0]
            for row in np.flatnonzero(row_files.find(store, spec, needed) == Found.PRESENT).tolist():
                writer.drop(spec, row)
    writer.flush()


def complete_columns(
    store: Place, document: Mapping[str, Any], columns: Callable[[], Mapping[str, np.ndarray]]
) -> None:
    """Write the labels of rows that a group lacks: a copy may have passed it before the rows were planned."""
    nodes = document["consolidated_metadata"]["metadata"]
    writer = RowWriter(store)
    for path, spec in growing(nodes).items():
        group, _, name = path.partition("/")
        if spec.in_rows and group != REVISIONS and name in {column.name for column in ALONG_REVISION}:
            found = row_files.find(store, spec, np.ones(spec.shape[0], dtype=bool))
            for row in np.flatnonzero(found == Found.ABSENT).tolist():
                writer.add(spec, row, columns()[name][row : row + 1])
    writer.flush()


def to_log(store: Place, document: Mapping[str, Any]) -> None:
    """Let readers take every array from the log from now on, since its series are about to lack a row."""
    nodes = document["consolidated_metadata"]["metadata"]
    changed = {path: array_document(spec) for path, spec in growing(nodes).items() if is_series(nodes[path])}
    if changed:
        write_nodes(store, document, changed)


def to_series(store: Place, document: Mapping[str, Any], is_there: Mapping[str, np.ndarray]) -> None:
    """Write the series of every array that has one; readers take it from there from now on.

    `is_there` holds, by the path of an array, which of its rows are there; others become fill.
    """
    specs = {path: spec for path, spec in growing(document["consolidated_metadata"]["metadata"]).items()
             if has_series(spec)}  # fmt: skip
    shards = _shards(store, specs.values(), is_there)
    while some := list(islice(shards, _SHARDS)):
        write_together(some, partial=beside(store, ".partial"))
    write_nodes(store, document, {path: series_document(spec) for path, spec in specs.items()})


def _shards(store: Place, specs: Iterable[ArraySpec], is_there: Mapping[str, np.ndarray]) -> Iterator[PlaceFile]:
    for spec in specs:
        for number in range(-(-spec.shape[0] // CHUNK_ROWS)):
            yield shard_path(store, spec, number), shard_bytes(store, spec, number, is_there[spec.path])


def write_nodes(store: Place, document: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Write the documents of changed or new nodes, and last the store's own, which repeats them and so puts them in force."""
    sealed = {path: sealed_by(document, node) for path, node in changed.items()}
    files = [(store / path / DOCUMENT, to_json(node)) for path, node in sealed.items()]
    if files:
        write_together(files, partial=beside(store, ".partial"))
    write_root(store, document, sealed)


def write_root(store: Place, document: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Write the store's own document, with some nodes changed or new."""
    write_document(store, "", whole_document(document, changed))


def whole_document(document: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """The store's own document, with some nodes changed or new."""
    nodes = {**document["consolidated_metadata"]["metadata"], **changed}
    groups = list(dict.fromkeys(path.partition("/")[0] for path in nodes))
    together = sorted(nodes, key=lambda path: groups.index(path.partition("/")[0]))  # zarr loses nodes of a split group
    return sealed_by(document, root_document(document["attributes"], {path: nodes[path] for path in together}))


def sealed_by(document: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """A node's document with its hash, if the store is of a layout that has them."""
    return seal_document(node) if document["attributes"]["layout_version"] >= CHECKED_LAYOUT else dict(node)


def write_document(store: Place, node: str, document: Mapping[str, Any]) -> None:
    """Write a node's `zarr.json`."""
    write_atomic(store / node / DOCUMENT, to_json(document), partial=beside(store, ".partial"))
