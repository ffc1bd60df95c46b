"""One pass over tokens of float32: sums over tokens, statistics of each, and sums of these.

A token's vector is read twice while it is in the nearest cache: once for the sums of its powers in float64, and once for its
magnitudes, of which those near the expected median are packed. The median is then found among these few; where it lies elsewhere,
`middle_magnitudes` finds it. It is expected at the mean magnitude times what the median was of that in the tokens before.

    >>> values = np.array([[3.0, -4.0]], np.float32)
    >>> sums, tokens = FloatTokenSums.zeros(2), TokenStats.zeros(1, np.dtype(np.uint32))
    >>> add_float_tokens(values.view(np.uint32), np.array([0]), np.empty((1, 2), np.uint32), sums, tokens)
    >>> tokens.squares, tokens.magnitudes.view(np.float32)
    (array([25.]), array([[4., 3., 4.]], dtype=float32))
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt32

from olmo_dynamics.recorders.kernels.bfloat16.token_pass import ABSOLUTES, MAX_MEDIANS, SPARSITIES
from olmo_dynamics.recorders.kernels.elements import BLOCK
from olmo_dynamics.recorders.kernels.jit import bits_of, float32_of, jit
from olmo_dynamics.recorders.kernels.moments import merge_moments
from olmo_dynamics.recorders.kernels.packed.sixteen import SPARE, pair_of_ranks, scan_row
from olmo_dynamics.recorders.kernels.tokens import LARGEST, LOWER_MEDIAN, UPPER_MEDIAN, TokenStats, middle_magnitudes

_HALF_NORMAL = 0.845  # the median magnitude of Gaussian numbers over their mean magnitude
_TOGETHER = 8  # tokens whose shares together tell that of the next: one by one, each would wait for the token before
_REACH = 3.5 * (1 << 23)  # in codes; over sqrt(width): two to three standard deviations of the median of a few numbers
_MOST = 128  # numbers whose pairs are compared
_INFINITY = 0x7F800000


class FloatTokenSums(NamedTuple):
    """Sums over tokens; maxima are magnitudes, as codes."""

    moments: Float[np.ndarray, " 5"]
    feature_squares: Float[np.ndarray, " width"]
    feature_maxima: UInt32[np.ndarray, " width"]
    of_tokens: Float[np.ndarray, " 3"]

    @classmethod
    def zeros(cls, width: int) -> FloatTokenSums:
        """The sums of no tokens."""
        return cls(np.zeros(5), np.zeros(width), np.zeros(width, np.uint32), np.zeros(3))


@jit
def _mean(values: Float32[np.ndarray, " n"]) -> float:
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i])
    return total / len(values)


@jit
def _add_powers(
    values: Float32[np.ndarray, " n"],
    shift: float,
    feature_squares: Float[np.ndarray, " n"],
    powers: Float[np.ndarray, " 4"],
) -> tuple[float, float]:
    """Add the powers of deviations from the shift; returns the sums of squares and of magnitudes."""
    squares = absolutes = first = second = third = fourth = 0.0
    for i in range(len(values)):
        value = np.float64(values[i])
        square = value * value
        feature_squares[i] += square
        squares += square
        absolutes += abs(value)
        deviation = value - shift
        square = deviation * deviation
        first += deviation
        second += square
        third += square * deviation
        fourth += square * square
    powers[0] += first
    powers[1] += second
    powers[2] += third
    powers[3] += fourth
    return squares, absolutes


@jit
def _merge_powers(
    moments: Float[np.ndarray, " 5"], count: float, shift: float, powers: Float[np.ndarray, " 4"]
) -> None:
    """Add numbers by the powers of their deviations from a shift near to their mean, and forget them."""
    first, second, third, fourth = powers
    away = first / count
    square = away * away
    merge_moments(
        moments,
        np.array(
            [
                count,
                shift + away,
                second - count * square,
                third - 3.0 * away * second + 2.0 * count * square * away,
                fourth - 4.0 * away * third + 6.0 * square * second - 3.0 * count * square * square,
            ]
        ),
    )
    powers[:] = 0.0


@jit
def _fill(
    tokens: TokenStats, row: int, sums: tuple[float, float], magnitudes: tuple[np.int64, np.int64, np.int64]
) -> None:
    tokens.squares[row], tokens.absolutes[row] = sums
    tokens.magnitudes[row, LARGEST], tokens.magnitudes[row, LOWER_MEDIAN], tokens.magnitudes[row, UPPER_MEDIAN] = (
        magnitudes
    )


@jit
def _value(magnitude: np.int64) -> float:
    return np.float64(float32_of(np.uint32(magnitude)))


@jit
def _quotient(numerator: float, denominator: float) -> float:
    return np.nan if denominator == 0.0 else numerator / denominator


@jit
def _add_ratios(
    width: int,
    powers: tuple[float, float],
    magnitudes: tuple[np.int64, np.int64, np.int64],
    sums: Float[np.ndarray, " 3"],
) -> float:
    """Add a token's magnitude, its sparsity, and its largest magnitude over the median, which is returned."""
    squares, absolutes = powers
    largest, lower, upper = magnitudes
    median = (_value(lower) + _value(upper)) / 2
    if np.isnan(squares):
        median = np.nan  # NaN sorts last, so a median beside it looks finite
    sums[ABSOLUTES] += absolutes
    sums[SPARSITIES] += _quotient(math.sqrt(float(width)) * math.sqrt(squares), absolutes)
    sums[MAX_MEDIANS] += _quotient(_value(largest), median)
    return median


