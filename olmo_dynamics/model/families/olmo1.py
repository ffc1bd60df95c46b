"""OLMo 1: norms without weights, before each sublayer.

    middle = x + attention(norm(x))
    out = middle + mlp(norm(middle))

A checkpoint holds no norm at all. From the 0424 models on, queries, keys and values are clipped to ±8. Some models tie the
head to the embedding, including the first 1B.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "olmo", "hidden_size": 64, "num_hidden_layers": 2,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100, "clip_qkv": 8.0}), device="cpu")
    >>> init_weights(model, seed=0)
    >>> model(torch.tensor([[5, 17, 42]])).shape
    torch.Size([1, 3, 100])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from olmo_dynamics.model.blocks import PreNormBlock
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.family import OLMO_DEFAULTS, Family
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import MLP, CausalAttention, clip
from olmo_dynamics.model.rope import Rope
from olmo_dynamics.model.rope_json import as_float, read_rope, write_rope


class LayerNorm(nn.Module):
    """`(x - mean(x)) / sqrt(variance(x) + eps)`, without weight or bias, computed in float32 and rounded once."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Float[Tensor, "batch positions width"]) -> Float[Tensor, "batch positions width"]:
        """Vectors of mean 0 and variance 1, in `x`'s dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.layer_norm(wide, wide.shape[-1:], eps=self.eps).to(x.dtype)


class Olmo1Attention(CausalAttention):
    """Attention with queries, keys and values clipped if the config has `clip_qkv`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.clip_qkv = config.clip_qkv

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The output of attention."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q, k, v = (clip(t, self.clip_qkv) for t in (q, k, v))
        return self.attend(q, k, v, rope)


class Olmo1Block(PreNormBlock):
    """One layer: attention, then MLP, each reading the normalised stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(layer)
        self.self_attn = Olmo1Attention(config, layer)
        self.mlp = MLP(config, layer)
        self.input_layernorm = LayerNorm(config.norm_eps)
        self.post_attention_layernorm = LayerNorm(config.norm_eps)


class Olmo1(LanguageModel):
    """An OLMo 1 language model, of any year."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, Olmo1Block, LayerNorm(config.norm_eps))


FAMILY = Family(
    architecture="OlmoForCausalLM",
    network=Olmo1,
    parts=frozenset({"clip_qkv"}),
    keys=frozenset({"clip_qkv"}),
    eps="layer_norm_eps",  # fixed in transformers, an option of the trainer
    defaults={**OLMO_DEFAULTS, "layer_norm_eps": 1e-5},
    read=lambda config: {**read_rope(config), "clip_qkv": as_float(config.get("clip_qkv"))},
    write=lambda config: {**write_rope(config), "clip_qkv": config.clip_qkv},
)
