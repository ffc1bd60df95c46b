"""The largest singular values of a large matrix, each with a bound, by Lanczos steps with a block of vectors.

    >>> import torch
    >>> wide = torch.diag(torch.linspace(1, 0, 600))
    >>> found = largest_singular_values(ScaledMatrix.of(wide, abs_max=1.0), frobenius=14.2, seed=0)
    >>> abs(float(found.values[0]) - 1) < 1e-6, bool(found.bounds[0] < 1e-3), bool(1 < found.limit < 1.2)
    (True, True, True)

Golub, Luk and Overton 1981 (doi:10.1145/355945.355946): G = W^T W is applied to a block of vectors again and again, each new
block is made orthogonal to all before it, and singular values of W are found on their span. Two statements are then proven in
float64, for a unit vector v with s = ‖W v‖: the largest singular value is at least s, and some singular value lies within
‖W^T W v - s² v‖ / s of s.

That no larger one was missed holds with a probability. Some of the first vectors g are random. For a polynomial p, ‖p(G) g‖ is at
least p(σ₁²) |g·v₁|, and of four Gaussian numbers g·v₁ one exceeds 0.223 with probability 99.9 %. The norm is known from the
span, so σ₁ is below the point where p reaches ‖p(G) g‖ / 0.223; the best of several Chebyshev polynomials is taken
(after Hochstenbach 2013, doi:10.1007/s10543-013-0427-6).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from olmo_dynamics.recorders.kernels.gram_products import ScaledMatrix

FRESH = 4
"""Random vectors of every first block."""

CONFIDENCE = 0.999
"""The probability that the largest singular value lies below `Leading.limit`."""

TOLERANCE = 1e-3
"""The largest relative bound of the largest singular value; steps go on until half of it is met."""

RANK_TOLERANCE = 1e-2
"""The largest relative bound of every other singular value that is given."""

_LOOSENESS = 1.2  # the limit, over the value found, at which random vectors have done enough
MOST_VECTORS = 480  # of the span; matrices with fewer rows or columns are decomposed in full
_ENDS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0, 1.02])  # of Chebyshev's interval
_OVERLAP = NormalDist().inv_cdf(
    (1 + (1 - CONFIDENCE) ** (1 / FRESH)) / 2
)  # exceeded by the largest of FRESH Gaussian numbers
_CLEANINGS = 6  # at most; twice is enough, unless the matrix has so low a rank that rounding makes up new vectors
_ORTHOGONAL = 1e-12
_ROUNDING = 1e-5  # relative, of products in float32


@dataclass(frozen=True)
class Leading:
    """The largest singular values, descending, each with its bound, and right singular vectors for a later start.

    `values[0]` is at most the largest singular value, `limit` above it with probability `CONFIDENCE`.
    """

    values: Float[np.ndarray, " some"]
    bounds: Float[np.ndarray, " some"]
    limit: float
    vectors: Float[np.ndarray, "columns some"]


def largest_singular_values(
    matrix: ScaledMatrix,
    *,
    frobenius: float,
    seed: int,
    count: int = 1,
    near: Float[np.ndarray, "columns some"] | None = None,
    width: int = 2,
) -> Leading:
    """Find singular values of a matrix of which each side is longer than 480.

    Steps with random vectors alone go on until the limit is within 20 % of the value found. Vectors near the answer then join
    the span, and residuals of the values that are not yet close, until all are.

    Args:
        matrix: the matrix.
        frobenius: its Frobenius norm, in the units of its elements.
        seed: chooses the random vectors.
        count: how many values to find.
        near: vectors near the right singular vectors, which save steps.
        width: residuals that join the span at a time.
    """
    fresh = np.random.default_rng(seed).standard_normal((matrix.shape[1], FRESH))
    span = _Span(matrix, fresh)
    limit = span.limit(fresh)
    while limit > _LOOSENESS * np.sqrt(span.squares[-1]) and span.extend(span.images[:, -FRESH:]):
        limit = min(limit, span.limit(fresh))
    fits = near is not None and len(near) == len(fresh) and bool(np.isfinite(near).all())
    if near is not None and fits and not span.is_close(count):
        span.extend(near)
    while not span.is_close(count) and span.extend(span.residuals(count, width)):
        pass
    return _proven(matrix, span, limit, count=count, keep=max(count, width), frobenius=frobenius)


class _Span:
    """An orthonormal basis, its products with G, and the projection of G on it."""

    def __init__(self, matrix: ScaledMatrix, start: np.ndarray) -> None:
        self._matrix = matrix
        columns = len(start)
        self.basis = np.empty((columns, 0))
        self.images = np.empty((columns, 0))
        self._projected: np.ndarray = np.empty((0, 0))
        self._add(np.linalg.qr(start)[0])

    def extend(self, block: np.ndarray) -> bool:
        """Add vectors; False if the span is as large as it may be."""
        if self.basis.shape[1] + block.shape[1] > min(MOST_VECTORS, len(self.basis)):
            return False
        block = np.linalg.qr(block)[0]
        for _ in range(_CLEANINGS):
            overlap = self.basis.T @ block
            block = np.linalg.qr(block - self.basis @ overlap)[0]
            if np.abs(overlap).max() < _ORTHOGONAL:
                break
        self._add(block)
        return True

    def residuals(self, count: int, width: int) -> Float[np.ndarray, "columns some"]:
        """G v - s² v of the largest values that are not close, of at least `width` values."""
        errors, allowed = self._errors(max(count, width))
        open_ = np.flatnonzero(np.linalg.norm(errors, axis=0) > allowed)[:width]
        return errors[:, open_] if len(open_) == width else errors[:, :width]

    def is_close(self, count: int) -> bool:
        """True if the largest values are as near to singular values as they must be, by float32 products."""
        if self.basis.shape[1] < 2 * count:
            return False
        errors, allowed = self._errors(count)
        return bool((np.linalg.norm(errors, axis=0) <= allowed).all())

    def limit(self, fresh: np.ndarray) -> float:
        """The number below which the largest singular value lies with the stated probability; of steps of `fresh` alone."""
        degree = self.basis.shape[1] // FRESH - 1
        if not degree or self.squares[-1] <= 0:
            return np.inf
        parts = self.turns.T @ (self.basis.T @ fresh)
        best = min(_crossing(self.squares, parts, end * self.squares[-1], degree) for end in _ENDS)
        return float(np.sqrt(best) * (1 + _ROUNDING))

    def _errors(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The residuals of the largest values, and the norms that they may have."""
        turns, squares = self.turns[:, : -count - 1 : -1], self.squares[: -count - 1 : -1]
        allowed = np.full(len(squares), RANK_TOLERANCE)
        allowed[0] = TOLERANCE
        errors = self.images @ turns - self.basis @ turns * squares
        return errors, allowed / 2 * squares + _ROUNDING / 2 * squares[0]

    def _add(self, block: np.ndarray) -> None:
        image = self._matrix.times_gram(block)
        self.basis = np.hstack([self.basis, block])
        self.images = np.hstack([self.images, image])
        new = self.basis.T @ image
        held = len(self._projected)
        whole = np.empty((self.basis.shape[1],) * 2)
        whole[:held, :held] = self._projected
        whole[:, held:] = new
        whole[held:, :held] = new[:held].T
        self._projected = whole
        self.squares, self.turns = np.linalg.eigh((whole + whole.T) / 2)


