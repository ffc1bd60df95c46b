"""Loops over a tensor's elements, and the sums and counts that they fill.

Sums are taken in float64, in blocks that stay in the nearest cache. Meanwhile the upper 16 bits of the elements (of float32,
bfloat16 codes) are counted, so that order statistics can be found later. Squares are summed by row and by column on the way.

    >>> totals, axes = Totals.zeros(), Axes.of((1, 2), means=False)
    >>> values = np.array([[3.0, -4.0]])
    >>> codes, counts = pass_over_floats(values, values.view(np.uint16)[:, 3::4], totals, axes)
    >>> axes.row_squares, axes.column_squares
    (array([25.]), array([ 9., 16.]))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int64, UInt16, UInt32

from olmo_dynamics.recorders.kernels.jit import jit, prefetch
from olmo_dynamics.recorders.kernels.moments import add_centred, merge_moments

CODES = 1 << 16
"""The number of values that 16 bits can take."""

SIGN = CODES // 2
"""The sign bit: codes from here up are negative."""

_RUN = 64  # codes looked at together
_LINE = 16  # elements whose memory is asked for at once: a line of the cache, of float32
_AHEAD = 2048  # elements between those that are read and those that are asked for

BLOCK = 2048
"""Elements handled at a time: a few such blocks fit the processor's first-level cache."""

ZERO, NAN, INF = 0, 1, 2
"""Indices into the array of counts."""

ABS, SQUARE = 0, 1
"""Indices into the array of sums."""


class Axes(NamedTuple):
    """Sums along the two axes of a matrix; arrays of length 0 are not filled."""

    row_squares: Float[np.ndarray, " rows"]
    column_squares: Float[np.ndarray, " columns"]
    column_sums: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, shape: tuple[int, int], *, means: bool) -> Axes:
        """Zeros for a matrix of this shape; with `means`, for the sums of columns too."""
        rows, columns = shape
        return cls(np.zeros(rows), np.zeros(columns), np.zeros(columns if means else 0))

    @classmethod
    def none(cls) -> Axes:
        """Arrays of length 0: no sums are taken."""
        return cls(np.zeros(0), np.zeros(0), np.zeros(0))

    @classmethod
    def merge(cls, parts: Sequence[Axes]) -> Axes:
        """The sums of a matrix from those of its blocks of rows, in order."""
        rows, squares, sums = zip(*parts, strict=True)
        return cls(np.concatenate(rows), np.sum(squares, axis=0), np.sum(sums, axis=0))


class Totals(NamedTuple):
    """Sums over all elements of a tensor."""

    moments: Float[np.ndarray, " 5"]
    counts: Int64[np.ndarray, " 3"]
    sums: Float[np.ndarray, " 2"]

    @classmethod
    def zeros(cls) -> Totals:
        """The sums of no elements."""
        return cls(np.zeros(5), np.zeros(3, np.int64), np.zeros(2))

    @classmethod
    def merge(cls, parts: Sequence[Totals]) -> Totals:
        """The totals of several blocks together, merged in order."""
        moments, counts, sums = zip(*parts, strict=True)
        merged = np.zeros(5)
        for each in moments:
            merge_moments(merged, each)
        return cls(merged, np.sum(counts, axis=0), np.sum(sums, axis=0))


class Tally(NamedTuple):
    """The 16-bit codes that occur, in ascending order of the numbers they stand for, and how often each occurs."""

    codes: UInt16[np.ndarray, " n"]
    counts: Int64[np.ndarray, " n"]

    @classmethod
    def merge(cls, parts: Sequence[Tally]) -> Tally:
        """The tally of several blocks together."""
        histogram = np.zeros(CODES, np.int64)
        for codes, counts in parts:
            histogram[codes] += counts
        present = np.flatnonzero(histogram)
        split = np.searchsorted(present, SIGN)
        codes = np.concatenate([present[split:][::-1], present[:split]]).astype(np.uint16)
        return cls(codes, histogram[codes])


@jit
def _count_present(histogram: UInt32[np.ndarray, " n"]) -> int:
    present = 0
    for i in range(len(histogram)):
        present += histogram[i] > 0
    return present


