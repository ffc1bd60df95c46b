"""Memory for the bytes of checkpoints, used again once it is free: clearing new pages costs as much as receiving into them.

>>> rooms = Rooms()
>>> one, other = rooms.take([3, 5])
>>> len(one), len(other)
(3, 5)
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np

KEPT_BYTES = 4 << 20
"""Bytes, 4 MiB, from which a room is kept for later use: smaller ones the allocator keeps by itself."""

SHARED_BYTES = 32 << 20
"""The most bytes, 32 MiB, of one room for several buffers, which is used again when the last of them is freed."""

IDLE_BYTES = 256 << 20
"""The most bytes, 256 MiB, that are kept while nothing uses them."""


class Rooms:
    """Buffers whose memory serves again once they are freed; any thread may free one, at any time."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)  # by size; a deque needs no lock

    def take(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """A buffer (uint8, one axis) for each size, in order; small neighbours lie in one room."""
        found: list[np.ndarray] = []
        for group in _together(sizes):
            room = self._room(sum(group))
            found += [room[start:stop] for start, stop in pairwise(accumulate(group, initial=0))]
        return found

    def _room(self, size: int) -> np.ndarray:
        if size < KEPT_BYTES:
            return np.empty(size, np.uint8)
        try:
            memory = self._idle[size].pop()
        except IndexError:
            memory = np.empty(size, np.uint8)
        return np.asarray(_Room(memory, self._keep))

    def _keep(self, memory: np.ndarray) -> None:
        if sum(size * len(kept) for size, kept in list(self._idle.items())) + memory.nbytes <= IDLE_BYTES:
            self._idle[memory.nbytes].append(memory)


class _Room:
    """The owner of a room: every array that views it refers to this object, at whose end the memory is handed back."""

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
