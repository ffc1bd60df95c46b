"""Loops over activations: what is summed over tokens, and what is kept of each token.

A token's vector stays in the nearest cache while its sums, its moments, its largest and its median magnitude are found.
A code is a float's bits as an unsigned integer; a magnitude is a code without its sign bit. Magnitudes are compared as
integers: the order is the same, NaN comes last, and the comparison of a whole vector takes few instructions.

    >>> codes = np.array([[3.0, -4.0]], np.float32).view(np.uint32)
    >>> totals, tokens = TokenTotals.zeros(2, codes.dtype), Tokens.zeros(1, codes.dtype)
    >>> pass_over_tokens(codes, np.array([0]), scratch_row(codes), totals, tokens)
    >>> tokens.squares
    array([25.])
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt

from olmo_dynamics.recorders.compiled import compiled
from olmo_dynamics.recorders.kernels import add_squares, widen
from olmo_dynamics.recorders.moments import add_block

LARGEST, LOWER_MEDIAN, UPPER_MEDIAN = 0, 1, 2
"""Places in a token's magnitudes."""


class TokenTotals(NamedTuple):
    """What is summed over tokens; maxima are magnitudes."""

    moments: Float[np.ndarray, " 5"]
    feature_squares: Float[np.ndarray, " width"]
    feature_maxima: UInt[np.ndarray, " width"]

    @classmethod
    def zeros(cls, width: int, codes: np.dtype) -> TokenTotals:
        """Nothing summed yet."""
        return cls(np.zeros(5), np.zeros(width), np.zeros(width, codes))


class Tokens(NamedTuple):
    """What is kept of each token."""

    squares: Float[np.ndarray, " tokens"]
    absolutes: Float[np.ndarray, " tokens"]
    magnitudes: UInt[np.ndarray, "tokens 3"]

    @classmethod
    def zeros(cls, tokens: int, codes: np.dtype) -> Tokens:
        """Nothing known yet."""
        return cls(np.zeros(tokens), np.zeros(tokens), np.zeros((tokens, 3), codes))


def scratch_row(
    codes: UInt[np.ndarray, "tokens width"],
) -> tuple[UInt[np.ndarray, " width"], Float[np.ndarray, " width"]]:
    """Room for one token as float32 (or float64): the same memory as bits and as numbers."""
    bits = np.empty(codes.shape[1], f"u{max(codes.itemsize, 4)}")
    return bits, bits.view(f"f{bits.itemsize}")


@compiled
def read_codes(codes: UInt[np.ndarray, " n"], bits: UInt[np.ndarray, " n"]) -> None:
    """Fills the bits of a scratch row from the codes of one token."""
    if codes.itemsize == 2:
        widen(codes, bits)
        return
    for i in range(len(codes)):
        bits[i] = codes[i]


@compiled
def strip_signs(codes: UInt[np.ndarray, " n"], magnitudes: UInt[np.ndarray, " n"]) -> None:
    """Clears the sign bit."""
    all_but_sign = np.iinfo(codes.dtype).max >> 1
    for i in range(len(codes)):
        magnitudes[i] = codes[i] & all_but_sign


@compiled
def raise_maxima(magnitudes: UInt[np.ndarray, " n"], maxima: UInt[np.ndarray, " n"]) -> None:
    """The larger of each pair, into `maxima`."""
    for i in range(len(magnitudes)):
        maxima[i] = max(maxima[i], magnitudes[i])


@compiled
def largest_of(magnitudes: UInt[np.ndarray, " n"]) -> np.int64:
    """The largest magnitude."""
    largest = magnitudes[0]
    for i in range(len(magnitudes)):
        largest = max(largest, magnitudes[i])
    return np.int64(largest)


@compiled
def _sum_absolutes(values: Float[np.ndarray, " n"]) -> float:
    total = 0.0
    for i in range(len(values)):
        total += abs(np.float64(values[i]))
    return total


@compiled
def _count_up_to(magnitudes: UInt[np.ndarray, " n"], pivot: np.int64) -> np.int64:
    count, limit = np.int32(0), magnitudes.dtype.type(pivot)
    for i in range(len(magnitudes)):
        count += np.int32(magnitudes[i] <= limit)
    return np.int64(count)


@compiled
def _least_above(magnitudes: UInt[np.ndarray, " n"], value: np.int64) -> np.int64:
    top = magnitudes.dtype.type(np.iinfo(magnitudes.dtype).max)
    floor, least = magnitudes.dtype.type(value), top
    for i in range(len(magnitudes)):
        least = min(least, magnitudes[i] if magnitudes[i] > floor else top)
    return np.int64(least)


@compiled
def select_magnitude(magnitudes: UInt[np.ndarray, " n"], rank: int, largest: np.int64) -> np.int64:
    """The magnitude of this rank (0 is the smallest), given the largest.

    Narrows an interval (low, high] that holds it, by interpolating and halving in turn, until one candidate is left.
    """
    low, high = np.int64(-1), np.int64(largest)
    below, up_to = np.int64(0), np.int64(len(magnitudes))
    interpolate = False
    while high - low > 1:
        if up_to - below == 1 and low >= 0:
            return _least_above(magnitudes, low)
        guess = low + (high - low) // 2
        if interpolate:
            share = (rank + 0.5 - below) / (up_to - below)
            guess = min(max(low + np.int64((high - low) * share), low + 1), high - 1)
        interpolate = not interpolate
        count = _count_up_to(magnitudes, guess)
        if count > rank:
            high, up_to = guess, count
        else:
            low, below = guess, count
    return high


@compiled
def middle_magnitudes(magnitudes: UInt[np.ndarray, " n"], largest: np.int64) -> tuple[np.int64, np.int64]:
    """The two middle magnitudes, the same one twice where their number is odd."""
    count = len(magnitudes)
    lower = select_magnitude(magnitudes, (count - 1) // 2, largest)
    if count % 2 == 1 or _count_up_to(magnitudes, lower) > count // 2:
        return lower, lower
    return lower, _least_above(magnitudes, lower)


@compiled
def pass_over_tokens(
    codes: UInt[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    scratch: tuple[UInt[np.ndarray, " width"], Float[np.ndarray, " width"]],
    totals: TokenTotals,
    tokens: Tokens,
) -> None:
    """Sums over the tokens in these rows, and fills what is kept of each."""
    bits, values = scratch
    magnitudes = np.empty(codes.shape[1], codes.dtype)
    for place in range(len(rows)):
        token = codes[rows[place]]
        strip_signs(token, magnitudes)
        raise_maxima(magnitudes, totals.feature_maxima)
        largest = largest_of(magnitudes)
        lower, upper = middle_magnitudes(magnitudes, largest)
        tokens.magnitudes[place, LARGEST] = largest
        tokens.magnitudes[place, LOWER_MEDIAN] = lower
        tokens.magnitudes[place, UPPER_MEDIAN] = upper
        read_codes(token, bits)
        tokens.squares[place] = add_squares(values, totals.feature_squares)
        tokens.absolutes[place] = _sum_absolutes(values)
        add_block(totals.moments, values)
