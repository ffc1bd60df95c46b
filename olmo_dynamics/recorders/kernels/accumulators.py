"""Statistics of single numbers among activations: their moments, and their median magnitude.

    >>> elements = CodeCounts()
    >>> elements.counts[[0x3F80, 0xC000]] = 2, 1  # 1.0 twice, -2.0 once
    >>> elements.median(), elements.central_moments()[:2]
    (1.0, array([3., 0.]))

bfloat16 has 65,536 codes, so the count of each determines every statistic, exactly and in any order. Wider floats are summed.
"""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import Float, Int64, UInt, UInt16

from olmo_dynamics.recorders.kernels.elements import CODES, SIGN, Tally, count_codes
from olmo_dynamics.recorders.kernels.jit import float32_of, jit
from olmo_dynamics.recorders.kernels.magnitude_histogram import Magnitudes
from olmo_dynamics.recorders.kernels.moments import empty_moments, merge_moments

_RUN = 128  # codes of one octave (one power of two)
_MOST = 1 << 17  # numbers and codes that are listed before a table is made

_tables = threading.local()
"""A table of zeros for each thread, which stays in its cache, where one for each set of numbers would not."""


class CodeCounts:
    """Counts of the codes of some bfloat16 numbers: lists of them, and a table once `counts` is read or much is listed."""

    def __init__(self) -> None:
        self._table: Int64[np.ndarray, " codes"] | None = None
        self._numbers: list[UInt16[np.ndarray, " n"]] = []  # few, as they are
        self._tallies: list[Tally] = []
        self._listed = 0
        self._known: Float[np.ndarray, " 6"] | None = None  # the moments and the median of what is listed

    @property
    def counts(self) -> Int64[np.ndarray, " codes"]:
        """The count of each code; may be added to."""
        if self._table is None:
            self._table = np.zeros(CODES, np.int64)
        for numbers in self._numbers:
            count_codes(numbers, self._table)
        for codes, counts in self._tallies:
            _add_tally(codes, counts, self._table)
        self._numbers, self._tallies, self._listed = [], [], 0
        return self._table

    def take(self, found: Tally) -> None:
        """Add codes with their counts, or as they are."""
        if len(found.counts):
            self._tallies.append(found)
        else:
            self._numbers.append(found.codes)
        self._list(len(found.codes))

    def merge(self, other: CodeCounts) -> None:
        """Add the numbers that `other` counted."""
        if other._table is not None:
            _add_runs(self.counts, other._table)
        self._numbers += other._numbers
        self._tallies += other._tallies
        self._list(other._listed)

    def _list(self, more: int) -> None:
        self._known = None
        self._listed += more
        if self._listed > _MOST:
            _ = self.counts

    def central_moments(self) -> Float[np.ndarray, " 5"]:
        """Count, mean, and sums of the second to fourth powers of deviations from the mean, in float64."""
        return self._described()[:5]

    def median(self) -> float:
        """The median magnitude, the mean of the two middle ones if their number is even; NaN of no numbers."""
        return float(self._described()[5])

    def _described(self) -> Float[np.ndarray, " 6"]:
        """The moments and the median, by way of a table that this thread keeps if nothing is in one of its own."""
        if self._table is not None:
            return describe_counts(self.counts, np.int64(SIGN - 1))
        if self._known is not None:
            return self._known
        table = vars(_tables).pop("table", None)
        table = np.zeros(CODES, np.int64) if table is None else table
        codes = np.concatenate([*self._numbers, *(each.codes for each in self._tallies), np.zeros(0, np.uint16)])
        counts = np.concatenate([np.zeros(0, np.int64), *(each.counts for each in self._tallies)])
        self._known = _describe_listed(codes, counts, table)
        _tables.table = table
        return self._known


