"""Interleaved timings: methods run in turn, each in a process of its own, with seconds and peak anonymous memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    seconds: float
    peak_bytes: int  # largest RssAnon above the level held before the work began
    result: float  # a number that the method computes, to check that all methods did the same work
    cpu_seconds: float = 0.0  # of this process: below seconds x threads where threads waited, or neighbours ran


def interleave(
    module: str, methods: Sequence[str], *, arguments: Sequence[str], repeats: int, once: Collection[str] = ()
) -> dict[str, list[Timing]]:
    """Run `module`'s methods `repeats` times each, in turn, in fresh processes; those of `once` in the first round only."""
    timings: dict[str, list[Timing]] = {method: [] for method in methods}
    for number in range(repeats):
        for method in (each for each in methods if number == 0 or each not in once):
            show_progress(f"{module.rsplit('.', 1)[-1]} {number + 1}/{repeats} {method}")
            command = [sys.executable, "-m", module, method, *arguments]
            # Threads that spin at barriers make every method several times slower on a shared machine, the others most.
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            timings[method].append(Timing(**json.loads(done.stdout.splitlines()[-1])))
            taken = timings[method][-1]
            show_progress(f"{method}: {taken.seconds:.1f} s, {taken.cpu_seconds:.1f} s of CPU time\n")
    print(file=sys.stderr)
    return timings


def show_progress(text: str) -> None:
    """Overwrite the line on stderr."""
    print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)


def report_timing(work: Callable[[], float]) -> None:
    """Run one method in this process and print its timing as a JSON line."""
    before = anonymous_bytes()
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    done.set()
    watcher.join()
    timing = Timing(seconds, peak_bytes=max(peak - before, 0), result=result, cpu_seconds=cpu)
    print(json.dumps(asdict(timing)))


def anonymous_bytes() -> int:
    """This process's anonymous resident memory, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def median_seconds(timings: Sequence[Timing]) -> float:
    return statistics.median(timing.seconds for timing in timings)


def print_table(title: str, timings: dict[str, list[Timing]], *, reference: str) -> None:
    """Print each method's median, spread, CPU time, ratio to the reference, runs, and peak memory."""
    unit = median_seconds(timings[reference])
    print(f"\n{title}")
    print(
        f"{'method':<34} {'median s':>9} {'min–max s':>15} {'CPU s':>8} {'ratio':>8} {'runs':>5} {'peak anonymous':>15}"
    )
    for method, taken in timings.items():
        seconds = [timing.seconds for timing in taken]
        peak = max(timing.peak_bytes for timing in taken)
        middle = median_seconds(taken)
        cpu = statistics.median(timing.cpu_seconds for timing in taken)
        spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
        print(
            f"{method:<34} {middle:>9.3f} {spread:>15} {cpu:>8.2f} {middle / unit:>8.2f} {len(taken):>5} {peak / 1e6:>12.0f} MB"
        )
