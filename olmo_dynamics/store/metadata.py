"""The root `zarr.json` of an existing store, as it is in force, and the layout read back from it.

>>> document = load_document(Path("run.zarr"))  # doctest: +SKIP
>>> document["attributes"]["source"]  # doctest: +SKIP
'allenai/OLMo-2-0425-1B'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from olmo_dynamics.errors import StoreDamagedError, StoreError, StoreMismatchError
from olmo_dynamics.files import Place, is_there
from olmo_dynamics.quantities.declaration import RESERVED_GROUPS, Group
from olmo_dynamics.store import row_files
from olmo_dynamics.store.checksums import DOCUMENT_HASH, is_intact, seal_document
from olmo_dynamics.store.declarations import MARK, Nodes, along_axes, coordinate_names, mark_of
from olmo_dynamics.store.layout import REVISION, Axis, Layout, as_text
from olmo_dynamics.store.log import read_rows
from olmo_dynamics.store.row_files import DamagedRowsError, Found
from olmo_dynamics.store.schema import PLANNED, PROBE, REVISIONS
from olmo_dynamics.store.zarr_format import (
    CHECKED_LAYOUT,
    DOCUMENT,
    LAYOUT_VERSION,
    LAYOUT_VERSIONS,
    TEXT,
    ArraySpec,
    array_spec,
    chunk_path,
    decode,
    empty_rows,
    read_json,
)

_NAMES = f"{REVISIONS}/{REVISION}"
_SAME = ("source", "model_type", "compute_dtype")
_BOOKKEEPING = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
"""Entries of a model's config that may differ between revisions of one run and change no number."""


def load_document(path: Place) -> dict[str, Any]:
    """The root `zarr.json`.

    Raises:
        StoreError: there is no store, or it is not one of ours.
        StoreDamagedError: the file is not what was written.
        StoreMismatchError: it has another layout version.
    """
    if not is_there(path):
        raise StoreError(f"there is no store at {path}; make one with olmo-dyn collect SOURCE --out {path}")
    document = read_json(path / DOCUMENT)
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if attributes is None and (path / REVISIONS / DOCUMENT).exists():
        raise _damaged(path)
    if not isinstance(attributes, dict) or "layout_version" not in attributes:
        raise StoreError(
            f"{path} is not a store of olmo_dynamics: it has no {DOCUMENT} with a layout_version; "
            "give a folder that olmo-dyn collect made"
        )
    found = attributes["layout_version"]
    if (found == LAYOUT_VERSION or DOCUMENT_HASH in attributes) and not is_intact(document):
        raise _damaged(path)
    if found not in LAYOUT_VERSIONS:
        raise StoreMismatchError(
            f"{path} has layout version {found} and this olmo_dynamics reads {' and '.join(map(str, LAYOUT_VERSIONS))}; "
            f"use the version that made it ({attributes.get('olmo_dynamics_version')}) or collect it anew"
        )
    return dict(document)


def _damaged(path: Place) -> StoreDamagedError:
    return StoreDamagedError(
        f"{path}: {DOCUMENT} is missing or does not have its checksum, and it alone tells what the store holds; "
        "restore that file from a copy, or collect into another store"
    )


def difference(held: Mapping[str, Any], coming: Mapping[str, Any]) -> str:
    """The first root attribute that keeps new measurements out of a store, in words; empty if there is none."""
    for name in _SAME:
        if held.get(name) != coming.get(name):
            return f"{name} is {held.get(name)}, not {coming.get(name)}"
    mine, theirs = (each.get("probe", {}).get("sha256", "none") for each in (held, coming))
    if mine != theirs:
        return f"probe sha256 is {mine[:12]}, not {theirs[:12]}"
    mine, theirs = held.get("model_config", {}), coming.get("model_config", {})
    changed = sorted(name for name in {*mine, *theirs} - _BOOKKEEPING if mine.get(name) != theirs.get(name))
    if changed:
        return f"model config {changed[0]} is {mine.get(changed[0])}, not {theirs.get(changed[0])}"
    return ""


def read_layout(read: Callable[[str], np.ndarray], nodes: Nodes, groups: Mapping[str, Group]) -> Layout:
    """The axes of a store, and its groups as `read_group` gives them; `read` reads an array of labels."""
    axes: dict[str, Axis] = {}
    for owner in (*groups, PROBE):
        along = along_axes(nodes, owner)
        for name in [each for each, axis in along.items() if each == axis and each not in axes]:
            labels = [each for each in coordinate_names(nodes, owner) if along.get(each) == name]
            coordinates = {each: read(f"{owner}/{each}") for each in labels}
            axes[name] = Axis(name, read(f"{owner}/{name}"), coordinates)
    return Layout(axes, groups)


