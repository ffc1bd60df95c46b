"""Time to start: the bare interpreter, the import, the help of the command line, the first chart and report, the demo.

The demo is that of a new installation: no kernel is compiled yet.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import small
from benchmarks.interleave import Timing

METHODS = (
    "import olmo_dynamics",
    "olmo-dyn --help",
    "first chart of a small store",
    "report of a small store",
    "python -c pass",
)
DEMO = "olmo-dyn demo"
LIMITS = {METHODS[0]: 0.15, METHODS[1]: 0.5, METHODS[2]: 2.0, DEMO: 60.0}
"""Seconds."""


def make_store(cache: Path) -> Path:
    """A store of the small model's revisions with every default group, kept in the cache."""
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    run, out = small.make_run(cache), cache / "small" / "store.zarr"
    if not out.exists():
        collect(run, out=out, tokens=run.parent / "tokens.npy", batch=small.WINDOWS, progress=Progress())
    return out


CHART = (
    "import sys, olmo_dynamics as od; table = od.open_store(sys.argv[1]).table('parameters'); "
    "od.plots.trajectory(table, y='rms', color='layer').save(sys.argv[2])"
)


def command(method: str, store: Path, empty: Path) -> list[str]:
    """The command line of a method; `empty` is a folder for the demo."""
    program, page = str(Path(sys.executable).parent / "olmo-dyn"), str(store.with_name("page.html"))
    return {
        METHODS[0]: [sys.executable, "-c", "import olmo_dynamics"],
        METHODS[1]: [program, "--help"],
        METHODS[2]: [sys.executable, "-c", CHART, str(store), page],
        METHODS[3]: [program, "report", str(store), "--out", page],
        METHODS[4]: [sys.executable, "-c", "pass"],
        DEMO: [program, "demo", "--quiet", "--out", str(empty / "demo")],
    }[method]


def run(method: str, store: Path, empty: Path) -> Timing:
    """The wall and CPU time of the process, and its peak memory; the demo finds an empty cache."""
    environment = os.environ | ({"OLMO_DYNAMICS_CACHE": str(empty)} if method == DEMO else {})
    started = time.perf_counter()
    status = subprocess.run(
        command(method, store, empty), check=True, stdout=subprocess.DEVNULL, env=environment
    ).returncode
    seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Timing(seconds, used.ru_maxrss * 1024, float(status), cpu_seconds=used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(run(sys.argv[1], Path(sys.argv[2]), Path(folder)))))
