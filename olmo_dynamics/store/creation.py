"""New stores, built beside their place and then renamed into it, and new groups and quantities of a store.

>>> build(Path("run.zarr"), layout, attributes, {"token_id": ids, "mask": mask})  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreError
from olmo_dynamics.files import Place, beside, is_there, refresh, write_errors_named
from olmo_dynamics.quantities.declaration import Quantity
from olmo_dynamics.store.appending import growing, sealed_by, whole_document, write_nodes, write_root
from olmo_dynamics.store.checksums import VALUES_CHECKSUM, checksum
from olmo_dynamics.store.declarations import MARK, along_axes, coordinate_names, mark_of
from olmo_dynamics.store.layout import RECORDED, Layout
from olmo_dynamics.store.locks import exclusive_append, locked
from olmo_dynamics.store.log import RowWriter
from olmo_dynamics.store.remote.new_places import (
    clear_folder,
    join_folder,
    joining_folder,
    remove_leftover,
    whole_folder,
)
from olmo_dynamics.store.schema import (
    ALONG_REVISION,
    MISSING,
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
from olmo_dynamics.store.zarr_format import (
    CHECKED_LAYOUT,
    DOCUMENT,
    LAYOUT_VERSION,
    array_document,
    chunk_path,
    encode,
    group_document,
    is_fill,
    of_layout,
    root_document,
    to_json,
    to_raw,
)

REQUIRED = ("source", "model_type", "model_config", "compute_dtype", "probe")
"""Root attributes that must be given when a store is made."""


def build(
    path: Place, layout: Layout, attributes: Mapping[str, Any], probe: Mapping[str, np.ndarray], part: str | None = None
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
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_append(path) if part else nullcontext():
            refresh(path)
            if part and is_there(path):
                return
            _build_alone(path, layout, attributes, probe)


def _build_alone(path: Place, layout: Layout, attributes: Mapping[str, Any], probe: Mapping[str, np.ndarray]) -> None:
    with locked(path):
        refresh(path)
        if is_there(path):
            raise StoreError(f"{path} exists already; open it, or choose another folder")
        ours = {
            "layout_version": LAYOUT_VERSION,
            "olmo_dynamics_version": version("olmo-dynamics"),
            "groups": list(layout.groups),
        }
        document = root_document({**attributes, **ours}, {})
        with whole_folder(path) as building:
            addition = _Addition(building, document, rows=0)
            for group in (REVISIONS, *layout.groups, *([PROBE] if probe else [])):
                addition.group(layout, group, probe)
            addition.write(with_root=True)


def add_groups(
    store: Place,
    document: Mapping[str, Any],
    layout: Layout,
    probe: Mapping[str, np.ndarray],
    along: Mapping[str, np.ndarray],
    complete: np.ndarray,
) -> None:
    """Add a layout's groups that a store lacks, and a probe where it has none.

    `document` is the store's own with its new attributes; `along` holds the columns along its planned revisions, and
    `complete` tells which of these are there.
    """
    held = document["consolidated_metadata"]["metadata"]
    groups = [group for group in layout.groups if group not in held]
    with _Joining(store, document, complete) as addition:
        for group in (*groups, *([PROBE] if probe and PROBE not in held else [])):
            addition.group(layout, group, probe)
            addition.label(group, along)


def add_quantities(
    store: Place,
    document: Mapping[str, Any],
    layout: Layout,
    lacking: Mapping[str, tuple[Quantity, ...]],
    complete: np.ndarray,
) -> None:
    """Add quantities to groups that are there, each group's under a mark of their own, with rows of fill."""
    held = document["consolidated_metadata"]["metadata"]
    with _Joining(store, document, complete) as addition:
        for group, quantities in lacking.items():
            mark, there = _next_mark(held, group), along_axes(held, group)
            added = addition.arrays(added_arrays(layout, quantities, mark=mark, held=there))
            new_axes = [name for name in along_axes(added, group) if name in layout.axes]
            labels = [*coordinate_names(held, group), mark, *coordinates_of(layout, new_axes)]
            addition.nodes[group] = group_document({**held[group]["attributes"], "coordinates": " ".join(labels)})


def _next_mark(held: Mapping[str, Any], group: str) -> str:
    number = 2
    while f"{group}/{RECORDED}_{number}" in held:
        number += 1
    return f"{RECORDED}_{number}"


