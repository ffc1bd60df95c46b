"""Loops over activations: sums over tokens, and statistics of each token.

A token's vector stays in the nearest cache while its sums, its moments, its largest and its median magnitude are found.
A code is a float's bits as an unsigned integer; a magnitude is a code without its sign bit. Magnitudes are compared as
integers: their order is that of the floats, NaN is last, and comparing a whole vector takes few instructions.

    >>> codes = np.array([[3.0, -4.0]], np.float32).view(np.uint32)
    >>> totals, tokens = TokenTotals.zeros(2, codes.dtype), TokenStats.zeros(1, codes.dtype)
    >>> add_tokens(codes, np.array([0]), totals, tokens)
    >>> tokens.squares
    array([25.])
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt

from olmo_dynamics.recorders.kernels.elements import BLOCK, widen
from olmo_dynamics.recorders.kernels.jit import jit
from olmo_dynamics.recorders.kernels.moments import add_block
from olmo_dynamics.recorders.kernels.token_codes import TokenCodes

LARGEST, LOWER_MEDIAN, UPPER_MEDIAN = 0, 1, 2
"""Indices into a token's magnitudes."""


class TokenTotals(NamedTuple):
    """Sums over tokens; maxima are magnitudes. Moments are those of floats wider than bfloat16."""

    moments: Float[np.ndarray, " 5"]
    feature_squares: Float[np.ndarray, " width"]
    feature_maxima: UInt[np.ndarray, " width"]

    @classmethod
    def zeros(cls, width: int, codes: np.dtype) -> TokenTotals:
        """The sums of no tokens."""
        return cls(
            np.zeros(5),
            np.zeros(width),
            np.zeros(width, codes),
        )


class TokenStats(NamedTuple):
    """Statistics of each token, by row; zero in rows that were skipped."""

    squares: Float[np.ndarray, " tokens"]
    absolutes: Float[np.ndarray, " tokens"]
    magnitudes: UInt[np.ndarray, "tokens 3"]

    @classmethod
    def zeros(cls, tokens: int, codes: np.dtype) -> TokenStats:
        """Zeros, to be filled row by row."""
        return cls(np.zeros(tokens), np.zeros(tokens), np.zeros((tokens, 3), codes))


def scratch_row(
    codes: UInt[np.ndarray, "tokens width"],
) -> tuple[UInt[np.ndarray, " width"], Float[np.ndarray, " width"]]:
    """A buffer for one token as float32 (or float64): the same memory as bits and as numbers."""
    bits = np.empty(codes.shape[1], f"u{max(codes.itemsize, 4)}")
    return bits, bits.view(f"f{bits.itemsize}")


@jit
def read_codes(codes: UInt[np.ndarray, " n"], bits: UInt[np.ndarray, " n"]) -> None:
    """Fill the bits of a scratch row from the codes of one token."""
    if codes.itemsize == 2:
        widen(codes, bits)
        return
    for i in range(len(codes)):
        bits[i] = codes[i]


@jit
def strip_signs(codes: UInt[np.ndarray, " n"], magnitudes: UInt[np.ndarray, " n"]) -> None:
    """Fill `magnitudes` with the codes without their sign bits."""
    all_but_sign = np.iinfo(codes.dtype).max >> 1
    for i in range(len(codes)):
        magnitudes[i] = codes[i] & all_but_sign


@jit
def raise_maxima(magnitudes: UInt[np.ndarray, " n"], maxima: UInt[np.ndarray, " n"]) -> None:
    """Raise each of `maxima` to the magnitude at its place where that is larger."""
    for i in range(len(magnitudes)):
        maxima[i] = max(maxima[i], magnitudes[i])


@jit
def largest_of(magnitudes: UInt[np.ndarray, " n"]) -> np.int64:
    """The largest magnitude."""
    largest = magnitudes[0]
    for i in range(len(magnitudes)):
        largest = max(largest, magnitudes[i])
    return np.int64(largest)


