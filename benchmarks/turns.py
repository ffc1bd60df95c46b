"""Methods taking turns, each in a process of its own, with its seconds and its peak anonymous memory."""

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
class Turn:
    seconds: float
    peak_bytes: int  # largest RssAnon beyond what was held before the work began
    result: float  # a number the method arrives at, for checking that the methods did the same work
    cpu_seconds: float = 0.0  # of this process: below seconds x threads where threads waited, or neighbours ran


def take_turns(
    module: str, methods: Sequence[str], *, arguments: Sequence[str], repeats: int, once: Collection[str] = ()
) -> dict[str, list[Turn]]:
    """Run `module`'s methods `repeats` times each, in turn, in fresh processes; those of `once` in the first round only."""
    turns: dict[str, list[Turn]] = {method: [] for method in methods}
    for number in range(repeats):
        for method in (each for each in methods if number == 0 or each not in once):
            print(
                f"\r{module.rsplit('.', 1)[-1]} {number + 1}/{repeats} {method:<32}",
                end="",
                file=sys.stderr,
                flush=True,
            )
            command = [sys.executable, "-m", module, method, *arguments]
            # Threads that spin at barriers make every method several times slower on a shared machine, the peers most.
            environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            turns[method].append(Turn(**json.loads(done.stdout.splitlines()[-1])))
    print(file=sys.stderr)
    return turns


def report_turn(work: Callable[[], float]) -> None:
    """Run one method in this process and print its turn as a JSON line."""
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
    turn = Turn(seconds, peak_bytes=max(peak - before, 0), result=result, cpu_seconds=cpu)
    print(json.dumps(asdict(turn)))


def anonymous_bytes() -> int:
    """This process's anonymous resident memory, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def median_seconds(turns: Sequence[Turn]) -> float:
    return statistics.median(turn.seconds for turn in turns)


def print_table(title: str, turns: dict[str, list[Turn]], *, ours: str) -> None:
    """Each method's median, spread, CPU time, ratio to ours, turns, and peak memory."""
    mine = median_seconds(turns[ours])
    print(f"\n{title}")
    print(
        f"{'method':<34} {'median s':>9} {'min–max s':>15} {'CPU s':>8} {'× ours':>8} {'turns':>5} {'peak anonymous':>15}"
    )
    for method, taken in turns.items():
        seconds = [turn.seconds for turn in taken]
        peak = max(turn.peak_bytes for turn in taken)
        middle = median_seconds(taken)
        cpu = statistics.median(turn.cpu_seconds for turn in taken)
        spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
        print(
            f"{method:<34} {middle:>9.3f} {spread:>15} {cpu:>8.2f} {middle / mine:>8.2f} {len(taken):>5} {peak / 1e6:>12.0f} MB"
        )
