"""The gradient noise scale: the batch, in tokens, at which a gradient and its noise are of one size.

    >>> gram = np.full((8, 8), 1.0) + 64 * np.eye(8)  # |G|² = 1; one window of 16 tokens has noise 64
    >>> found = noise_scale(gram.sum() / 64, np.diag(gram), np.full(8, 16), gram)
    >>> print(found.square, found.trace, found.scale)  # 64 * 16 tokens
    1.0 1024.0 1024.0

For windows w with gradients g_w of the mean loss over n_w tokens, E |g_w|² = |G|² + tr Σ / n_w. Numerator and denominator are
unbiased, and averaged apart. The bootstrap draws windows with replacement, and takes |G|² from pairs of different windows
alone, since a window that is drawn twice is no second sample of the noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from olmo_dynamics.quantities.declaration import Status

FEWEST_WINDOWS = 8
"""Windows below which no noise scale is given."""

_SAMPLES, _SEED = 1000, 0
_LEVELS = (0.025, 0.975)


@dataclass(frozen=True)
class NoiseScale:
    """|G|², tr Σ (of one token), their ratio in tokens with a 95 % interval, and a status."""

    square: float = math.nan
    trace: float = math.nan
    scale: float = math.nan
    low: float = math.nan
    high: float = math.nan
    status: Status = Status.NOT_MEASURED


def noise_scale(
    probe_square: float,
    squares: Float[np.ndarray, " windows"],
    tokens: Int[np.ndarray, " windows"],
    gram: Float[np.ndarray, "windows windows"],
) -> NoiseScale:
    """The noise scale from the squared norms of the probe's and of the windows' gradients.

    `gram` holds estimates of the products of two windows' gradients. They are shifted so that their sum is exact, and serve
    the interval alone.
    """
    if len(squares) < FEWEST_WINDOWS:
        return NoiseScale()
    if not (math.isfinite(probe_square) and np.isfinite(squares).all() and np.isfinite(gram).all()):
        return NoiseScale(status=Status.NONFINITE)
    n = tokens.astype(np.float64)
    pairs = np.outer(n, n) * ~np.eye(len(n), dtype=bool)
    between = n.sum() ** 2 * probe_square - (n**2 * squares).sum()
    square = between / pairs.sum()
    trace = (squares.mean() - square) / (1 / n).mean()
    exact = gram + (between - (pairs * gram).sum()) / pairs.sum()
    low, high = _interval(squares, n, pairs * exact, pairs)
    if square <= 0:
        return NoiseScale(square, trace, math.nan, low, high, Status.DEGENERATE)
    return NoiseScale(square, trace, trace / square, low, high, Status.MEASURED)


def _interval(
    squares: Float[np.ndarray, " windows"],
    n: Float[np.ndarray, " windows"],
    between: Float[np.ndarray, "windows windows"],
    pairs: Float[np.ndarray, "windows windows"],
) -> tuple[float, float]:
    """Quantiles of the ratio over samples of windows; infinite where |G|² is not positive."""
    windows = len(n)
    drawn = np.random.default_rng(_SEED).multinomial(windows, np.full(windows, 1 / windows), size=_SAMPLES)
    drawn = drawn[(drawn > 0).sum(axis=1) > 1].astype(np.float64)
    square = np.einsum("si,ij,sj->s", drawn, between, drawn) / np.einsum("si,ij,sj->s", drawn, pairs, drawn)
    trace = (drawn @ squares / windows - square) / (drawn @ (1 / n) / windows)
    ratio = np.full(len(drawn), math.inf)
    np.divide(trace, square, out=ratio, where=square > 0)
    low, high = np.quantile(ratio, _LEVELS, method="inverted_cdf")
    return float(low), float(high)
