"""A store of layout 2 written as layout 3, in its place.

The files of layout 3 have names of their own, so both forms lie side by side until one rename of the root's `zarr.json` turns
all arrays at once; then the files of layout 2 are deleted. An upgrade that is stopped is begun anew.

>>> upgrade(Path("run.zarr"), document, kept_rows)  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.files import Place
from olmo_dynamics.store.appending import write_nodes
from olmo_dynamics.store.checksums import VALUES_CHECKSUM, checksum
from olmo_dynamics.store.log import RowWriter, read_rows
from olmo_dynamics.store.metadata import read_fixed
from olmo_dynamics.store.zarr_format import (
    LAYOUT_VERSION,
    ArraySpec,
    array_document,
    array_spec,
    chunk_path,
    encode,
    of_layout,
    to_raw,
)


def upgrade(store: Place, document: Mapping[str, Any], kept: Mapping[str, np.ndarray]) -> None:
    """Write all arrays as layout 3 has them; `kept` holds, by path of an array, which of its rows are there.

    Raises:
        DamagedRowsError: a file does not have the length that it must have.
    """
    nodes = document["consolidated_metadata"]["metadata"]
    old = {path: array_spec(path, node) for path, node in nodes.items() if node["node_type"] == "array"}
    new = {path: of_layout(spec, LAYOUT_VERSION) for path, spec in old.items()}
    for path, spec in old.items():
        if spec.grows:
            _copy_rows(store, spec, new[path], kept[path])
        else:
            new[path] = _copy_labels(store, spec, new[path])
    groups = {path: node for path, node in nodes.items() if path not in old}
    attributes = {**document["attributes"], "layout_version": LAYOUT_VERSION}
    changed = groups | {path: array_document(spec) for path, spec in new.items()}
    write_nodes(store, {**document, "attributes": attributes}, changed)
    _delete(store, old.values())


def _copy_rows(store: Place, old: ArraySpec, new: ArraySpec, kept: np.ndarray) -> None:
    writer = RowWriter(store)
    for number in range(max(1, -(-old.shape[0] // new.chunks[0]))):
        writer.replace_file(new, number)
    values = read_rows(store, old, kept)
    for row in np.flatnonzero(kept).tolist():
        writer.add(new, row, values[row : row + 1])
    writer.flush()


def _copy_labels(store: Place, old: ArraySpec, new: ArraySpec) -> ArraySpec:
    values = read_fixed(store, old)
    writer = RowWriter(store)
    writer.put(chunk_path(store / new.path, new, 0), encode(values, new))
    writer.flush()
    return replace(new, attributes={**new.attributes, VALUES_CHECKSUM: checksum(to_raw(values, new.dtype))})


def _delete(store: Place, specs: Iterable[ArraySpec]) -> None:
    """Delete the files of layout 2."""
    for spec in specs:
        folder = store / spec.path
        assert isinstance(folder, Path)
        for file in folder.glob("c.*"):
            file.unlink()
        shutil.rmtree(folder / "c", ignore_errors=True)
