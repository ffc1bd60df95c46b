"""The local hub in a process of its own, so that serving takes no time from the process that is measured.

with served("folder", "cache/bench/150m", rate=50e6) as endpoint: ...
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hub import LocalHub
from tests.hub.generated import LayerStack

REPO = "bench/run"
REVISIONS = 8


@contextmanager
def served(content: str, rate: float | None = None) -> Iterator[str]:
    """Serve a folder (one checkpoint, under three names) or a generated stack of layers (`layers=64`); yields the endpoint."""
    command = [sys.executable, "-m", "benchmarks.hub_process", content, str(rate or 0)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
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
