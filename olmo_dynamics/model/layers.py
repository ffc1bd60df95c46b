"""The parts that families share: a norm, an MLP, and attention once queries, keys and values are made.

>>> import torch
>>> visible(5, window=2)[4]  # a token sees itself and the one before
tensor([False, False, False,  True,  True])
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.rope import Rope, rotate
from olmo_dynamics.model.sites import Tap
from olmo_dynamics.names import Site


class RMSNorm(nn.RMSNorm):
    """`weight * x / sqrt(mean(x**2) + eps)`, or without a weight, computed in float32 and rounded once."""

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        """Vectors of RMS 1, times the weight; in `x`'s dtype, also where autocast keeps the weight in another."""
        return super().forward(x if self.weight is None else x.to(self.weight.dtype)).to(x.dtype)


class AffineLayerNorm(nn.LayerNorm):
    """`weight * (x - mean(x)) / sqrt(variance(x) + eps) + bias`, or without the bias, computed in float32 and rounded once."""

    def forward(self, x: Float[Tensor, "*tokens width"]) -> Float[Tensor, "*tokens width"]:
        """Vectors of mean 0 and variance 1, times the weight and plus the bias, in `x`'s dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        weight, bias = self.weight.to(wide.dtype), None if self.bias is None else self.bias.to(wide.dtype)
        return F.layer_norm(wide, wide.shape[-1:], weight, bias, self.eps).to(x.dtype)


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def gated(self, x: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens intermediate"]:
        """The input of `down_proj`."""
        gated: Tensor = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return gated

    def forward(self, x: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens hidden"]:
        """The output for each token by itself."""
        written: Tensor = self.down_proj(self.gated(x))
        return written


class MLP(SwiGLU):
    """A block's only SwiGLU, through which every token goes; its inside is tapped."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config)
        self.hidden = Tap(Site.MLP_HIDDEN, layer)
        self.output = Tap(Site.MLP_OUTPUT, layer)

    def forward(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions hidden"]:
        """The MLP's output."""
        return self.output(self.down_proj(self.hidden(self.gated(x))))


def mix_values(
    q: Float[Tensor, "batch heads positions head_dim"],
    k: Float[Tensor, "batch kv_heads positions head_dim"],
    v: Float[Tensor, "batch kv_heads positions head_dim"],
    mask: Bool[Tensor, "*batch positions positions"] | None,
) -> Float[Tensor, "batch heads positions head_dim"]:
    """`softmax(q kᵀ / sqrt(head_dim)) v`, head by head; causal where there is no mask."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)


Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""A way to compute `mix_values`."""


class CausalAttention(nn.Module):
    """Attention's projections, and what is done with queries, keys and values; making these is left to each family.

    With fewer key-value heads than heads, each serves a run of neighbouring query heads.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window: int | None = None  # a token sees all before it
        self.mix: Mix = mix_values
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, config.query_width, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_width, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_width, bias=bias)
        self.o_proj = nn.Linear(config.query_width, config.hidden_size, bias=bias)
        self.query = Tap(Site.QUERY, layer)
        self.key = Tap(Site.KEY, layer)
        self.query_rotated = Tap(Site.QUERY_ROTATED, layer)
        self.output = Tap(Site.ATTENTION_OUTPUT, layer)

    def attend(
        self,
        q: Float[Tensor, "batch positions queries"],
        k: Float[Tensor, "batch positions keys"],
        v: Float[Tensor, "batch positions keys"],
        rope: Rope,
    ) -> Float[Tensor, "batch positions hidden"]:
        """`o_proj(softmax(q kᵀ / sqrt(head_dim)) v)`, head by head, queries and keys turned by their positions."""
        q, k = self.query(q), self.key(k)
        q, k, v = (t.view(*t.shape[:2], -1, self.head_dim) for t in (q, k, v))  # [batch, positions, heads, head_dim]
        q, k = rotate(q, rope), rotate(k, rope)
        q = self.query_rotated(q.flatten(2), key=k.flatten(2), value=v.flatten(2), window=self.window).view(q.shape)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mask = self.mask(q.shape[2], q.device, rope.within)
        heads = self.mix(q, k, v, mask).transpose(1, 2).flatten(2)
        return self.output(self.o_proj(heads), heads=heads, projection=self.o_proj.weight)

    def mask(
        self, positions: int, device: torch.device, within: Bool[Tensor, "batch 1 positions positions"] | None = None
    ) -> Bool[Tensor, "*batch positions positions"] | None:
        """True where a query sees a key; None where window and documents hide nothing: a mask rules out the fastest kernels."""
        if self.window is None or self.window >= positions:
            return within
        seen = visible(positions, self.window, device=device)
        return seen if within is None else seen & within


def clip(x: Float[Tensor, "batch positions width"], limit: float | None) -> Float[Tensor, "batch positions width"]:
    """`x` cut off at ±`limit`, or `x` itself."""
    return x if limit is None else x.clamp(-limit, limit)


def visible(positions: int, window: int, *, device: torch.device | str = "cpu") -> Bool[Tensor, "positions positions"]:
    """True where a row's token sees a column's: itself and those before it, `window` of them in all."""
    everything = torch.ones(positions, positions, dtype=torch.bool, device=device)
    return everything.tril() & everything.triu(1 - window)


def same_document(documents: Int[Tensor, "batch positions"]) -> Bool[Tensor, "batch 1 positions positions"]:
    """True where a row's token sees a column's if attention stays within a document: itself and those before it there."""
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()