def read_fixed(store: Place, spec: ArraySpec) -> np.ndarray:
    """An array that does not grow: labels, or the probe.

    Raises:
        DamagedRowsError: its file is missing or damaged.
    """
    path = chunk_path(store / spec.path, spec, 0)
    try:
        if not spec.is_checked and not path.exists():  # in layout 2 all fill
            values = empty_rows(spec, spec.shape[0])
        else:
            values = decode(path.read_bytes(), spec).reshape(spec.shape)
    except FileNotFoundError:
        raise DamagedRowsError(spec.path, [], "its file is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedRowsError(spec.path, [], str(error)) from None
    return as_text(values) if spec.dtype == TEXT else values


def in_force(store: Place, document: Mapping[str, Any]) -> dict[str, Any]:
    """A store's document, less the groups, arrays and rows that a copy lacks because it passed them before they were added.

    Each of these is added by one rename of a folder, or together with its labels. A file that is lacking in a folder that
    is there is damage, and is found when it is read.
    """
    if document["attributes"]["layout_version"] < CHECKED_LAYOUT:
        return dict(document)
    held = document["consolidated_metadata"]["metadata"]
    there = {path: node for path, node in held.items() if (store / path).is_dir()}
    nodes = {path: node for path, node in there.items() if _is_usable(path, node, there)}
    rows = _named_rows(store, nodes)
    groups = [group for group in document["attributes"]["groups"] if group in nodes]
    return {
        **document,
        "attributes": {**document["attributes"], "groups": groups},
        "consolidated_metadata": {
            **document["consolidated_metadata"],
            "metadata": {path: _shortened(node, rows) for path, node in nodes.items()},
        },
    }


def read_names(store: Place, nodes: Mapping[str, Any]) -> np.ndarray:
    """The names of the revisions in the order of their rows; where one is damaged, from a group's own copy.

    Raises:
        DamagedRowsError: no copy of a name is whole.
    """
    spec = array_spec(_NAMES, nodes[_NAMES])
    copies = [
        array_spec(path, node) for path, node in nodes.items() if path.endswith(f"/{REVISION}") and path != _NAMES
    ]
    return as_names(intact_rows(store, [spec, *copies]))


def as_names(values: np.ndarray) -> np.ndarray:
    """Text as NumPy's own kind, of no length where there is none."""
    return as_text(values) if len(values) else values.astype(np.str_)


def intact_rows(store: Place, copies: list[ArraySpec]) -> np.ndarray:
    """The rows of the first of some arrays that hold the same; damaged rows from the others.

    Raises:
        DamagedRowsError: a row is damaged in each of them.
    """
    first = copies[0]
    everywhere = np.ones(first.shape[0], dtype=bool)
    try:
        return read_rows(store, first, everywhere)
    except DamagedRowsError as error:
        if len(copies) == 1:
            raise
        torn = np.isin(np.arange(len(everywhere)), error.rows)
        others = [each for each in copies[1:] if _has_rows(store, each, torn)]
        if not others:
            raise
        healed = read_rows(store, others[0], torn)
        try:
            return np.where(torn, healed, read_rows(store, first, ~torn))
        except DamagedRowsError:  # in other files as well
            return intact_rows(store, [*others])


def _has_rows(store: Place, spec: ArraySpec, rows: np.ndarray) -> bool:
    try:
        read_rows(store, spec, rows)
    except DamagedRowsError:
        return False
    return bool((row_files.find(store, spec, rows)[rows] == Found.PRESENT).all())


def _is_usable(path: str, node: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """True if an array's group, its mark and the labels of its axes are there as well."""
    group, _, name = path.partition("/")
    if not name:
        return True
    labels = [f"{group}/{axis}" for axis in node["dimension_names"]]
    is_measured = group not in RESERVED_GROUPS and name not in coordinate_names(there, group) and labels != [path]
    needed = [*labels, *([mark_of(path, there)] if is_measured and MARK in node["attributes"] else [])]
    return group in there and all(each in there for each in needed)


def _named_rows(store: Place, nodes: Mapping[str, Any]) -> int:
    """The number of rows that every column of `revisions` has which is known when a revision is planned."""
    specs = [array_spec(path, nodes[path]) for column in PLANNED if (path := f"{REVISIONS}/{column.name}") in nodes]
    rows = min(spec.shape[0] for spec in specs)
    for spec in specs:
        absent = row_files.find(store, spec, np.ones(rows, dtype=bool)) == Found.ABSENT
        rows = int(absent.argmax()) if absent.any() else rows
    return rows


def _shortened(node: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """A node's document, with as many rows along revision."""
    if node.get("dimension_names", [])[:1] != [REVISION] or node["shape"][0] == rows:
        return dict(node)
    return seal_document({**node, "shape": [rows, *node["shape"][1:]]})
