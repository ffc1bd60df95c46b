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

from olmo_dynamics.recorders.kernels.jit import float32_of, jit, jit_in_order

CROSS_ENTROPY = 5
"""Index into the numbers measured of a token."""

_SLICE_ELEMENTS = 1 << 19  # logits handled at a time: 2 MiB of float32 stay in the cache

_KNOWN, _PADDING, _MOMENTS, _CHOSEN = slice(0, 3), slice(3, 6), slice(6, 9), 9
_SHIFT, _TOTAL, _EXPECTED = range(3)
_COUNT, _MEAN, _SQUARES = range(3)

_LOG2_E = np.float32(math.log2(math.e))
_LN2_UPPER = np.float32(0.693359375)  # few enough bits that its products with whole numbers are exact
_LN2_LOWER = np.float32(-2.12194440e-4)
_SMALLEST = np.float32(-87.3)  # its exponential is the smallest that is not denormal
_HALF, _ONE = np.float32(0.5), np.float32(1.0)
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)


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
            part = part.to(torch.promote_types(part.dtype, torch.float32)).contiguous()
            self._add_sums(part, self.state[tokens], self.tokenizer_size - first_column)
            self._choose(part, targets[tokens] - first_column, self.state[tokens])

    @staticmethod
    def _add_sums(logits: Float[Tensor, "tokens columns"], state: Float[np.ndarray, "tokens 10"], known: int) -> None:
        known = min(max(known, 0), logits.shape[1])
        add = _add_float32 if logits.dtype is torch.float32 else _add_float64
        for start, stop, place in ((0, known, _KNOWN), (known, logits.shape[1], _PADDING)):
            if start < stop:
                shifts = logits[:, start:stop].amax(dim=1)
                add(logits.numpy(), (start, stop), shifts.numpy(), state[:, place], state[:, _MOMENTS])

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


@jit_in_order
def fill_exponentials(
    values: Float[np.ndarray, " n"], shift: np.float32, exponentials: Float[np.ndarray, " n"]
) -> None:
    """Fill exp(value - shift) in float32, where no value is larger than the shift; NaN stays NaN.

    The argument is split into a multiple of ln 2, taken from it in two steps, and a rest of at most half of ln 2 (Cody and Waite
    1980); the polynomial is that of the Cephes library. The error is below 2e-7, relative; numbers below
    1.2e-38 become 0.
    """
    for i in range(len(values)):
        below = values[i] - shift
        inside = below if below > _SMALLEST else _SMALLEST  # NaN is not, so that it is never made a whole number
        power = np.int32(inside * _LOG2_E - _HALF)
        rest = inside - np.float32(power) * _LN2_UPPER
        rest = rest - np.float32(power) * _LN2_LOWER
        series = ((((_P0 * rest + _P1) * rest + _P2) * rest + _P3) * rest + _P4) * rest + _P5
        factor = series * (rest * rest) + rest + _ONE
        scale = float32_of(np.uint32((power + 127) << 23))
        found = factor * scale
        found = found if below >= _SMALLEST else np.float32(0.0)
        exponentials[i] = below if np.isnan(below) else found


@jit
def _add_float32(
    logits: Float[np.ndarray, "tokens columns"],
    columns: tuple[int, int],
    shifts: Float[np.ndarray, " tokens"],
    softmax: Float[np.ndarray, "tokens 3"],
    moments: Float[np.ndarray, "tokens 3"],
) -> None:
    """Add some columns of the logits, whose largest are the `shifts`, to each token's sums."""
    start, stop = columns
    weights = np.empty(stop - start, np.float32)
    for token in range(len(logits)):
        values = logits[token, start:stop]
        fill_exponentials(values, shifts[token], weights)
        _add_token(values, weights, shifts[token], softmax[token], moments[token])


@jit
def _add_float64(
    logits: Float[np.ndarray, "tokens columns"],
    columns: tuple[int, int],
    shifts: Float[np.ndarray, " tokens"],
    softmax: Float[np.ndarray, "tokens 3"],
    moments: Float[np.ndarray, "tokens 3"],
) -> None:
    """The same in float64."""
    start, stop = columns
    for token in range(len(logits)):
        values = logits[token, start:stop]
        _add_token(values, np.exp(values - shifts[token]), shifts[token], softmax[token], moments[token])


@jit
def _add_token(
    values: Float[np.ndarray, " columns"],
    weights: Float[np.ndarray, " columns"],
    shift: float,
    softmax: Float[np.ndarray, " 3"],
    moments: Float[np.ndarray, " 3"],
) -> None:
    """Add some logits z of one token, and exp(z - shift) of each, to its sums."""
    total = expected = linear = squares = 0.0
    for i in range(len(values)):
        weight, value = np.float64(weights[i]), np.float64(values[i] - shift)
        total += weight
        expected += weight * value
        linear += value
    mean = linear / len(values)
    for i in range(len(values)):
        deviation = np.float64(values[i] - shift) - mean
        squares += deviation * deviation
    _merge_softmax(softmax, np.float64(shift), total, expected)
    _merge_moments(moments, float(len(values)), np.float64(shift) + mean, squares)


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
