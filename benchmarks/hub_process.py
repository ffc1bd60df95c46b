"""The local hub in a process of its own, so that serving takes no time from the process that is measured.

with served("folder", "cache/bench/150m", rate=50e6) as endpoint: ...
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hub import LocalHub
from tests.hub.generated import LayerStack

REPO = "bench/run"
REVISIONS = 8


class Endpoint(str):
    """The address of a hub, and the number of its process."""

    __slots__ = ("process",)
    process: int

    def cpu_seconds(self) -> float:
        """CPU seconds that the hub has taken so far, on the same cores as what is measured."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(content: str, rate: float | None = None) -> Iterator[Endpoint]:
    """Serve a folder (one checkpoint, under eight names) or a generated stack of layers (`layers=64`); yields the endpoint."""
    command = [sys.executable, "-m", "benchmarks.hub_process", content, str(rate or 0)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            endpoint = Endpoint(process.stdout.readline().strip())
            endpoint.process = process.pid
            yield endpoint
        finally:
            process.stdin.close()  # the server ends with its input


def serve(content: str, rate: float) -> None:
    if content.startswith("layers="):
        branches = {"step0": LayerStack(layers=int(content.removeprefix("layers="))).files()}
    else:
        branches = {f"step{number}": Path(content) for number in range(REVISIONS)}
    with LocalHub() as hub:
        hub.total_rate = rate or None
        hub.add_repo(REPO, branches)
        print(hub.endpoint, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))
