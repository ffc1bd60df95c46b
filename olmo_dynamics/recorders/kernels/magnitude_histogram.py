"""Magnitudes that can be merged, for medians over more numbers than fit in memory: a list of them, then a histogram.

A bin is a float32 magnitude with its last 9 mantissa bits dropped: 2^-14 wide, relative. Bins are kept only for the octaves
(powers of two) that occur, so that merging is adding, in any order, with the same result to the last count. Up to some hundred
thousand numbers are listed instead: most of a table of counts would be empty, and clearing and adding it would cost more than
counting. The median is that of the bin in either case.

    >>> magnitudes = Magnitudes()
    >>> magnitudes.add(np.array([[-1.0, 2.0, 3.0]], np.float32).view(np.uint32), np.array([0]))
    >>> magnitudes.median()
    2.0

Numbers of at most 14 mantissa bits (bfloat16 and float16 are such) are known exactly; others to 2^-15, relative.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Int64, UInt, UInt32

from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.listed_magnitudes import ListedMagnitudes, room_for
from olmo_dynamics.recorders.kernels.token_codes import values_of

_DROPPED_BITS = 9
_DROPPED = (1 << _DROPPED_BITS) - 1
_BINS = 1 << 14  # in an octave
_FEW = 1 << 19  # numbers that are listed, 2 MiB of them, before a table is made
_PARTS = 8  # lists that are listed together when they are merged
_RUN = 128  # counts looked at together
_UNSIGNED = np.uint32(0x7FFFFFFF)
_ONE = np.uint32(1)
_INFINITY = 0x7F800000


@jit
def _extent(bits: UInt32[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]) -> tuple[np.int64, np.int64]:
    """The smallest magnitude but zero, less one, and the largest."""
    smallest, largest = np.uint32(0xFFFFFFFF), np.uint32(0)
    for place in range(len(rows)):
        row = bits[rows[place]]
        for i in range(len(row)):
            magnitude = np.uint32(row[i] & _UNSIGNED)
            smallest = min(smallest, np.uint32(magnitude - _ONE))  # zero wraps round to the largest
            largest = max(largest, magnitude)
    return np.int64(smallest), np.int64(largest)


@jit
def _used(bits: UInt32[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]) -> np.int64:
    """The bits that are set in some number, as far as it takes to see that one of them is dropped."""
    used = np.uint32(0)
    for place in range(len(rows)):
        row = bits[rows[place]]
        for i in range(len(row)):
            used |= row[i]
        if used & np.uint32(_DROPPED):
            break
    return np.int64(used)


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


@jit
def _add_counts(mine: Int64[np.ndarray, " bins"], theirs: Int64[np.ndarray, " bins"]) -> None:
    """Add counts run by run; memory that was never written is only read, and takes no room."""
    for start in range(0, len(theirs), _RUN):
        found = np.int64(0)
        for i in range(start, start + _RUN):
            found |= theirs[i]
        if found != 0:
            for i in range(start, start + _RUN):
                mine[i] += theirs[i]


class Magnitudes:
    """Magnitudes |x|: a list of their bits, or counts by bin over the octaves that occur."""

    def __init__(self) -> None:
        self._zeros = 0  # that are counted and not listed
        self._octave = 0  # exponent field of the first octave kept
        self._counts = np.zeros((0, _BINS), np.int64)
        self._exact = True
        self._listed = ListedMagnitudes()

    def room_for(
        self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]
    ) -> UInt32[np.ndarray, "rows width"] | None:
        """Room for the magnitudes of these rows, to be filled and given to `add`; None if they are counted instead."""
        few = codes.itemsize == 4 and len(rows) * codes.shape[1] <= _FEW
        return room_for(len(rows) * codes.shape[1]).reshape(len(rows), -1) if few else None

    def add(
        self,
        codes: UInt[np.ndarray, "tokens width"],
        rows: Int64[np.ndarray, " n"],
        magnitudes: UInt[np.ndarray, "rows width"] | None = None,
    ) -> None:
        """Add the numbers of these rows, given as the bits of float32 or (rounded to float32) float64.

        `magnitudes` are those of float32 without their signs in the room that was given for them; they must not change any more.
        """
        bits = codes if codes.itemsize == 4 else values_of(codes).astype(np.float32).view(np.uint32)
        self._exact = self._exact and not _used(bits, rows) & _DROPPED
        if len(rows) * bits.shape[1] > _FEW:
            self._count(bits, rows)
        else:
            listed = bits[rows] & _UNSIGNED if magnitudes is None else magnitudes
            self._listed.add(listed.reshape(-1))
            self._keep_few(_FEW)

    def merge(self, other: Magnitudes) -> None:
        """Add the numbers that `other` counted."""
        self._zeros += other._zeros
        self._exact = self._exact and other._exact
        if len(other._counts):
            self._cover(other._octave, other._octave + len(other._counts))
            start = other._octave - self._octave
            _add_counts(self._counts[start:].reshape(-1), other._counts.reshape(-1))
        self._listed.merge(other._listed)
        self._keep_few(_PARTS * _FEW)

    def median(self) -> float:
        """The median magnitude, the mean of the two middle ones if their number is even; NaN of no numbers."""
        if not len(self._counts) and not self._zeros:
            count = self._listed.count
            if count == 0:
                return math.nan
            lower, upper = self._listed.order([(count - 1) // 2, count // 2]).tolist()
            return (self._value(lower) + self._value(upper)) / 2
        self._tabulate()
        ends = np.cumsum(self._counts)
        count = self._zeros + (int(ends[-1]) if len(ends) else 0)
        return (self._at((count - 1) // 2, ends) + self._at(count // 2, ends)) / 2

    def _at(self, rank: int, ends: Int64[np.ndarray, " bins"]) -> float:
        """The value of a rank in the table, given the number of magnitudes in each bin and those before it."""
        if rank < self._zeros:
            return 0.0
        place = self._octave * _BINS + int(np.searchsorted(ends, rank - self._zeros, side="right"))
        return self._value(place << _DROPPED_BITS | 1)

    def _value(self, magnitude: int) -> float:
        """The middle of a magnitude's bin, or its lower edge where all numbers are such edges; zero is known."""
        if magnitude == 0:
            return 0.0
        half = 0 if self._exact else 1 << (_DROPPED_BITS - 1)
        representative = min((magnitude & ~_DROPPED) + half, _INFINITY)
        return float(np.array([representative], np.uint32).view(np.float32)[0])

    def _keep_few(self, most: int) -> None:
        """Count what is listed in the table, if there is one or much is listed."""
        if self._listed.count and (len(self._counts) or self._listed.count > most):
            self._tabulate()

    def _tabulate(self) -> None:
        listed, self._listed = self._listed, ListedMagnitudes()
        for numbers in listed.numbers:  # whose memory is theirs while the list is held
            self._count(numbers.reshape(1, -1), np.zeros(1, np.int64))

    def _count(self, bits: UInt32[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]) -> None:
        """Count numbers in the table, which grows by the octaves that it lacks."""
        below_smallest, largest = map(int, _extent(bits, rows))
        if largest == 0:
            self._zeros += len(rows) * bits.shape[1]
            return
        self._cover((below_smallest + 1) >> 23, (largest >> 23) + 1)
        self._zeros += _count_bins(bits, rows, self._octave * _BINS, self._counts.reshape(-1))

    def _cover(self, start: int, stop: int) -> None:
        """Make room for the octaves from `start` up to, not including, `stop`."""
        kept = len(self._counts)
        first, end = (min(start, self._octave), max(stop, self._octave + kept)) if kept else (start, stop)
        if end - first == kept:
            return
        counts = np.zeros((end - first, _BINS), np.int64)
        if kept:
            _add_counts(counts[self._octave - first :].reshape(-1), self._counts.reshape(-1))
        self._octave, self._counts = first, counts
