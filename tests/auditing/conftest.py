"""A small clean run, which single tests then damage, behind a hub or in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from olmo_dynamics.auditing import Audit, Finding, audit
from olmo_dynamics.checkpoints import MemorySource
from olmo_dynamics.checkpoints.http.retry import RetryPolicy
from olmo_dynamics.checkpoints.hub import HubSource
from tests.checkpoints.conftest import Tensors, noise, pack
from tests.hub import LocalHub

REPO = "tiny-org/tiny-run"
CONFIG = {"model_type": "olmo2", "hidden_size": 4, "rope_theta": 500000, "transformers_version": "4.47.0"}
Files = dict[str, bytes]
Run = dict[str, Files]


def tensors(seed: int, *, dtype: str = "F32", width: int = 64) -> dict[str, Tensors]:
    """Two shards of random tensors, large enough that their headers matter little."""
    return {
        "model-00001-of-00002.safetensors": {"model.embed_tokens.weight": noise(seed, 128, width, dtype=dtype)},
        "model-00002-of-00002.safetensors": {
            "model.norm.weight": noise(seed + 1, width, dtype=dtype),
            "lm_head.weight": noise(seed + 2, 128, width, dtype=dtype),
        },
    }


def files(seed: int, config: dict[str, object] | None = None, **others: object) -> Files:
    """A sharded checkpoint whose weights are given by the seed."""
    shards = tensors(seed, **others)
    homes = {name: file for file, inside in shards.items() for name in inside}
    return {
        "config.json": json.dumps(CONFIG | (config or {})).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": homes}).encode(),
        **{file: pack(inside) for file, inside in shards.items()},
    }


def name_of(step: int, stage: str = "stage1-") -> str:
    return f"{stage}step{step}-tokens{ceil(step * 2**21 / 1e9)}B"


def clean_run() -> Run:
    """Ten steps of stage 1, six of stage 2, and `main`, without faults."""
    run = {name_of(step): files(step) for step in range(0, 10_000, 1000)}
    run |= {name_of(step, "stage2-ingredient1-"): files(50_000 + step) for step in range(1000, 7000, 1000)}
    return run | {"main": files(99_000)}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with LocalHub() as hub:
        yield hub
    close_session()


AuditHub = Callable[..., Audit]


@pytest.fixture
def audit_hub(hub: LocalHub) -> AuditHub:
    """A function that audits a repo of the hub, as a separate process would."""

    def run(name: str = REPO, **options: object) -> Audit:
        retry = RetryPolicy(tries=2, timeout=10.0, sleep=lambda *_: None)
        return audit(HubSource(name, endpoint=hub.endpoint, token=False, retry=retry), **options)

    return run


def audit_memory(run: Run, name: str = REPO, **options: object) -> Audit:
    return audit(MemorySource(run, name), **options)


def lines(found: Audit) -> list[tuple[str, str, tuple[str, ...]]]:
    """Findings as severity, line, revisions."""
    return [(str(each.severity), each.line, each.revisions) for each in found.findings]


def only(found: Audit) -> Finding:
    assert len(found.findings) == 1, lines(found)
    return found.findings[0]
