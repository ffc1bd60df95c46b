"""One pass over tokens in bfloat16: counts of codes, sums over tokens, and statistics of each token.

A token's codes stay in the nearest cache while all of it is found. The pass takes the tokens at first positions and the others
one after the other, in one call, since a call costs more than some tokens do once matrix products have filled the caches.

    >>> codes = np.array([[0x4040, 0xC080], [0x3F80, 0x3F80]], np.uint16)  # 3 and -4, 1 and 1
    >>> sums, tokens = CodeSums.zeros(2), TokenStats.zeros(2, codes.dtype)
    >>> first, rest = pass_over_codes(codes, np.array([0]), np.array([1]), sums, tokens)
    >>> tokens.squares, sums.maxima
    (array([25.,  2.]), array([[16448, 16512],
           [16256, 16256]], dtype=uint16))
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt16, UInt32

from olmo_dynamics.recorders.kernels.bfloat16.code_rank import middle_codes
from olmo_dynamics.recorders.kernels.elements import CODES, SIGN, Tally, count_codes
from olmo_dynamics.recorders.kernels.jit import float32_of, jit
from olmo_dynamics.recorders.kernels.tokens import LARGEST, LOWER_MEDIAN, UPPER_MEDIAN, TokenStats

ABSOLUTES, SPARSITIES, MAX_MEDIANS = 0, 1, 2
"""Indices into the sums over tokens: of magnitudes, of `sqrt(d) * L2 / L1`, and of the largest magnitude over the median."""

FEW = 4096
"""Numbers that are listed as they are: fewer than the codes that may occur."""

_RUN = 64  # counts looked at together
_SIGN = np.uint16(SIGN)

_tables = threading.local()
"""A table of zeros for each thread, which stays in its cache, where one for each set of numbers would not."""


class CodeSums(NamedTuple):
    """Sums over two sets of tokens: those at first positions, and the others."""

    of_tokens: Float[np.ndarray, "2 3"]
    feature_squares: Float[np.ndarray, "2 width"]
    maxima: UInt16[np.ndarray, "2 width"]

    @classmethod
    def zeros(cls, width: int) -> CodeSums:
        """The sums of no tokens."""
        return cls(np.zeros((2, 3)), np.zeros((2, width)), np.zeros((2, width), np.uint16))


@jit
def _value(code: np.int64) -> np.float64:
    return np.float64(float32_of(np.uint32(code) << np.uint32(16)))


@jit
def _raise_maxima(
    codes: UInt16[np.ndarray, " n"], magnitudes: UInt16[np.ndarray, " n"], maxima: UInt16[np.ndarray, " n"]
) -> tuple[np.int64, np.int64]:
    """Fill magnitudes, raise the maximum of each place, and return the smallest one but zero, less one, and the largest."""
    below, largest = np.uint16(0xFFFF), np.uint16(0)
    for i in range(len(codes)):
        magnitude = np.uint16(codes[i] & np.uint16(0x7FFF))
        magnitudes[i] = magnitude
        maxima[i] = max(maxima[i], magnitude)
        largest = max(largest, magnitude)
        below = min(below, np.uint16(magnitude - np.uint16(1)))  # zero wraps round to the largest
    return np.int64(below), np.int64(largest)


@jit
def _add_powers(magnitudes: UInt16[np.ndarray, " n"], feature_squares: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Add each square to its place, and return the sums of squares and of magnitudes."""
    squares = absolutes = 0.0
    for i in range(len(magnitudes)):
        value = np.float64(float32_of(np.uint32(magnitudes[i]) << np.uint32(16)))
        square = value * value
        feature_squares[i] += square
        squares += square
        absolutes += value
    return squares, absolutes


@jit
def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator != 0.0 else math.nan


@jit
def _add_ratios(
    width: int, squares: float, absolutes: float, magnitudes: tuple[np.int64, np.int64, np.int64], sums: np.ndarray
) -> None:
    """Add a token's magnitude, sparsity, and largest over median, NaN of a token that holds NaN."""
    largest, lower, upper = magnitudes
    median = (_value(lower) + _value(upper)) / 2 if not math.isnan(squares) else math.nan
    sums[ABSOLUTES] += absolutes
    sums[SPARSITIES] += _ratio(math.sqrt(float(width)) * math.sqrt(squares), absolutes)
    sums[MAX_MEDIANS] += _ratio(_value(largest), median)