class _Addition:
    """Groups and arrays on their way into a store: their nodes, and the files that they begin with."""

    def __init__(self, folder: Place, document: Mapping[str, Any], *, rows: int) -> None:
        self._folder, self._document, self._rows = folder, document, rows
        self._version = document["attributes"]["layout_version"]
        partial = beside(folder, ".partial") if folder.is_dir() else folder / ".partial"
        self._writer = RowWriter(folder, partial=partial)
        self.nodes: dict[str, Any] = {}

    def group(self, layout: Layout, group: str, probe: Mapping[str, np.ndarray]) -> None:
        """Add a group with the labels of its axes, or the probe."""
        self.nodes[group] = group_document(node_attributes(layout, group))
        self.arrays(_arrays(layout, group, probe))

    def arrays(self, arrays: Iterable[ArrayAndValues]) -> dict[str, Any]:
        """Add arrays; returns the documents of their nodes."""
        added = {}
        for given, values in arrays:
            remove_leftover(self._folder / given.path)
            spec = of_layout(given, self._version)
            if values is not None and spec.is_checked:
                spec = replace(
                    spec, attributes={**spec.attributes, VALUES_CHECKSUM: checksum(to_raw(values, spec.dtype))}
                )
            if spec.grows:
                spec = replace(spec, shape=(self._rows, *spec.shape[1:]))
            added[spec.path] = array_document(spec)
            if spec.in_rows:
                self._writer.make_files(spec, self._rows)
            elif values is not None and (spec.is_checked or not is_fill(values, spec)):
                self._writer.put(chunk_path(self._folder / spec.path, spec, 0), encode(values, spec))
        self.nodes |= added
        return added

    def label(self, group: str, along: Mapping[str, np.ndarray]) -> None:
        """Write a group's columns along revision."""
        columns = {column.name for column in ALONG_REVISION}  # a group's own status is not the revision's
        for path, spec in growing(self.nodes).items():
            owner, _, name = path.partition("/")
            if owner == group and name in columns:
                self._writer.add(spec, 0, along[name])

    def unset(self, complete: np.ndarray) -> None:
        """Mark the arrays as not there for revisions that are there, so that these are not taken for an older copy's."""
        specs = growing(self.nodes)
        for path in dict.fromkeys(mark_of(path, self.nodes) for path in self.nodes if "/" in path):
            spec = specs.get(path)
            if spec and spec.in_rows:
                for row in np.flatnonzero(complete).tolist():
                    self._writer.add(spec, row, np.array([MISSING], dtype=np.uint8))

    def write(self, *, with_root: bool = False) -> None:
        """Write all files, those of a new store with its own document last."""
        nodes = {path: sealed_by(self._document, node) for path, node in self.nodes.items()}
        if with_root or self._version >= CHECKED_LAYOUT:
            for path, node in nodes.items():
                self._writer.put(self._folder / path / DOCUMENT, to_json(node))
        if with_root:
            self._writer.put(self._folder / DOCUMENT, to_json(whole_document(self._document, nodes)))
        self._writer.flush()


class _Joining(_Addition):
    """An addition to a store that is there; in layout 3 each folder is built beside it, and joins it by one rename."""

    def __init__(self, store: Place, document: Mapping[str, Any], complete: np.ndarray) -> None:
        self._store, self._complete = store, complete
        self._is_checked = document["attributes"]["layout_version"] >= CHECKED_LAYOUT
        super().__init__(joining_folder(store) if self._is_checked else store, document, rows=len(complete))

    def __enter__(self) -> _Joining:
        if self._is_checked:
            clear_folder(self._store)  # of a process that was killed
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        try:
            if kind is None and self.nodes:
                self._join()
        finally:
            if self._is_checked:
                clear_folder(self._store)

    def _join(self) -> None:
        if not self._is_checked:
            self.write()
            write_nodes(self._store, self._document, self.nodes)
            return
        held = self._document["consolidated_metadata"]["metadata"]
        changed = {path: self.nodes.pop(path) for path in list(self.nodes) if path in held}
        self.unset(self._complete)
        self.write()
        added = {path: sealed_by(self._document, node) for path, node in self.nodes.items()}
        for path in _folders(added):
            join_folder(self._folder, self._store, path)
        if changed:
            document = whole_document(self._document, added)
            write_nodes(self._store, document, changed)
        else:
            write_root(self._store, self._document, added)


def _folders(nodes: Mapping[str, Any]) -> list[str]:
    """The folders of new nodes: of whole groups, and of arrays that join a group, measured ones last."""
    groups = [path for path in nodes if "/" not in path]
    arrays = [path for path in nodes if "/" in path and path.partition("/")[0] not in groups]
    return [*groups, *sorted(arrays, key=lambda path: MARK in nodes[path]["attributes"])]


def _arrays(layout: Layout, group: str, probe: Mapping[str, np.ndarray]) -> Iterator[ArrayAndValues]:
    if group == REVISIONS:
        return revision_arrays()
    return probe_arrays(layout, probe) if group == PROBE else measured_arrays(layout, group)
