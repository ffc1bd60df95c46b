"""New stores, built beside their place and then renamed into it, and new groups and quantities of a store.

>>> build(Path("run.zarr"), layout, attributes, {"token_id": ids, "mask": mask})  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreError
from olmo_dynamics.quantities.declaration import Quantity
from olmo_dynamics.store.appending import growing, write_nodes
from olmo_dynamics.store.declarations import along_axes, coordinate_names
from olmo_dynamics.store.files import beside, write_atomic, write_errors_named
from olmo_dynamics.store.layout import RECORDED, REVISION, Layout
from olmo_dynamics.store.locks import exclusive_append, locked
from olmo_dynamics.store.log import write_rows
from olmo_dynamics.store.schema import (
    ALONG_REVISION,
    PROBE,
    REVISIONS,
    ArrayAndValues,
    added_arrays,
    coordinates_of,
    measured_arrays,
    node_attributes,
    probe_arrays,
    revision_arrays,
)
from olmo_dynamics.store.zarr_format import array_document, chunk_path, encode, group_document, is_fill, root_document

LAYOUT_VERSION = 2
"""The version of the arrangement of bytes; a store of another version is refused.

It changes only when bytes are read differently: new groups, quantities and attributes leave it as it is.
"""

REQUIRED = ("source", "model_type", "model_config", "compute_dtype", "probe")
"""Root attributes that must be given when a store is made."""


def build(
    path: Path, layout: Layout, attributes: Mapping[str, Any], probe: Mapping[str, np.ndarray], part: str | None = None
) -> None:
    """Make a store with no revision planned.

    Raises:
        StoreError: something is there already (unless for a part), or a root attribute is missing.
        StoreBusyError: another process is making it.
        DiskFullError: no room; nothing is left behind.
    """
    absent = [name for name in REQUIRED if name not in attributes]
    if absent:
        raise StoreError(f"a store must be given the attributes {', '.join(REQUIRED)} (missing: {', '.join(absent)})")
    with write_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_append(path) if part else nullcontext():
            if part and path.exists():
                return
            _build_alone(path, layout, attributes, probe)


def _build_alone(path: Path, layout: Layout, attributes: Mapping[str, Any], probe: Mapping[str, np.ndarray]) -> None:
    building = beside(path, ".building")
    with locked(path):
        if path.exists():
            raise StoreError(f"{path} exists already; open it, or choose another folder")
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
        try:
            nodes: dict[str, Any] = {}
            for group in (REVISIONS, *layout.groups, *([PROBE] if probe else [])):
                nodes |= _write_group(building, layout, group, probe)
            ours = {
                "layout_version": LAYOUT_VERSION,
                "olmo_dynamics_version": version("olmo-dynamics"),
                "groups": list(layout.groups),
            }
            write_nodes(building, root_document({**attributes, **ours}, {}), nodes)
            building.rename(path)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def add_groups(
    store: Path,
    document: Mapping[str, Any],
    layout: Layout,
    probe: Mapping[str, np.ndarray],
    along: Mapping[str, np.ndarray],
) -> None:
    """Add a layout's groups that a store lacks, and a probe where it has none.

    `document` is the store's own with its new attributes; `along` holds the columns along its planned revisions.
    """
    held = document["consolidated_metadata"]["metadata"]
    groups = [group for group in layout.groups if group not in held]
    nodes: dict[str, Any] = {}
    for group in (*groups, *([PROBE] if probe and PROBE not in held else [])):
        nodes |= _write_group(store, layout, group, probe)
    columns = {column.name for column in ALONG_REVISION}  # a group's own status is not the revision's
    for path, spec in growing(nodes).items():
        if (name := path.partition("/")[2]) in columns:
            write_rows(store, spec, 0, along[name])
    if nodes:
        write_nodes(store, document, nodes | _lengthened(nodes, len(along[REVISION])))


def add_quantities(
    store: Path, document: Mapping[str, Any], layout: Layout, lacking: Mapping[str, tuple[Quantity, ...]], rows: int
) -> None:
    """Add quantities to groups that are there, each group's under a mark of their own, with rows of fill."""
    held = document["consolidated_metadata"]["metadata"]
    nodes: dict[str, Any] = {}
    for group, quantities in lacking.items():
        mark, there = _next_mark(held, group), along_axes(held, group)
        added = _write_arrays(store, added_arrays(layout, quantities, mark=mark, held=there))
        new_axes = [name for name in along_axes(added, group) if name in layout.axes]
        labels = [*coordinate_names(held, group), mark, *coordinates_of(layout, new_axes)]
        attributes = {**held[group]["attributes"], "coordinates": " ".join(labels)}
        nodes |= {group: group_document(attributes), **added, **_lengthened(added, rows)}
    if nodes:
        write_nodes(store, document, nodes)


def _next_mark(held: Mapping[str, Any], group: str) -> str:
    number = 2
    while f"{group}/{RECORDED}_{number}" in held:
        number += 1
    return f"{RECORDED}_{number}"


def _lengthened(nodes: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The arrays along revision, made as long as a store has rows."""
    return {path: array_document(replace(spec, shape=(rows, *spec.shape[1:]))) for path, spec in growing(nodes).items()}


def _write_group(folder: Path, layout: Layout, group: str, probe: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write the labels of a group's axes, or the probe; returns the documents of its nodes."""
    arrays = _write_arrays(folder, _arrays(layout, group, probe))
    return {group: group_document(node_attributes(layout, group)), **arrays}


def _write_arrays(folder: Path, arrays: Iterable[ArrayAndValues]) -> dict[str, Any]:
    nodes = {}
    for spec, values in arrays:
        nodes[spec.path] = array_document(spec)
        if values is not None and not is_fill(values, spec):
            write_atomic(
                chunk_path(folder / spec.path, spec, 0), encode(values, spec), partial=beside(folder, ".partial")
            )
    return nodes


def _arrays(layout: Layout, group: str, probe: Mapping[str, np.ndarray]) -> Iterator[ArrayAndValues]:
    if group == REVISIONS:
        return revision_arrays()
    return probe_arrays(layout, probe) if group == PROBE else measured_arrays(layout, group)
