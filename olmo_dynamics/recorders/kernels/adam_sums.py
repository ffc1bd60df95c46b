"""Sums over the two moments of AdamW: what follows from them is the size of the update, and of its parts.

    >>> first, second = torch.tensor([0.1, -0.2]), torch.tensor([0.01, 0.04])
    >>> sums = adam_sums(first, second, Correction(beta1=0.0, beta2=0.0, eps=0.0, step=1))
    >>> round(sums.update_squares, 6), sums.dominated  # each element of m / sqrt(v) is 1 or -1
    (2.0, 0)

Sums are taken in float64, whatever the stored dtype, by pieces that depend on the tensor's size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.recorders.kernels.jit import jit

PIECE = 1 << 21
"""Elements that are added up by one thread at a time."""

Run = Callable[[Callable[[slice], "AdamSums"], Iterable[slice]], Iterable["AdamSums"]]
"""Calls a function for each piece and gives the results in order: `map`, or that of a pool of threads."""


@dataclass(frozen=True)
class Correction:
    """AdamW's constants after `step` updates; a step frozen at 0, as in early SkipStepAdamW, counts as 1."""

    beta1: float
    beta2: float
    eps: float
    step: float

    @property
    def first(self) -> float:
        """`1 - beta1**step`, by which the first moment is divided."""
        return float(1 - self.beta1 ** max(self.step, 1.0))

    @property
    def second(self) -> float:
        """`1 - beta2**step`, by which the second moment is divided."""
        return float(1 - self.beta2 ** max(self.step, 1.0))


class AdamSums(NamedTuple):
    """Sums over elements, with the moments m and v as they are stored, and m̂ and v̂ as they are corrected.

    `first_squares` of m², `second_sum` of v, `update_squares` of (m̂ / (√v̂ + ε))²; `dominated` counts √v̂ < ε.
    """

    first_squares: float
    second_sum: float
    update_squares: float
    dominated: int


def adam_sums(first: Tensor, second: Tensor | None, correction: Correction | None, run: Run = map) -> AdamSums:
    """The sums of one tensor; those that need a second moment or the constants are NaN and -1 where these are unknown."""
    pieces = [slice(start, start + PIECE) for start in range(0, first.numel(), PIECE)]
    flat = first.reshape(-1), None if second is None else second.reshape(-1)
    parts = list(run(partial(_piece_sums, *flat, correction), pieces))
    known = second is not None and correction is not None
    return AdamSums(
        sum(part.first_squares for part in parts),
        sum(part.second_sum for part in parts),
        sum(part.update_squares for part in parts),
        sum(part.dominated for part in parts) if known else -1,
    )


def _piece_sums(first: Tensor, second: Tensor | None, correction: Correction | None, piece: slice) -> AdamSums:
    m = _floats(first[piece])
    if second is None:
        return AdamSums(_square_sum(m), np.nan, np.nan, 0)
    v = _floats(second[piece])
    if correction is None:
        return AdamSums(_square_sum(m), float(v.sum(dtype=np.float64)), np.nan, 0)
    return AdamSums(*_sums(m, v, correction.first, correction.second, correction.eps))


def _floats(values: Tensor) -> Float[np.ndarray, " elements"]:
    """The numbers as float32, or float64 where they are."""
    plain: np.ndarray = (values if values.dtype == torch.float64 else values.float()).contiguous().numpy()
    found = plain.view()
    found.flags.writeable = False  # so that one compiled version serves mapped files too
    return found


@jit
def _square_sum(m: Float[np.ndarray, " elements"]) -> float:
    total = 0.0
    for place in range(len(m)):
        value = np.float64(m[place])
        total += value * value
    return total


@jit
def _sums(
    m: Float[np.ndarray, " elements"], v: Float[np.ndarray, " elements"], first: float, second: float, eps: float
) -> tuple[float, float, float, int]:
    squares, total, updates, dominated = 0.0, 0.0, 0.0, 0
    for place in range(len(m)):
        mean, square = np.float64(m[place]), np.float64(v[place])
        root = np.sqrt(square / second)
        update = mean / first / (root + eps)
        squares += mean * mean
        total += square
        updates += update * update
        dominated += 1 if root < eps else 0
    return squares, total, updates, dominated
