"""Compaction turns arrays and changes no number, for us and for xarray, before, during and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.names import Revision
from olmo_dynamics.quantities import GROUPS
from tests.store.synthetic import REVISIONS, add, filled_store, values


def as_dict(path: Path) -> dict[str, np.ndarray]:
    """Every array as xarray reads it, without our code."""
    tree = xarray.open_datatree(path)
    return {f"{group}/{name}": np.asarray(array) for group in tree.children for name, array in tree[group].variables.items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True, err_msg=name)


def test_compaction_changes_no_number(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "s.zarr")
    before = as_dict(store.path)
    ours = {group: store.arrays(group) for group in GROUPS}
    store.compact()
    assert store.is_compact
    assert_same(as_dict(store.path), before)
    for group in GROUPS:
        assert_same(store.arrays(group), ours[group])
