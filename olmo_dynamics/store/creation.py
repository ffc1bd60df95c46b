"""A new store: built beside its place, then renamed into it.

>>> build(Path("run.zarr"), layout, attributes, {"token_id": ids, "mask": mask})  # doctest: +SKIP
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreError
from olmo_dynamics.store.files import beside, locked, write_errors_named
from olmo_dynamics.store.layout import Layout
from olmo_dynamics.store.schema import (
    PROBE,
    REVISIONS,
    ArrayAndValues,
    group_attributes,
    measured_arrays,
    probe_arrays,
    revision_arrays,
)
from olmo_dynamics.store.zarr_format import (
    DOCUMENT,
    array_document,
    chunk_path,
    encode,
    group_document,
    root_document,
    to_json,
)

LAYOUT_VERSION = 1
"""Of the arrangement of groups and arrays; a store of another number is refused."""

REQUIRED = ("source", "model_type", "model_config", "compute_dtype", "probe")
"""Root attributes that whoever makes a store must give."""


def build(path: Path, layout: Layout, attributes: Mapping[str, Any], probe: Mapping[str, np.ndarray]) -> None:
    """Make a store with no revision planned.

    Raises:
        StoreError: something is there already, or a root attribute is missing.
        StoreBusyError: another process is making it.
        DiskFullError: no room; nothing is left behind.
    """
    absent = [name for name in REQUIRED if name not in attributes]
    if absent:
        raise StoreError(f"a store wants the attributes {', '.join(REQUIRED)}; {', '.join(absent)} did not come")
    building = beside(path, ".building")
    with write_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path), write_errors_named(path):
        if path.exists():
            raise StoreError(f"{path} exists already; open it, or choose another folder")
        shutil.rmtree(building, ignore_errors=True)  # of a process that was killed
        try:
            _write(building, layout, attributes, probe)
            building.rename(path)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _write(folder: Path, layout: Layout, attributes: Mapping[str, Any], probe: Mapping[str, np.ndarray]) -> None:
    nodes: dict[str, Any] = {}
    for group in (REVISIONS, *layout.groups, *([PROBE] if probe else [])):
        nodes[group] = group_document(group_attributes(layout, group))
        for spec, values in _arrays(layout, group, probe):
            nodes[spec.path] = array_document(spec)
            data = None if values is None else encode(values, spec)
            if data is not None:
                chunk = chunk_path(folder / spec.path, spec, 0)
                chunk.parent.mkdir(parents=True, exist_ok=True)
                chunk.write_bytes(data)
    for name, document in nodes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / DOCUMENT).write_bytes(to_json(document))
    ours = {
        "layout_version": LAYOUT_VERSION,
        "olmo_dynamics_version": version("olmo-dynamics"),
        "groups": list(layout.groups),
    }
    (folder / DOCUMENT).write_bytes(to_json(root_document({**attributes, **ours}, nodes)))


def _arrays(layout: Layout, group: str, probe: Mapping[str, np.ndarray]) -> Iterator[ArrayAndValues]:
    if group == REVISIONS:
        return revision_arrays()
    return probe_arrays(layout, probe) if group == PROBE else measured_arrays(layout, group)