@jit
def tally(histogram: UInt32[np.ndarray, " codes"]) -> tuple[UInt16[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The codes that a histogram counted: the negative ones from the farthest from zero, then the others."""
    present = _count_present(histogram)
    codes, counts = np.empty(present, np.uint16), np.empty(present, np.int64)
    place = 0
    for run in range(CODES // _RUN):
        negative = run < SIGN // _RUN
        first = CODES - (run + 1) * _RUN if negative else run * _RUN - SIGN
        if _count_present(histogram[first : first + _RUN]) == 0:  # as most are, and quickly seen
            continue
        for step in range(_RUN):
            code = first + (_RUN - 1 - step if negative else step)
            if histogram[code] > 0:
                codes[place], counts[place] = code, histogram[code]
                place += 1
    return codes, counts


@jit
def count_codes(codes: UInt16[np.ndarray, " n"], histogram: Int[np.ndarray, " codes"]) -> None:
    """Count each 16-bit code."""
    for code in codes:
        histogram[code] += 1


@jit
def widen(codes: UInt16[np.ndarray, " n"], bits: UInt32[np.ndarray, " n"]) -> None:
    """Fill `bits` with those of the same numbers in float32."""
    for i in range(len(codes)):
        bits[i] = np.uint32(codes[i]) << np.uint32(16)


@jit
def add_squares(values: Float[np.ndarray, " n"], column_squares: Float[np.ndarray, " n"]) -> float:
    """Add each square to its column's sum, and return the sum of all."""
    total = 0.0
    for i in range(len(values)):
        value = np.float64(values[i])
        square = value * value
        column_squares[i] += square
        total += square
    return total


@jit
def add_values(values: Float[np.ndarray, " n"], column_sums: Float[np.ndarray, " n"]) -> None:
    """Add each value to its column's sum."""
    for i in range(len(values)):
        column_sums[i] += np.float64(values[i])


@jit
def add_to_axes(values: Float[np.ndarray, " n"], row: int, start: int, axes: Axes) -> None:
    """Add a stretch of one row, beginning at column `start`."""
    stop = start + len(values)
    axes.row_squares[row] += add_squares(values, axes.column_squares[start:stop])
    if len(axes.column_sums) > 0:
        add_values(values, axes.column_sums[start:stop])


@jit
def add_counts(values: Float[np.ndarray, " n"], counts: Int64[np.ndarray, " 3"]) -> None:
    """Count zeros, NaN and infinities."""
    zeros = nans = infinities = np.int64(0)
    for i in range(len(values)):
        value = values[i]
        zeros += np.int64(value == 0.0)
        nans += np.int64(np.isnan(value))
        infinities += np.int64(abs(value) == np.inf)
    counts[ZERO] += zeros
    counts[NAN] += nans
    counts[INF] += infinities


@jit
def _sum_block(values: Float[np.ndarray, " n"], column_squares: Float[np.ndarray, " m"]) -> tuple[float, float, float]:
    """The sums of numbers, of magnitudes and of squares; these are added to their columns' sums too, if there are any."""
    total = magnitude = square = 0.0
    if len(column_squares) == 0:
        for i in range(len(values)):
            value = np.float64(values[i])
            total += value
            magnitude += abs(value)
            square += value * value
        return total, magnitude, square
    for i in range(len(values)):
        value = np.float64(values[i])
        total += value
        magnitude += abs(value)
        column_squares[i] += value * value
        square += value * value
    return total, magnitude, square


@jit
def _count_upper(
    values: Float[np.ndarray, " n"], upper: UInt16[np.ndarray, " n"], histogram: UInt32[np.ndarray, " codes"]
) -> None:
    """Count the upper halves of the values' bits, and ask for the memory of later values."""
    whole = len(values) - len(values) % _LINE
    for start in range(0, whole, _LINE):
        prefetch(values, start + _AHEAD)
        for i in range(start, start + _LINE):
            histogram[upper[i]] += np.uint32(1)
    for i in range(whole, len(values)):
        histogram[upper[i]] += np.uint32(1)


@jit
def add_piece(
    values: Float[np.ndarray, "rows columns"], upper: UInt16[np.ndarray, "rows columns"], row: int, start: int,
    histogram: UInt32[np.ndarray, " codes"], totals: Totals, axes: Axes,
) -> None:  # fmt: skip
    """Count and sum up to `BLOCK` elements of one row, from column `start` on."""
    block = values[row, start : start + BLOCK]
    near_zero = histogram[0] + histogram[SIGN]
    _count_upper(block, upper[row, start : start + BLOCK], histogram)
    by_column = axes.column_squares[start : start + BLOCK]
    total, magnitude, square = _sum_block(block, by_column)
    add_centred(totals.moments, block, total / len(block))
    totals.sums[ABS] += magnitude
    totals.sums[SQUARE] += square
    if histogram[0] + histogram[SIGN] != near_zero or not np.isfinite(square):
        add_counts(block, totals.counts)
    if len(by_column) > 0:
        axes.row_squares[row] += square
    if len(axes.column_sums) > 0:
        add_values(block, axes.column_sums[start : start + BLOCK])


@jit
def pass_over_floats(
    values: Float[np.ndarray, "rows columns"], upper: UInt16[np.ndarray, "rows columns"], totals: Totals, axes: Axes
) -> tuple[UInt16[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Sum a float64 matrix, and return the tally of the upper 16 bits of its elements.

    Zeros and numbers that are not finite are counted only in blocks that have some, as tally and sum of squares show.
    """
    rows, columns = values.shape
    histogram = np.zeros(CODES, np.uint32)
    for row in range(rows):
        for start in range(0, columns, BLOCK):
            add_piece(values, upper, row, start, histogram, totals, axes)
    return tally(histogram)
