"""Products of bfloat16 matrices, computed in float32 by a processor that is faster at those.

A processor with AVX-512's bfloat16 instructions and without matrix tiles multiplies float32 faster, and one without such
instructions much faster. A bfloat16 number is a float32 number, so operands are widened exactly; sums are in float32 either
way, and a product is rounded to bfloat16 once, as before. Only the order of the sums differs.

>>> import torch
>>> x, weight = torch.tensor([[1.0, 2.0]]).bfloat16(), torch.tensor([[3.0, 4.0]]).bfloat16()
>>> linear_in_float32(x, weight, None)
tensor([[11.]], dtype=torch.bfloat16)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from olmo_dynamics.model.layers import CausalAttention

SIZE, TURNS = 512, 7
"""Rows and columns of the matrices multiplied to compare both dtypes, and how often each is timed."""

CLEARLY = 1.25
"""Float32 must be this many times as fast: far from what processors reach, so that a resumed run decides like the first."""


def prefers_float32(tensor: Tensor) -> bool:
    """True if products of such a tensor are bfloat16's on a processor that is clearly faster at float32's."""
    return tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" and _float32_is_faster()


def use_float32_products(model: nn.Module) -> None:
    """Let a model's linear layers and attention multiply in float32; weights and results keep their dtype."""
    for module in list(model.modules()):
        if isinstance(module, CausalAttention):
            module.mix = attend_in_float32
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, Float32Linear(child))


class Float32Linear(nn.Module):
    """A linear layer with the parameters of another, which multiplies in float32."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*tokens inputs"]) -> Float[Tensor, "*tokens outputs"]:
        """`x weightᵀ + bias` in `x`'s dtype."""
        return linear_in_float32(x, self.weight, self.bias)


class _LinearInFloat32(torch.autograd.Function):
    """The linear function; only tensors in the given dtype are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        slopes, inputs = slope.float().flatten(0, -2), x.float().flatten(0, -2)
        bias_gradient = slopes.sum(0).to(weight.dtype) if ctx.has_bias else None
        x_gradient = (slopes @ weight.float()).view(x.shape).to(x.dtype)
        return x_gradient, (slopes.T @ inputs).to(weight.dtype), bias_gradient


linear_in_float32: Callable[[Tensor, Tensor, Tensor | None], Tensor] = _LinearInFloat32.apply


def attend_in_float32(
    q: Float[Tensor, "batch heads positions head_dim"],
    k: Float[Tensor, "batch kv_heads positions head_dim"],
    v: Float[Tensor, "batch kv_heads positions head_dim"],
    mask: Bool[Tensor, "*batch positions positions"] | None,
) -> Float[Tensor, "batch heads positions head_dim"]:
    """`softmax(q kᵀ / sqrt(head_dim)) v`, head by head, rounded once to the dtype of `q`; causal where there is no mask."""
    mixed = F.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), attn_mask=mask, is_causal=mask is None, enable_gqa=True
    )
    return mixed.to(q.dtype)


@cache
def _float32_is_faster() -> bool:
    """Time products of both dtypes, in turn, by this thread's CPU time; the fastest of each counts."""
    wide = torch.ones(SIZE, SIZE)
    narrow = wide.bfloat16()
    wide_seconds, narrow_seconds = (min(each) for each in zip(*_turns(wide, narrow), strict=True))
    return bool(narrow_seconds > CLEARLY * wide_seconds)


def _turns(*matrices: Tensor) -> list[tuple[float, ...]]:
    """Seconds of each matrix times itself, in every turn but the first."""
    return [tuple(map(_seconds, matrices)) for _ in range(TURNS + 1)][1:]


def _seconds(matrix: Tensor) -> float:
    started = time.thread_time()
    torch.mm(matrix, matrix)
    return time.thread_time() - started
