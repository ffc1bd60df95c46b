"""One tiny run, whole and broken, behind each kind of source."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import close_session, constants
from safetensors import TensorSpec, serialize

from olmo_dynamics.checkpoints import FolderSource, MemorySource, Source
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub import HubSource
from tests.hub import LocalHub

REPO = "tiny-org/tiny-run"
Files = Mapping[str, bytes]
Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]

_SPELLING = {"F32": "float32", "BF16": "bfloat16"}


def pack(tensors: Tensors) -> bytes:
    """A safetensors file, as the safetensors library writes it, of `{name: (dtype, shape, bytes)}`."""
    buffers = {
        name: np.frombuffer(data, np.uint8) for name, (_, _, data) in tensors.items()
    }  # kept alive for the writer
    specs = {
        name: TensorSpec(
            dtype=_SPELLING[dtype], shape=list(shape), data_ptr=buffers[name].ctypes.data, data_len=len(data)
        )
        for name, (dtype, shape, data) in tensors.items()
    }
    return bytes(serialize(specs))


def noise(seed: int, *shape: int, dtype: str = "F32") -> tuple[str, tuple[int, ...], bytes]:
    """A tensor of random bytes."""
    count = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
    return dtype, shape, np.random.default_rng(seed).bytes(count)


SINGLE = {"model.embed_tokens.weight": noise(1, 8, 4), "model.norm.weight": noise(2, 4), "scale": noise(3)}
SHARDS = {
    "model-00001-of-00002.safetensors": {
        "model.embed_tokens.weight": noise(4, 8, 4, dtype="BF16"),
        "model.layers.0.self_attn.q_norm.weight": noise(5, 4),
    },
    "model-00002-of-00002.safetensors": {"lm_head.weight": noise(6, 8, 4, dtype="BF16")},
}
CONFIG = {"model_type": "olmo2", "hidden_size": 4}


def single_files(tensors: Tensors = SINGLE) -> dict[str, bytes]:
    """A checkpoint of one weight file."""
    return {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": pack(tensors)}


def sharded_files(shards: Mapping[str, Tensors] = SHARDS) -> dict[str, bytes]:
    """A checkpoint of several weight files and an index."""
    homes = {name: file for file, tensors in shards.items() for name in tensors}
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": homes}).encode()
    shard_files = {file: pack(tensors) for file, tensors in shards.items()}
    return {"config.json": json.dumps(CONFIG).encode(), "model.safetensors.index.json": index, **shard_files}


RUN = {
    "step20-tokens40960": sharded_files(),
    "step3-tokens6144": single_files(),
    "main": {**single_files(), "training_state/position.json": b"{}"},
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub without repos, and an empty Hugging Face cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with LocalHub() as hub:
        yield hub
    close_session()


@pytest.fixture
def pauses() -> list[float]:
    """The waits that a client would have made, in seconds."""
    return []


@pytest.fixture
def retry(pauses: list[float]) -> RetryPolicy:
    """A retry policy that records its waits instead of making them; three tries."""

    def note(stop: threading.Event, seconds: float) -> None:
        pauses.append(seconds)

    return RetryPolicy(tries=3, timeout=10.0, sleep=note, jitter=lambda: 1.0)


MakeSource = Callable[[Mapping[str, Files]], Source]


@pytest.fixture(params=["folder", "memory", "hub"])
def make_source(request: pytest.FixtureRequest, tmp_path: Path) -> MakeSource:
    """A function that puts `{revision: files}` behind a source; tests that ask for it run once per kind."""

    def in_folder(run: Mapping[str, Files]) -> Source:
        for revision, files in run.items():
            for name, data in files.items():
                path = tmp_path / "run" / revision / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return FolderSource(tmp_path / "run")

    def on_hub(run: Mapping[str, Files]) -> Source:
        hub = request.getfixturevalue("hub")
        hub.add_repo(REPO, run)
        return HubSource(REPO, endpoint=hub.endpoint, token=False, retry=request.getfixturevalue("retry"))

    makers: dict[str, MakeSource] = {"folder": in_folder, "memory": MemorySource, "hub": on_hub}
    return makers[request.param]
