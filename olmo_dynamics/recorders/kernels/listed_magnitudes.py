"""Magnitudes that are kept as they are, for order statistics of some million numbers.

Writing a number down costs less than counting it in a table that exceeds the nearest cache, and nothing needs to be cleared or
resized. An order statistic is found by one pass: a sample tells an interval that holds it, the pass counts what lies below the
interval and gathers what lies within, and a selection among these few gives the number. Parts remember their last interval, so
that the same numbers are not read again when further parts join them.

    >>> listed = ListedMagnitudes()
    >>> listed.add(np.array([3.0, 1.0, 2.0], np.float32).view(np.uint32))
    >>> listed.order([0, 1]).view(np.float32)
    array([1., 2.], dtype=float32)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt32

from olmo_dynamics.buffer_pool import BufferPool
from olmo_dynamics.recorders.kernels.packed.sixteen import SPARE, pack_within

_FEW = 1 << 13  # numbers that are selected from as they are
_SAMPLE = 1 << 13  # numbers, about, that tell the interval
_BESIDE = 0.025  # of all ranks, on each side of the rank: more than four standard deviations of the sample's error
_LAST = (1 << 32) - 1

_scratch = threading.local()
"""Memory of each thread for the numbers within an interval, since fresh memory costs more than finding them."""


_pool = BufferPool(least_bytes=1 << 16, idle_bytes=128 << 20)
"""Memory of lists that were let go of, for those of the next layer."""


def room_for(length: int) -> UInt32[np.ndarray, " n"]:
    """Room for some numbers that are to be listed; others are given it once no list holds it."""
    return _pool.take([4 * length])[0].view(np.uint32)


class _Part:
    """Some numbers, and those of them that lie in the last interval."""

    def __init__(self, numbers: UInt32[np.ndarray, " n"]) -> None:
        self.numbers = numbers
        self.interval: tuple[int, int] | None = None
        self.below = 0
        self.within = numbers[:0]

    def look_in(self, interval: tuple[int, int]) -> None:
        """Find the numbers within an interval, unless they are known."""
        if interval == self.interval:
            return
        packed = vars(_scratch).get("packed")
        if packed is None or len(packed) < len(self.numbers) + SPARE:
            packed = _scratch.packed = np.empty(len(self.numbers) + SPARE, np.uint32)
        low, high = interval
        self.below, found = pack_within(self.numbers, np.uint32(low), np.uint32(high), packed)
        self.within, self.interval = packed[:found].copy(), interval


class ListedMagnitudes:
    """The bits of float32 magnitudes, whose order is that of the numbers, NaN last."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self.count = 0

    @property
    def numbers(self) -> list[UInt32[np.ndarray, " n"]]:
        """The numbers, part by part."""
        return [part.numbers for part in self._parts]

    def add(self, numbers: UInt32[np.ndarray, " n"]) -> None:
        """Add numbers, which must not change any more."""
        self._parts.append(_Part(numbers))
        self.count += len(numbers)

    def merge(self, other: ListedMagnitudes) -> None:
        """Add the numbers of another list, which goes on to hold them too."""
        self._parts += other._parts
        self.count += other.count

    def order(self, ranks: Sequence[int]) -> UInt32[np.ndarray, " ranks"]:
        """The numbers of some ranks (0 is the smallest) that lie near to one another, all below `count`."""
        if self.count > _FEW:
            for interval in self._intervals(ranks):
                found = self._select(ranks, interval)
                if found is not None:
                    return found
        return _selected(np.concatenate(self.numbers), ranks)

    def _intervals(self, ranks: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Intervals that may hold the ranks: that of the largest part, then one by a sample of all."""
        largest = max(self._parts, key=lambda part: len(part.numbers)).interval
        if largest:
            yield largest
        yield self._sampled(ranks)

    def _sampled(self, ranks: Sequence[int]) -> tuple[int, int]:
        step = max(1, self.count // _SAMPLE) | 1  # odd, so that it meets all features of vectors of even width
        sample = np.sort(np.concatenate([numbers[::step] for numbers in self.numbers]))
        first = int((min(ranks) / self.count - _BESIDE) * len(sample))
        last = int((max(ranks) / self.count + _BESIDE) * len(sample))
        low = 0 if first < 0 else int(sample[first])
        return low, _LAST if last >= len(sample) else int(sample[last])

    def _select(self, ranks: Sequence[int], interval: tuple[int, int]) -> UInt32[np.ndarray, " ranks"] | None:
        """The numbers of the ranks, if the interval holds them."""
        for part in self._parts:
            part.look_in(interval)
        below = sum(part.below for part in self._parts)
        within = np.concatenate([part.within for part in self._parts])
        places = [rank - below for rank in ranks]
        if min(places) < 0 or max(places) >= len(within):
            return None
        return _selected(within, places)


def _selected(numbers: UInt32[np.ndarray, " n"], ranks: Sequence[int]) -> UInt32[np.ndarray, " ranks"]:
    """The numbers of some ranks; NumPy partitions at one rank twenty times as fast as at two."""
    first, found = min(ranks), {}
    above = np.partition(numbers, first)[first:]
    for rank in set(ranks):
        found[rank] = np.partition(above, rank - first)[rank - first]
    return np.array([found[rank] for rank in ranks], np.uint32)
