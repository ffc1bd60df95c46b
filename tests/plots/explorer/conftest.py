"""The store of the store's tests, and a run as a fork leaves it, for exploring."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from olmo_dynamics.frames import RecordedStore
from tests.store.conftest import filled

__all__ = ["filled", "forked"]


@pytest.fixture
def forked(filled: RecordedStore, tmp_path: Path) -> Path:
    """The folder of a fork: its metrics, and a store of what was recorded."""
    folder = tmp_path / "fork"
    shutil.copytree(filled.path, folder / "store.zarr")
    rows = {"step": [1, 2, 3], "tokens": [8, 16, 24], "loss": [3.0, 2.5, 2.0], "gradient_norm": [1.0, 2.0, 0.5]}
    pl.DataFrame(rows).write_parquet(folder / "metrics.parquet")
    return folder
