"""Three recipes with three seeds of six steps, for all tests of joined stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from olmo_dynamics.frames import JoinedStore, join
from tests.frames.joining.datadecide import write_stores

MEMORY = Path("/dev/shm")
"""A folder that Linux keeps in memory: 54 revisions are appended, and each append waits for the disk."""


@pytest.fixture(scope="session")
def recipes() -> Iterator[JoinedStore]:
    """The stores of DataDecide's shape as one; read it, never change it."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield join(write_stores(Path(folder)))
