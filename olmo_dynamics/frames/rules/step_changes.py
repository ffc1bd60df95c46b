"""The changes of a quantity from one revision to the next, on two clocks: steps, and the logarithm of steps.

A rule that must hold on both clocks finds neither the early haste of training, which is steady in log steps, nor growth that is
steady in steps.

>>> import numpy as np
>>> steps = np.array([0, 1, 3, 7])
>>> [rate.ravel().round(2).tolist() for rate in rates(steps, np.log1p(steps)[:, np.newaxis])]
[[0.69, 0.35, 0.17], [1.0, 1.0, 1.0]]
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

SEED = 20241002
"""The seed of every shuffle, so that findings are the same each time."""

Matrix = Float[np.ndarray, "revisions cells"]


def scaled(values: Matrix) -> Matrix:
    """Logarithms of columns whose values are all positive, the others divided by their range; constant columns are 0."""
    positive = (values > 0).all(axis=0)
    spread = values.max(axis=0) - values.min(axis=0)
    plain = (values - values[0]) / np.where(spread > 0, spread, 1.0)
    return np.where(positive, np.log(np.where(positive, values, 1.0)), plain)


def clocks(steps: Int[np.ndarray, " revisions"]) -> tuple[np.ndarray, np.ndarray]:
    """The time between neighbouring revisions in steps and in log(1 + step)."""
    plain = steps.astype(np.float64)
    return np.diff(plain), np.diff(np.log1p(plain))


def rates(steps: Int[np.ndarray, " revisions"], scale: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """The change per unit of each clock between neighbouring revisions, [revisions - 1, cells]."""
    change = np.diff(scale, axis=0)
    by_step, by_log = clocks(steps)
    return change / by_step[:, np.newaxis], change / by_log[:, np.newaxis]


def moving(scale: Matrix) -> Bool[np.ndarray, " cells"]:
    """True for columns that change by more than rounding."""
    spread = scale.max(axis=0) - scale.min(axis=0)
    found: np.ndarray = spread > 1e-9 * np.maximum(1.0, np.abs(scale).max(axis=0))
    return found