class FloatSums:
    """Moments of some float32 or float64 numbers, and their magnitudes, listed or counted."""

    def __init__(self) -> None:
        self.moments: Float[np.ndarray, " 5"] = empty_moments()
        self._magnitudes = Magnitudes()

    def room_for(
        self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]
    ) -> UInt[np.ndarray, "rows width"] | None:
        """Room for the magnitudes of these rows, which the pass over the tokens fills; None if they are counted instead."""
        return self._magnitudes.room_for(codes, rows)

    def add(
        self,
        codes: UInt[np.ndarray, "tokens width"],
        rows: Int64[np.ndarray, " n"],
        magnitudes: UInt[np.ndarray, "kept width"] | None,
    ) -> None:
        """Add the magnitudes of these rows, whose moments the pass over the tokens has summed."""
        self._magnitudes.add(codes, rows, magnitudes)

    def merge(self, other: FloatSums) -> None:
        """Add the numbers that `other` saw."""
        merge_moments(self.moments, other.moments)
        self._magnitudes.merge(other._magnitudes)

    def central_moments(self) -> Float[np.ndarray, " 5"]:
        """Count, mean, and sums of the second to fourth powers of deviations from the mean, in float64."""
        return self.moments

    def median(self) -> float:
        """The median magnitude, to 2^-15, relative; NaN of no numbers."""
        return self._magnitudes.median()


@jit
def _any(counts: Int64[np.ndarray, " run"]) -> bool:
    found = np.int64(0)
    for i in range(len(counts)):
        found |= counts[i]
    return bool(found != 0)


@jit
def _add_runs(mine: Int64[np.ndarray, " codes"], theirs: Int64[np.ndarray, " codes"]) -> None:
    for start in range(0, len(mine), _RUN):  # zeros are only read: memory that was never written takes no room
        if _any(theirs[start : start + _RUN]):
            for i in range(start, start + _RUN):
                mine[i] += theirs[i]


@jit
def _add_tally(
    codes: UInt16[np.ndarray, " n"], counts: Int64[np.ndarray, " n"], table: Int64[np.ndarray, " codes"]
) -> None:
    for i in range(len(codes)):
        table[codes[i]] += counts[i]


@jit
def _describe_listed(
    codes: UInt16[np.ndarray, " n"], counts: Int64[np.ndarray, " m"], table: Int64[np.ndarray, " codes"]
) -> Float[np.ndarray, " 6"]:
    """Moments and median of codes, of which the last have counts; the table is one of zeros, as before."""
    alone, largest = len(codes) - len(counts), np.int64(0)
    for i in range(len(codes)):
        table[codes[i]] += counts[i - alone] if i >= alone else 1
        largest = max(largest, np.int64(codes[i] & np.uint16(0x7FFF)))
    found = describe_counts(table, largest)
    for code in codes:
        table[code] = 0
    return found


@jit
def _value(code: int) -> np.float64:
    return np.float64(float32_of(np.uint32(code) << np.uint32(16)))


@jit
def _powers(table: Int64[np.ndarray, " codes"], largest: np.int64, mean: float) -> tuple[float, float, float]:
    """The sums of the second to fourth powers of deviations from the mean."""
    second = third = fourth = 0.0
    for first in (0, SIGN):
        for start in range(first, first + largest + 1, _RUN):
            if not _any(table[start : start + _RUN]):
                continue
            for code in range(start, start + _RUN):
                if table[code] > 0:
                    deviation, count = _value(code) - mean, np.float64(table[code])
                    square = deviation * deviation
                    second += square * count
                    third += square * deviation * count
                    fourth += square * square * count
    return second, third, fourth


@jit
def describe_counts(table: Int64[np.ndarray, " codes"], largest: np.int64) -> Float[np.ndarray, " 6"]:
    """Count, mean and central moments of the numbers that a table counts, and their median magnitude.

    No magnitude of theirs lies beyond `largest`.
    """
    found = np.zeros(6)
    count, total, distinct = np.int64(0), 0.0, 0
    for start in range(0, largest + 1, _RUN):
        for first in (start, SIGN + start):
            if not _any(table[first : first + _RUN]):
                continue
            for code in range(first, first + _RUN):
                if table[code] > 0:
                    count += table[code]
                    total += _value(code) * np.float64(table[code])
                    distinct += 1
    if count == 0:
        found[5] = np.nan
        return found
    found[0], found[1] = count, total / count
    if distinct > 1:
        found[2], found[3], found[4] = _powers(table, largest, found[1])
    found[5] = _median(table, count)
    return found


@jit
def _median(table: Int64[np.ndarray, " codes"], count: np.int64) -> float:
    """The mean of the two middle magnitudes."""
    seen, lower = np.int64(0), -1
    for magnitude in range(SIGN):
        seen += table[magnitude] + table[SIGN + magnitude]
        if lower < 0 and seen > (count - 1) // 2:
            lower = magnitude
        if seen > count // 2:
            return (_value(lower) + _value(magnitude)) / 2
    return np.nan
