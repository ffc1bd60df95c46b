"""Workers of a Ray cluster: revisions over links of one rate each, and what Ray adds to a revision.

The cluster has as many nodes of one CPU as there are workers, all on this machine. A warm-up of one revision per worker is not
timed: it imports torch there. With links, N workers should take 1/N of the time of one. Small revisions take so little time
that the rest is scheduling.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.interleave import Timing, show_progress
from tests.hub import LocalHub
from tests.hub.generated import LayerStack
from tests.hub.process import HubProcess
from tests.ray.cluster import Cluster

REPO = "bench/links"
LINK = 3_000_000  # bytes per second of one worker
REVISIONS, SMALL = 8, 60
WORKERS = (1, 2)
MEASURED = ("parameters",)


def publish(hub: LocalHub, revisions: int, layers: int) -> None:
    hub.add_repo(REPO, {f"step{number}": stack(layers, number).files() for number in range(revisions)})


def stack(layers: int, seed: int) -> LayerStack:
    """About 1.5 MB for each layer, and as much beside them."""
    return LayerStack(
        layers=layers, hidden=256, heads=4, kv_heads=4, intermediate=640, vocab=1024, seed=seed, hashed=True
    )


def timed(endpoint: str, revisions: str, out: Path, **options: object) -> float:
    """Seconds of a collection in this process."""
    from olmo_dynamics.checkpoints.hub import HubSource
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    source = HubSource(REPO, endpoint=endpoint, token=False)
    started = time.perf_counter()
    collect(source, revisions=revisions, out=out, record=MEASURED, threads=1, progress=Progress(), **options)
    return time.perf_counter() - started


def measure() -> dict[str, list[Timing]]:
    """Seconds by number of workers, and of small revisions with and without Ray."""
    with HubProcess(publish, REVISIONS, 8) as hub:
        found = {f"{count} workers": on_workers(hub.endpoint, REVISIONS, count, rate=count * LINK) for count in WORKERS}
    with HubProcess(publish, SMALL, 1) as hub:
        found["small, by Ray"] = on_workers(hub.endpoint, SMALL, 1)
        with tempfile.TemporaryDirectory() as place:
            timed(hub.endpoint, "first1", Path(place, "warm.zarr"))
            found["small, without Ray"] = timed(hub.endpoint, "all", Path(place, "local.zarr"))
    return {method: [Timing(seconds, 0, 0.0)] for method, seconds in found.items()}


def on_workers(endpoint: str, revisions: int, count: int, rate: float | None = None) -> float:
    """Seconds of a collection by a cluster of so many workers."""
    import ray

    show_progress(f"workers: {count} of them, {revisions} revisions")
    with Cluster() as cluster, tempfile.TemporaryDirectory() as place:
        for _ in range(count - 1):
            cluster.add()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        try:
            timed(endpoint, f"all:first{count}", Path(place, "warm.zarr"), engine="ray")
            return timed(endpoint, "all", Path(place, "s.zarr"), engine="ray", max_rate=rate)
        finally:
            ray.shutdown()


def report() -> dict[str, list[Timing]]:
    found = measure()
    seconds = {method: taken[0].seconds for method, taken in found.items()}
    one, *others = (f"{count} workers" for count in WORKERS)
    print(f"\n{REVISIONS} revisions over links of {LINK / 1e6:.0f} MB/s, one per worker")
    for count, method in zip(WORKERS[1:], others, strict=True):
        speed = seconds[one] / seconds[method]
        print(f"{method}: {seconds[method]:.1f} s, one: {seconds[one]:.1f} s; {speed / count:.2f} N (target 0.9 N)")
    added = (seconds["small, by Ray"] - seconds["small, without Ray"]) / SMALL
    print(f"Ray adds {added * 1e3:.0f} ms to a small revision (target 20 ms), load {os.getloadavg()[0]:.1f}")
    return found


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
