"""Sums over the vocabulary for each token, to which slices of its logits are added as they come.

    >>> import torch
    >>> sums = LogitSums.zeros((1,), tokenizer_size=3)
    >>> for start in (0, 2):
    ...     sums.add(torch.zeros(1, 2), np.array([1]), first_column=start)
    >>> round(float(sums.measured()[CROSS_ENTROPY, 0]), 9)  # ln 4: the fourth column is padding
    1.386294361

Softmax sums are shifted by the largest logit so far and brought to a new shift where a larger one appears (Milakov and
Gimelshein 2018, arXiv:1805.02867). Elements are float32 (float64 is accepted), sums float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from olmo_dynamics.recorders.kernels.jit import jit

CROSS_ENTROPY = 5
"""Index into the numbers measured of a token."""

_SLICE_ELEMENTS = 1 << 19  # logits handled at a time: 2 MiB of float32 stay in the cache

_KNOWN, _PADDING, _MOMENTS, _CHOSEN = slice(0, 3), slice(3, 6), slice(6, 9), 9
_SHIFT, _TOTAL, _EXPECTED = range(3)
_COUNT, _MEAN, _SQUARES = range(3)


@dataclass(frozen=True)
class LogitSums:
    """Ten numbers per token: softmax sums over the tokenizer's columns, over the padding, moments, the target's logit."""

    state: Float[np.ndarray, "*tokens 10"]
    tokenizer_size: int

    @classmethod
    def zeros(cls, shape: tuple[int, ...], *, tokenizer_size: int) -> LogitSums:
        """The sums of tokens of which no column has been seen."""
        return cls(np.zeros((*shape, 10)), tokenizer_size)

    @property
    def columns(self) -> Float[np.ndarray, " *tokens"]:
        """The number of columns seen of each token."""
        return self.state[..., _MOMENTS][..., _COUNT]

    def add(
        self,
        logits: Float[Tensor, "tokens columns"],
        targets: Int64[np.ndarray, " tokens"],
        first_column: int,
    ) -> None:
        """Add one slice of the logits of as many tokens; targets are the ids of the tokens that come next."""
        at_once = max(1, _SLICE_ELEMENTS // logits.shape[1])
        for start in range(0, len(logits), at_once):
            tokens = slice(start, start + at_once)
            part = logits[tokens].cpu()
            part = part.to(torch.promote_types(part.dtype, torch.float32))
            self._add_sums(part, self.state[tokens], self.tokenizer_size - first_column)
            self._choose(part, targets[tokens] - first_column, self.state[tokens])

    @staticmethod
    def _add_sums(logits: Float[Tensor, "tokens columns"], state: Float[np.ndarray, "tokens 10"], known: int) -> None:
        known = min(max(known, 0), logits.shape[1])
        for columns, place in ((logits[:, :known], _KNOWN), (logits[:, known:], _PADDING)):
            if columns.shape[1]:
                shift = columns.amax(dim=1, keepdim=True)
                shifted = columns - shift
                arrays = shifted.numpy(), shifted.exp().numpy(), shift[:, 0].numpy()
                _add_columns(*arrays, state[:, place], state[:, _MOMENTS])

    @staticmethod
    def _choose(
        logits: Float[Tensor, "tokens columns"],
        targets: Int64[np.ndarray, " tokens"],
        state: Float[np.ndarray, "tokens 10"],
    ) -> None:
        here = np.flatnonzero((targets >= 0) & (targets < logits.shape[1]))
        state[here, _CHOSEN] = logits.numpy()[here, targets[here]]

    def take(self, other: LogitSums) -> None:
        """Take over the sums of the tokens that `other` saw."""
        self.state[other.columns > 0] = other.state[other.columns > 0]

    def measured(self) -> Float[np.ndarray, "6 ..."]:
        """Log-sum-exp, mean, variance, entropy, top probability and cross-entropy of each token; NaN if unseen."""
        known, padding, moments = (self.state[..., place] for place in (_KNOWN, _PADDING, _MOMENTS))
        with np.errstate(invalid="ignore", divide="ignore"):
            total = known[..., _TOTAL]
            lse = known[..., _SHIFT] + np.log(total)
            entropy = np.log(total) - known[..., _EXPECTED] / total
            lse = np.logaddexp(lse, padding[..., _SHIFT] + np.log(padding[..., _TOTAL]))
            variance = moments[..., _SQUARES] / moments[..., _COUNT]
            losses = lse - self.state[..., _CHOSEN]
            measured: np.ndarray = np.stack([lse, moments[..., _MEAN], variance, entropy, 1 / total, losses])
        measured[:, self.columns == 0] = math.nan
        return measured


@jit
def _add_columns(
    shifted: Float[np.ndarray, "tokens columns"],
    weights: Float[np.ndarray, "tokens columns"],
    shifts: Float[np.ndarray, " tokens"],
    softmax: Float[np.ndarray, "tokens 3"],
    moments: Float[np.ndarray, "tokens 3"],
) -> None:
    """Add some columns of the logits z, given as z - shift and its exp, to each token's sums."""
    tokens, columns = weights.shape
    for token in range(tokens):
        total = expected = linear = 0.0
        for i in range(columns):
            weight, value = np.float64(weights[token, i]), np.float64(shifted[token, i])
            total += weight
            expected += weight * value
            linear += value
        mean, squares = linear / columns, 0.0
        for i in range(columns):
            deviation = np.float64(shifted[token, i]) - mean
            squares += deviation * deviation
        shift = np.float64(shifts[token])
        _merge_softmax(softmax[token], shift, total, expected)
        _merge_moments(moments[token], float(columns), shift + mean, squares)


@jit
def _merge_softmax(sums: Float[np.ndarray, " 3"], shift: float, total: float, expected: float) -> None:
    """Bring sums of exp(z - shift) and (z - shift) exp(z - shift) to the larger of two shifts, and add them."""
    if sums[_TOTAL] == 0.0:  # no column yet: the largest of some numbers adds 1
        sums[_SHIFT], sums[_TOTAL], sums[_EXPECTED] = shift, total, expected
        return
    largest = max(sums[_SHIFT], shift)
    below, other_below = sums[_SHIFT] - largest, shift - largest
    scale, other_scale = math.exp(below), math.exp(other_below)
    expected = scale * (sums[_EXPECTED] + below * sums[_TOTAL]) + other_scale * (expected + other_below * total)
    sums[_SHIFT], sums[_EXPECTED] = largest, expected
    sums[_TOTAL] = scale * sums[_TOTAL] + other_scale * total


@jit
def _merge_moments(sums: Float[np.ndarray, " 3"], count: float, mean: float, squares: float) -> None:
    """Merge count, mean and squared deviations from the mean (Chan et al. 1979)."""
    whole = sums[_COUNT] + count
    share, distance = count / whole, mean - sums[_MEAN]
    sums[_SQUARES] += squares + distance * distance * sums[_COUNT] * share
    sums[_MEAN] += distance * share
    sums[_COUNT] = whole
