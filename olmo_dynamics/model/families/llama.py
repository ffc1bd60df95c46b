"""Llama: RMS norms before each sublayer, and plain queries and keys.

    middle = x + attention(norm(x))
    out = middle + mlp(norm(middle))

Many runs have this form: SmolLM, Amber, K2, TinyLlama, Marin, HPLT. Some have biases in attention or in the MLP, and those
trained on long texts stretch the rotation.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100}), device="cpu")
    >>> init_weights(model, seed=0)
    >>> model(torch.tensor([[5, 17, 42]])).shape
    torch.Size([1, 3, 100])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.model.blocks import PreNormBlock
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.family import Family
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import MLP, CausalAttention, RMSNorm
from olmo_dynamics.model.rope import Rope
from olmo_dynamics.model.rope_json import read_rope, write_rope

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
"""The kinds of RoPE that models of this form have."""


class LlamaAttention(CausalAttention):
    """Attention with plain queries and keys."""

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The output of attention."""
        return self.attend(self.q_proj(x), self.k_proj(x), self.v_proj(x), rope)


class LlamaBlock(PreNormBlock):
    """One layer: attention, then MLP, each reading the normalised stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(layer)
        self.self_attn = LlamaAttention(config, layer)
        self.mlp = MLP(config, layer)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)


class Llama(LanguageModel):
    """A Llama language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, LlamaBlock, RMSNorm(config.hidden_size, eps=config.norm_eps))


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    biases = {key: bool(config.get(key)) for key in ("attention_bias", "mlp_bias")}
    return {**read_rope(config, kinds=KINDS), **biases}


def _write(config: ModelConfig) -> dict[str, Any]:
    return write_rope(config) | {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}


FAMILY = Family(
    architecture="LlamaForCausalLM",
    network=Llama,
    parts=frozenset({"scaling", "attention_bias", "mlp_bias"}),
    keys=frozenset({"attention_bias", "mlp_bias"}),
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2},
    read=_read,
    write=_write,
)
