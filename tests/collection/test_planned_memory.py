"""Honest plans: bytes within 20 %, and peak memory of the process within 30 % of what a collection takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.collection.memory_taken import REPO
from tests.hub import LocalHub
from tests.hub.generated import LayerStack
from tests.hub.process import HubProcess

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak is read from Linux's /proc")
TINY_STACK = LayerStack(layers=2, hidden=256, heads=4, kv_heads=2, intermediate=512, vocab=512)
STACKS = {
    "150M": LayerStack(layers=12, hidden=768, heads=12, kv_heads=12, intermediate=2048, vocab=50_304, hashed=True),
    "1B": LayerStack(layers=16, hidden=2048, heads=16, kv_heads=16, intermediate=8192, vocab=100_352, hashed=True),
    "32B's first layers": LayerStack(layers=6),
}
BATCHES = {"150M": (8, 512), "1B": (4, 512), "32B's first layers": (2, 128)}
LARGER = [
    ("150M", "bfloat16", 1),
    ("150M", "float32", 2),
    ("150M", "bfloat16", 8),
    ("1B", "bfloat16", 2),
    ("1B", "float32", 8),
    ("32B's first layers", "bfloat16", 2),
    ("32B's first layers", "float32", 1),
]


def taken(cases: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    command = [sys.executable, "-m", "tests.collection.memory_taken", json.dumps(cases)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def assert_honest(cases: Sequence[dict[str, Any]]) -> None:
    for case, found in zip(cases, taken(cases), strict=True):
        assert 0.8 <= found["planned_bytes"] / found["bytes"] <= 1.2, (case, found)
        for name in ("planned", "expected"):
            assert 0.7 <= found[name] / found["taken"] <= 1.3, (case, found)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], str]:
    folder, found = tmp_path_factory.mktemp("tokens"), {}
    for shape in {(4, 64), *BATCHES.values()}:
        path = folder / "{}x{}.npy".format(*shape)
        np.save(path, np.random.default_rng(0).integers(0, 512, shape))
        found[shape] = str(path)
    return found


def tiny_cases(folder: Path, endpoint: str, tokens: dict[tuple[int, int], str]) -> list[dict[str, Any]]:
    options = {"tokens": tokens[4, 64], "batch": "4x64"}
    return [
        {"source": str(folder), "dtype": "bfloat16", "threads": 8, **options},
        {"source": endpoint, "dtype": "float32", "threads": 2, **options},
        {"source": str(folder), "dtype": "float32", "threads": 1, "record": ["parameters", "loss"], **options},
        {"source": endpoint, "dtype": "bfloat16", "threads": 4, "record": ["loss"], **options},
    ]


@LINUX
@pytest.mark.parametrize("which", [slice(2), pytest.param(slice(2, 4), marks=pytest.mark.slow)], ids=["all", "some"])
def test_a_tiny_model_takes_about_what_is_planned(
    which: slice, tmp_path: Path, tokens: dict[tuple[int, int], str]
) -> None:
    with LocalHub() as hub:
        hub.add_repo(REPO, {"step0": TINY_STACK.files(), "step1": TINY_STACK.files()})
        folder = TINY_STACK.write(tmp_path / "run" / "step0").parent
        assert_honest(tiny_cases(folder, hub.endpoint, tokens)[which])


def publish(hub: LocalHub, size: str, revisions: int) -> None:
    files = STACKS[size].files()
    hub.add_repo(REPO, {f"step{number}": files for number in range(revisions)})


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize(("size", "dtype", "threads"), LARGER)
def test_a_larger_model_takes_about_what_is_planned(
    size: str, dtype: str, threads: int, tokens: dict[tuple[int, int], str]
) -> None:
    shape = BATCHES[size]
    case = {"tokens": tokens[shape], "batch": "{}x{}".format(*shape), "dtype": dtype, "threads": threads}
    with HubProcess(publish, size, 3 if size == "150M" else 1) as hub:
        assert_honest([{"source": hub.endpoint, **case}])
