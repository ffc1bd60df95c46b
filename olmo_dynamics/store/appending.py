"""Rows added to the arrays of a store, in an order that survives a kill at any moment.

The store's own `zarr.json` holds every array's shape, and is written last when rows are added: until then a reader sees
the old shapes and reads nothing beyond them. A row's marks are written last when it is filled: those of each group
(`recorded`, `recorded_2`, …), then `revisions/status`.

    >>> document = extend(path, document, [Revision("step1000")])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.names import Revision
from olmo_dynamics.store.declarations import mark_of
from olmo_dynamics.store.files import beside, write_atomic
from olmo_dynamics.store.layout import REVISION
from olmo_dynamics.store.log import write_rows
from olmo_dynamics.store.schema import PLANNED, planned_values
from olmo_dynamics.store.series import has_series, series_document, write_shard
from olmo_dynamics.store.zarr_format import (
    CHUNK_ROWS,
    DOCUMENT,
    ArraySpec,
    array_document,
    array_spec,
    is_series,
    root_document,
    to_json,
)


def growing(nodes: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The arrays along `revision`, by path."""
    arrays = {path: array_spec(path, node) for path, node in nodes.items() if node["node_type"] == "array"}
    return {path: spec for path, spec in arrays.items() if spec.dimensions[:1] == (REVISION,)}


def extend(store: Path, document: Mapping[str, Any], revisions: Sequence[Revision]) -> None:
    """Add a row for each revision to every array; readers take all arrays from the log from now on."""
    columns = {column.name: planned_values(column, list(revisions)) for column in PLANNED}
    changed = {}
    for path, spec in growing(document["consolidated_metadata"]["metadata"]).items():
        name = path.rpartition("/")[2]
        if spec.dimensions == (REVISION,) and name in columns:
            write_rows(store, spec, spec.shape[0], columns[name])
        changed[path] = array_document(replace(spec, shape=(spec.shape[0] + len(revisions), *spec.shape[1:])))
    write_nodes(store, document, changed)


def to_log(store: Path, document: Mapping[str, Any]) -> None:
    """Let readers take every array from the log from now on, since its series are about to lack a row."""
    nodes = document["consolidated_metadata"]["metadata"]
    changed = {path: array_document(spec) for path, spec in growing(nodes).items() if is_series(nodes[path])}
    if changed:
        write_nodes(store, document, changed)


def to_series(store: Path, document: Mapping[str, Any], is_there: Mapping[str, np.ndarray]) -> None:
    """Write the series of every array that has one; readers take it from there from now on.

    `is_there` holds, by the path of a mark, which rows are there under it; others become fill.
    """
    nodes = document["consolidated_metadata"]["metadata"]
    specs = growing(nodes)
    changed = {path: series_document(spec) for path, spec in specs.items() if has_series(spec)}
    for path in changed:
        for number in range(-(-specs[path].shape[0] // CHUNK_ROWS)):
            write_shard(store, specs[path], number, is_there[mark_of(path, nodes)])
    write_nodes(store, document, changed)


def write_nodes(store: Path, document: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Write the documents of changed or new nodes, and last the store's own, which repeats them and so puts them in force."""
    for path, node in changed.items():
        write_document(store, path, node)
    nodes = {**document["consolidated_metadata"]["metadata"], **changed}
    groups = list(dict.fromkeys(path.partition("/")[0] for path in nodes))
    together = sorted(nodes, key=lambda path: groups.index(path.partition("/")[0]))  # zarr loses nodes of a split group
    write_document(store, "", root_document(document["attributes"], {path: nodes[path] for path in together}))


def write_document(store: Path, node: str, document: Mapping[str, Any]) -> None:
    """Write a node's `zarr.json`."""
    write_atomic(store / node / DOCUMENT, to_json(document), partial=beside(store, ".partial"))
