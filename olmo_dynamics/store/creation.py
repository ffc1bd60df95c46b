"""A new store: built beside its place, then renamed into it.

>>> build(Path("run.zarr"), layout, attributes, {"token_id": ids, "mask": mask})  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreError
from olmo_dynamics.store.appending import growing, write_nodes
from olmo_dynamics.store.files import beside, write_atomic, write_errors_named
from olmo_dynamics.store.layout import REVISION, Layout
from olmo_dynamics.store.locks import locked, turn
from olmo_dynamics.store.log import write_rows
from olmo_dynamics.store.schema import (
    ALONG_REVISION,
    PROBE,
    REVISIONS,
    ArrayAndValues,
    group_attributes,
    measured_arrays,
    probe_arrays,
    revision_arrays,
)
from olmo_dynamics.store.zarr_format import array_document, chunk_path, encode, group_document, is_fill, root_document

LAYOUT_VERSION = 2
"""Of the arrangement of groups and arrays; a store of another number is refused."""

REQUIRED = ("source", "model_type", "model_config", "compute_dtype", "probe")
"""Root attributes that whoever makes a store must give."""


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
        raise StoreError(f"a store wants the attributes {', '.join(REQUIRED)}; {', '.join(absent)} did not come")
    with write_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with turn(path) if part else nullcontext():
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


def learn(
    store: Path,
    document: Mapping[str, Any],
    layout: Layout,
    probe: Mapping[str, np.ndarray],
    along: Mapping[str, np.ndarray],
) -> None:
    """Add a layout's groups that a store lacks, and a probe where it has none.

    `document` is the store's own with its attributes to come; `along` holds the columns along its planned revisions.
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
        nodes[path] = array_document(replace(spec, shape=(len(along[REVISION]), *spec.shape[1:])))
    if nodes:
        write_nodes(store, document, nodes)


def _write_group(folder: Path, layout: Layout, group: str, probe: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write what a group holds already, the labels of its axes; the documents of its nodes."""
    nodes = {group: group_document(group_attributes(layout, group))}
    for spec, values in _arrays(layout, group, probe):
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
