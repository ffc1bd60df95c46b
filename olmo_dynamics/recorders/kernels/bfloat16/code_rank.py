"""The two middle magnitudes of one token in bfloat16, found by few scans of its codes.

A scan counts the codes up to a pivot, 16 of them per instruction. From a near guess, and the number of codes that lie between
two neighbouring values of the token before, the next pivot is off by one or two.

    >>> magnitudes = np.array([5, 1, 9, 3], np.uint16)
    >>> middle_codes(magnitudes, np.int64(9), np.int64(5), 1.0)
    (3, 5, 1.0)
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt16

from olmo_dynamics.recorders.kernels.jit import jit

_RUN = 1 << 15  # numbers that are counted in 16 bits
_PATIENCE = 8  # scans before the interval is halved at every other one


@jit
def _count_up_to(magnitudes: UInt16[np.ndarray, " n"], pivot: np.int64) -> np.int64:
    """The number of magnitudes that are no larger than the pivot."""
    beyond, total = np.uint16(pivot + 1), np.int64(0)
    for start in range(0, len(magnitudes), _RUN):
        count = np.uint16(0)
        run = magnitudes[start : start + _RUN]
        for i in range(len(run)):
            count = np.uint16(
                count + (np.uint16(run[i] - beyond) >> np.uint16(15))
            )  # the sign of a difference of 15 bits
        total += np.int64(count)
    return total


@jit
def _least_above(magnitudes: UInt16[np.ndarray, " n"], value: np.int64) -> np.int64:
    """The smallest magnitude above a value that some magnitude exceeds."""
    floor, least = np.uint16(value), np.uint16(0xFFFF)
    for i in range(len(magnitudes)):
        least = min(least, magnitudes[i] if magnitudes[i] > floor else np.uint16(0xFFFF))
    return np.int64(least)


@jit
def middle_codes(
    magnitudes: UInt16[np.ndarray, " n"], largest: np.int64, guess: np.int64, density: float
) -> tuple[np.int64, np.int64, float]:
    """The two middle magnitudes (one twice where their number is odd), and the magnitudes per code around them.

    The lower one is the only candidate left in an interval (low, high] whose ends were counted up to. Pivots are where the rank
    should lie at the `density`, magnitudes per code, which each scan corrects.
    """
    needed, low, high = (len(magnitudes) + 1) // 2, np.int64(-1), np.int64(largest)
    up_to, counted, pivot, last = np.int64(len(magnitudes)), np.int64(0), np.int64(guess), np.int64(-1)
    turn = 0
    while high - low > 1:
        pivot = min(max(pivot, low + 1), high - 1)
        count = _count_up_to(magnitudes, pivot)
        if count >= needed:
            high, up_to = pivot, count
        else:
            low = pivot
        if last >= 0 and abs(pivot - last) > 2:
            density = max(float((count - counted) / (pivot - last)), 1e-3)
        last, counted = pivot, count
        turn += 1
        if turn > _PATIENCE and turn % 2 == 0:
            pivot = (low + high) // 2
        else:
            pivot += np.int64(np.floor((needed - count) / density))
    upper = high if up_to > len(magnitudes) // 2 else _least_above(magnitudes, high)
    return high, upper, density
