"""The model config of Ai2's first trainer (also hf_olmo's), as the Hugging Face config of the same model.

Both hold the same numbers under other names; a field without a counterpart keeps its native name (OLMo 1's
`layer_norm_eps`, which Hugging Face's class fixes at 1e-5).

    >>> native = {"d_model": 64, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 256, "vocab_size": 510, "rope": True,
    ...           "include_bias": False, "layer_norm_type": "rms", "attention_layer_norm": True, "norm_after": True}
    >>> config = canonical_config(native)
    >>> config["model_type"], config["intermediate_size"]
    ('olmo2', 128)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.config_fields import check_fields, require_count, to_number
from olmo_dynamics.checkpoints.formats.family_facts.trainer_families import (
    OLMO,
    OLMO2,
    OLMO_LADDER,
    OLMOE,
    TrainerFamily,
)
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.errors import CheckpointError

WHERE = "the model config"

_USED = frozenset({
    "d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_ratio", "mlp_hidden_size", "vocab_size", "embedding_size",
    "weight_tying", "clip_qkv", "rope_theta", "layer_norm_type", "layer_norm_with_affine", "layer_norm_eps", "norm_after",
    "attention_layer_norm", "attention_layer_norm_with_affine", "multi_query_attention", "max_sequence_length", "block_type",
    "eos_token_id", "pad_token_id", "init_std", "moe_num_experts", "moe_top_k", "moe_loss_weight", "moe_zloss_weight",
    "moe_normalize_expert_weights", "bias_for_layer_norm",
})  # fmt: skip

_OF_NORMS = (
    "layer_norm_type", "layer_norm_with_affine", "bias_for_layer_norm", "attention_layer_norm",
    "attention_layer_norm_with_affine",
)  # fmt: skip
"""The fields that a ladder model's config keeps, since Hugging Face's have no counterpart."""

_ONLY: dict[str, tuple[Any, ...]] = {
    "activation_type": (None, "swiglu"),
    "alibi": (None, False),
    "block_group_size": (None, 1),
    "embedding_layer_norm": (None, False),
    "include_bias": (False,),
    "moe_dropless": (None, True),
    "moe_interleave": (None, False),
    "moe_shared_expert": (None, False),
    "rope": (True,),
    "scale_logits": (None, False),
}

_IDLE = frozenset({
    "_name_or_path", "alibi_bias_max", "architectures", "attention_dropout", "auto_map", "dtype", "emb_init_std",
    "embedding_dropout", "flash_attention", "init_cutoff_factor", "init_device", "init_fn", "model_type",
    "moe_capacity_factor", "moe_expert_model_parallelism", "moe_lbl_in_fp32", "moe_log_expert_assignment", "moe_mlp_impl",
    "precision", "residual_dropout", "rope_full_precision", "scale_emb_init", "tokenizer_class", "torch_dtype",
    "transformers_version", "use_cache",
})  # fmt: skip


def canonical_config(native: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` contents of the model that native fields (`d_model`, `n_heads`, …) describe.

    Raises:
        CheckpointError: a field is missing, contradicts another, or needs a computation that is not implemented.
    """
    check_fields(WHERE, native, used=_USED, only=_ONLY, idle=_IDLE)
    sizes = canonical_sizes(native)
    family = _family(native)
    config = {
        **sizes,
        "model_type": family.model_type,
        "num_hidden_layers": require_count(WHERE, native, "n_layers"),
        "vocab_size": require_count(WHERE, native, "embedding_size", require_count(WHERE, native, "vocab_size")),
        "max_position_embeddings": require_count(WHERE, native, "max_sequence_length", 1024),
        "rope_theta": to_number(WHERE, native, "rope_theta", 10_000),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "clip_qkv": _clip(native),
        "tie_word_embeddings": is_tied(native),
        "initializer_range": to_number(WHERE, native, "init_std", 0.02),
        "eos_token_id": native.get("eos_token_id"),
        "pad_token_id": native.get("pad_token_id"),
        "bos_token_id": None,
    }
    config[family.eps] = to_number(WHERE, native, "layer_norm_eps", 1e-5)
    if family.keeps_norms:
        kept = {name: native[name] for name in _OF_NORMS if native.get(name) is not None}
        return config | {"layer_norm_type": "default"} | kept
    return config | (_experts(native) if family.has_experts else {})


