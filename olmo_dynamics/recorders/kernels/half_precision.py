"""Loops over 16-bit floats: bfloat16 and float16 have 65,536 codes, so counts of codes determine all statistics.

Counting takes most of the time: a processor commits one store per cycle to addresses that do not repeat, and each element
needs one. So the sums along the axes must be nearly free. They are taken eight rows at a time in float32, where the square of a
bfloat16 (8 significant bits) is exact and so are most sums of a few of them; columns go to float64 every 32 rows, rows
every 256 elements. Relative error of a norm: below 1e-6 if every rounding is the worst (16 lanes at a time), at most 1e-7
in tests. If a magnitude lies outside 2^-56 to 2^56, so that float32 could not hold its square, all is summed again in float64.

    >>> axes = Axes.of((1, 2), means=False)
    >>> codes, counts = pass_over_codes(np.array([[0x4040, 0xC080]], np.uint16), np.zeros(0, np.uint64), NO_TABLE, axes)
    >>> axes.row_squares  # of 3 and -4
    array([25.])
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt16, UInt32, UInt64

from olmo_dynamics.recorders.kernels.elements import (
    BLOCK,
    CODES,
    INF,
    NAN,
    SIGN,
    ZERO,
    Axes,
    Totals,
    add_to_axes,
    count_codes,
    tally,
    widen,
)
from olmo_dynamics.recorders.kernels.jit import float32_of, jit, prefetch

NO_TABLE: Float32[np.ndarray, " 0"] = np.empty(0, np.float32)
"""No table: bfloat16 needs none, since its bits are the upper half of a float32's."""

STRIP = 8
"""Rows whose squares are summed together."""

_LINE = 8  # words in a line of the cache
_AHEAD = 1024  # words between those that are counted and those that are asked for
_FLOAT32_SUM = 256  # elements of a row summed in float32
_FLOAT32_ROWS = 32  # rows summed in float32 by column
_SMALLEST, _BEYOND = (127 - 56) << 7, (127 + 56) << 7  # bfloat16 codes of 2^-56 and 2^56


@jit
def _count_word(word: np.uint64, histogram: UInt32[np.ndarray, " codes"]) -> None:
    """Count the four codes of a word: one load for four."""
    low, one = np.uint64(0xFFFF), np.uint32(1)
    histogram[word & low] += one
    histogram[(word >> np.uint64(16)) & low] += one
    histogram[(word >> np.uint64(32)) & low] += one
    histogram[word >> np.uint64(48)] += one


@jit
def _count_words(words: UInt64[np.ndarray, " n"], histogram: UInt32[np.ndarray, " codes"]) -> None:
    """Count codes, and ask for memory ahead: the processor does not by itself, between so many stores to the table."""
    whole = len(words) - len(words) % _LINE
    for start in range(0, whole, _LINE):
        prefetch(words, start + _AHEAD)
        for i in range(start, start + _LINE):
            _count_word(words[i], histogram)
    for i in range(whole, len(words)):
        _count_word(words[i], histogram)


@jit
def _value(code: np.uint16) -> np.float32:
    return float32_of(np.uint32(code) << np.uint32(16))


@jit
def _add_eight_squares(
    codes: UInt16[np.ndarray, "rows columns"],
    first: int,
    start: int,
    columns: Float32[np.ndarray, " n"],
    rows: Float[np.ndarray, " rows"],
) -> None:
    """Add a stretch of eight rows' squares to the sums of their columns, and to those of the rows."""
    stop = start + len(columns)
    a_row, b_row = codes[first, start:stop], codes[first + 1, start:stop]
    c_row, d_row = codes[first + 2, start:stop], codes[first + 3, start:stop]
    e_row, f_row = codes[first + 4, start:stop], codes[first + 5, start:stop]
    g_row, h_row = codes[first + 6, start:stop], codes[first + 7, start:stop]
    sum_a = sum_b = sum_c = sum_d = sum_e = sum_f = sum_g = sum_h = np.float32(0)
    for i in range(len(columns)):
        a, b, c, d = _value(a_row[i]), _value(b_row[i]), _value(c_row[i]), _value(d_row[i])
        e, f, g, h = _value(e_row[i]), _value(f_row[i]), _value(g_row[i]), _value(h_row[i])
        a, b, c, d, e, f, g, h = a * a, b * b, c * c, d * d, e * e, f * f, g * g, h * h
        columns[i] += ((a + b) + (c + d)) + ((e + f) + (g + h))
        sum_a, sum_b, sum_c, sum_d = sum_a + a, sum_b + b, sum_c + c, sum_d + d
        sum_e, sum_f, sum_g, sum_h = sum_e + e, sum_f + f, sum_g + g, sum_h + h
    sums = sum_a, sum_b, sum_c, sum_d, sum_e, sum_f, sum_g, sum_h
    for i in range(STRIP):
        rows[first + i] += np.float64(sums[i])


@jit
def _add_four_values(
    codes: UInt16[np.ndarray, "rows columns"], row: int, start: int, columns: Float[np.ndarray, " n"]
) -> None:
    stop = start + len(columns)
    one, two = codes[row, start:stop], codes[row + 1, start:stop]
    three, four = codes[row + 2, start:stop], codes[row + 3, start:stop]
    for i in range(len(columns)):
        pair = np.float64(_value(one[i])) + np.float64(_value(two[i]))
        columns[i] += pair + (np.float64(_value(three[i])) + np.float64(_value(four[i])))


