"""CPU time by operation: functions are wrapped while something runs, and charged for their own time."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Place = tuple[Any, str]
"""A module or a class, and the name of a function there."""


class Clock:
    """Seconds of CPU time of all threads, by operation."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._within = threading.local()
        self._lock = threading.Lock()

    def charged(self, operation: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function; its own time is charged to an operation."""

        @functools.wraps(work)
        def run(*arguments: Any, **words: Any) -> Any:
            inner: list[float] = self._within.__dict__.setdefault("inner", [0.0])
            inner.append(0.0)
            started = time.thread_time()
            try:
                return work(*arguments, **words)
            finally:
                spent = time.thread_time() - started
                own = spent - inner.pop()
                inner[-1] += spent
                with self._lock:
                    self.seconds[operation] += own

        return run

    @contextmanager
    def watching(self, places: Mapping[str, Sequence[Place]]) -> Iterator[Clock]:
        """Charge the functions at these places to their operations while this lasts."""
        kept = [(owner, name, vars(owner)[name]) for found in places.values() for owner, name in found]
        try:
            for operation, found in places.items():
                for owner, name in found:
                    setattr(owner, name, self.charged(operation, getattr(owner, name)))
            yield self
        finally:
            for owner, name, work in kept:
                setattr(owner, name, work)


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The median CPU time of this thread for some work, after once uncounted."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return sorted(taken)[len(taken) // 2]


def print_operations(
    title: str, taken: Mapping[str, float], floors: Mapping[str, tuple[float, str]], whole: float
) -> None:
    """Print each operation's CPU time, its share, its floor (and the floor's name), and the time over the floor."""
    print(f"\n{title}: {whole:.2f} s of CPU time")
    print(f"| {'operation':<46} | CPU s | share | floor s | ratio | floor |\n|---|---|---|---|---|---|")
    rows = {**taken, "everything else": whole - sum(taken.values())}
    for operation, seconds in sorted(rows.items(), key=lambda item: -item[1]):
        floor, name = floors.get(operation, (0.0, ""))
        ratio = f"{seconds / floor:.2f}" if floor else ""
        bound = f"{floor:.3f}" if floor else ""
        print(f"| {operation:<46} | {seconds:.3f} | {seconds / whole:.1%} | {bound} | {ratio} | {name} |")
