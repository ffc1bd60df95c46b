"""Workers of a Ray cluster: revisions over links of one rate each, and what Ray adds to a revision.

The cluster has as many nodes of one CPU as there are workers, all on this machine. A warm-up of one revision per worker is not
timed: it imports torch there. With links, N workers should take 1/N of the time of one.

Scheduling is timed by itself: revisions whose records are there already take the whole way of any other, from this process to a
worker and back, so all of their time is the way.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.interleave import Timing, show_progress
from tests.hub import LocalHub
from tests.hub.generated import LayerStack
from tests.hub.process import HubProcess
from tests.ray.cluster import Cluster

if TYPE_CHECKING:
    from olmo_dynamics.collection.engines import Outcome
    from olmo_dynamics.collection.opening import Opener

REPO = "bench/links"
LINK = 3_000_000  # bytes per second of one worker
REVISIONS, SMALL = 8, 60
WORKERS = (1, 2)
TURNS = 7
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


@dataclass(frozen=True)
class Finished:
    """Work that is finished before it begins: each revision has the records of one that was measured."""

    outcome: Outcome

    def of(self, *work: object) -> Finished:
        return self

    def measure(self, name: str, rate: float | None, send: object) -> Outcome:
        return replace(self.outcome, name=name)


def opened(endpoint: str) -> Opener:
    from olmo_dynamics.checkpoints.hub import HubSource
    from olmo_dynamics.collection.fetch_plan import Bounds
    from olmo_dynamics.collection.opening import Opener
    from olmo_dynamics.collection.options import CollectOptions

    source = HubSource(REPO, endpoint=endpoint, token=False)
    opener = Opener(source, CollectOptions(record=MEASURED, engine="ray"), Bounds.of(1 << 30))
    opener.set_up(source.revisions())
    return opener


def scheduled(endpoint: str) -> list[float]:
    """Seconds that each revision takes on its way to a worker and back, in several turns, on a cluster of one worker."""
    from olmo_dynamics.collection.engines import LocalEngine
    from olmo_dynamics.collection.engines.ray_engine import open_ray
    from olmo_dynamics.collection.limits import Limits
    from olmo_dynamics.progress import Progress

    with closing(opened(endpoint)) as opener:
        revisions = opener.source.revisions()
        outcome = next(LocalEngine(1).outcomes(opener, revisions[:1], Progress()))
    found = []
    with (
        Cluster() as cluster,
        closing(opened(endpoint)) as opener,
        patch(f"{open_ray.__module__}.RemoteWork", Finished(outcome)),
        open_ray(opener.source, replace(opener.setup.options, address=cluster.address), Limits(threads=1)) as engine,
    ):
        for turn in range(TURNS + 1):  # the first one imports torch in the worker
            show_progress(f"workers: scheduling {len(revisions)} revisions, turn {turn} of {TURNS}")
            started = time.perf_counter()
            assert len([*engine.outcomes(opener, revisions, Progress())]) == len(revisions)
            found.append((time.perf_counter() - started) / len(revisions))
    return found[1:]


def measure() -> dict[str, list[Timing]]:
    """Seconds by number of workers, of small revisions with and without Ray, and of the way of one revision."""
    with HubProcess(publish, REVISIONS, 8) as hub:
        found = {
            f"{count} workers": [on_workers(hub.endpoint, REVISIONS, count, rate=count * LINK)] for count in WORKERS
        }
    with HubProcess(publish, SMALL, 1) as hub:
        found["scheduling"] = scheduled(hub.endpoint)
        found["small, by Ray"] = [on_workers(hub.endpoint, SMALL, 1)]
        with tempfile.TemporaryDirectory() as place:
            timed(hub.endpoint, "first1", Path(place, "warm.zarr"))
            found["small, without Ray"] = [timed(hub.endpoint, "all", Path(place, "local.zarr"))]
    return {method: [Timing(seconds, 0, 0.0) for seconds in taken] for method, taken in found.items()}


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
    """Measure, and print what no claim says."""
    found = measure()
    seconds = {method: taken[0].seconds for method, taken in found.items()}
    print(f"\n{REVISIONS} revisions over links of {LINK / 1e6:.0f} MB/s, one per worker: ", end="")
    print(", ".join(f"{count} workers {seconds[f'{count} workers']:.1f} s" for count in WORKERS))
    ways = [1e3 * taken.seconds for taken in found["scheduling"]]
    print(f"scheduling: {min(ways):.1f} to {max(ways):.1f} ms for each revision in {len(ways)} turns of {SMALL}")
    added = (seconds["small, by Ray"] - seconds["small, without Ray"]) / SMALL
    print(f"a small revision takes {added * 1e3:+.0f} ms by Ray beside one without, load {os.getloadavg()[0]:.1f}")
    return found


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
