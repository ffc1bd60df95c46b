"""A hub with one small repo, and the client's shared connections closed when it ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi, close_session, hf_hub_download
from huggingface_hub.utils.tqdm import disable_progress_bars
from safetensors.numpy import save

from tests.hub import LocalHub

REPO = "allenai/OLMo-tiny"
WEIGHTS = save({"model.norm.weight": np.arange(2048, dtype=np.float32)})
OTHER_WEIGHTS = save({"model.norm.weight": np.arange(2048, dtype=np.float32)[::-1].copy()})
CONFIG = b'{"model_type": "olmo2"}'
BRANCHES = {
    "main": {"config.json": CONFIG, "model.safetensors": WEIGHTS, "training/optimizer/state.json": b"{}"},
    "stage1-step0-tokens0B": {"config.json": CONFIG, "model.safetensors": OTHER_WEIGHTS},
}


class Hurried:
    """The module `time`, whose pauses take no time."""

    def sleep(self, seconds: float) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client try again at once."""
    for module in ("file_download", "utils._http"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", Hurried())


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    disable_progress_bars()
    with LocalHub() as hub:
        hub.add_repo(REPO, BRANCHES)
        yield hub
    close_session()


@pytest.fixture
def api(hub: LocalHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=False)


class Download:
    """`hf_hub_download` from the test's hub into the test's own cache folder; returns the bytes."""

    def __init__(self, hub: LocalHub, cache: Path) -> None:
        self.cache = cache
        self._hub = hub

    def __call__(self, name: str, *, revision: str = "main", token: str | bool = False, repo: str = REPO) -> bytes:
        path = hf_hub_download(
            repo, name, revision=revision, endpoint=self._hub.endpoint, cache_dir=self.cache, token=token
        )
        return Path(path).read_bytes()


@pytest.fixture
def download(hub: LocalHub, tmp_path: Path) -> Download:
    return Download(hub, tmp_path / "cache")
