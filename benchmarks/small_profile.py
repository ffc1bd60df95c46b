"""CPU seconds of a small model's revision by operation, each beside a floor that is measured in the same process.

python -m benchmarks.small_profile cache/bench/small/run
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import small

PASS, ACTIVATIONS, OUTLIERS, LOSSES = "forward pass", "activations", "outliers", "losses and logits"
SHOW, MERGE, LAYER, SURVEY = "showing, weights' groups", "merging parts", "finishing layers", "surveying weights"
OPEN, HASH, WRITE, REST = "opening", "hashing weights", "writing the row", "threads, waits, the rest"

FILES = 2  # of a revision: weights and config
ARRAYS = 125  # files that a row changes, marks included


class Clock:
    """CPU seconds of each operation, less those of operations within it; every thread has a clock of its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.items: dict[str, float] = defaultdict(float)
        self._lock, self._within = threading.Lock(), threading.local()

    def restart(self) -> None:
        """Forget what was counted."""
        self.seconds.clear()
        self.items.clear()

    @contextmanager
    def during(self, name: str, items: float) -> Iterator[None]:
        """Count the thread's CPU time as the operation's, and its items."""
        outer, self._within.inner = getattr(self._within, "inner", 0.0), 0.0
        started = time.thread_time()
        try:
            yield
        finally:
            taken = time.thread_time() - started
            with self._lock:
                self.seconds[name] += taken - self._within.inner
                self.items[name] += items
            self._within.inner = outer + taken

    def wrap(self, owner: Any, attribute: str, name: str, items: Callable[..., float] = lambda *_: 0.0) -> None:
        """Count each call of a function, with the items of its arguments."""
        inner = getattr(owner, attribute)

        @functools.wraps(inner)
        def counted(*arguments: Any, **options: Any) -> Any:
            with self.during(name, items(*arguments)):
                return inner(*arguments, **options)

        setattr(owner, attribute, counted)


def wrap_all(clock: Clock) -> None:
    """Count the operations of a collection."""
    from olmo_dynamics.checkpoints.folder import FolderCheckpoint
    from olmo_dynamics.collection import measure, opening
    from olmo_dynamics.model.stream import StreamedPass
    from olmo_dynamics.recorders.activations import ActivationRecorder
    from olmo_dynamics.recorders.losses import LossRecorder
    from olmo_dynamics.recorders.outliers import OutlierRecorder
    from olmo_dynamics.recorders.recorder_set import RecorderSet
    from olmo_dynamics.store import Store

    def values(_: Any, observation: Any) -> float:
        return float(observation.values.numel())

    for step in ("_embed", "_block", "_finish"):
        clock.wrap(StreamedPass, step, PASS)
    clock.wrap(RecorderSet, "observe", SHOW, lambda *_: 1.0)
    clock.wrap(ActivationRecorder, "observe", ACTIVATIONS, values)
    clock.wrap(OutlierRecorder, "observe", OUTLIERS, values)
    clock.wrap(LossRecorder, "observe", LOSSES, values)
    clock.wrap(RecorderSet, "merge", MERGE)
    clock.wrap(ActivationRecorder, "merge", MERGE, lambda _, other: 2.0 * len(other._places))
    clock.wrap(ThreadPoolExecutor, "submit", REST, lambda *_: 1.0)
    clock.wrap(RecorderSet, "finish_layer", LAYER)
    clock.wrap(RecorderSet, "finish", LAYER)
    clock.wrap(measure, "block_stats", SURVEY, lambda raw, *_: raw.nbytes / 4)
    clock.wrap(measure, "complete", SURVEY)
    clock.wrap(opening.Opener, "open", OPEN, lambda *_: 1.0)
    clock.wrap(FolderCheckpoint, "file_sha256", HASH, lambda self, name: float(self.files[name]))
    clock.wrap(Store, "append", WRITE)


def timed(work: Callable[[], object], times: int = 5) -> float:
    """The least CPU seconds of some calls."""
    found = []
    for _ in range(times):
        started = time.thread_time()
        work()
        found.append(time.thread_time() - started)
    return min(found)


