"""The first pass over a float32 matrix: all sums, in float64, and counts of the elements' upper halves.

Power sums of four rows by up to 2,048 columns are turned into moments about their mean, which loses no more than a digit
where the mean is small beside the root mean square, as of most weights. Where it is not, as of norm gains, these elements
are summed again, about their mean, while they are in the cache.

    >>> totals, axes = Totals.zeros(), Axes.of((1, 2), means=False)
    >>> values = np.array([[3.0, -4.0]], np.float32)
    >>> codes, counts = pass_over_float32(values, values.view(np.uint16)[:, 1::2], totals, axes)
    >>> axes.row_squares, axes.column_squares
    (array([25.]), array([ 9., 16.]))
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt16, UInt32

from olmo_dynamics.recorders.kernels.elements import (
    ABS,
    BLOCK,
    CODES,
    SIGN,
    SQUARE,
    Axes,
    Totals,
    add_counts,
    add_piece,
    add_values,
    tally,
)
from olmo_dynamics.recorders.kernels.float32.four_rows import (
    CUBE,
    FOURTH,
    LANES,
    MAGNITUDE,
    ROWS,
    SUMS,
    VALUE,
    count_and_sum,
)
from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.moments import add_block, merge_moments

_SMALL_MEAN = 1 / 16  # the square of the mean over the mean square, up to which power sums about zero will do


@jit
def _merge_powers(
    moments: Float[np.ndarray, " 5"], count: int, sums: Float[np.ndarray, " sums"], square: float
) -> bool:
    """Merge the moments that power sums about zero give; False, and nothing merged, if they would lose digits."""
    mean = sums[VALUE] / count
    if not (mean * sums[VALUE] <= _SMALL_MEAN * square and np.isfinite(sums[FOURTH])):
        return False
    second = square - mean * sums[VALUE]
    third = sums[CUBE] - 3.0 * mean * square + 2.0 * mean * mean * sums[VALUE]
    fourth = sums[FOURTH] - 4.0 * mean * sums[CUBE] + mean * mean * (6.0 * square - 3.0 * mean * sums[VALUE])
    merge_moments(moments, np.array([np.float64(count), mean, second, third, fourth]))
    return True


@jit
def _add_four_rows(
    values: Float32[np.ndarray, "rows columns"],
    row: int,
    start: int,
    by_column: Float[np.ndarray, " n"],
    histogram: UInt32[np.ndarray, " codes"],
    sums: Float[np.ndarray, " sums"],
    totals: Totals,
) -> None:
    """Add a stretch of four rows to the totals and to the sums of its columns' squares; `sums` begin with those of the rows."""
    stop = start + len(by_column)
    a, b = values[row, start:stop], values[row + 1, start:stop]
    c, d = values[row + 2, start:stop], values[row + 3, start:stop]
    sums[:] = 0.0
    near_zero = histogram[0] + histogram[SIGN]
    count_and_sum(a, b, c, d, by_column, histogram, sums)
    square = (sums[0] + sums[1]) + (sums[2] + sums[3])
    totals.sums[ABS] += sums[MAGNITUDE]
    totals.sums[SQUARE] += square
    if not _merge_powers(totals.moments, ROWS * len(by_column), sums, square):
        for each in (a, b, c, d):
            add_block(totals.moments, each)
    if histogram[0] + histogram[SIGN] != near_zero or not np.isfinite(square):
        for each in (a, b, c, d):
            add_counts(each, totals.counts)


@jit
def pass_over_float32(
    values: Float32[np.ndarray, "rows columns"], upper: UInt16[np.ndarray, "rows columns"], totals: Totals, axes: Axes
) -> tuple[UInt16[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Sum a matrix in float64, and return the tally of the upper 16 bits of its elements."""
    rows, columns = values.shape
    histogram, sums = np.zeros(CODES, np.uint32), np.zeros(SUMS)
    whole, even = rows - rows % ROWS, columns - columns % LANES
    by_axis = len(axes.row_squares) > 0
    scratch = np.zeros(0 if by_axis else min(BLOCK, even))  # sums by column that nobody asks for
    for row in range(0, whole, ROWS):
        for start in range(0, even, BLOCK):
            stop = min(start + BLOCK, even)
            by_column = axes.column_squares[start:stop] if by_axis else scratch[: stop - start]
            _add_four_rows(values, row, start, by_column, histogram, sums, totals)
            if by_axis:
                for each in range(ROWS):
                    axes.row_squares[row + each] += sums[each]
            if len(axes.column_sums) > 0:
                for each in range(row, row + ROWS):
                    add_values(values[each, start:stop], axes.column_sums[start:stop])
    for row in range(rows):
        for start in range(even if row < whole else 0, columns, BLOCK):
            add_piece(values, upper, row, start, histogram, totals, axes)
    return tally(histogram)
