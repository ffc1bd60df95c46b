"""The process that hands out revisions, beside a Ray of these tests' own: its connection, and each worker's part of the rate."""

from __future__ import annotations

import os
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from olmo_dynamics.collecting import collect
from olmo_dynamics.collection.engines import ray_connection, ray_engine
from olmo_dynamics.collection.engines.cluster_nodes import WorkerSize
from olmo_dynamics.collection.engines.ray_engine import RayEngine
from olmo_dynamics.errors import EngineError, SourceError
from olmo_dynamics.progress import Progress
from tests.listening import Notes


def node(key: str, cpus: int) -> dict[str, Any]:
    return {"NodeID": key, "NodeManagerAddress": f"10.0.0.{key}", "Resources": {"CPU": float(cpus)}, "Alive": True}


class Given:
    """Revisions and rates as workers would be given them."""

    def __init__(self) -> None:
        self.running: dict[str, float | None] = {}

    def submit(self, name: str, rate: float | None) -> None:
        self.running[name] = rate


def test_the_rate_is_divided_by_the_workers_that_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_NODES", -1.0)  # seconds: the nodes are looked at anew each time
    alive, listener, waiting = [node("1", 2), node("2", 1)], Notes(), deque("abcdefghi")
    engine = RayEngine(SimpleNamespace(nodes=lambda: alive), WorkerSize(1), 60.0)

    def given() -> dict[str, float | None]:
        tasks = Given()
        engine._fill(tasks, waiting, listener)
        return tasks.running

    assert given() == dict.fromkeys("abcdef", 20.0)  # two for each of three workers
    alive.pop()
    assert given() == dict.fromkeys("ghi", 30.0)
    assert listener.notes == ["1 worker died, 2 left; unfinished revisions are tried again"]
    waiting.append("j")
    assert given() == {"j": 60.0}  # the other worker has nothing to do
    alive.append(node("3", 2))
    waiting.extend("kl")
    assert given() == dict.fromkeys("kl", 30.0)
    waiting.append("m")
    engine = RayEngine(SimpleNamespace(nodes=lambda: alive), WorkerSize(1), None)
    assert given() == {"m": None}


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, None),
        ({"RAY_AUTH_TOKEN": "secret"}, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "a-file"}, "token"),
        ({"RAY_AUTH_TOKEN": "secret", "RAY_AUTH_MODE": "disabled"}, "disabled"),
    ],
)
def test_a_token_that_is_known_is_shown(
    given: dict[str, str], mode: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), **given})
    ray_engine.load_ray()
    assert os.environ.get("RAY_AUTH_MODE") == mode
    if not given:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
        ray_engine.load_ray()
        assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_cluster_that_asks_for_its_token_says_how_to_give_it() -> None:
    class AuthenticationError(Exception):
        pass

    def init(**_: object) -> None:
        raise AuthenticationError("RPC error: InvalidAuthToken")

    with pytest.raises(EngineError) as caught:
        ray_connection.connect(SimpleNamespace(init=init), "10.0.0.1:6400")
    assert str(caught.value) == (
        "the Ray cluster at 10.0.0.1:6400 asks for its token; copy ~/.ray/auth_token of its head node to this machine, "
        "or set RAY_AUTH_TOKEN, and set RAY_AUTH_MODE=token"
    )


def test_several_runs_share_one_connection(
    eight: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    ray = SimpleNamespace(
        is_initialized=lambda: calls == ["init"],
        init=lambda **options: calls.append("init"),
        nodes=list,
        shutdown=lambda: calls.append("shutdown"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(SourceError, match=r"^2 runs of 2 could .*: a worker needs a node .*: a worker needs a node "):
        collect([eight, tiny_run], out=tmp_path / "all", engine="ray", progress=Progress())
    assert calls == ["init", "shutdown"]