@jit
def pass_over_float_tokens(
    codes: UInt32[np.ndarray, "tokens width"],
    values: Float32[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    kept: UInt32[np.ndarray, "kept width"],
    sums: FloatTokenSums,
    tokens: TokenStats,
) -> None:
    """Sum over the tokens in these rows, and fill the statistics of each, and its magnitudes, if there is room.

    Moments are those of runs of rows that follow one another, up to the size of a block, about the mean of the first of these.
    """
    width = codes.shape[1]
    packed = np.empty(width + SPARE, np.uint32)
    powers, shift, begun = np.zeros(4), 0.0, 0
    share, shares, reach = _HALF_NORMAL, 0.0, np.int64(_REACH / math.sqrt(width))
    for place in range(len(rows)):
        row = rows[place]
        if begun == place:
            shift = _mean(values[row])
        squares, absolutes = _add_powers(values[row], shift, sums.feature_squares, powers)
        magnitudes = kept[place if len(kept) == len(rows) else 0]
        guess = min(np.int64(bits_of(np.float32(absolutes / width * share))), np.int64(_INFINITY))
        within = np.uint32(max(guess - reach, np.int64(0))), np.uint32(guess + reach)
        below, found, largest = scan_row(codes[row], magnitudes, sums.feature_maxima, within, packed)
        lower, upper = pair_of_ranks(packed, max(1, min(int(found), _MOST)), (width - 1) // 2 - int(below))
        if (width - 1) // 2 < below or width // 2 >= below + found or found > _MOST:
            lower, upper = middle_magnitudes(magnitudes, largest, guess)
        elif width % 2 == 1:
            upper = lower
        _fill(tokens, row, (squares, absolutes), (largest, lower, upper))
        median = _add_ratios(width, (squares, absolutes), (largest, lower, upper), sums.of_tokens)
        shares += median * width / absolutes
        if place % _TOGETHER == _TOGETHER - 1:
            share, shares = shares / _TOGETHER if np.isfinite(shares) else share, 0.0
        if place + 1 == len(rows) or rows[place + 1] != row + 1 or (place + 1 - begun) * width >= BLOCK:
            _merge_powers(sums.moments, np.float64((place + 1 - begun) * width), shift, powers)
            begun = place + 1


def add_float_tokens(
    codes: UInt32[np.ndarray, "tokens width"],
    rows: Int64[np.ndarray, " n"],
    kept: UInt32[np.ndarray, "kept width"] | None,
    sums: FloatTokenSums,
    tokens: TokenStats,
) -> None:
    """`pass_over_float_tokens`; `kept`, with a row for each of these rows, is given their magnitudes."""
    magnitudes = np.empty((1, codes.shape[1]), np.uint32) if kept is None else kept
    pass_over_float_tokens(codes, codes.view(np.float32), rows, magnitudes, sums, tokens)
