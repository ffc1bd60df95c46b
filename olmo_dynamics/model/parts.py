"""Sequences split into parts, and threads that process part after part.

    >>> cut(20, 8)[:2]
    (slice(0, 3, None), slice(3, 6, None))

Each thread computes with torch threads of its own, so two threads never wait for each other at a barrier inside a product.
The split must not depend on the number of threads: sums over a part are then the same on every machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

import torch


def cut(length: int, parts: int) -> tuple[slice, ...]:
    """Up to `parts` consecutive slices of equal size (the last may be smaller) that cover `range(length)`."""
    return tuple(slices(length, max(1, -(-length // parts))))


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `range(length)`."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def in_threads(work: Callable[[int], None], parts: int, *, threads: int) -> None:
    """Call `work` with each part's number, in `threads` threads that divide torch's threads among them.

    The exception of the first part that failed is raised once all parts have ended.
    """
    together = max(1, min(parts, threads))
    with _torch_threads(max(1, threads // together)):
        if together == 1:
            for part in range(parts):
                work(part)
            return
        pool = _pool(together, os.getpid())
        _raise_first([pool.submit(_alone, work, part, threads // together) for part in range(parts)])


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay, since libraries for a GPU plan their kernels anew in each thread; those of another process are gone."""
    return ThreadPoolExecutor(threads, thread_name_prefix="olmo-dynamics-pass")


def _alone(work: Callable[[int], None], part: int, torch_threads: int) -> None:
    torch.set_num_threads(torch_threads)  # the setting is per thread, and a new thread does not inherit it
    work(part)


def _raise_first(futures: Sequence[Future[None]]) -> None:
    wait(futures)
    for future in futures:
        future.result()


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
