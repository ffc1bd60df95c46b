"""Jumps: changes between neighbouring revisions far beyond the changes around them.

A change is compared with the `NEAR` changes nearest in time: the ratio of its size to the `_RANK`-th smallest of theirs, on both
clocks. For independent changes with tails up to those of Student's t of 4 degrees of freedom (any slope only lowers the ratio),
P(ratio > x) = ∫ β(u) P(|t| > x q(u)) du, where β is the density of the order statistic and q the quantile of |t|. The threshold
makes the sum of these probabilities over all tested changes `FALSE_ALARMS`. The rule is then tried on the series' own changes,
shuffled without the jump itself; the larger of both rates is reported.

>>> 50 < threshold(1_000) < 60
True
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float, Int

from olmo_dynamics.frames.rules.step_changes import SEED, clocks, rates

FALSE_ALARMS = 0.01
"""The probability of any jump in a store whose changes are independent, at most."""

NEAR = 8
"""The number of neighbouring changes that a change is compared with."""

LEAST_REVISIONS = NEAR + 3
"""The revisions of a line below which no jump can be told: without its own change, another one must have its neighbours."""

LEAST = 0.05
"""Smaller changes are never reported: relative ones, or shares of the range of a quantity that is not positive throughout."""

_RANK = 5
_SHUFFLES = 999

Changes = Float[np.ndarray, "changes cells"]


def find_jumps(
    steps: Int[np.ndarray, " revisions"], scale: Float[np.ndarray, "revisions cells"], *, tests: int
) -> list[tuple[float, int, int]]:
    """The jumps of a line as (ratio, interval, cell), the greatest first.

    Args:
        steps: of the revisions, increasing.
        scale: the numbers as `scaled` gives them.
        tests: the number of changes that are tested in the whole store.
    """
    if len(steps) < LEAST_REVISIONS:
        return []
    ratio = np.minimum(*map(ratios, rates(steps, scale)))
    high = (ratio > threshold(tests)) & (np.abs(np.diff(scale, axis=0)) >= LEAST)
    found = [(float(ratio[place, cell]), place, cell) for place, cell in np.argwhere(high).tolist()]
    return sorted(found, reverse=True)


def count_changes(revisions: int, cells: int) -> int:
    """The number of changes that are tested."""
    return (revisions - 1) * cells if revisions >= LEAST_REVISIONS else 0


def ratios(changes: Changes) -> Changes:
    """The size of each change over the fifth smallest of the eight nearest."""
    size, count = np.abs(changes), len(changes)
    near = np.empty((count, NEAR), dtype=np.int64)
    for place in range(count):
        order = np.argsort(np.abs(np.arange(count) - place), kind="stable")
        near[place] = order[1 : NEAR + 1]
    typical = np.sort(size[near], axis=1)[:, _RANK - 1]
    floor = 1e-12 * np.maximum(size.max(axis=0), 1e-300)
    found: np.ndarray = size / np.maximum(typical, floor)
    return found


@cache
def threshold(tests: int, false_alarms: float = FALSE_ALARMS) -> float:
    """The ratio that independent changes exceed in any of that many tests with the given probability."""
    heights, chances = _tail()
    return float(np.exp(np.interp(-np.log(false_alarms / max(1, tests)), -np.log(chances), np.log(heights))))


def shuffled_rate(
    steps: Int[np.ndarray, " revisions"],
    column: Float[np.ndarray, " revisions"],
    *,
    tests: int,
    shuffles: int = _SHUFFLES,
) -> float:
    """The share of series of the line's own changes, shuffled without its jumps, in which the rule finds a jump."""
    limit = threshold(tests)
    jumps = {place for _, place, _ in find_jumps(steps, column[:, np.newaxis], tests=tests)}
    kept = np.array([place for place in range(len(steps) - 1) if place not in jumps])
    if len(kept) <= NEAR:
        return 1.0
    drawing = np.random.default_rng(SEED)
    changes = drawing.permuted(np.tile(np.diff(column)[kept], (shuffles, 1)), axis=1).T
    ratio = np.minimum(*(ratios(changes / clock[kept, np.newaxis]) for clock in clocks(steps)))
    alarms = ((ratio > limit) & (np.abs(changes) >= LEAST)).any(axis=0).sum()
    return float((1 + alarms) / (1 + shuffles))


@cache
def _tail() -> tuple[np.ndarray, np.ndarray]:
    """Ratios, and the chance that independent changes with the tails of Student's t of 4 degrees of freedom exceed each."""
    heights = np.geomspace(0.5, 1e6, 400)
    size = np.sinh(np.linspace(0, 18, 6001))[1:]
    below = 2 * _distribution(size) - 1
    weight = np.gradient(below) * below ** (_RANK - 1) * (1 - below) ** (NEAR - _RANK)
    weight /= weight.sum()
    chances = np.array([(weight * 2 * _upper(height * size)).sum() for height in heights])
    return heights, chances


def _distribution(t: np.ndarray) -> np.ndarray:
    return 1 - _upper(t)


def _upper(t: np.ndarray) -> np.ndarray:
    """P(T > t) of Student's t of 4 degrees of freedom, without cancellation for large t."""
    share = 4 / (4 + t**2)  # = 1 - sine squared
    sine = np.sqrt(1 - share)
    found: np.ndarray = 0.25 * (share / (1 + sine)) ** 2 * (2 + sine)
    return found
