"""A Ray cluster of several nodes on this machine: each node a group of processes of its own, ended by its id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import ROOT

PORTS = range(6379, 10000)
"""Ports that a head node may listen on: those above are its workers'."""

OBJECT_STORE = 100_000_000  # bytes
TRIES = 4
SECONDS = 60  # for a node to end


def environment(**others: str) -> dict[str, str]:
    """The environment of nodes and drivers: this checkout, kernels that are compiled already, and no hub token."""
    cache = ROOT / "cache" / "olmo_dynamics"
    cache.mkdir(parents=True, exist_ok=True)
    left_out = ("HF_TOKEN", "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "OLMO_DYNAMICS_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "RAY_memory_monitor_refresh_ms": "0",  # a full machine is none of these tests' business
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "30",
    } | others  # fmt: skip


def free_port(ports: Sequence[int] = PORTS) -> int:
    for port in ports:
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no port of {ports} is free")


class Node:
    """One node: `ray start --block` and its children; whoever connects needs no token, whether this machine has one or not."""

    def __init__(self, folder: Path, name: str, *arguments: str, **variables: str) -> None:
        self._log = (folder / f"{name}.log").open("wb")
        ray = Path(sys.executable).with_name("ray")
        fewer = ["--disable-usage-stats", "--include-log-monitor", "false", "--object-store-memory", str(OBJECT_STORE)]
        command = [ray, "start", "--block", "--num-cpus", "1", *fewer, *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(RAY_AUTH_MODE="disabled", **variables),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    @property
    def said(self) -> str:
        """All that it has printed."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def has_started(self) -> bool:
        """Wait until the node works, or has ended."""
        while self.process.poll() is None:
            if "Ray runtime started" in self.said:
                return True
            time.sleep(0.05)
        return False

    def kill(self) -> None:
        """End the node at once, as a machine that loses its power."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(SECONDS)
        self._log.close()

    def stop(self) -> None:
        """Ask the node to end."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.kill()


class Cluster:
    """A head node with one worker, and as many further nodes as are added; all end with the context."""

    def __init__(self, **variables: str) -> None:
        self.variables = variables  # of the environment of each node
        self.folder = Path(tempfile.mkdtemp(prefix="olmo-ray-"))  # short, since it is part of the paths of sockets
        self.address = ""
        self.nodes: list[Node] = []

    def __enter__(self) -> Self:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        try:
            self._start(
                "--head",
                "--port",
                str(port),
                "--temp-dir",
                str(self.folder / "ray"),
                "--include-dashboard",
                "false",
                "--no-monitor",
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all nodes."""
        for node in reversed(self.nodes):
            node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, **variables: str) -> Node:
        """Start one more node, with one worker."""
        return self._start("--address", self.address, **variables)

    def end(self, node: Node) -> None:
        """End a node for good."""
        self.nodes.remove(node)
        node.stop()

    @property
    def logs(self) -> list[Path]:
        """All files that Ray has written."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def _start(self, *arguments: str, **variables: str) -> Node:
        """A node; on a busy machine Ray's own processes may wait too short a time for each other, so it is tried again."""
        for tries in range(TRIES):
            node = Node(self.folder, f"node{len(self.nodes)}-{tries}", *arguments, **self.variables | variables)
            self.nodes.append(node)
            if node.has_started():
                return node
            self.nodes.pop().kill()
        raise RuntimeError(f"a node did not start in {TRIES} tries: {node.said[-2000:]}")


def driver(*arguments: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """`olmo-dyn ARGUMENTS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "olmo_dynamics", *arguments],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
