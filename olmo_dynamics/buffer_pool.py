"""Memory that is used again once it is free: clearing new pages costs as much as writing to them.

>>> pool = BufferPool(least_bytes=1 << 20, idle_bytes=1 << 28)
>>> one, other = pool.take([3, 5])
>>> len(one), len(other)
(3, 5)
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np

SHARED_BYTES = 32 << 20
"""The most bytes, 32 MiB, that several buffers share; their memory is used again when the last of them is freed."""


class BufferPool:
    """Buffers whose memory is used again once they are freed; any thread may free one, at any time.

    Args:
        least_bytes: memory of fewer is left to the allocator, which keeps it by itself.
        idle_bytes: the most that are kept while nothing uses them.
    """

    def __init__(self, *, least_bytes: int, idle_bytes: int) -> None:
        self._least, self._most_idle = least_bytes, idle_bytes
        self._idle: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)  # by size; a deque needs no lock

    def take(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """A buffer (uint8, one axis) for each size, in order; small neighbours share memory."""
        found: list[np.ndarray] = []
        for group in _together(sizes):
            memory = self._lend(sum(group))
            found += [memory[start:stop] for start, stop in pairwise(accumulate(group, initial=0))]
        return found

    def _lend(self, size: int) -> np.ndarray:
        if size < self._least:
            return np.empty(size, np.uint8)
        try:
            memory = self._idle[size].pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        return np.asarray(_Lent(memory, self._keep))

    def _keep(self, memory: np.ndarray) -> None:
        if sum(size * len(kept) for size, kept in list(self._idle.items())) + memory.nbytes <= self._most_idle:
            self._idle[memory.nbytes].append(memory)


class _Lent:
    """The owner of lent memory: every array that views it refers to this object, at whose end the memory is handed back."""

    def __init__(self, memory: np.ndarray, keep: Callable[[np.ndarray], None]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._keep = memory, keep

    def __del__(self) -> None:
        self._keep(self._memory)


def _together(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Neighbours of up to `SHARED_BYTES` together, or one larger one alone."""
    group: list[int] = []
    for size in sizes:
        if group and sum(group) + size > SHARED_BYTES:
            yield group
            group = []
        group.append(size)
    if group:
        yield group
