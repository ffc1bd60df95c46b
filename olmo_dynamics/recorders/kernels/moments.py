"""Moments of many numbers, gathered block by block without cancellation.

A norm's gains are all near 1, so `mean(x**2) - mean(x)**2` would lose every digit of their variance. Each block is centred
on its own mean and blocks are merged by Pébay's formulas (Sandia report SAND2008-6212), in float64.

    >>> moments = empty_moments()
    >>> add_block(moments, np.array([1.0, 2.0, 3.0, 4.0]))
    >>> moments[:3]  # count, mean, sum of squared deviations
    array([4. , 2.5, 5. ])

The five numbers are count, mean, and the sums of the second, third and fourth powers of the deviations from the mean.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from olmo_dynamics.recorders.kernels.jit import jit


def empty_moments() -> Float[np.ndarray, " 5"]:
    """The moments of no numbers."""
    return np.zeros(5)


@jit
def merge_moments(moments: Float[np.ndarray, " 5"], other: Float[np.ndarray, 5]) -> None:
    """Add the numbers that `other` describes."""
    n_a, n_b = moments[0], other[0]
    if n_b == 0.0:
        return
    if n_a == 0.0:
        for i in range(5):  # assigning slices would compile numba's text of an error, which takes seconds
            moments[i] = other[i]
        return
    n = n_a + n_b
    delta = other[1] - moments[1]
    square = delta * delta
    share = n_a * n_b / n
    second = moments[2] + other[2]
    third = moments[3] + other[3]
    skew = (n_a * other[2] - n_b * moments[2]) / n
    spread = (n_a * n_a * other[2] + n_b * n_b * moments[2]) / (n * n)
    lean = (n_a * other[3] - n_b * moments[3]) / n
    moments[4] = (
        (moments[4] + other[4])
        + square * square * share * (n_a * n_a - n_a * n_b + n_b * n_b) / (n * n)
        + 6.0 * square * spread
        + 4.0 * delta * lean
    )
    moments[3] = third + square * delta * share * (n_a - n_b) / n + 3.0 * delta * skew
    moments[2] = second + square * share
    moments[1] += delta * (n_b / n)  # so that merging equal means changes nothing
    moments[0] = n


@jit
def add_block(moments: Float[np.ndarray, " 5"], values: Float[np.ndarray, " n"]) -> None:
    """Add one block of numbers, small enough to stay in the processor's nearest cache."""
    total = 0.0
    for i in range(len(values)):  # by index: iterating over the array itself would not be vectorised
        total += np.float64(values[i])
    add_centred(moments, values, total / len(values))


@jit
def add_centred(moments: Float[np.ndarray, " 5"], values: Float[np.ndarray, " n"], mean: float) -> None:
    """The same for a block whose mean is known."""
    second = third = fourth = 0.0
    for i in range(len(values)):
        deviation = np.float64(values[i]) - mean
        square = deviation * deviation
        second += square
        third += square * deviation
        fourth += square * square
    merge_moments(moments, np.array([np.float64(len(values)), mean, second, third, fourth]))


def ratio(numerator: float, denominator: float) -> float:
    """The quotient, or NaN where the denominator is zero."""
    return float(numerator) / float(denominator) if denominator != 0 else math.nan


def kurtosis(moments: Float[np.ndarray, " 5"]) -> float:
    """mean((x - mean)**4) / mean((x - mean)**2)**2: 3 for a Gaussian, NaN where all numbers are equal."""
    return ratio(moments[0] * moments[4], moments[2] ** 2)
