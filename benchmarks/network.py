"""Eight revisions in a row over HTTP from a throttled local hub, and the same eight from a folder.

The limit is the larger of two times, bytes over rate and computing alone, and what cannot overlap: the time until the first
block's bytes are there and, where the link is the limit, computing after the last byte. The link's busy share is
bytes over rate over the time from the first byte to the last.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoint import make_checkpoint
from benchmarks.forward_peers import token_file
from benchmarks.hub_process import REPO, REVISIONS, Endpoint, served
from benchmarks.interleave import report_timing

RATES = {"50 MB/s": 50e6, "100 MB/s": 100e6, "400 MB/s": 400e6}
METHODS = (*RATES, "folder")
SEQUENCES = 4  # of 512 tokens: few, so that a link of 50 or 100 MB/s is the limit, and one of 400 MB/s is not


class Clock:
    """The times at which bytes come from the wire, and at which whole steps are there, in seconds after `start`."""

    def __init__(self) -> None:
        from olmo_dynamics.checkpoints.http.range_reader import RangeReader
        from olmo_dynamics.collection.prefetch import RevisionStream

        self.start = time.perf_counter()
        self.received: list[float] = []
        self.ready: list[float] = []
        count, tensors = RangeReader._count, RevisionStream.tensors

        def counted(reader: RangeReader, *arguments: Any) -> None:
            self.received.append(time.perf_counter() - self.start)
            count(reader, *arguments)

        def listed(stream: RevisionStream, step: Any) -> Iterator[Any]:
            yield from tensors(stream, step)
            self.ready.append(time.perf_counter() - self.start)

        RangeReader._count, RevisionStream.tensors = counted, listed  # type: ignore[method-assign]

    def restart(self) -> None:
        """Forget what came so far."""
        self.start = time.perf_counter()
        self.received.clear()
        self.ready.clear()

    def facts(self) -> dict[str, float]:
        """Seconds until the first byte, the last byte, and the first block's bytes, which are those of the second step."""
        return {"first_byte": self.received[0], "last_byte": self.received[-1], "first_block": self.ready[1]}


def collect_from(source: object, tokens: Path, out: Path) -> float:
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.progress import Progress

    listener = Progress()
    collect(
        source,
        out=out,
        tokens=tokens,
        batch="{}x{}".format(*np.load(tokens).shape),
        dtype="bfloat16",
        progress=listener,
    )
    return float(listener.outcome["bytes"])


def links(folder: Path, into: Path) -> Path:
    """Link the checkpoint under one name per revision."""
    into.mkdir()
    for number in range(REVISIONS):
        (into / f"step{number}").symlink_to(folder.absolute())
    return into


def run(method: str, folder: Path, place: Path) -> None:
    """Collect with one method, once kernels are loaded and the server runs, and print the timing."""
    from olmo_dynamics.checkpoints.hub import HubSource

    tokens, details, clock = token_file(folder, SEQUENCES), dict[str, float](), Clock()
    small = make_checkpoint("tiny", folder.parent.parent)
    collect_from(small.parent, token_file(small), place / "small.zarr")
    with ExitStack() as serving:
        source: object = links(folder, place / "run")
        hub: Endpoint | None = None
        if method in RATES:
            hub = serving.enter_context(served(str(folder), RATES[method]))
            source = HubSource(REPO, endpoint=hub, token=False)

        def work() -> float:
            clock.restart()
            before = hub.cpu_seconds() if hub else 0.0
            moved = collect_from(source, tokens, place / "s.zarr")
            if hub:
                details.update(clock.facts(), hub_cpu_seconds=hub.cpu_seconds() - before)
            return moved

        touch_memory()
        report_timing(work, details)


def touch_memory() -> None:
    """Use a GB and free it: a virtual machine takes milliseconds to back each large page that is used for the first time."""
    np.ones(1 << 30, np.uint8)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        run(sys.argv[1], Path(sys.argv[2]), Path(empty))