def canonical_sizes(native: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes and the family by which fused tensors are split and norms are named, whatever else the model computes.

    Raises:
        CheckpointError: one is missing or impossible.
    """
    hidden_size, heads = require_count(WHERE, native, "d_model"), require_count(WHERE, native, "n_heads")
    if hidden_size % heads:
        raise CheckpointError(f"{WHERE}: d_model must be a multiple of n_heads (got {hidden_size} and {heads})")
    sizes = {
        "model_type": (OLMO2 if native.get("norm_after") else OLMO).model_type,
        "hidden_size": hidden_size,
        "num_attention_heads": heads,
        "num_key_value_heads": _kv_heads(native, heads),
        "intermediate_size": _intermediate_size(native, hidden_size),
    }
    experts = native.get("block_type") == "moe"
    return sizes | ({"num_experts": require_count(WHERE, native, "moe_num_experts")} if experts else {})


def is_native(fields: Mapping[str, Any]) -> bool:
    """True if a config holds native fields, as that of hf_olmo does."""
    return "d_model" in fields and "n_layers" in fields


def is_tied(fields: Mapping[str, Any]) -> bool:
    """True if the head reads the embedding's rows, by a native config or by one of Hugging Face."""
    return bool(fields.get("weight_tying", True) if is_native(fields) else fields.get("tie_word_embeddings"))


def _family(native: Mapping[str, Any]) -> TrainerFamily:
    """The model family, told by the norms: their kind, their place, and their presence on queries and keys."""
    norm = native.get("layer_norm_type", "default")
    affine = native.get("layer_norm_with_affine", True)
    after, on_queries = bool(native.get("norm_after")), bool(native.get("attention_layer_norm"))
    experts = native.get("block_type") == "moe"
    if not experts and native.get("block_type", "sequential") != "sequential":
        raise CheckpointError(f"{WHERE}: block_type must be 'sequential' or 'moe' (got {brief(native['block_type'])})")
    biased = bool(native.get("bias_for_layer_norm") and (affine or on_queries))
    match norm, affine, on_queries, after, experts, biased:
        case "rms", True, True, True, False, False:
            return OLMO2
        case "rms", True, True, False, True, False:
            return OLMOE
        case "default" | "low_precision", False, False, False, False, _:
            return OLMO
        case ("default" | "low_precision", _, _, False, False, _) | ("rms", _, _, False, False, False):
            return OLMO_LADDER
    raise CheckpointError(
        f"{WHERE}: norms of type {brief(norm)} (affine {affine}, biased {biased}, on queries {on_queries}, after sublayers "
        f"{after}, experts {experts}) do not occur in OLMo, its ladder, OLMo 2 or OLMoE; this computation is not implemented"
    )


def _clip(native: Mapping[str, Any]) -> float | None:
    return None if native.get("clip_qkv") is None else to_number(WHERE, native, "clip_qkv", 0)


def _kv_heads(native: Mapping[str, Any], heads: int) -> int:
    if native.get("n_kv_heads") is None:
        return 1 if native.get("multi_query_attention") else heads
    kv_heads = require_count(WHERE, native, "n_kv_heads")
    if heads % kv_heads:
        raise CheckpointError(f"{WHERE}: n_heads must be a multiple of n_kv_heads (got {heads} and {kv_heads})")
    return kv_heads


def _intermediate_size(native: Mapping[str, Any], hidden_size: int) -> int:
    """Half of the native width, which counts gate and up together."""
    fused = to_number(WHERE, native, "mlp_hidden_size", to_number(WHERE, native, "mlp_ratio", 4) * hidden_size)
    if fused < 2 or fused % 2:
        raise CheckpointError(f"{WHERE}: mlp_hidden_size must be even, as it holds gate and up (got {brief(fused)})")
    return int(fused) // 2


def _experts(native: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": require_count(WHERE, native, "moe_num_experts"),
        "num_experts_per_tok": require_count(WHERE, native, "moe_top_k"),
        "norm_topk_prob": bool(native.get("moe_normalize_expert_weights")),
        "router_aux_loss_coef": to_number(WHERE, native, "moe_loss_weight", 0.01),
        "router_z_loss_coef": to_number(WHERE, native, "moe_zloss_weight", 0.0),
    }
