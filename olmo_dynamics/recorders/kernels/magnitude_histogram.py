"""A histogram of magnitudes that can be merged, for medians over more numbers than fit in memory.

A bin is a float32 magnitude with its last 9 mantissa bits dropped: 2^-14 wide, relative. Bins are kept only for the octaves
(powers of two) that occur, so that merging is adding, in any order, with the same result to the last count. The bins of a few
numbers are listed instead: a table of counts would be nearly empty, and adding it would cost more than counting.

    >>> magnitudes = Magnitudes()
    >>> magnitudes.add(np.array([[-1.0, 2.0, 3.0]], np.float32).view(np.uint32), np.array([0]))
    >>> magnitudes.median()
    2.0

Numbers of at most 14 mantissa bits (bfloat16 and float16 are such) are known exactly; others to 2^-15, relative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, UInt, UInt32

from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.token_codes import values_of

_DROPPED_BITS = 9
_DROPPED = (1 << _DROPPED_BITS) - 1
_BINS = 1 << 14  # in an octave
_FEW = 1 << 15  # numbers that are listed before a table is made of them
_UNSIGNED = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)
_INFINITY = 0x7F800000
_NONE = np.zeros(0, np.int64)


@jit
def _extent(
    bits: UInt32[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]
) -> tuple[np.int64, np.int64, np.int64]:
    """The smallest magnitude but zero, less one, the largest, and all bits that are set somewhere."""
    smallest, largest, used = np.uint32(0xFFFFFFFF), np.uint32(0), np.uint32(0)
    for place in range(len(rows)):
        row = bits[rows[place]]
        for i in range(len(row)):
            magnitude = np.uint32(row[i] & _UNSIGNED)
            smallest = min(smallest, np.uint32(magnitude - _ONE))  # zero wraps round to the largest
            largest = max(largest, magnitude)
            used |= magnitude
    return np.int64(smallest), np.int64(largest), np.int64(used)


@jit
def _count_bins(
    bits: UInt32[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    first_bin: int,
    counts: Int64[np.ndarray, " bins"],
) -> int:
    """Count magnitudes by bin, and return how many are zero."""
    zeros = 0
    for place in range(len(rows)):
        row = bits[rows[place]]
        for i in range(len(row)):
            magnitude = np.int64(row[i] & _UNSIGNED)
            if magnitude == 0:
                zeros += 1
            else:
                counts[(magnitude >> _DROPPED_BITS) - first_bin] += 1
    return zeros


class Magnitudes:
    """Counts of |x| by bin, over the octaves that occur."""

    def __init__(self) -> None:
        self._zeros = 0
        self._octave = 0  # exponent field of the first octave kept
        self._counts = np.zeros((0, _BINS), np.int64)
        self._exact = True
        self._few: list[Int64[np.ndarray, " n"]] = []  # bins of numbers that are not in the table yet

    def add(self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]) -> None:
        """Count the numbers of these rows, given as the bits of float32 or (rounded to float32) float64."""
        bits = codes if codes.itemsize == 4 else values_of(codes).astype(np.float32).view(np.uint32)
        below_smallest, largest, used = map(int, _extent(bits, rows))
        self._exact = self._exact and not used & _DROPPED
        if largest == 0:
            self._zeros += len(rows) * bits.shape[1]
            return
        if len(rows) * bits.shape[1] <= _FEW:
            self._list(bits[rows] & _UNSIGNED)
            return
        self._cover((below_smallest + 1) >> 23, (largest >> 23) + 1)
        self._zeros += _count_bins(bits, rows, self._octave * _BINS, self._counts.reshape(-1))

    def merge(self, other: Magnitudes) -> None:
        """Add the numbers that `other` counted."""
        self._zeros += other._zeros
        self._exact = self._exact and other._exact
        if len(other._counts):
            self._cover(other._octave, other._octave + len(other._counts))
            start = other._octave - self._octave
            self._counts[start : start + len(other._counts)] += other._counts
        self._few += other._few
        self._keep_few()

    def median(self) -> float:
        """The median magnitude, the mean of the two middle ones if their number is even; NaN of no numbers."""
        bins, ends = self._in_order()
        count = self._zeros + (int(ends[-1]) if len(ends) else 0)
        if count == 0:
            return math.nan
        return (self._at((count - 1) // 2, bins, ends) + self._at(count // 2, bins, ends)) / 2

    def _at(
        self, rank: int, bins: Sequence[int] | Int64[np.ndarray, " bins"], ends: Int64[np.ndarray, " bins"]
    ) -> float:
        if rank < self._zeros:
            return 0.0
        place = int(np.searchsorted(ends, rank - self._zeros, side="right"))
        lower_edge = int(bins[place]) << _DROPPED_BITS
        half = 0 if self._exact else 1 << (_DROPPED_BITS - 1)
        representative = min(lower_edge + half, _INFINITY)
        return float(np.array([representative], np.uint32).view(np.float32)[0])

    def _in_order(self) -> tuple[Sequence[int] | Int64[np.ndarray, " bins"], Int64[np.ndarray, " bins"]]:
        """The bins from the smallest, and the number of magnitudes in each and those before it."""
        if len(self._counts):
            self._tabulate()
            first = self._octave * _BINS
            return range(first, first + self._counts.size), np.cumsum(self._counts)
        bins, counts = np.unique(np.concatenate([_NONE, *self._few]), return_counts=True)
        return bins, np.cumsum(counts)

    def _list(self, magnitudes: UInt32[np.ndarray, "tokens width"]) -> None:
        """Count these numbers without a table."""
        present = magnitudes[magnitudes > 0]
        self._zeros += magnitudes.size - present.size
        self._few.append((present >> _DROPPED_BITS).astype(np.int64))
        self._keep_few()

    def _keep_few(self) -> None:
        """Count what is listed in the table, if there is one or much is listed."""
        if len(self._counts) or sum(map(len, self._few)) > _FEW:
            self._tabulate()

    def _tabulate(self) -> None:
        if not self._few:
            return
        bins, counts = np.unique(np.concatenate(self._few), return_counts=True)
        self._few = []
        self._cover(int(bins[0]) // _BINS, int(bins[-1]) // _BINS + 1)
        self._counts.reshape(-1)[bins - self._octave * _BINS] += counts

    def _cover(self, start: int, stop: int) -> None:
        """Make room for the octaves from `start` up to, not including, `stop`."""
        kept = len(self._counts)
        first, end = (min(start, self._octave), max(stop, self._octave + kept)) if kept else (start, stop)
        if end - first == kept:
            return
        counts = np.zeros((end - first, _BINS), np.int64)
        if kept:
            counts[self._octave - first :][:kept] = self._counts
        self._octave, self._counts = first, counts
