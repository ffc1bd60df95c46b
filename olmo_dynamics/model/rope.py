"""Rotary position embeddings: a query or key is turned by an angle that grows with its position.

Features `j` and `j + head_dim/2` of a head make one pair, the convention of every released OLMo. Angles are computed in
float32 whatever the model's dtype (float64 in a float64 model): bfloat16 cannot tell positions above 256 apart.

    >>> import torch
    >>> rope = rope_table(positions=3, head_dim=4, theta=10_000.0)
    >>> rope.cos.shape
    torch.Size([3, 2])
    >>> float(rotate(torch.ones(1, 3, 1, 4), rope)[0, 0, 0, 0])  # position 0 is not turned
    1.0
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Rope(NamedTuple):
    """Cosine and sine of the angle of every position and pair."""

    cos: Float[Tensor, "positions pairs"]
    sin: Float[Tensor, "positions pairs"]


def rope_table(
    *,
    positions: int,
    head_dim: int,
    theta: float,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Rope:
    """Angles `position * theta**(-2j / head_dim)` of pair `j`, in float32 or, for a float64 model, float64."""
    dtype = torch.promote_types(dtype, torch.float32)
    exponents = torch.arange(0, head_dim, 2, device=device, dtype=dtype) / head_dim
    angles = torch.outer(torch.arange(positions, device=device, dtype=dtype), 1.0 / theta**exponents)
    return Rope(angles.cos(), angles.sin())


def rotate(
    x: Float[Tensor, "batch positions heads head_dim"], rope: Rope
) -> Float[Tensor, "batch positions heads head_dim"]:
    """Queries or keys, each pair turned by its position's angle; computed in the table's dtype, returned in `x`'s."""
    cos, sin = rope.cos[:, None, :], rope.sin[:, None, :]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
