"""Edits of one activation: functions from the original tensor to its replacement.

>>> import torch
>>> scaled([1], 10.0)(torch.ones(1, 1, 3))
tensor([[[ 1., 10.,  1.]]])

No edit changes its input in place: other parts of the model may read the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

Edit = Callable[[Tensor], Tensor]
"""A function from an activation [batch, positions, width] to one of the same shape, dtype and device."""

Fill = Literal["zero", "mean"]
"""The values of ablated features: zero, or their mean over the probe's tokens at that place."""


def filled(features: Sequence[int], values: Float[Tensor, " features"]) -> Edit:
    """An edit that gives each feature one value at every token."""

    def edit(x: Tensor) -> Tensor:
        edited = x.clone()
        edited[..., features] = values.to(x)
        return edited

    return edit


def scaled(features: Sequence[int], factor: float) -> Edit:
    """An edit that multiplies features by a factor."""

    def edit(x: Tensor) -> Tensor:
        edited = x.clone()
        edited[..., features] *= factor
        return edited

    return edit


def shifted(vector: Float[Tensor, " width"]) -> Edit:
    """An edit that adds a vector at every token."""
    return lambda x: x + vector.to(x)


def replaced(features: Sequence[int], donated: Float[Tensor, "batch positions width"]) -> Edit:
    """An edit that copies features from another activation of the same tokens."""

    def edit(x: Tensor) -> Tensor:
        edited = x.clone()
        edited[..., features] = donated[..., features].to(x)
        return edited

    return edit
