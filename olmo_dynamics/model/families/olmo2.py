"""OLMo 2: RMS norms on the output of each sublayer, not on its input.

    middle = x + norm(attention(x))
    out = middle + norm(mlp(middle))

Queries and keys are normalised too, over all heads at once, before they are split into heads and rotated by position.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "olmo2", "hidden_size": 64, "num_hidden_layers": 2,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100}), device="cpu")
    >>> init_weights(model, seed=0)
    >>> model(torch.tensor([[5, 17, 42]])).shape
    torch.Size([1, 3, 100])
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.model.blocks import PostNormBlock
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.family import OLMO_DEFAULTS, Family
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import MLP, CausalAttention, RMSNorm
from olmo_dynamics.model.rope import Rope
from olmo_dynamics.model.rope_json import read_rope, write_rope


class Olmo2Attention(CausalAttention):
    """Attention with queries and keys normalised over all heads at once."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.q_norm = RMSNorm(config.query_width, eps=config.norm_eps)
        self.k_norm = RMSNorm(config.kv_width, eps=config.norm_eps)

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The output of attention, before the output norm."""
        q, k, v = self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x)
        return self.attend(q, k, v, rope)


class Olmo2Block(PostNormBlock):
    """One layer: attention, then MLP, each normalised and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(layer)
        self.self_attn = Olmo2Attention(config, layer)
        self.mlp = MLP(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)


class Olmo2(LanguageModel):
    """An OLMo 2 language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, Olmo2Block, RMSNorm(config.hidden_size, eps=config.norm_eps))


FAMILY = Family(
    architecture="Olmo2ForCausalLM",
    network=Olmo2,
    defaults={**OLMO_DEFAULTS, "rms_norm_eps": 1e-5},
    read=read_rope,
    write=write_rope,
)
