"""Rows into the arrays of a store, file by file in an order that a kill cannot spoil.

The store's own `zarr.json` holds every array's shape, and is written last when rows are added: until then a reader sees
the old shapes, and what lies beyond them is not read. `revisions/status` is written last when a row is filled.

    >>> document = extend(path, document, [Revision("step1000")])  # doctest: +SKIP
    >>> write_rows(path, spec, 7, values[np.newaxis])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.names import Revision
from olmo_dynamics.store.files import beside, write_atomic
from olmo_dynamics.store.layout import REVISION
from olmo_dynamics.store.schema import PLANNED, planned_values
from olmo_dynamics.store.zarr_format import (
    DOCUMENT,
    ArraySpec,
    array_spec,
    chunk_path,
    decode,
    empty_chunk,
    encode,
    root_document,
    to_json,
)


def growing(nodes: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The arrays along `revision`, by path."""
    arrays = {path: array_spec(path, node) for path, node in nodes.items() if node["node_type"] == "array"}
    return {path: spec for path, spec in arrays.items() if spec.dimensions[:1] == (REVISION,)}


def extend(store: Path, document: Mapping[str, Any], revisions: Sequence[Revision]) -> dict[str, Any]:
    """Add a row for each revision to every array; the store's new root document."""
    nodes = dict(document["consolidated_metadata"]["metadata"])
    columns = {column.name: planned_values(column, list(revisions)) for column in PLANNED}
    for path, spec in growing(nodes).items():
        name = path.rpartition("/")[2]
        if spec.dimensions == (REVISION,) and name in columns:
            write_rows(store, spec, spec.shape[0], columns[name])
        nodes[path] = {**nodes[path], "shape": [spec.shape[0] + len(revisions), *spec.shape[1:]]}
        write_document(store, path, nodes[path])
    extended = root_document(document["attributes"], nodes)
    write_document(store, "", extended)
    return extended


def write_document(store: Path, node: str, document: Mapping[str, Any]) -> None:
    """A node's `zarr.json`."""
    write_atomic(store / node / DOCUMENT, to_json(document), partial=beside(store, ".partial"))


def write_rows(store: Path, spec: ArraySpec, start: int, rows: np.ndarray) -> None:
    """Write rows from `start` on, whatever shape the array has so far; other rows of their chunks stay as they are."""
    per_chunk = spec.chunks[0]
    done = 0
    while done < len(rows):
        number, offset = divmod(start + done, per_chunk)
        part = rows[done : done + per_chunk - offset]
        _write_into_chunk(store, spec, chunk_path(store / spec.path, spec, number), offset, part)
        done += len(part)


def _write_into_chunk(store: Path, spec: ArraySpec, path: Path, offset: int, rows: np.ndarray) -> None:
    is_whole = len(rows) == spec.chunks[0]
    chunk = empty_chunk(spec) if is_whole or not path.exists() else decode(path.read_bytes(), spec)
    chunk[offset : offset + len(rows)] = rows
    data = encode(chunk, spec)
    if data is None:
        path.unlink(missing_ok=True)
    else:
        write_atomic(path, data, partial=beside(store, ".partial"))
