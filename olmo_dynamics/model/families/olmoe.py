"""OLMoE: OLMo 1's pre-norm blocks with OLMo 2's norms, and a mixture of experts in place of each MLP.

    middle = x + attention(norm(x))
    out = middle + experts(norm(middle))

A router scores all experts. The token goes to the `per_token` experts with the highest scores, and their outputs are summed
with the router's probabilities as weights. These are a softmax over all experts, taken before the choice, so they sum to
less than 1 unless the config divides them by their sum. No token is ever dropped.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "olmoe", "hidden_size": 64, "num_hidden_layers": 2,
    ...     "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 100, "num_experts": 8,
    ...     "num_experts_per_tok": 2}), device="cpu")
    >>> init_weights(model, seed=0)
    >>> model(torch.tensor([[5, 17, 42]])).shape
    torch.Size([1, 3, 100])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from olmo_dynamics.model.blocks import PreNormBlock
from olmo_dynamics.model.config import Experts, ModelConfig
from olmo_dynamics.model.family import OLMO_DEFAULTS, Family
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import CausalAttention, RMSNorm, SwiGLU, clip
from olmo_dynamics.model.rope import Rope
from olmo_dynamics.model.rope_json import as_float, read_rope, write_rope
from olmo_dynamics.model.sites import Tap
from olmo_dynamics.names import Site


class OlmoeAttention(CausalAttention):
    """Attention with normalised queries and keys, clipped together with values if the config has `clip_qkv`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.q_norm = RMSNorm(config.query_width, eps=config.norm_eps)
        self.k_norm = RMSNorm(config.kv_width, eps=config.norm_eps)
        self.clip_qkv = config.clip_qkv

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The output of attention."""
        q, k, v = self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x)), self.v_proj(x)
        q, k, v = (clip(t, self.clip_qkv) for t in (q, k, v))
        return self.attend(q, k, v, rope)


class MixtureOfExperts(nn.Module):
    """`sum over chosen e of probability(e) * expert_e(x)`, each expert a SwiGLU that gets its own tokens only."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.experts is not None
        self.per_token = config.experts.per_token
        self.renormalized = config.experts.renormalized
        self.gate = nn.Linear(config.hidden_size, config.experts.count, bias=False)
        self.experts = nn.ModuleList(SwiGLU(config) for _ in range(config.experts.count))
        self.router_logits = Tap(Site.ROUTER_LOGITS, layer)
        self.chosen_experts = Tap(Site.CHOSEN_EXPERTS, layer)
        self.output = Tap(Site.MLP_OUTPUT, layer)

    def forward(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions hidden"]:
        """The weighted sum of the experts' outputs."""
        logits = self.router_logits(self.gate(x))
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        probabilities = wide.softmax(dim=-1)
        chosen = self.chosen_experts(probabilities.topk(self.per_token, dim=-1).indices)
        weights = probabilities.gather(-1, chosen)
        if self.renormalized:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return self.output(self.mixed(x, weights.to(logits.dtype), chosen))

    def mixed(
        self,
        x: Float[Tensor, "batch positions hidden"],
        weights: Float[Tensor, "batch positions chosen"],
        chosen: Int[Tensor, "batch positions chosen"],
    ) -> Float[Tensor, "batch positions hidden"]:
        """The weighted sum of the chosen experts' outputs; an expert without tokens gets a gradient of zeros."""
        tokens, weights, chosen = x.flatten(0, 1), weights.flatten(), chosen.flatten()
        by_expert = chosen.argsort(stable=True)  # places in `chosen`: expert 0's, then expert 1's, …
        loads = chosen.bincount(minlength=len(self.experts)).tolist()
        total = torch.zeros_like(tokens)
        for expert, places in zip(self.experts, torch.split(by_expert, loads), strict=True):
            rows = places // self.per_token
            written = expert(tokens[rows]) * weights[places, None]
            total.index_add_(0, rows, written.to(total.dtype))
        return total.view_as(x)


class OlmoeBlock(PreNormBlock):
    """One layer: attention, then experts, each reading the normalised stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(layer)
        self.self_attn = OlmoeAttention(config, layer)
        self.mlp = MixtureOfExperts(config, layer)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.norm_eps)


class Olmoe(LanguageModel):
    """An OLMoE language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, OlmoeBlock, RMSNorm(config.hidden_size, eps=config.norm_eps))


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    count = config.get("num_experts")
    experts = Experts(
        count=config["num_local_experts"] if count is None else count,
        per_token=config["num_experts_per_tok"],
        renormalized=bool(config.get("norm_topk_prob", False)),
    )
    return {**read_rope(config), "clip_qkv": as_float(config.get("clip_qkv")), "experts": experts}


def _write(config: ModelConfig) -> dict[str, Any]:
    assert config.experts is not None
    return write_rope(config) | {
        "clip_qkv": config.clip_qkv,
        "num_experts": config.experts.count,
        "num_experts_per_tok": config.experts.per_token,
        "norm_topk_prob": config.experts.renormalized,
    }


FAMILY = Family(
    architecture="OlmoeForCausalLM",
    network=Olmoe,
    parts=frozenset({"clip_qkv", "experts"}),
    needed=frozenset({"experts"}),
    keys=frozenset({"clip_qkv", "num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob"}),
    required=(("num_experts", "num_local_experts"),),
    defaults={**OLMO_DEFAULTS, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "num_experts_per_tok": 8},
    read=_read,
    write=_write,
)
