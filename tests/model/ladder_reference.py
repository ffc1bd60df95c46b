"""OLMo ladder models for transformers, which has none: its Llama, with other norms, and hooks on queries, keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


class LadderConfig(LlamaConfig):
    """The keys of Llama, and those of the norms."""

    model_type = "olmo_ladder"

    def __init__(self, layer_norm_eps: float = 1e-5, clip_qkv: float | None = None, **others: Any) -> None:
        self.layer_norm_eps, self.clip_qkv = layer_norm_eps, clip_qkv
        super().__init__(**others)


class ReferenceNorm(nn.Module):
    """Ai2's LayerNorm, or its RMSLayerNorm, in float32 at least."""

    def __init__(self, width: int, config: LadderConfig, *, affine: bool) -> None:
        super().__init__()
        self.centred, self.eps = config.layer_norm_type != "rms", config.layer_norm_eps
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine and config.bias_for_layer_norm else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            wide = wide - wide.mean(dim=-1, keepdim=True)
        wide = wide / (wide.square().mean(dim=-1, keepdim=True) + self.eps).sqrt()
        wide = wide if self.weight is None else wide * self.weight
        return (wide if self.bias is None else wide + self.bias).to(x.dtype)


class LadderForCausalLM(LlamaForCausalLM):
    """Llama with the ladder's norms; queries, keys and values are clipped, then queries and keys normalised."""

    config_class = LadderConfig

    def __init__(self, config: LadderConfig) -> None:
        super().__init__(config)
        affine = config.layer_norm_with_affine
        self.model.norm = ReferenceNorm(config.hidden_size, config, affine=affine)
        for block in self.model.layers:
            block.input_layernorm = ReferenceNorm(config.hidden_size, config, affine=affine)
            block.post_attention_layernorm = ReferenceNorm(config.hidden_size, config, affine=affine)
            attention = block.self_attn
            for role in "qkv":
                projection = getattr(attention, f"{role}_proj")
                if config.clip_qkv is not None:
                    limit = config.clip_qkv
                    projection.register_forward_hook(lambda module, inputs, x, limit=limit: x.clamp(-limit, limit))
                if config.attention_layer_norm and role != "v":
                    norm = ReferenceNorm(
                        projection.out_features, config, affine=config.attention_layer_norm_with_affine
                    )
                    setattr(attention, f"{role}_norm", norm)
                    projection.register_forward_hook(lambda module, inputs, x, norm=norm: norm(x))


AutoConfig.register(LadderConfig.model_type, LadderConfig)
AutoModelForCausalLM.register(LadderConfig, LadderForCausalLM)
