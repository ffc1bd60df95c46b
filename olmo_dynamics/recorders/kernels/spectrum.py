"""All singular values of a matrix in float64, and what follows from them.

    >>> found = all_singular_values(ScaledMatrix.of(torch.diag(torch.tensor([1.0, 2.0, 2.0])), abs_max=2.0), frobenius=3.0)
    >>> found.values
    array([2., 2., 1.])
    >>> stable_rank(found.values), round(effective_rank(found.values), 6)
    (2.25, 2.871746)

A matrix with a side of at most 512 is reduced by QR to a square one, block after block, and decomposed: its values are right to
float64 rounding of the largest. Of a larger one the eigenvalues of the Gram matrix are taken, which costs half the digits of
the small values: a value of 1e-4 of the largest is known to about 1e-7 of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.recorders.kernels.gram_products import ScaledMatrix

FULL_SIDE = 512
"""A matrix with a side of at most this is always decomposed in full."""

_BLOCK = 8  # rows of a block, in multiples of the shorter side
_GRAM_BLOCK = 1024  # rows of a block whose part of the Gram matrix is added up


@dataclass(frozen=True)
class Spectrum:
    """All singular values, descending, and a bound on the rounding of each."""

    values: Float[np.ndarray, " rank"]
    bounds: Float[np.ndarray, " rank"]

    @property
    def above_rounding(self) -> Float[np.ndarray, " some"]:
        """The values that are larger than their bound: the others may be zero."""
        return self.values[self.values > self.bounds]


@dataclass(frozen=True)
class PowerLaw:
    """A power law fitted to the largest eigenvalues: its exponent, their number, and the Kolmogorov-Smirnov distance."""

    exponent: float
    count: float
    distance: float


def all_singular_values(matrix: ScaledMatrix, *, frobenius: float) -> Spectrum:
    """Every singular value, in the units of the matrix's elements; `frobenius` is its norm in these units."""
    rounding = sum(matrix.shape) * np.finfo(float).eps * frobenius
    if min(matrix.shape) <= FULL_SIDE:
        values = matrix.unit * torch.linalg.svdvals(_triangle(matrix)).numpy()
        return Spectrum(values, np.full(len(values), rounding))
    squares = torch.linalg.eigvalsh(_gram(matrix)).numpy()[::-1]
    values = matrix.unit * np.sqrt(np.maximum(squares, 0))
    with np.errstate(divide="ignore"):
        bounds = np.minimum(rounding * frobenius / values, np.sqrt(rounding * frobenius))
    return Spectrum(values, bounds)


def stable_rank(values: Float[np.ndarray, " rank"]) -> float:
    """The sum of squares over the largest square, of descending values; NaN if all are zero."""
    return float((_relative(values) ** 2).sum())


def participation_ratio(values: Float[np.ndarray, " rank"]) -> float:
    """(sum of s**2)**2 / sum of s**4, of descending values; NaN if all are zero."""
    squares = _relative(values) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def effective_rank(values: Float[np.ndarray, " rank"]) -> float:
    """The exponential of the entropy of s / sum(s), of descending values; NaN if all are zero."""
    shares = _relative(values) / _relative(values).sum()
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    return float(np.exp(-(shares * logs).sum()))


def fit_tail(eigenvalues: Float[np.ndarray, " rank"]) -> PowerLaw:
    """The power law p(λ) ~ λ^-α above the λ_min among the eigenvalues that gives the least distance; NaN if there is none.

    α = 1 + n / Σ ln(λ / λ_min) over the n eigenvalues from λ_min on (Clauset et al. 2009, doi:10.1137/070710111).
    """
    logs = np.log(np.sort(eigenvalues[eigenvalues > 0]))
    best = PowerLaw(np.nan, np.nan, np.nan)
    for first in range(len(logs) - 1):
        above = logs[first:] - logs[first]
        count, total = len(above), above.sum()
        if total <= 0:
            break
        distance = float(np.abs(-np.expm1(-above * count / total) - np.arange(count) / count).max())
        if not distance >= best.distance:
            best = PowerLaw(1 + count / total, float(count), distance)
    return best


def _relative(values: np.ndarray) -> np.ndarray:
    """Descending values over the first."""
    return values / values[0] if values[0] > 0 else np.full(len(values), np.nan)


def _triangle(matrix: ScaledMatrix) -> Float[Tensor, "rows side"]:
    """A matrix of float64 with the same singular values and not many more rows than columns: R of W = QR, block by block."""
    transposed = matrix.shape[0] < matrix.shape[1]
    found = torch.empty(0, min(matrix.shape), dtype=torch.float64)
    for block in matrix.blocks(rows=_BLOCK * min(matrix.shape), transposed=transposed):
        stacked = torch.cat([found, block])
        found = torch.linalg.qr(stacked, mode="r")[1] if len(stacked) > 2 * stacked.shape[1] else stacked
    return found


def _gram(matrix: ScaledMatrix) -> Float[Tensor, "side side"]:
    """W^T W, or W W^T where it is smaller, in float64."""
    side = min(matrix.shape)
    found = torch.zeros(side, side, dtype=torch.float64)
    for block in matrix.blocks(rows=_GRAM_BLOCK, transposed=matrix.shape[0] < matrix.shape[1]):
        found.addmm_(block.T, block)
    return found
