"""Interleaved timings: methods run in turn, each in a process of its own, with seconds and peak anonymous memory."""

from __future__ import annotations

import gc
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Timing:
    seconds: float
    peak_bytes: int  # largest RssAnon above the level held before the work began
    result: float  # a number that the method computes, to check that all methods did the same work
    cpu_seconds: float = 0.0  # of this process: below seconds x threads where threads waited, or neighbours ran
    load: float = math.nan  # the machine's load average over the minute before
    details: dict[str, float] = field(default_factory=dict)


def interleave(
    module: str, methods: Sequence[str], *, arguments: Sequence[str], repeats: int, once: Collection[str] = ()
) -> dict[str, list[Timing]]:
    """Run `module`'s methods `repeats` times each, in turn, in fresh processes; those of `once` in the first round only.

    A turn that crashes is told and left out: a method of which every turn crashed has no timings.
    """
    timings: dict[str, list[Timing]] = {method: [] for method in methods}
    for number in range(repeats):
        for method in (each for each in methods if number == 0 or each not in once):
            show_progress(f"{module.rsplit('.', 1)[-1]} {number + 1}/{repeats} {method}")
            command = [sys.executable, "-m", module, method, *arguments]
            # Threads that spin at barriers make every method several times slower on a shared machine, the others most.
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
            load = os.getloadavg()[0]
            done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
            if done.returncode:
                show_progress(f"{method} {ending(done.returncode)}\n{done.stderr}\n")
                continue
            timings[method].append(replace(Timing(**json.loads(done.stdout.splitlines()[-1])), load=load))
            taken = timings[method][-1]
            show_progress(f"{method}: {taken.seconds:.1f} s, {taken.cpu_seconds:.1f} s of CPU time\n")
    print(file=sys.stderr)
    return timings


def ending(status: int) -> str:
    """The end of a process that failed, in words."""
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


def show_progress(text: str) -> None:
    """Overwrite the line on stderr."""
    print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)


def report_timing(work: Callable[[], float], details: dict[str, float] | None = None) -> None:
    """Run one method in this process and print its timing as a JSON line; the work may fill the details."""
    gc.collect()  # what imports left is not looked through while the clock runs
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
    timing = Timing(seconds, max(peak - before, 0), result, cpu_seconds=cpu, details=details or {})
    print(json.dumps(asdict(timing)))


def anonymous_bytes() -> int:
    """This process's anonymous resident memory, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def median_seconds(timings: Sequence[Timing]) -> float:
    """The median of some turns; NaN of none, as where each of them crashed."""
    return statistics.median(timing.seconds for timing in timings) if timings else math.nan


def median_cpu(timings: Sequence[Timing]) -> float:
    """The same of CPU time."""
    return statistics.median(timing.cpu_seconds for timing in timings) if timings else math.nan


def peak_of(timings: Sequence[Timing]) -> float:
    """The most memory of some turns; NaN of none."""
    return max((float(timing.peak_bytes) for timing in timings), default=math.nan)


def result_of(timings: Sequence[Timing]) -> float:
    """The number that the first turn found; NaN of none."""
    return timings[0].result if timings else math.nan


def load_of(timings: dict[str, list[Timing]]) -> str:
    """The load of the machine before the turns, or now where it is not known, beside the number of its cores."""
    known = [timing.load for taken in timings.values() for timing in taken if not math.isnan(timing.load)]
    loads = known or [os.getloadavg()[0]]
    return f"load of the machine: {min(loads):.1f} to {max(loads):.1f}, on {os.cpu_count()} cores"


def print_table(title: str, timings: dict[str, list[Timing]], *, reference: str) -> None:
    """Print each method's median, spread, CPU time, ratio to the reference, runs, and peak memory, and the machine's load."""
    unit = median_seconds(timings[reference])
    print(f"\n{title}")
    print(
        f"{'method':<34} {'median s':>9} {'min–max s':>15} {'CPU s':>8} {'ratio':>8} {'runs':>5} {'peak anonymous':>15}"
    )
    for method, taken in timings.items():
        if not taken:
            print(f"{method:<34} crashed in every turn")
            continue
        seconds = [timing.seconds for timing in taken]
        middle, cpu, peak = median_seconds(taken), median_cpu(taken), peak_of(taken)
        spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
        print(
            f"{method:<34} {middle:>9.3f} {spread:>15} {cpu:>8.2f} {middle / unit:>8.2f} {len(taken):>5} {peak / 1e6:>12.0f} MB"
        )
    print(load_of(timings))