@jit
def _add_strip(
    codes: UInt16[np.ndarray, "rows columns"], row: int, recent: Float32[np.ndarray, " columns"], axes: Axes
) -> None:
    """Add eight rows to the axes' sums; squares of columns to the recent ones."""
    columns = codes.shape[1]
    for start in range(0, columns, _FLOAT32_SUM):
        stop = min(start + _FLOAT32_SUM, columns)
        _add_eight_squares(codes, row, start, recent[start:stop], axes.row_squares)
        if len(axes.column_sums) > 0:
            _add_four_values(codes, row, start, axes.column_sums[start:stop])
            _add_four_values(codes, row + 4, start, axes.column_sums[start:stop])


@jit
def _move(recent: Float32[np.ndarray, " columns"], columns: Float[np.ndarray, " columns"]) -> None:
    """Add the float32 sums of some rows to those of all, and begin anew."""
    for i in range(len(columns)):
        columns[i] += np.float64(recent[i])
        recent[i] = np.float32(0)


@jit
def _look_up(
    codes: UInt16[np.ndarray, " n"], table: Float32[np.ndarray, " codes"], values: Float32[np.ndarray, " n"]
) -> None:
    for i in range(len(codes)):
        values[i] = table[codes[i]]


@jit
def _add_rows(
    codes: UInt16[np.ndarray, "rows columns"], first: int, table: Float32[np.ndarray, " codes"], axes: Axes
) -> None:
    """Add the rows from `first` on to the axes' sums, in float64."""
    rows, columns = codes.shape
    bits = np.empty(BLOCK, np.uint32)
    tile = bits.view(np.float32)
    for row in range(first, rows):
        for start in range(0, columns, BLOCK):
            block = codes[row, start : start + BLOCK]
            if len(table) == 0:
                widen(block, bits)
            else:
                _look_up(block, table, tile)
            add_to_axes(tile[: len(block)], row, start, axes)


@jit
def _squares_fit(histogram: UInt32[np.ndarray, " codes"]) -> bool:
    """True if float32 holds the square of every bfloat16 that was counted, and sums of 256 of them."""
    outside = 0
    for sign in (0, SIGN):
        for code in range(sign + 1, sign + _SMALLEST):
            outside += histogram[code]
        for code in range(sign + _BEYOND, sign + SIGN):
            outside += histogram[code]
    return outside == 0


@jit
def pass_over_codes(
    codes: UInt16[np.ndarray, "rows columns"],
    words: UInt64[np.ndarray, " n"],
    table: Float32[np.ndarray, " codes"],
    axes: Axes,
) -> tuple[UInt16[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The tally of a bfloat16 matrix (or, with a `table` of values, a float16 one); its squares are summed by axis.

    `words` are the same bytes, four codes each, for as many whole strips as there are.
    """
    rows, columns = codes.shape
    histogram = np.zeros(CODES, np.uint32)
    whole = rows - rows % STRIP
    by_axis = len(axes.row_squares) > 0
    strips = by_axis and len(table) == 0
    recent = np.zeros(columns if strips else 0, np.float32)
    for row in range(0, whole, STRIP):
        _count_words(words[row * columns // 4 : (row + STRIP) * columns // 4], histogram)
        if strips:
            _add_strip(codes, row, recent, axes)
            if (row + STRIP) % _FLOAT32_ROWS == 0 or row + STRIP == whole:
                _move(recent, axes.column_squares)
    for row in range(whole, rows):
        count_codes(codes[row], histogram)
    if strips and not _squares_fit(histogram):
        strips = False
        for sums in axes:
            sums[:] = 0
    if by_axis:
        _add_rows(codes, whole if strips else 0, table, axes)
    return tally(histogram)


@jit
def fold(
    values: Float[np.ndarray, " n"], counts: Int64[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """Magnitudes, ascending, and how often each occurs, from ascending values; the two signs of one are two entries."""
    folded, folded_counts = np.empty_like(values), np.empty_like(counts)
    right = 0
    while right < len(values) and (values[right] < 0 or np.isnan(values[right])):
        right += 1
    left = right - 1
    for place in range(len(values)):
        leftmost = right == len(values) or (left >= 0 and -values[left] < values[right])
        source = left if leftmost else right
        folded[place], folded_counts[place] = abs(values[source]), counts[source]
        left, right = (left - 1, right) if leftmost else (left, right + 1)
    return folded, folded_counts


@jit
def weigh(values: Float[np.ndarray, " n"], counts: Int64[np.ndarray, " n"], totals: Totals) -> None:
    """Fill moments, counts and sums from the values that occur and how often each occurs."""
    count = total = magnitude = square = 0.0
    for i in range(len(values)):
        value, weight = values[i], np.float64(counts[i])
        count += weight
        total += weight * value
        magnitude += weight * abs(value)
        square += weight * (value * value)
        totals.counts[ZERO] += counts[i] * (value == 0.0)
        totals.counts[NAN] += counts[i] * np.isnan(value)
        totals.counts[INF] += counts[i] * (abs(value) == np.inf)
    mean = total / count
    second = third = fourth = 0.0
    for i in range(len(values)):
        deviation, weight = values[i] - mean, np.float64(counts[i])
        second += weight * deviation**2
        third += weight * deviation**3
        fourth += weight * deviation**4
    totals.moments[:] = np.array([count, mean, second, third, fourth])
    totals.sums[:] = np.array([magnitude, square])
