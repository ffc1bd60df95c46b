"""OLMo ladder: Llama's block with the norms that Ai2's first trainer offers, from its fused checkpoints.

    middle = x + attention(norm(x))
    out = middle + mlp(norm(middle))

This is the block of Ai2's small models (`configs/tiny`) and of DataDecide's. Their norms are RMS with weights; the trainer's
others, LayerNorm with or without weight and bias, norms of queries and keys, clipping, grouped queries and a tied head, are
read from the config. Queries, keys and values are clipped before they are normalised. A checkpoint stores them in one tensor
and the up and gate projections in another; `olmo_dynamics.checkpoints` gives them apart.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "olmo_ladder", "hidden_size": 64, "num_hidden_layers": 2,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100, "layer_norm_type": "rms"}), device="cpu")
    >>> init_weights(model, seed=0)
    >>> model(torch.tensor([[5, 17, 42]])).shape
    torch.Size([1, 3, 100])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from olmo_dynamics.checkpoints.formats.families.ladder_names import in_stored_order, published_name
from olmo_dynamics.model.blocks import PreNormBlock
from olmo_dynamics.model.config import ModelConfig, Norms, refuse
from olmo_dynamics.model.families.olmo1 import LayerNorm
from olmo_dynamics.model.family import OLMO_DEFAULTS, Family
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import MLP, AffineLayerNorm, CausalAttention, RMSNorm, clip
from olmo_dynamics.model.rope import Rope
from olmo_dynamics.model.rope_json import as_float, read_rope, write_rope

_RMS, _CENTRED = "rms", "default"
_KINDS = {_RMS: False, _CENTRED: True, "low_precision": True}
"""True for each `layer_norm_type` that subtracts the mean."""


class LadderAttention(CausalAttention):
    """Attention with queries, keys and values clipped, then queries and keys normalised over all heads, if the config says so."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        norms = _norms(config)
        self.clip_qkv = config.clip_qkv
        widths = (config.query_width, config.kv_width)
        self.q_norm, self.k_norm = (
            _norm(config, width, weight=norms.query_weight) if norms.on_queries else nn.Identity() for width in widths
        )

    def forward(
        self, x: Float[Tensor, "batch positions hidden"], rope: Rope
    ) -> Float[Tensor, "batch positions hidden"]:
        """The output of attention."""
        q, k, v = (clip(project(x), self.clip_qkv) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.attend(self.q_norm(q), self.k_norm(k), v, rope)


class LadderBlock(PreNormBlock):
    """One layer: attention, then MLP, each reading the normalised stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(layer)
        self.self_attn = LadderAttention(config, layer)
        self.mlp = MLP(config, layer)
        self.input_layernorm = _stream_norm(config)
        self.post_attention_layernorm = _stream_norm(config)


class OlmoLadder(LanguageModel):
    """A language model of OLMo's ladder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, LadderBlock, _stream_norm(config))


def _norms(config: ModelConfig) -> Norms:
    assert config.norms is not None
    return config.norms


def _stream_norm(config: ModelConfig) -> nn.Module:
    return _norm(config, config.hidden_size, weight=_norms(config).weight)


def _norm(config: ModelConfig, width: int, *, weight: bool) -> nn.Module:
    norms = _norms(config)
    if not norms.centred:
        return RMSNorm(width, eps=config.norm_eps, elementwise_affine=weight)
    return AffineLayerNorm(width, eps=config.norm_eps, bias=norms.bias) if weight else LayerNorm(config.norm_eps)


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    only = config["hidden_size"] // config["num_attention_heads"]
    if config.get("head_dim") not in (None, only):
        refuse("head_dim", config["head_dim"], f"{only} or absent")
    kind, on_queries = config["layer_norm_type"], bool(config.get("attention_layer_norm"))
    if kind not in _KINDS:
        refuse("layer_norm_type", kind, " or ".join(map(repr, _KINDS)))
    bias = bool(config.get("bias_for_layer_norm"))
    if bias and not _KINDS[kind]:
        refuse("bias_for_layer_norm", True, f"False with layer_norm_type {kind!r}")
    norms = Norms(
        centred=_KINDS[kind],
        weight=config.get("layer_norm_with_affine") is not False,
        bias=bias,
        on_queries=on_queries,
        query_weight=not on_queries or config.get("attention_layer_norm_with_affine") is not False,
    )
    return {**read_rope(config, kinds=("default",)), "clip_qkv": as_float(config.get("clip_qkv")), "norms": norms}


def _write(config: ModelConfig) -> dict[str, Any]:
    norms = _norms(config)
    return write_rope(config) | {
        "clip_qkv": config.clip_qkv,
        "initializer_range": 0.02,  # native configs are read with one, and recordings compare configs
        "layer_norm_type": _CENTRED if norms.centred else _RMS,
        "layer_norm_with_affine": norms.weight,
        "bias_for_layer_norm": norms.bias,
        "attention_layer_norm": norms.on_queries,
        "attention_layer_norm_with_affine": norms.on_queries and norms.query_weight,
    }


def _publish(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values in one tensor, up and gate in another, and all under the published names."""
    fused: dict[str, list[str]] = {}
    for name in tensors:
        fused.setdefault(published_name(name), []).append(name)
    return {
        stored: tensors[names[0]] if len(names) == 1 else torch.cat([tensors[name] for name in in_stored_order(names)])
        for stored, names in fused.items()
    }


_NATIVE = {
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "n_layers": "num_hidden_layers",
    "vocab_size": "vocab_size",
    "embedding_size": "vocab_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
}
"""Native fields, and the keys of a `config.json` that hold the same."""

_SAME = (
    "rope_theta", "clip_qkv", "layer_norm_type", "layer_norm_with_affine", "layer_norm_eps", "bias_for_layer_norm",
    "attention_layer_norm", "attention_layer_norm_with_affine", "pad_token_id", "eos_token_id", "dtype", "torch_dtype",
)  # fmt: skip
_FIXED: dict[str, Any] = {
    "model_type": "hf_olmo",
    "architectures": ["OLMoForCausalLM"],
    "activation_type": "swiglu",
    "alibi": False,
    "attention_dropout": 0.0,
    "block_type": "sequential",
    "embedding_dropout": 0.0,
    "include_bias": False,
    "init_device": "cpu",
    "norm_after": False,
    "residual_dropout": 0.0,
    "rope": True,
}


def _publish_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the same model for hf_olmo, whose fields are native."""
    sizes = {native: config[key] for native, key in _NATIVE.items()} | {
        "mlp_hidden_size": 2 * config["intermediate_size"]
    }
    return _FIXED | sizes | {key: config[key] for key in _SAME if key in config}


FAMILY = Family(
    architecture="OLMoForCausalLM",
    network=OlmoLadder,
    parts=frozenset({"clip_qkv", "norms"}),
    needed=frozenset({"norms"}),
    keys=frozenset(
        {"clip_qkv", "layer_norm_type", "layer_norm_with_affine", "bias_for_layer_norm", "attention_layer_norm",
         "attention_layer_norm_with_affine"}
    ),
    required=(("layer_norm_type",),),
    eps="layer_norm_eps",
    defaults={**OLMO_DEFAULTS, "layer_norm_eps": 1e-5},
    read=_read,
    write=_write,
    publish=_publish,
    publish_config=_publish_config,
)  # fmt: skip
