"""Locks between nodes: a live node is respected, a dead one gives way, and a file system without shared locks is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from olmo_dynamics.errors import StoreBusyError
from olmo_dynamics.store import locks
from olmo_dynamics.store.locks import locked
from tests.store.test_layout import message

BEAT = 0.1
OTHER_NODE = f"""
import fcntl, pathlib, socket, sys, time
socket.gethostname = lambda: "node2"
if sys.argv[3] == "alone":
    fcntl.flock = lambda descriptor, how: None
from olmo_dynamics.store import locks
locks.BEAT = {BEAT}
with locks.locked(pathlib.Path(sys.argv[1]), sys.argv[2] or None):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", BEAT)


@contextmanager
def other_node(store: Path, part: str, file_system: str = "shared") -> Iterator[subprocess.Popen[str]]:
    """A process that says it is another node, and holds a part of the store."""
    command = [sys.executable, "-c", OTHER_NODE, str(store), part, file_system]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("part", ["", "1/2"])
def test_a_node_that_works_is_respected_and_one_that_died_gives_way(part: str, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    with other_node(store, part) as node:
        lock = next(tmp_path.iterdir())
        expected = (
            f"{store} is being written by process {node.pid} on node2; wait for it, or delete {lock} if it is gone"
        )
        with pytest.raises(StoreBusyError, match=message(expected)), locked(store, part or None):
            pass
        node.kill()
        node.wait()
        assert lock.exists()
        with locked(store, part or None):
            assert "node2" not in lock.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_nodes_take_a_part_each(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    with other_node(store, "1/3"), locked(store, "2/3"):
        assert sorted(each.name for each in tmp_path.iterdir()) == ["s.zarr.1-of-3.lock", "s.zarr.2-of-3.lock"]


def test_a_file_system_that_shares_no_locks_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    expected = (
        f"the file system of {store} must share locks between nodes, and node2 holds one that is free here; run all parts on "
        "one node, or put the store on a file system with shared locks"
    )
    with other_node(store, "1/3", "alone") as node:
        with pytest.raises(StoreBusyError, match=message(expected)), locked(store, "2/3"):
            pass
        with pytest.raises(StoreBusyError, match=f"by process {node.pid} on node2"), locked(store, "1/3"):
            pass
        assert [each.name for each in tmp_path.iterdir()] == ["s.zarr.1-of-3.lock"]


def test_a_lock_that_nobody_is_said_to_touch_is_respected(tmp_path: Path) -> None:
    lock = tmp_path / "s.zarr.lock"
    lock.write_text("1 1 node2", encoding="utf-8")  # as this package wrote it before
    with pytest.raises(StoreBusyError, match="by process 1 on node2"), locked(tmp_path / "s.zarr"):
        pass
