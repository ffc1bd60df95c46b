from __future__ import annotations

import pytest

from olmo_dynamics.frames import RecordedStore, open_store
from tests.store.synthetic import filled_store


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> RecordedStore:
    """Four revisions planned, `main` first, all but the stage-2 one collected; read it, never change it."""
    path = tmp_path_factory.mktemp("stores") / "filled.zarr"
    filled_store(path)
    return open_store(path)
