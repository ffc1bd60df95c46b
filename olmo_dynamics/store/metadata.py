"""The root `zarr.json` of an existing store, and the layout read back from it.

>>> document = load_document(Path("run.zarr"))  # doctest: +SKIP
>>> document["attributes"]["source"]  # doctest: +SKIP
'allenai/OLMo-2-0425-1B'
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from olmo_dynamics.errors import StoreError, StoreMismatchError
from olmo_dynamics.quantities.declaration import Group
from olmo_dynamics.store.creation import LAYOUT_VERSION
from olmo_dynamics.store.declarations import Nodes, along_axes, coordinate_names
from olmo_dynamics.store.layout import Axis, Layout, as_text
from olmo_dynamics.store.schema import PROBE
from olmo_dynamics.store.zarr_format import DOCUMENT

_SAME = ("source", "model_type", "compute_dtype")
_BOOKKEEPING = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
"""Entries of a model's config that may differ between revisions of one run and change no number."""


def load_document(path: Path) -> dict[str, Any]:
    """The root `zarr.json`.

    Raises:
        StoreError: there is no store, or it is not one of ours.
        StoreMismatchError: it has another layout version.
    """
    if not path.exists():
        raise StoreError(f"there is no store at {path}; make one with olmo-dyn collect SOURCE --out {path}")
    try:
        document = json.loads((path / DOCUMENT).read_bytes())
        found = document["attributes"]["layout_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(
            f"{path} is not a store of olmo_dynamics: it has no {DOCUMENT} with a layout_version; "
            "give a folder that olmo-dyn collect made"
        ) from None
    if found != LAYOUT_VERSION:
        raise StoreMismatchError(
            f"{path} has layout version {found} and this olmo_dynamics reads {LAYOUT_VERSION}; "
            f"use the version that made it ({document['attributes'].get('olmo_dynamics_version')}) or collect it anew"
        )
    return dict(document)


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


def read_layout(group: zarr.Group, nodes: Nodes, groups: Mapping[str, Group]) -> Layout:
    """The axes of a store, and its groups as `read_group` gives them."""
    axes: dict[str, Axis] = {}
    for owner in (*groups, PROBE):
        along = along_axes(nodes, owner)
        for name in [each for each, axis in along.items() if each == axis and each not in axes]:
            labels = [each for each in coordinate_names(nodes, owner) if along.get(each) == name]
            coordinates = {each: as_numpy(group[f"{owner}/{each}"], ()) for each in labels}
            axes[name] = Axis(name, as_numpy(group[f"{owner}/{name}"], ()), coordinates)
    return Layout(axes, groups)


def as_numpy(array: Any, selection: tuple[int | slice, ...]) -> np.ndarray:
    """The values of an array, or a selection of them; text as NumPy's own."""
    values = np.asarray(array[selection] if selection else array[...])
    return as_text(values) if values.dtype.kind in "OTU" else values
