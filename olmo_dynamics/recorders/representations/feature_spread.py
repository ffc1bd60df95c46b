"""The spread of tokens over the features of a layer: dimensions in use, and the alignment of directions.

    >>> vectors = torch.eye(4, dtype=torch.float64)
    >>> round(rank_me(singular_values(vectors)), 3), round(anisotropy(vectors), 3)
    (4.0, 0.0)

Everything is computed in float64, from the smaller of the two Gram matrices: of tokens, or of features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from olmo_dynamics.recorders.kernels.moments import ratio

EIGENVALUES = 64
"""The number of largest eigenvalues that are kept."""

MASSIVE_RATIO = 10.0
"""A feature is massive where its RMS exceeds so many times the median RMS of features."""

_RANK_ME_EPS = 1e-7


def spread(vectors: Float[Tensor, "tokens width"]) -> dict[str, object]:
    """Every number of the group `representations` that tells how tokens are spread, by name."""
    doubles = vectors.double()
    covariance = centred_eigenvalues(doubles)
    return {
        "rank_me": rank_me(singular_values(doubles)),
        "participation_ratio": ratio(float(covariance.sum()) ** 2, float((covariance**2).sum())),
        "eigenvalue": largest(covariance, doubles.shape[1]),
        "anisotropy": anisotropy(doubles),
        "anisotropy_without_massive": anisotropy(doubles[:, ~is_massive(doubles)]),
    }


def singular_values(vectors: Float64[Tensor, "tokens width"]) -> Float64[np.ndarray, " rank"]:
    """All singular values, ascending."""
    found: np.ndarray = np.sqrt(_squared_singular_values(vectors))
    return found


def centred_eigenvalues(vectors: Float64[Tensor, "tokens width"]) -> Float64[np.ndarray, " rank"]:
    """The eigenvalues of the features' covariance over N - 1, ascending; those beyond the number of tokens are 0."""
    found: np.ndarray = _squared_singular_values(vectors - vectors.mean(dim=0)) / max(len(vectors) - 1, 1)
    return found


def rank_me(singular: Float64[np.ndarray, " rank"]) -> float:
    """exp of the entropy of p = s / Σs + 1e-7; NaN if all singular values are 0."""
    total = singular.sum()
    if total == 0:
        return math.nan
    shares = singular / total + _RANK_ME_EPS
    return float(np.exp(-(shares * np.log(shares)).sum()))


def largest(eigenvalues: Float64[np.ndarray, " rank"], width: int) -> Float64[np.ndarray, " ranks"]:
    """The largest eigenvalues, descending; of a covariance of fewer features, NaN behind its own."""
    found = np.full(EIGENVALUES, math.nan)
    found[: min(width, EIGENVALUES)] = 0
    top = eigenvalues[::-1][:EIGENVALUES]
    found[: len(top)] = top
    return found


def anisotropy(vectors: Float64[Tensor, "tokens width"]) -> float:
    """The mean cosine of two different tokens; NaN of fewer than two, or if a vector is 0."""
    tokens, norms = len(vectors), vectors.norm(dim=1, keepdim=True)
    if tokens < 2 or bool((norms == 0).any()):
        return math.nan
    together = float(((vectors / norms).sum(dim=0) ** 2).sum())
    return (together - tokens) / (tokens * (tokens - 1))


def is_massive(vectors: Float64[Tensor, "tokens width"]) -> Bool[Tensor, " width"]:
    """True for the features whose RMS exceeds 10 times the median, of an even number the mean of the middle two."""
    rms = (vectors**2).mean(dim=0).sqrt()
    massive: Tensor = rms > MASSIVE_RATIO * float(np.median(rms.cpu().numpy()))
    return massive


def _squared_singular_values(vectors: Float64[Tensor, "tokens width"]) -> Float64[np.ndarray, " rank"]:
    tokens, width = vectors.shape
    gram = vectors @ vectors.T if tokens <= width else vectors.T @ vectors
    found: np.ndarray = np.maximum(torch.linalg.eigvalsh(gram).cpu().numpy(), 0)
    return found
