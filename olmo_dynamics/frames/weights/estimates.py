"""Distances, cosines and angles from sketches, each with its standard error; of single tensors, or of several as one vector.

>>> first, second = np.ones((2, 64)), np.ones((2, 64)) * 2
>>> estimates(first, second, spread(np.array([64, 64]), 64))["distance"]
array([8., 8.])

A tensor of n > size elements is known by random sums alone, so every number has a standard error. For k components, Gram
matrix G of the vectors involved and a quadratic form x' M x of them, the variance is 2 tr(M G M G) / k, times
1 - sum over blocks of n_b² / n², since elements of one block never meet. Signs of different tensors are independent, so the
variances of their parts of one vector add up.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int64

CONCENTRATED_BELOW = 64
"""Participation ratio, (sum x²)² / sum x⁴, below which a 95 % interval may hold less than 93 % of the time."""

_SMALL_PART = 0.1  # of a group's variance; concentrated tensors may have as much

Matrix = Float[np.ndarray, "tensor component"]
PerTensor = Float[np.ndarray, " tensor"]
PerGroup = Float[np.ndarray, " group"]
Places = Int64[np.ndarray, " tensor"]


def spread(counts: np.ndarray, size: int) -> PerTensor:
    """By number of elements n: 1 - sum over blocks of n_b² / n² with blocks of `size`, and 0 for n <= size."""
    full, rest = np.divmod(counts.astype(np.float64), size)
    inside = (full * size**2 + rest**2) / np.maximum(counts.astype(np.float64), 1) ** 2
    return np.where(counts > size, 1 - inside, 0.0)


def estimates(first: Matrix, second: Matrix, spread: PerTensor, groups: Places | None = None) -> dict[str, PerGroup]:
    """By tensor, with `_se` for each: `distance` ‖b - a‖, `relative` ‖b - a‖ / ‖a‖, `cosine` and `angle` between a and b.

    With `groups`, the place of each tensor's group, the tensors of a group are one long vector. A ratio whose denominator is
    0 is NaN. The angle, in radians, is 2 atan2(‖u - v‖, ‖u + v‖) of the unit vectors: unlike an arc cosine, it keeps its
    digits where it is small.
    """
    pair = _Pair(first, second, spread, np.arange(len(first)) if groups is None else groups)
    distance = pair.norm(second - first)
    relative = distance / _or_nan(pair.norm(first))
    cosine, angle = pair.directions
    angle_se = np.abs(np.sin(angle)) / 2 * pair.error_of_ratio(*pair.apart_and_together)
    return {
        "distance": distance,
        "distance_se": distance / 2 * pair.error_of_square(second - first),
        "relative": relative,
        "relative_se": relative / 2 * pair.error_of_ratio(second - first, first),
        "cosine": cosine,
        "cosine_se": np.abs(np.sin(angle)) * angle_se,
        "angle": angle,
        "angle_se": angle_se,
    }


def cosines(
    first: Matrix, second: Matrix, spread: PerTensor, groups: Places | None = None
) -> tuple[PerGroup, PerGroup]:
    """The cosine of each pair of vectors, and its standard error; NaN where a vector is 0."""
    found = estimates(first, second, spread, groups)
    return found["cosine"], found["cosine_se"]


class _Pair:
    """Two sets of sketches, with the sums that their groups need."""

    def __init__(self, first: Matrix, second: Matrix, spread: PerTensor, groups: Places) -> None:
        self._groups, self._count = groups, int(groups.max(initial=-1)) + 1
        self._variance = 2 * spread / first.shape[1]
        u, v = self.unit(first), self.unit(second)
        self.apart_and_together = (u - v, u + v)
        apart, together = map(self.norm, self.apart_and_together)
        self.directions = 1 - apart**2 / 2, 2 * np.arctan2(apart, together)

    def norm(self, vectors: Matrix) -> PerGroup:
        """The norm of each group's vector."""
        norm: np.ndarray = np.sqrt(self._sums((vectors**2).sum(axis=1)))
        return norm

    def unit(self, vectors: Matrix) -> Matrix:
        """The vectors over the norm of their group's; NaN where that is 0."""
        unit: np.ndarray = vectors / _or_nan(self.norm(vectors))[self._groups, np.newaxis]
        return unit

    def error_of_square(self, vectors: Matrix) -> PerGroup:
        """The relative standard error of each group's squared norm; 0 for a vector of 0."""
        shares = (np.nan_to_num(self.unit(vectors)) ** 2).sum(axis=1)
        error: np.ndarray = np.sqrt(self._sums(self._variance * shares**2))
        return error

    def error_of_ratio(self, above: Matrix, below: Matrix) -> PerGroup:
        """The relative standard error of the ratio of two squared norms; a vector of 0 has no part in it."""
        a, b = np.nan_to_num(self.unit(above)), np.nan_to_num(self.unit(below))
        aa, bb, ab = (np.einsum("tk,tk->t", x, y) for x, y in ((a, a), (b, b), (a, b)))
        error: np.ndarray = np.sqrt(self._sums(self._variance * np.maximum(aa**2 + bb**2 - 2 * ab**2, 0)))
        return error

    def _sums(self, values: PerTensor) -> PerGroup:
        sums: np.ndarray = np.bincount(self._groups, values, self._count)
        return sums


def concentrated(vectors: Matrix, spread: PerTensor, groups: Places | None = None) -> Bool[np.ndarray, " group"]:
    """True where so few elements hold the mass of a sketched vector that its intervals are not to be trusted.

    The fourth standardised moment of the components is 3 + size / participation ratio. Of a group of tensors it is true where
    such tensors have more than a tenth of the variance of its squared norm.
    """
    size = vectors.shape[1]
    squares = (vectors**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = size * (vectors**4).sum(axis=1) / squares**2 - 3
    few: np.ndarray = np.nan_to_num(excess) * (spread > 0) > size / CONCENTRATED_BELOW
    if groups is None:
        return few
    variance = np.nan_to_num(spread * squares**2)
    found: np.ndarray = np.bincount(groups, variance * few) > _SMALL_PART * np.bincount(groups, variance)
    return found


def _or_nan(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)
