"""The experiment config of OLMo-core, as the Hugging Face config of the same model.

A model with a sliding window is an Olmo 3, one without an OLMo 2, one with experts a FlexOlmo. RoPE is written per kind of
layer, because only full layers are ever scaled.

    >>> core_config({})
    Traceback (most recent call last):
    olmo_dynamics.errors.CheckpointError: config.json: model must be given as fields (got None); correct the config
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.config_fields import (
    check_fields,
    optional_fields,
    require_count,
    require_fields,
    to_number,
)
from olmo_dynamics.checkpoints.formats.core_layers import FREE, WHERE, layer_windows, read_mixer, rope_scaling
from olmo_dynamics.checkpoints.formats.family_facts.trainer_families import FLEX_OLMO, OLMO2, OLMO3
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.errors import CheckpointError

MAX_LAYERS = 10_000

_MODEL_ONLY: dict[str, tuple[Any, ...]] = {
    "name": (None, "default", "moe"),
    "embed_scale": (None, 1, 1.0),
    "embedding_norm": (None,),
}
_MODEL_USED = frozenset({"d_model", "vocab_size", "n_layers", "block", "block_overrides", "lm_head", "tie_word_embeddings",
                         "init_std"})  # fmt: skip
_MODEL_IDLE = FREE | {"init_method", "init_seed", "freeze_params", "init_device", "embedding_init_std", "compile"}


def core_config(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` contents of the model that an OLMo-core experiment trains.

    Raises:
        CheckpointError: a field is missing, contradicts another, or needs a computation that is not implemented.
    """
    model = require_fields(WHERE, experiment, "model")
    where = f"{WHERE}, model"
    require_count(where, model, "d_model")
    layers = require_count(where, model, "n_layers")
    if layers > MAX_LAYERS:
        raise CheckpointError(f"{where}: n_layers must be at most {MAX_LAYERS} (got {layers}); correct the config")
    check_fields(where, model, used=_MODEL_USED, only=_MODEL_ONLY, idle=_MODEL_IDLE)
    block = require_fields(where, model, "block")
    mixer = read_mixer(block, f"{where}.block")
    heads = require_count(where, mixer, "n_heads")
    data = optional_fields(WHERE, experiment, "dataset")
    tokenizer = optional_fields(WHERE, data, "tokenizer")
    trained = optional_fields(WHERE, experiment, "train_module")
    return {
        **_family(model, mixer, layers),
        **_widths(model, mixer),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": require_count(where, mixer, "n_kv_heads", heads),
        "vocab_size": require_count(where, model, "vocab_size"),
        "max_position_embeddings": require_count(
            where, trained, "max_sequence_length", require_count(where, data, "sequence_length", 4096)
        ),
        "rms_norm_eps": _epsilon(block, mixer, model),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": bool(model.get("tie_word_embeddings")),
        "initializer_range": to_number(where, model, "init_std", 0.02),
        "eos_token_id": tokenizer.get("eos_token_id"),
        "pad_token_id": tokenizer.get("pad_token_id"),
        "bos_token_id": tokenizer.get("bos_token_id"),
    }


def _family(model: Mapping[str, Any], mixer: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """The model type and the fields that depend on it: windows, RoPE and experts."""
    name = model["block"].get("name")
    windows = layer_windows(mixer, layers)
    plain = {"rope_type": "default", "rope_theta": to_number(WHERE, mixer["rope"], "theta", 500_000)}
    full = plain | rope_scaling(model, windows)
    if name == "moe_reordered_norm" and not any(windows):
        return {"model_type": FLEX_OLMO.model_type, "rope_parameters": full, **_experts(model["block"])}
    if name != "reordered_norm":
        raise CheckpointError(f"{WHERE}: block name must be reordered_norm or moe_reordered_norm (got {brief(name)})")
    if not any(windows):
        return {"model_type": OLMO2.model_type, "rope_parameters": full}
    widths = {width for width in windows if width}
    if len(widths) > 1:
        raise CheckpointError(f"{WHERE}: sliding windows must have one width (got {sorted(widths)})")
    return {
        "model_type": OLMO3.model_type,
        "sliding_window": widths.pop(),
        "layer_types": ["sliding_attention" if width else "full_attention" for width in windows],
        "rope_parameters": {"full_attention": full, "sliding_attention": plain},
    }


def _experts(block: Mapping[str, Any]) -> dict[str, Any]:
    experts = require_fields(WHERE, block, "feed_forward_moe")
    router = require_fields(WHERE, experts, "router")
    return {
        "num_experts": require_count(WHERE, experts, "num_experts"),
        "num_experts_per_tok": require_count(WHERE, router, "top_k"),
        "norm_topk_prob": bool(router.get("normalize_expert_weights")),
    }


def _widths(model: Mapping[str, Any], mixer: Mapping[str, Any]) -> dict[str, Any]:
    """The widths of the residual stream, of the feed-forward, and of a head if it is not the stream's share."""
    block = model["block"]
    feed_forward = require_fields(WHERE, block, "feed_forward_moe" if "feed_forward_moe" in block else "feed_forward")
    if feed_forward.get("bias") or feed_forward.get("activation", "silu") != "silu":
        raise CheckpointError(f"{WHERE}: feed_forward must have no bias, and silu as activation")
    hidden_size, heads = require_count(WHERE, model, "d_model"), mixer["n_heads"]
    widths = {"hidden_size": hidden_size, "intermediate_size": require_count(WHERE, feed_forward, "hidden_size")}
    if mixer.get("head_dim") is not None:
        return widths | {"head_dim": require_count(WHERE, mixer, "head_dim")}
    if hidden_size % heads:
        raise CheckpointError(f"{WHERE}: d_model must be a multiple of n_heads (got {hidden_size} and {heads})")
    return widths


def _epsilon(block: Mapping[str, Any], mixer: Mapping[str, Any], model: Mapping[str, Any]) -> float:
    """The one epsilon of all norms.

    Raises:
        CheckpointError: they differ, or a norm is not an RMS norm with a weight.
    """
    norms = [
        require_fields(WHERE, block, "layer_norm"),
        require_fields(WHERE, mixer, "qk_norm"),
        require_fields(WHERE, require_fields(WHERE, model, "lm_head"), "layer_norm"),
    ]
    for norm in norms:
        if norm.get("name") not in ("rms", "fused_rms") or norm.get("bias") or norm.get("elementwise_affine") is False:
            raise CheckpointError(f"{WHERE}: norms must be rms with a weight and no bias (got {brief(norm)})")
    found = {to_number(WHERE, norm, "eps", 1e-5) for norm in norms}
    if len(found) > 1:
        raise CheckpointError(f"{WHERE}: all norms must have one eps (got {sorted(found)})")
    return found.pop()
