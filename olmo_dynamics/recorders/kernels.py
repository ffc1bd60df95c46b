"""One pass over a tensor's bytes: the loops, and what they leave behind.

bfloat16 and float16 have 65,536 codes, so counting codes keeps everything there is to know of the elements. float32 is
summed in float64 in blocks that stay in the nearest cache, while the upper halves of its elements (which are bfloat16
codes) are counted, so that order statistics can be found later. The same pass sums squares by row and by column.

    >>> axes = Axes.of((2, 3), means=False)
    >>> pass_over_codes(np.zeros((2, 3), np.uint16), np.zeros(CODES, np.int64), axes, NO_TABLE)
    >>> axes.row_squares
    array([0., 0.])
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt16, UInt32

from olmo_dynamics.recorders.compiled import compiled
from olmo_dynamics.recorders.moments import add_block

CODES = 1 << 16
"""How many values 16 bits can take."""

BLOCK = 2048
"""Elements handled at a time: a few such blocks fit the processor's first-level cache."""

NO_TABLE: Float32[np.ndarray, " 0"] = np.empty(0, np.float32)
"""Passed where codes are bfloat16, whose bits are the upper half of a float32's and need no table."""

ZERO, NAN, INF = 0, 1, 2
"""Places in the array of counts."""

ABS, SQUARE = 0, 1
"""Places in the array of sums."""


class Axes(NamedTuple):
    """Sums along the two axes of a matrix; arrays of length 0 are not wanted and not filled."""

    row_squares: Float[np.ndarray, " rows"]
    column_squares: Float[np.ndarray, " columns"]
    column_sums: Float[np.ndarray, " columns"]

    @classmethod
    def of(cls, shape: tuple[int, int], *, means: bool) -> Axes:
        """Zeros for a matrix of this shape; `means` asks for the sums of columns too."""
        rows, columns = shape
        return cls(np.zeros(rows), np.zeros(columns), np.zeros(columns if means else 0))

    @classmethod
    def none(cls) -> Axes:
        """Nothing wanted."""
        return cls(np.zeros(0), np.zeros(0), np.zeros(0))


@compiled
def count_codes(codes: UInt16[np.ndarray, " n"], histogram: Int64[np.ndarray, " codes"]) -> None:
    """Counts each 16-bit code."""
    for code in codes:
        histogram[code] += 1


@compiled
def widen(codes: UInt16[np.ndarray, " n"], bits: UInt32[np.ndarray, " n"]) -> None:
    """bfloat16 codes become the bits of the same numbers in float32."""
    for i in range(len(codes)):
        bits[i] = np.uint32(codes[i]) << np.uint32(16)


@compiled
def _look_up(
    codes: UInt16[np.ndarray, " n"], table: Float32[np.ndarray, " codes"], values: Float32[np.ndarray, " n"]
) -> None:
    for i in range(len(codes)):
        values[i] = table[codes[i]]


@compiled
def add_squares(values: Float[np.ndarray, " n"], column_squares: Float[np.ndarray, " n"]) -> float:
    """Adds each square to its column's sum, and returns the sum of all."""
    total = 0.0
    for i in range(len(values)):
        value = np.float64(values[i])
        square = value * value
        column_squares[i] += square
        total += square
    return total


@compiled
def _add_values(values: Float[np.ndarray, " n"], column_sums: Float[np.ndarray, " n"]) -> None:
    for i in range(len(values)):
        column_sums[i] += np.float64(values[i])


@compiled
def _add_to_axes(values: Float[np.ndarray, " n"], row: int, start: int, axes: Axes) -> None:
    stop = start + len(values)
    axes.row_squares[row] += add_squares(values, axes.column_squares[start:stop])
    if len(axes.column_sums) > 0:
        _add_values(values, axes.column_sums[start:stop])


@compiled
def pass_over_codes(
    codes: UInt16[np.ndarray, "rows columns"],
    histogram: Int64[np.ndarray, " codes"],
    axes: Axes,
    table: Float32[np.ndarray, " codes"],
) -> None:
    """Counts the codes of a bfloat16 matrix (a float16 one with a `table` of values), and sums its squares by axis."""
    rows, columns = codes.shape
    bits = np.empty(BLOCK, np.uint32)
    tile = bits.view(np.float32)
    for row in range(rows):
        for start in range(0, columns, BLOCK):
            block = codes[row, start : start + BLOCK]
            count_codes(block, histogram)
            if len(axes.row_squares) == 0:
                continue
            if len(table) == 0:
                widen(block, bits)
            else:
                _look_up(block, table, tile)
            _add_to_axes(tile[: len(block)], row, start, axes)


@compiled
def _add_counts(values: Float[np.ndarray, " n"], counts: Int64[np.ndarray, " 3"]) -> None:
    zeros = nans = infinities = np.int64(0)
    for i in range(len(values)):
        value = values[i]
        zeros += np.int64(value == 0.0)
        nans += np.int64(np.isnan(value))
        infinities += np.int64(abs(value) == np.inf)
    counts[ZERO] += zeros
    counts[NAN] += nans
    counts[INF] += infinities


@compiled
def _add_sums(values: Float[np.ndarray, " n"], sums: Float[np.ndarray, " 2"]) -> None:
    magnitude = square = 0.0
    for i in range(len(values)):
        wide = np.float64(values[i])
        magnitude += abs(wide)
        square += wide * wide
    sums[ABS] += magnitude
    sums[SQUARE] += square


class Totals(NamedTuple):
    """What a pass over a float matrix gathers about its elements."""

    moments: Float[np.ndarray, " 5"]
    counts: Int64[np.ndarray, " 3"]
    sums: Float[np.ndarray, " 2"]
    histogram: Int64[np.ndarray, " codes"]

    @classmethod
    def zeros(cls) -> Totals:
        """Nothing gathered yet."""
        return cls(np.zeros(5), np.zeros(3, np.int64), np.zeros(2), np.zeros(CODES, np.int64))


@compiled
def pass_over_floats(
    values: Float[np.ndarray, "rows columns"], upper: UInt16[np.ndarray, "rows columns"], totals: Totals, axes: Axes
) -> None:
    """Sums a float32 or float64 matrix in float64, and counts the upper 16 bits of its elements."""
    rows, columns = values.shape
    for row in range(rows):
        for start in range(0, columns, BLOCK):
            block = values[row, start : start + BLOCK]
            add_block(totals.moments, block)
            _add_counts(block, totals.counts)
            _add_sums(block, totals.sums)
            count_codes(upper[row, start : start + BLOCK], totals.histogram)
            if len(axes.row_squares) > 0:
                _add_to_axes(block, row, start, axes)


@compiled
def count_lower_halves(
    halves: UInt16[np.ndarray, "n 2"], slots: Int64[np.ndarray, " codes"], histograms: Int64[np.ndarray, "slots codes"]
) -> None:
    """Counts the lower 16 bits of the float32 elements whose upper 16 bits have a slot (-1: none)."""
    for i in range(len(halves)):
        slot = slots[halves[i, 1]]
        if slot >= 0:
            histograms[slot, halves[i, 0]] += 1
