"""GPT-NeoX: norms with weight and bias before each sublayer, an MLP without a gate, and rotation of a part of each head.

    out = x + attention(norm(x)) + mlp(other_norm(x))

Attention and the MLP read the same stream (Pythia, PolyPythias), unless the config says that the MLP reads what attention has
written to. All matrices but the embedding and the head have biases. A checkpoint stores queries, keys and values in one
tensor, head by head; `olmo_dynamics.checkpoints` gives them apart, under the names that other families have.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "gpt_neox", "hidden_size": 64, "num_hidden_layers": 2,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100, "rotary_pct": 0.25}), device="cpu")
    >>> init_weights(model, seed=0)
    >>> model(torch.tensor([[5, 17, 42]])).shape
    torch.Size([1, 3, 100])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from olmo_dynamics.checkpoints.formats.families.neox_names import published_name
from olmo_dynamics.errors import ConfigError
from olmo_dynamics.model.blocks import ParallelBlock, PreNormBlock
from olmo_dynamics.model.config import ModelConfig, refuse
from olmo_dynamics.model.families.llama import KINDS, LlamaAttention
from olmo_dynamics.model.family import Family
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import AffineLayerNorm
from olmo_dynamics.model.rope_json import read_rope, write_scaling
from olmo_dynamics.model.sites import Tap
from olmo_dynamics.names import Site

_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh"}
"""The approximation of GELU that each name stands for."""


class NeoxMLP(nn.Module):
    """`down(gelu(up(x)))`, with biases."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.activation is not None
        self.approximation = _ACTIVATIONS[config.activation]
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.hidden = Tap(Site.MLP_HIDDEN, layer)
        self.output = Tap(Site.MLP_OUTPUT, layer)

    def forward(self, x: Float[Tensor, "batch positions hidden"]) -> Float[Tensor, "batch positions hidden"]:
        """The MLP's output."""
        hidden = F.gelu(self.up_proj(x), approximate=self.approximation)
        return self.output(self.down_proj(self.hidden(hidden)))


class NeoxBlock(PreNormBlock):
    """One layer: attention, then the MLP, each reading the normalised stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(layer)
        _fill(self, config, layer)


class ParallelNeoxBlock(ParallelBlock):
    """One layer: attention and the MLP, both reading the normalised stream that enters it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(layer)
        _fill(self, config, layer)


class GptNeox(LanguageModel):
    """A GPT-NeoX language model."""

    def __init__(self, config: ModelConfig) -> None:
        block = ParallelNeoxBlock if config.parallel_residual else NeoxBlock
        super().__init__(config, block, AffineLayerNorm(config.hidden_size, eps=config.norm_eps))


def _fill(block: NeoxBlock | ParallelNeoxBlock, config: ModelConfig, layer: int) -> None:
    block.self_attn = LlamaAttention(config, layer)
    block.mlp = NeoxMLP(config, layer)
    block.input_layernorm = AffineLayerNorm(config.hidden_size, eps=config.norm_eps)
    block.post_attention_layernorm = AffineLayerNorm(config.hidden_size, eps=config.norm_eps)


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    heads, hidden_size = config["num_attention_heads"], config["hidden_size"]
    for key, only in (("num_key_value_heads", heads), ("head_dim", hidden_size // heads)):
        if config.get(key) not in (None, only):
            refuse(key, config[key], f"{only} or absent")
    keys = ("rope_parameters", "rope_scaling")
    ropes = {key: dict(config[key]) for key in keys if config.get(key)}
    shares = [config["rotary_pct"]] if config.get("rotary_pct") is not None else []
    shares += [rope.pop("partial_rotary_factor") for rope in ropes.values() if rope.get("partial_rotary_factor")]
    if len(set(shares)) > 1:
        raise ConfigError(f"rotary_pct must be partial_rotary_factor (got {shares[0]} and {shares[1]}); remove one")
    rotary_dim = int(hidden_size // heads * (shares[0] if shares else 0.25))
    base = {} if config.get("rotary_emb_base") is None else {"rope_theta": config["rotary_emb_base"]}
    return {
        **read_rope({**config, **ropes, **base}, kinds=KINDS),
        "rotary_dim": rotary_dim,
        "activation": config.get("hidden_act") or "gelu",
        "attention_bias": config.get("attention_bias") is not False,
        "parallel_residual": config.get("use_parallel_residual") is not False,
    }


def _write(config: ModelConfig) -> dict[str, Any]:
    share = config.rotated / config.head_dim
    if int(config.head_dim * share) != config.rotated:
        share = (config.rotated + 0.5) / config.head_dim  # its product with head_dim is cut off
    return {
        "rotary_pct": share,
        "rotary_emb_base": config.rope_theta,
        "rope_scaling": write_scaling(config.yarn or config.scaling),
        "hidden_act": config.activation,
        "attention_bias": config.attention_bias,
        "use_parallel_residual": config.parallel_residual,
    }


def _publish(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one tensor, head by head, and all under the published names."""
    fused: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        fused.setdefault(published_name(name), []).append(tensor)
    return {
        name: parts[0]
        if len(parts) == 1
        else torch.stack([each.reshape(config.heads, -1, *each.shape[1:]) for each in parts], dim=1).flatten(0, 2)
        for name, parts in fused.items()
    }


FAMILY = Family(
    architecture="GPTNeoXForCausalLM",
    network=GptNeox,
    parts=frozenset({"scaling", "attention_bias", "rotary_dim", "activation", "parallel_residual"}),
    needed=frozenset({"activation"}),
    keys=frozenset({"attention_bias", "rotary_pct", "rotary_emb_base", "use_parallel_residual"}),
    same={"hidden_act": (None, *_ACTIVATIONS), "hidden_dropout": (None, 0, 0.0)},
    eps="layer_norm_eps",
    defaults={"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "bos_token_id": 0, "eos_token_id": 2},
    read=_read,
    write=_write,
    publish=_publish,
)
