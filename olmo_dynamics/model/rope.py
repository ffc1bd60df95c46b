"""Rotary position embeddings: a query or key is rotated by an angle that grows with its position.

Features `j` and `j + head_dim/2` of a head form one pair, as in every released OLMo. Angles are computed in the dtype of
the positions, which is float32 for every model dtype but float64: bfloat16 cannot distinguish positions above 256.

    >>> import torch
    >>> rope = rope_table(torch.arange(3.0), head_dim=4, theta=10_000.0)
    >>> rope.cos.shape
    torch.Size([3, 2])
    >>> float(rotate(torch.ones(1, 3, 1, 4), rope)[0, 0, 0, 0])  # position 0 is not rotated
    1.0
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from olmo_dynamics.model.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, Scaling, Yarn


class Rope(NamedTuple):
    """Cosine and sine of the angle of every position and pair, and the mask of visible tokens.

    `within` is None if a token sees all tokens before it; otherwise it is the mask of `layers.same_document`.
    """

    cos: Float[Tensor, "positions pairs"]
    sin: Float[Tensor, "positions pairs"]
    within: Bool[Tensor, "batch 1 positions positions"] | None = None


def rope_positions(positions: int, *, device: torch.device | str, dtype: torch.dtype) -> Float[Tensor, " positions"]:
    """The positions 0, 1, 2, … for a model of this dtype, in float32 at least."""
    return torch.arange(positions, device=device, dtype=torch.promote_types(dtype, torch.float32))


def rope_table(
    positions: Float[Tensor, " positions"], *, head_dim: int, theta: float, yarn: Yarn | None = None
) -> Rope:
    """The table of angles `position * theta**(-2j / head_dim)` of pair `j`, or of those angles after YaRN."""
    frequencies = pair_frequencies(positions, head_dim, theta)
    if yarn is None:
        angles = torch.outer(positions, frequencies)
        return Rope(angles.cos(), angles.sin())
    angles = torch.outer(positions, stretched(frequencies, theta, yarn))
    return Rope(angles.cos() * yarn.magnitude, angles.sin() * yarn.magnitude)


def scaled_table(
    positions: Float[Tensor, " positions"], *, rotary_dim: int, theta: float, scaling: Scaling, max_positions: int
) -> Rope:
    """The table of a model whose rotation is stretched in another way than by YaRN."""
    if isinstance(scaling, DynamicScaling):
        theta = scaling.theta(theta, rotary_dim=rotary_dim, excess=len(positions) / max_positions)
    frequencies = pair_frequencies(positions, rotary_dim, theta)
    if isinstance(scaling, LinearScaling):
        frequencies = frequencies / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        frequencies = slowed(frequencies, scaling)
    angles = torch.outer(positions, frequencies)
    return Rope(angles.cos(), angles.sin())


def pair_frequencies(like: Float[Tensor, " positions"], rotary_dim: int, theta: float) -> Float[Tensor, " pairs"]:
    """The frequency `theta**(-2j / rotary_dim)` of each pair `j`, on the device and in the dtype of `like`."""
    exponents = torch.arange(0, rotary_dim, 2, device=like.device, dtype=like.dtype) / rotary_dim
    frequencies: Tensor = 1.0 / theta**exponents
    return frequencies


def slowed(frequencies: Float[Tensor, " pairs"], scaling: Llama3Scaling) -> Float[Tensor, " pairs"]:
    """Frequencies after Llama 3.1's stretching, by the number of turns that a pair makes over the original positions."""
    turns = scaling.original_positions * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return frequencies * kept + frequencies / scaling.factor * (1 - kept)


def stretched(frequencies: Float[Tensor, " pairs"], theta: float, yarn: Yarn) -> Float[Tensor, " pairs"]:
    """Frequencies after YaRN: kept if a pair turns fast, divided by `factor` if slow, interpolated in between.

    Pair `j` turns `r` times over the original positions where `j = pairs * ln(original / (2πr)) / ln(theta)`; the share of
    the slower frequency grows linearly from `beta_fast` turns, rounded down to a pair, to `beta_slow`, rounded up. Peng et
    al. 2023, arXiv:2309.00071, section 3.2.
    """
    pairs = len(frequencies)

    def pair_that_turns(times: float) -> float:
        return pairs * math.log(yarn.original_positions / (2 * math.pi * times)) / math.log(theta)

    first = max(math.floor(pair_that_turns(yarn.beta_fast)), 0)
    last = min(math.ceil(pair_that_turns(yarn.beta_slow)), 2 * pairs - 1)
    width = last - first or 0.001  # a step where both fall on one pair
    slow = ((torch.arange(pairs, device=frequencies.device, dtype=frequencies.dtype) - first) / width).clamp(0, 1)
    return frequencies * (1 - slow) + frequencies / yarn.factor * slow


def rotate(
    x: Float[Tensor, "batch positions heads head_dim"], rope: Rope
) -> Float[Tensor, "batch positions heads head_dim"]:
    """Rotate each pair of queries or keys by its position's angle; computed in the table's dtype, returned in `x`'s.

    With fewer pairs in the table than in a head, the first features are rotated, and the others stay as they are.
    """
    cos, sin = rope.cos[:, None, :], rope.sin[:, None, :]
    width = 2 * cos.shape[-1]
    first, second = x[..., :width].chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)
