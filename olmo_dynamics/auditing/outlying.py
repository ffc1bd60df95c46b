"""A test for steps out of line: values beyond both neighbours by more than the run's own scatter can explain.

The height of a value yᵢ (a logarithm) is min(|yᵢ - yᵢ₋₁|, |yᵢ - yᵢ₊₁|) where it lies beyond both neighbours on one side, else 0:
a trend of any slope has none. It is compared with the scatter σ of the series, from the residuals of every other value against
the line through its own neighbours in log step: the larger of a quartile over the whole series and a median nearby, since
training is noisier where the learning rate is high.

For independent noise with the tails of Student's t of 4 degrees of freedom, P(height > xσ) = 2 ∫ f(e) F(e - x)² de at most, as a
slope only lowers it. The threshold x makes the sum of these probabilities over all tested values `FALSE_ALARMS`. Besides, the
height must be at least `LEAST_HEIGHT`, so that what is found matters. Of neighbours, only the higher one is reported.

>>> round(threshold(10_000), 1)
48.8
>>> steps, values = np.arange(1, 41) * 1000, np.geomspace(2, 1, 40)[:, np.newaxis]
>>> values[20] *= 0.86  # another checkpoint's
>>> find_outlying(steps, values * np.random.default_rng(0).lognormal(0, 1e-3, (40, 1)), tests=38).tolist()
[[20, 0]]
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, Int

FALSE_ALARMS = 0.01
"""The probability of any alarm in an audit of a sound run, at most."""

LEAST_HEIGHT = 0.01
"""Heights below this share of the value are never reported."""

FEWEST = 12
"""Fewest revisions of a line whose scatter can be told."""

_NEARBY = range(
    2, 8
)  # places before and after whose residuals give the scatter nearby; their neighbours are not the value
_NORMAL_MEDIAN, _NORMAL_QUARTILE = (
    0.6745,
    1.1503,
)  # of the absolute value of a standard normal number: at 0.5, and at 0.75
_LEAST_SCATTER = 1e-12  # of weights that do not move at all

Matrix = Float[np.ndarray, "revisions series"]


def find_outlying(
    steps: Int[np.ndarray, " revisions"], values: Matrix, *, tests: int, false_alarms: float = FALSE_ALARMS
) -> Int[np.ndarray, "found 2"]:
    """The places (revision, series) out of line with both neighbours.

    Args:
        steps: of the revisions of one line, increasing.
        values: positive numbers, one series per column.
        tests: the number of values that are tested in the whole audit.
        false_alarms: the probability of any alarm in an audit of a sound run.
    """
    if len(steps) < FEWEST:
        return np.empty((0, 2), dtype=np.int64)
    logs = np.log(values)
    height, residual = _heights(logs), _residuals(np.log1p(steps.astype(np.float64)), logs)
    outlying = (height > threshold(tests, false_alarms) * _scatter(residual)) & (height >= LEAST_HEIGHT)
    found: np.ndarray = np.argwhere(outlying & ~_beside_a_higher(np.where(outlying, height, 0))) + np.array([1, 0])
    return found


def count_tests(values: Matrix) -> int:
    """The number of values that have two neighbours, and enough others for the scatter."""
    return max(0, len(values) - 2) * values.shape[1] if len(values) >= FEWEST else 0


def threshold(tests: int, false_alarms: float = FALSE_ALARMS) -> float:
    """The height in units of the scatter that noise exceeds in any of that many tests with the given probability."""
    heights, chances = _tail()
    wanted = np.log(false_alarms / max(1, tests))
    return float(np.exp(np.interp(-wanted, -np.log(chances), np.log(heights))))


@cache
def _tail() -> tuple[np.ndarray, np.ndarray]:
    """Heights, and the chance that noise with the tails of Student's t of 4 degrees of freedom exceeds each."""
    heights = np.geomspace(0.5, 1e5, 400)
    spread = np.linspace(-18.0, 18.0, 6001)
    noise = np.sinh(spread)  # dense near 0, and out to 3e7
    weight = _density(noise) * np.cosh(spread) * (spread[1] - spread[0])
    chances = np.array([2 * (weight * _distribution(noise - height) ** 2).sum() for height in heights])
    return heights, chances


def _density(t: np.ndarray) -> np.ndarray:
    found: np.ndarray = 0.375 * (1 + t**2 / 4) ** -2.5
    return found


def _distribution(t: np.ndarray) -> np.ndarray:
    scaled = t / np.sqrt(1 + t**2 / 4)
    found: np.ndarray = 0.5 + 0.375 * scaled * (1 - scaled**2 / 12)
    return found


def _heights(logs: Matrix) -> Matrix:
    before, after = logs[1:-1] - logs[:-2], logs[1:-1] - logs[2:]
    return np.where(before * after > 0, np.minimum(np.abs(before), np.abs(after)), 0.0)


def _beside_a_higher(height: Matrix) -> Bool[np.ndarray, "revisions series"]:
    """True next to a greater height: a sound value lies beyond both neighbours where one of them is out of line."""
    padded = np.pad(height, ((1, 1), (0, 0)))
    found: np.ndarray = np.maximum(padded[:-2], padded[2:]) > height
    return found


def _residuals(place: Float[np.ndarray, " revisions"], logs: Matrix) -> Matrix:
    """Distances from the line through both neighbours, in units of the noise of one value."""
    share = ((place[1:-1] - place[:-2]) / (place[2:] - place[:-2]))[:, np.newaxis]
    line = (1 - share) * logs[:-2] + share * logs[2:]
    found: np.ndarray = np.abs(logs[1:-1] - line) / np.sqrt(1 + (1 - share) ** 2 + share**2)
    return found


def _scatter(residual: Matrix) -> Matrix:
    """The scatter around each value: the larger of that of the whole series and that nearby, without the value's own part."""
    count = len(residual)
    own = np.abs(np.arange(count)[:, np.newaxis] - np.arange(count)) <= 1
    overall = [np.quantile(residual[~near], 0.75, axis=0) for near in own]
    offsets = np.array([*(-step for step in _NEARBY), *_NEARBY])
    around = np.arange(count)[:, np.newaxis] + offsets
    inside: Bool[np.ndarray, "values offsets"] = (around >= 0) & (around < count)
    nearby = np.where(inside[..., np.newaxis], residual[np.clip(around, 0, count - 1)], np.nan)
    local = np.nanmedian(nearby, axis=1)
    return np.maximum(np.maximum(np.array(overall) / _NORMAL_QUARTILE, local / _NORMAL_MEDIAN), _LEAST_SCATTER)