def _crossing(squares: np.ndarray, parts: np.ndarray, end: float, degree: int) -> float:
    """The point where Chebyshev's polynomial on [0, end] reaches ‖p(G) g‖ / overlap, of the g with the largest norm."""
    at = 2 * squares / end - 1
    outside = np.abs(at) > 1
    growth = np.where(outside, np.arccosh(np.maximum(np.abs(at), 1)) * degree, 0.0)
    inside = np.cos(np.arccos(np.clip(at, -1, 1)) * degree)
    most = growth.max()
    heights = np.where(outside, (np.exp(growth - most) + np.exp(-growth - most)) / 2, np.abs(inside) * np.exp(-most))
    reached = most + np.log(np.linalg.norm(heights[:, None] * parts, axis=0).max() / _OVERLAP)
    height = max(reached, 0.0)  # arccosh(exp(height)), in a form that cannot overflow
    angle = (height + np.log1p(np.sqrt(-np.expm1(-2 * height)))) / degree
    return float(end * (np.cosh(angle) + 1) / 2)


def _proven(matrix: ScaledMatrix, span: _Span, limit: float, *, count: int, keep: int, frobenius: float) -> Leading:
    """Values and bounds in float64, less what its rounding may amount to."""
    kept = span.basis @ span.turns[:, : -keep - 1 : -1]
    vectors = kept[:, :count] / np.linalg.norm(kept[:, :count], axis=0)
    images, squares = matrix.exact_products(vectors)
    values = np.sqrt(squares)
    errors = np.linalg.norm(images - vectors * squares, axis=0) / np.maximum(values, np.finfo(float).tiny)
    unit, rounding = matrix.unit, sum(matrix.shape) * np.finfo(float).eps * frobenius
    return Leading(
        np.maximum(values * unit - rounding, 0.0),
        errors * unit + 2 * rounding,
        max(limit, values[0] * (1 + _ROUNDING)) * unit,
        kept.astype(np.float32),
    )
