"""Statistics of single numbers among activations: their moments, and their median magnitude.

    >>> elements = CodeCounts()
    >>> elements.counts[[0x3F80, 0xC000]] = 2, 1  # 1.0 twice, -2.0 once
    >>> elements.median(), elements.central_moments()[:2]
    (1.0, array([3., 0.]))

bfloat16 has 65,536 codes, so the count of each determines every statistic, exactly and in any order. Wider floats are summed.
Both offer room for counts, and `moments`, for a pass over tokens to fill; arrays of length 0 are not filled.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float, Int64, UInt, UInt16, UInt32

from olmo_dynamics.recorders.kernels.elements import CODES, Tally, count_codes, tally
from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.magnitude_histogram import Magnitudes
from olmo_dynamics.recorders.kernels.moments import empty_moments, merge_moments
from olmo_dynamics.recorders.kernels.token_codes import values_of

_RUN = 128  # codes of one octave (one power of two)
_FEW = 4096  # numbers that are listed as they are: fewer than the codes that may occur
_MOST = 1 << 17  # numbers and codes that are listed before a table is made

_tables = threading.local()
"""A table of zeros for each thread, which stays in its cache, where one for each set of numbers would not."""


class CodeCounts:
    """Counts of the codes of some bfloat16 numbers: lists of them, and a table once `counts` is read or much is listed."""

    def __init__(self) -> None:
        self.moments: Float[np.ndarray, " 0"] = np.zeros(0)
        self._table: Int64[np.ndarray, " codes"] | None = None
        self._numbers: list[UInt16[np.ndarray, " n"]] = []  # few, as they are
        self._tallies: list[Tally] = []
        self._listed = 0

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

    @contextmanager
    def filling(
        self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]
    ) -> Iterator[UInt32[np.ndarray, " codes"]]:
        """Room for the counts of these rows, which a pass over the tokens fills; none if they are few."""
        size = len(rows) * codes.shape[1]
        if size <= _FEW:
            yield np.zeros(0, np.uint32)
            self._numbers.append(codes[rows].reshape(-1))
            self._list(size)
            return
        table = vars(_tables).pop("table", None)  # one of this thread, and lost if the pass breaks off
        table = np.zeros(CODES, np.uint32) if table is None else table
        yield table
        found = Tally(*tally(table))
        table[found.codes] = 0
        _tables.table = table
        self._tallies.append(found)
        self._list(len(found.codes))

    def room_for(
        self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]
    ) -> UInt[np.ndarray, "rows width"] | None:
        """None: codes are counted, and no magnitudes are kept."""
        return None

    def add(
        self,
        codes: UInt[np.ndarray, "tokens width"],
        rows: Int64[np.ndarray, " n"],
        magnitudes: UInt[np.ndarray, "kept width"] | None,
    ) -> None:
        """Do nothing: `filling` has taken them."""

    def merge(self, other: CodeCounts) -> None:
        """Add the numbers that `other` counted."""
        if other._table is not None:
            _add_runs(self.counts, other._table)
        self._numbers += other._numbers
        self._tallies += other._tallies
        self._list(other._listed)

    def _list(self, more: int) -> None:
        self._listed += more
        if self._listed > _MOST:
            _ = self.counts

    def central_moments(self) -> Float[np.ndarray, " 5"]:
        """Count, mean, and sums of the second to fourth powers of deviations from the mean, in float64."""
        table = self.counts
        present = np.flatnonzero(table)
        values, weights = values_of(present.astype(np.uint16)), table[present].astype(np.float64)
        count = weights.sum()
        if count == 0:
            return np.zeros(5)
        with np.errstate(invalid="ignore"):  # NaN and infinities are measured, not warned of
            mean = (values * weights).sum() / count
            deviations = values - mean if len(values) > 1 else np.zeros(1)
            squares = deviations * deviations
            powers = [squares @ weights, (squares * deviations) @ weights, (squares * squares) @ weights]
        return np.array([count, mean, *powers])

    def median(self) -> float:
        """The median magnitude, the mean of the two middle ones if their number is even; NaN of no numbers."""
        table = self.counts
        ends = np.cumsum(table[: CODES // 2] + table[CODES // 2 :])
        if ends[-1] == 0:
            return math.nan
        middle = np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")
        return float(values_of(middle.astype(np.uint16)).mean())


class FloatSums:
    """Moments of some float32 or float64 numbers, and their magnitudes, listed or counted."""

    def __init__(self) -> None:
        self.moments: Float[np.ndarray, " 5"] = empty_moments()
        self._magnitudes = Magnitudes()

    @contextmanager
    def filling(
        self, codes: UInt[np.ndarray, "tokens width"], rows: Int64[np.ndarray, " n"]
    ) -> Iterator[UInt32[np.ndarray, " 0"]]:
        """No room: codes of wider floats are not counted."""
        yield np.zeros(0, np.uint32)

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