def floors(items: dict[str, float], place: Path) -> dict[str, tuple[float, str]]:
    """A floor of each operation that has one, measured now: seconds for as many items as were counted."""
    numbers = np.random.default_rng(0).standard_normal(1 << 18).astype(np.float32)  # 1 MiB, which stays in a cache
    far = np.tile(numbers, 64)  # 64 MiB, which does not
    text, some, few = numbers.tobytes(), torch.from_numpy(numbers), np.zeros(96)
    read = timed(numbers.max) / numbers.size
    fetched = timed(far.max) / far.size
    exponential = timed(some.exp) / numbers.size
    digest = timed(lambda: hashlib.sha256(text).digest()) / len(text)
    return {
        PASS: (products(), "the matrix products alone"),
        ACTIVATIONS: (items[ACTIVATIONS] * read, "reading each number once, from a cache"),
        LAYER: (items[ACTIVATIONS] * fetched, "reading each number once, from memory"),
        OUTLIERS: (items[OUTLIERS] * read, "reading each number once, from a cache"),
        LOSSES: (items[LOSSES] * exponential, "an exponential of each logit"),
        SURVEY: (items[SURVEY] * read, "reading each number once, from a cache"),
        HASH: (items[HASH] * digest, "SHA-256 of the same bytes"),
        WRITE: (replaced(place, ARRAYS), "as many files made and renamed as a row changes"),
        OPEN: (items[OPEN] * FILES * timed((place / "row").read_bytes), "reading each file's header"),
        SHOW: (items[SHOW] * timed(observed, 50), "making each observation"),
        MERGE: (items[MERGE] * timed(lambda: np.maximum(few, few) + few, 50), "adding each set's sums and maxima"),
        REST: (items[REST] * handed(200), "as many empty tasks for a thread"),
    }


def replaced(place: Path, count: int) -> float:
    """CPU seconds of writing some small files, each renamed into its place."""

    def write() -> None:
        for number in range(count):
            new = place / f"row.{number}.partial"
            new.write_bytes(bytes(8_000))
            new.replace(place / "row")

    return timed(write)


def observed() -> object:
    """An observation as a recorder is shown it."""
    from olmo_dynamics.recorders.base import Observation

    return Observation(values=torch.zeros(1, 1, 1), site=None, rows=slice(0, 1), positions=slice(0, 1))


def handed(tasks: int) -> float:
    """CPU seconds, of all threads, of a task that does nothing."""
    with ThreadPoolExecutor(2) as pool:
        started = time.process_time()
        for each in [pool.submit(int) for _ in range(tasks)]:
            each.result()
        return (time.process_time() - started) / tasks


@torch.inference_mode()
def products() -> float:
    """CPU seconds of the matrix products of a pass, on one thread, 512 tokens at a time."""
    from olmo_dynamics.experiments.demo import STANDARD
    from olmo_dynamics.model import expected_shapes

    torch.set_num_threads(1)
    matrices = [
        torch.randn(s) for name, s in expected_shapes(STANDARD.config).items() if len(s) == 2 and "embed" not in name
    ]
    inputs = [torch.randn(512, each.shape[1]) for each in matrices]
    once = timed(lambda: [x @ each.T for x, each in zip(inputs, matrices, strict=True)])
    return once * small.WINDOWS[0] * small.WINDOWS[1] / 512


def profile(run: Path) -> dict[str, tuple[float, float | None, str]]:
    """CPU seconds of a revision by operation, its floor, and the floor's name; the total and the rest at the end."""
    clock = Clock()
    wrap_all(clock)
    with tempfile.TemporaryDirectory() as folder:
        timing = small.measure(run, None, Path(folder), begun=clock.restart)
        count = small.REVISIONS - 1
        least = floors({name: each / count for name, each in clock.items.items()}, Path(folder))
    seconds = {name: each / count for name, each in clock.seconds.items()}
    seconds[REST] += timing.cpu_seconds - sum(seconds.values())
    table = {
        name: (each, *least.get(name, (None, ""))) for name, each in sorted(seconds.items(), key=lambda pair: -pair[1])
    }
    return {**table, "all": (timing.cpu_seconds, None, "")}


def report(run: Path) -> None:
    """Print the table of one run, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.small_profile", str(run)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    print(f"{'operation':<24} {'CPU s':>7} {'floor':>7}")
    for name, (seconds, floor, what) in found.items():
        print(f"{name:<24} {seconds:>7.3f} {'' if floor is None else format(floor, '.3f'):>7}  {what}")


if __name__ == "__main__":
    print(json.dumps(profile(Path(sys.argv[1]))))
