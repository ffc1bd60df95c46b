"""Student's t distribution: two-sided p-values and quantiles, to 12 digits.

    >>> round(float(two_sided(np.array(4.303), 2)), 4)
    0.05

By the continued fraction of the regularised incomplete beta function (Numerical Recipes, section 6.4).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

_TERMS = 300
_TINY = 1e-300


def two_sided(t: np.ndarray, freedom: int) -> np.ndarray:
    """P(|T| ≥ |t|) for T with `freedom` degrees of freedom; NaN where t is NaN."""
    squared = np.asarray(t, dtype=np.float64) ** 2
    with np.errstate(invalid="ignore"):
        beyond = np.where(np.isinf(squared), 0.0, freedom / (freedom + squared))
        within = np.where(np.isinf(squared), 1.0, squared / (freedom + squared))
    return _incomplete_beta(freedom / 2, 0.5, beyond, within)


@cache
def quantile(freedom: int, confidence: float = 0.95) -> float:
    """The t beyond which, on both sides, a share of 1 - confidence lies.

    By Newton's method: the share is a convex function of t, so every step from 0 on stays below the quantile.
    """
    t, half = 0.0, (freedom + 1) / 2
    slope = 2 * math.exp(math.lgamma(half) - math.lgamma(freedom / 2)) / math.sqrt(math.pi * freedom)
    while True:
        beyond = float(two_sided(np.array(t), freedom))
        step = (beyond - (1 - confidence)) * math.pow(1 + t * t / freedom, half) / slope
        t += step
        if step <= 1e-13 * t:
            return t


def _incomplete_beta(a: float, b: float, x: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The regularised incomplete beta function I_x(a, b); `rest` is 1 - x, which x near 1 does not tell to all its digits."""
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.exp(front + a * np.log(x) + b * np.log(rest))
        direct = scale * _fraction(a, b, x) / a
        other = 1 - scale * _fraction(b, a, rest) / b
        found: np.ndarray = np.where(x < (a + 1) / (a + b + 2), direct, other)
    return np.where(x <= 0, 0.0, np.where(rest <= 0, 1.0, found))


def _fraction(a: float, b: float, x: np.ndarray) -> np.ndarray:
    """The continued fraction by Lentz's method, with all its terms."""
    c, d = np.ones_like(x), 1 / _nonzero(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, _TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            c, d = _nonzero(1 + term / c), 1 / _nonzero(1 + term * d)
            found = found * c * d
        if (np.abs(c * d - 1) < 1e-15).all():
            break
    return found


def _nonzero(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) < _TINY, _TINY, values)
