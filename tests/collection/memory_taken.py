"""Collections in processes of their own, one after another: each tells its plan, and what it took.

    python -m tests.collection.memory_taken '[{"source": "cache/run", "record": "loss", "batch": "4x16"}]'

Each process is forked from one that has imported everything, so that a small collection takes a second.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import olmo_dynamics.collection.engines.local_engine as _imported_before_the_fork  # noqa: F401
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.collecting import collect, plan
from olmo_dynamics.progress import Progress

REPO = "org/stack"


def told(source: str, **options: Any) -> dict[str, float]:
    """The plan's bytes and peak memory, the collection's own estimate of it, and what both were."""
    run = HubSource(REPO, endpoint=source, token=False) if source.startswith("http") else source
    planned, heard = plan(run, **options), Progress()
    with tempfile.TemporaryDirectory() as folder:
        collect(run, out=Path(folder) / "s.zarr", progress=heard, **options)
    return {
        "planned_bytes": planned.nbytes,
        "bytes": heard.outcome["bytes"],
        "planned": planned.peak_bytes,
        "expected": heard.outcome["planned_peak_bytes"],
        "taken": heard.outcome["peak_bytes"],
    }


def main() -> None:
    """Print a line for each case."""
    for case in json.loads(sys.argv[1]):
        child = os.fork()
        if child == 0:
            try:
                print(json.dumps(told(**case)), flush=True)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"{case} ended with status {status}")


if __name__ == "__main__":
    main()