@jit
def _pass_over_rows(
    codes: UInt16[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    table: UInt32[np.ndarray, " codes"],
    sums: tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " width"], UInt16[np.ndarray, " width"]],
    tokens: TokenStats,
) -> tuple[UInt16[np.ndarray, " found"], Int64[np.ndarray, " found"]]:
    """Sum over one set of tokens, and give its codes with their counts, or without where they are listed."""
    of_tokens, feature_squares, maxima = sums
    width = codes.shape[1]
    few = len(rows) * width <= FEW
    listed = np.empty(len(rows) * width if few else 0, np.uint16)
    magnitudes = np.empty(width, np.uint16)
    least, most = np.int64(CODES), np.int64(0)
    guess, density = (
        np.int64(0),
        width / 400.0,
    )  # of numbers with a normal distribution there are about as many per code
    for place in range(len(rows)):
        row = rows[place]
        token = codes[row]
        below, largest = _raise_maxima(token, magnitudes, maxima)
        least, most = min(least, below + 1), max(most, largest)
        squares, absolutes = _add_powers(magnitudes, feature_squares)
        guess, upper, density = middle_codes(magnitudes, largest, guess or largest // 2, density)
        tokens.squares[row], tokens.absolutes[row] = squares, absolutes
        tokens.magnitudes[row, LARGEST] = largest
        tokens.magnitudes[row, LOWER_MEDIAN] = guess
        tokens.magnitudes[row, UPPER_MEDIAN] = upper
        _add_ratios(width, squares, absolutes, (largest, guess, upper), of_tokens)
        if few:
            listed[place * width : (place + 1) * width] = token
        else:
            count_codes(token, table)
    if few:
        return listed, np.empty(0, np.int64)
    return _taken_out(table, least, most)


@jit
def _any(counts: UInt32[np.ndarray, " run"]) -> bool:
    found = np.uint32(0)
    for i in range(len(counts)):
        found |= counts[i]
    return bool(found != 0)


@jit
def _taken_out(
    table: UInt32[np.ndarray, " codes"], least: np.int64, most: np.int64
) -> tuple[UInt16[np.ndarray, " found"], Int64[np.ndarray, " found"]]:
    """The codes that a table counted, of zero and of magnitudes from `least` to `most`, and their counts; clears the table."""
    start, stop = max(np.int64(least), np.int64(_RUN)) // _RUN * _RUN, np.int64(most) + 1
    room = 2 * (max(stop - start, np.int64(0)) + 2 * _RUN)
    codes, counts = np.empty(room, np.uint16), np.empty(room, np.int64)
    found = 0
    for sign in (0, SIGN):
        found = _take_run(table, sign, codes, counts, found)
        for run in range(start, stop, _RUN):
            found = _take_run(table, sign + run, codes, counts, found)
    return codes[:found].copy(), counts[:found].copy()


@jit
def _take_run(
    table: UInt32[np.ndarray, " codes"],
    first: int,
    codes: UInt16[np.ndarray, " room"],
    counts: Int64[np.ndarray, " room"],
    found: int,
) -> int:
    """Add the codes of one run to those found, and return how many there are."""
    run = table[first : first + _RUN]
    if _any(run):
        for place in range(_RUN):
            if run[place] > 0:
                codes[found], counts[found] = first + place, run[place]
                found += 1
                run[place] = 0
    return found


@jit
def _pass(
    codes: UInt16[np.ndarray, "tokens width"],
    rows: tuple[Int64[np.ndarray, " first"], Int64[np.ndarray, " rest"]],
    table: UInt32[np.ndarray, " codes"],
    sums: CodeSums,
    tokens: TokenStats,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    first, rest = rows
    of_first = sums.of_tokens[0], sums.feature_squares[0], sums.maxima[0]
    of_rest = sums.of_tokens[1], sums.feature_squares[1], sums.maxima[1]
    first_codes, first_counts = _pass_over_rows(codes, first, table, of_first, tokens)
    rest_codes, rest_counts = _pass_over_rows(codes, rest, table, of_rest, tokens)
    return first_codes, first_counts, rest_codes, rest_counts


def pass_over_codes(
    codes: UInt16[np.ndarray, "tokens width"],
    first: Int64[np.ndarray, " first"],
    rest: Int64[np.ndarray, " rest"],
    sums: CodeSums,
    tokens: TokenStats,
) -> tuple[Tally, Tally]:
    """Add two sets of tokens to their sums, fill the statistics of each token, and give the codes of both sets.

    Returns:
        The codes and their counts; without counts, as they come, where there are at most `FEW`.
    """
    table = vars(_tables).pop("table", None)  # one of this thread, and lost if the pass breaks off
    table = np.zeros(CODES, np.uint32) if table is None else table
    found = _pass(codes, (first, rest), table, sums, tokens)
    _tables.table = table
    return Tally(*found[:2]), Tally(*found[2:])
