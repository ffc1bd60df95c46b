"""Change points: the revision at which a quantity's pace of change differs most before and after.

The changes d₁ … dₙ between neighbouring revisions, per unit of a clock, are ranked. For a border after k of them the statistic is
abs(Σ_{i ≤ k} (rankᵢ - mean rank)) / √(k (n - k) (n + 1) / 12), the standardised rank sum (Mann-Whitney), and its maximum over
borders is compared with that of shuffled changes. Ranks of exchangeable changes are a random permutation whatever their
distribution, so the shuffles depend on n alone and the test is exact. The rule must hold on both clocks.

>>> border_and_chance(np.r_[np.zeros(8), np.ones(8)] + 0.01 * np.arange(16))[0]
8
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float, Int

from olmo_dynamics.frames.rules.step_changes import SEED, rates

FALSE_ALARMS = 0.01
"""The probability of any change point in a store whose changes are exchangeable, at most."""

MOST = 128
"""The number of changes above which a line is thinned evenly."""

AGREEING = 0.05
"""The level at which another seed must have a change point of its own to agree."""

_SHUFFLES = 19_999
_BLOCK = 5_000
_LEAST = 3  # changes on each side of a border


def find_change_point(
    steps: Int[np.ndarray, " revisions"], scale: Float[np.ndarray, " revisions"]
) -> tuple[int, float]:
    """The border, as the place of a revision, and the larger of the two clocks' probabilities under the null.

    The border is that of the clock of log steps. Of fewer than six changes, or of constant ones, the probability is 1.
    """
    kept = thinned(len(steps))
    by_step, by_log = (rate.ravel() for rate in rates(steps[kept], scale[kept, np.newaxis]))
    if len(by_log) < 2 * _LEAST or not np.ptp(scale):
        return 0, 1.0
    (plain, before), (place, chance) = border_and_chance(by_step), border_and_chance(by_log)
    same_way = _turn(by_step, plain) * _turn(by_log, place) > 0
    return int(kept[place]), max(before, chance) if same_way else 1.0


def thinned(revisions: int) -> np.ndarray:
    """The places of the revisions that are compared: all, or `MOST` + 1 of them evenly."""
    return np.unique(np.linspace(0, revisions - 1, min(revisions, MOST + 1)).round().astype(np.int64))


def border_and_chance(changes: Float[np.ndarray, " changes"]) -> tuple[int, float]:
    """The number of changes before the border, and the share of shuffles whose statistic is as large."""
    count = len(changes)
    ties = np.random.default_rng(SEED).permutation(count)  # equal changes are ranked at random
    ranks = np.empty(count)
    ranks[np.lexsort((ties, changes))] = np.arange(count)
    heights = _heights(ranks[np.newaxis])[0]
    null = _null(count)
    reached = len(null) - int(np.searchsorted(null, heights.max() - 1e-9))
    return int(heights.argmax()) + _LEAST, (1 + reached) / (1 + len(null))


def _turn(changes: np.ndarray, border: int) -> float:
    return float(np.median(changes[border:]) - np.median(changes[:border]))


def _heights(ranks: np.ndarray) -> np.ndarray:
    """The statistic at each border, [shuffles, borders]."""
    count = ranks.shape[1]
    sums = np.cumsum(ranks - (count - 1) / 2, axis=1)[:, _LEAST - 1 : count - _LEAST]
    before = np.arange(_LEAST, count - _LEAST + 1)
    return np.asarray(np.abs(sums) / np.sqrt(before * (count - before) * (count + 1) / 12))


@cache
def _null(count: int) -> np.ndarray:
    """The largest statistics of shuffled ranks, increasing."""
    drawing = np.random.default_rng([SEED, count])
    rows = np.tile(np.arange(count, dtype=np.float64), (_BLOCK, 1))
    blocks = [
        _heights(drawing.permuted(rows[: min(_BLOCK, _SHUFFLES - start)], axis=1)).max(axis=1)
        for start in range(0, _SHUFFLES, _BLOCK)
    ]
    return np.sort(np.concatenate(blocks))