@jit
def _sum_squares_and_absolutes(
    values: Float[np.ndarray, " n"], feature_squares: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    squares = absolutes = 0.0
    for i in range(len(values)):
        value = np.float64(values[i])
        square = value * value
        feature_squares[i] += square
        squares += square
        absolutes += abs(value)
    return squares, absolutes


@jit
def _count_up_to(magnitudes: UInt[np.ndarray, " n"], pivot: np.int64) -> np.int64:
    count, limit = np.int32(0), magnitudes.dtype.type(pivot)
    for i in range(len(magnitudes)):
        count = np.int32(count + np.int32(magnitudes[i] <= limit))  # narrow, so that many fit an instruction
    return np.int64(count)


@jit
def _least_above(magnitudes: UInt[np.ndarray, " n"], value: np.int64) -> np.int64:
    top = magnitudes.dtype.type(np.iinfo(magnitudes.dtype).max)
    floor, least = magnitudes.dtype.type(value), top
    for i in range(len(magnitudes)):
        least = min(least, magnitudes[i] if magnitudes[i] > floor else top)
    return np.int64(least)


@jit
def _moved(pivot: np.int64, rank: float, count: np.int64, octave: int) -> np.int64:
    """The place of a rank if the number of magnitudes up to a value grows as the value does."""
    change = min(max(rank / count - 1.0, -0.5), 1.0) if count > 0 else 1.0
    return pivot + np.int64(change * (octave + pivot % octave))


@jit
def select_magnitude(
    magnitudes: UInt[np.ndarray, " n"], rank: int, largest: np.int64, guess: np.int64
) -> tuple[np.int64, np.int64]:
    """The magnitude of this rank (0 is the smallest), and how many are no larger; a near guess makes it fast.

    An interval (low, high] that holds it is narrowed until one candidate is left: by a step from the guess to where the
    rank should lie, then on in the same direction until the rank is enclosed, then by interpolating and halving in turn.
    """
    octave = 1 << (7 if magnitudes.itemsize == 2 else 23 if magnitudes.itemsize == 4 else 52)
    low, high = np.int64(-1), np.int64(largest)
    below, up_to = np.int64(0), np.int64(len(magnitudes))
    pivot, stride, turn = guess, np.int64(octave >> 5), 0
    while high - low > 1:
        if up_to - below == 1 and low >= 0:
            return _least_above(magnitudes, low), up_to
        pivot = min(max(pivot, low + 1), high - 1)
        count = _count_up_to(magnitudes, pivot)
        if count > rank:
            high, up_to = pivot, count
        else:
            low, below = pivot, count
        turn += 1
        if turn == 1:
            pivot = _moved(pivot, rank + 0.5, count, octave)
        elif low == -1 or high == largest:
            pivot = pivot - stride if count > rank else pivot + min(stride, high - pivot - 1)
            stride = min(stride * 4, np.int64(octave * 8))
        elif turn % 2 == 0:
            share = (rank + 0.5 - below) / (up_to - below)
            pivot = low + np.int64((high - low) * share)
        else:
            pivot = low + (high - low) // 2
    return high, up_to


@jit
def middle_magnitudes(
    magnitudes: UInt[np.ndarray, " n"], largest: np.int64, guess: np.int64
) -> tuple[np.int64, np.int64]:
    """The two middle magnitudes, the same one twice where their number is odd."""
    count = len(magnitudes)
    lower, up_to = select_magnitude(magnitudes, (count - 1) // 2, largest, guess)
    if count % 2 == 1 or up_to > count // 2:
        return lower, lower
    return lower, _least_above(magnitudes, lower)


@jit
def pass_over_tokens(
    codes: UInt[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    floats: tuple[UInt[np.ndarray, " width"], Float[np.ndarray, "tokens width"]],
    kept: UInt[np.ndarray, "kept width"],
    totals: TokenTotals,
    tokens: TokenStats,
) -> None:
    """Sum over the tokens in these rows, and fill the statistics of each, in its row, and its magnitudes, if there is room.

    Moments are those of runs of rows that follow one another, up to the size of a block: merging them token by token would take
    longer than summing, where vectors are short.
    """
    bits, values_of_rows = floats
    width = codes.shape[1]
    lower = np.int64(0)
    begun = 0
    for place in range(len(rows)):
        row = rows[place]
        token = codes[row]
        magnitudes = kept[place if len(kept) == len(rows) else 0]
        strip_signs(token, magnitudes)
        raise_maxima(magnitudes, totals.feature_maxima)
        largest = largest_of(magnitudes)
        lower, upper = middle_magnitudes(magnitudes, largest, lower or largest // 2)
        tokens.magnitudes[row, LARGEST] = largest
        tokens.magnitudes[row, LOWER_MEDIAN] = lower
        tokens.magnitudes[row, UPPER_MEDIAN] = upper
        if codes.itemsize == 2:
            widen(token, bits)
        values = values_of_rows[0 if codes.itemsize == 2 else row]
        tokens.squares[row], tokens.absolutes[row] = _sum_squares_and_absolutes(values, totals.feature_squares)
        if codes.itemsize == 2:
            continue
        if place + 1 == len(rows) or rows[place + 1] != row + 1 or (place + 1 - begun) * width >= BLOCK:
            add_block(totals.moments, values_of_rows[rows[begun] : row + 1].reshape(-1))
            begun = place + 1


def add_tokens(
    codes: UInt[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    totals: TokenTotals,
    tokens: TokenStats,
    kept: UInt[np.ndarray, "kept width"] | None = None,
) -> None:
    """`pass_over_tokens` with buffers of its own; `kept`, with a row for each of these rows, is given their magnitudes."""
    bits, values = scratch_row(codes)
    floats = values[np.newaxis] if codes.itemsize == 2 else codes.view(values.dtype)
    magnitudes = np.empty((1, codes.shape[1]), codes.dtype) if kept is None else kept
    pass_over_tokens(codes, rows, (bits, floats), magnitudes, totals, tokens)


def stats_of_tokens(observed: TokenCodes) -> TokenStats:
    """The statistics of each token, without sums over tokens."""
    codes = observed.codes
    tokens = TokenStats.zeros(len(codes), codes.dtype)
    rows = np.sort(np.concatenate([observed.first, observed.rest]))
    add_tokens(codes, rows, TokenTotals.zeros(observed.width, codes.dtype), tokens)
    return tokens
