"""Paired tests of differences over seeds: Student's t, and exact sign flips.

>>> t_test(np.array([[1.0], [2.0], [3.0]])).p_value.round(4)
array([0.0742])
>>> sign_flips(np.array([[1.0], [2.0], [3.0]]))
array([0.25])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from olmo_dynamics.frames.student_t import quantile, two_sided

LEAST_SEEDS = 2
"""The number of pairs from which on a test is made: one pair has no spread."""

MOST_EXACT = 14
"""The number of pairs up to which every flip of signs is counted."""

_DRAWN = 9_999
_CHUNK = 1 << 22  # sums held at a time
_RELATIVE = 1e-12  # two sums of the same numbers in another order may differ by so much

Pairs = Float[np.ndarray, "seed cell"]
PerCell = Float[np.ndarray, "cell"]


@dataclass(frozen=True)
class TTest:
    """A paired t test per cell: the mean difference, its standard error, its 95 % interval, t and the two-sided p-value."""

    mean: PerCell
    se: PerCell
    low: PerCell
    high: PerCell
    t: PerCell
    p_value: PerCell


def t_test(differences: Pairs) -> TTest:
    """Test whether the mean of paired differences is 0: t = mean / se with n - 1 degrees of freedom, se = s / √n.

    Where all differences are equal, s is 0: t is infinite and p is 0, or both are NaN if the differences are 0. With fewer than
    two pairs all but the mean is NaN.
    """
    number, mean = len(differences), differences.mean(axis=0)
    if number < LEAST_SEEDS:
        nothing = np.full_like(mean, np.nan)
        return TTest(mean, nothing, nothing, nothing, nothing, nothing)
    se = differences.std(axis=0, ddof=1) / np.sqrt(number)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / se
    reach = quantile(number - 1) * se
    return TTest(mean, se, mean - reach, mean + reach, t, two_sided(t, number - 1))


def sign_flips(differences: Pairs) -> PerCell:
    """Test whether differences lie evenly around 0: the share of flips of signs whose mean is at least as far from 0.

    Up to `MOST_EXACT` pairs every flip is counted; of more, 9,999 drawn flips and the differences themselves (Phipson and Smyth
    2010). The smallest possible value is 2 / 2ⁿ. NaN with fewer than two pairs.
    """
    number = len(differences)
    if number < LEAST_SEEDS:
        return np.full(differences.shape[1], np.nan)
    exact = number <= MOST_EXACT
    signs = _every_flip(number) if exact else np.random.default_rng(0).choice([-1.0, 1.0], (_DRAWN, number))
    reached = np.abs(differences.sum(axis=0)) * (1 - _RELATIVE)
    counts = np.zeros(differences.shape[1])
    rows = max(1, _CHUNK // max(1, differences.shape[1]))
    for start in range(0, len(signs), rows):
        counts += (np.abs(signs[start : start + rows] @ differences) >= reached).sum(axis=0)
    share: np.ndarray = counts / len(signs) if exact else (counts + 1) / (_DRAWN + 1)
    return np.where(np.isnan(reached), np.nan, share)


def _every_flip(number: int) -> np.ndarray:
    """All choices of signs of which the first is +: the others are their mirror images."""
    bits = np.arange(1 << (number - 1))[:, None] >> np.arange(number) & 1
    return 1.0 - 2.0 * bits
