"""A checkpoint's `config.json` read into a `ModelConfig`, and written from one.

The config is read for each revision, because branches of one repo differ in it. Every setting that would change the
computation in a way not implemented here is rejected; `unknown_keys` lists the keys that are not known at all.

    >>> from olmo_dynamics.model import parse_config
    >>> config = parse_config({"model_type": "olmo2", "hidden_size": 64, "num_hidden_layers": 2,
    ...                        "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100})
    >>> config.head_dim, config.kv_heads, config.rope_theta
    (16, 4, 10000.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olmo_dynamics.errors import ConfigError
from olmo_dynamics.model.config import OWNERS, Experts, ModelConfig, refuse, require_known
from olmo_dynamics.model.config_schema import check_schema, check_sizes
from olmo_dynamics.model.rope_json import FULL, SLIDING, as_float, read_rope, write_rope

_ARCHITECTURES = {
    "olmo": "OlmoForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
    "olmo3": "Olmo3ForCausalLM",
    "olmoe": "OlmoeForCausalLM",
}

_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")

_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,  # fixed in transformers, an option of OLMo 1's trainer
    "sliding_window": 4096,
    "num_experts_per_tok": 8,
    "pad_token_id": 1,
    "eos_token_id": 50279,
}
"""The values of absent keys in transformers, which wrote these configs."""

_SAME: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu"),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "attention_dropout": (None, 0, 0.0),
    "partial_rotary_factor": (None, 1, 1.0),
    "original_max_position_embeddings": (None,),
    "alibi": (None, False),
    "embedding_layer_norm": (None, False),
    "scale_logits": (None, False),
    "logit_scale": (None, 1, 1.0),
    "embedding_multiplier": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "no_rope_layers": (None, []),
    "num_shared_experts": (None, 0),
    "mlp_only_layers": (None, []),
    "quantization_config": (None,),
}
"""Keys that change the computation, and the values for which it is as implemented; None also means an absent key."""

_SAME_UNLESS_OWNED: dict[str, tuple[Any, ...]] = {
    "clip_qkv": (None,),
    "sliding_window": (None,),
    "num_experts": (None, 0, 1),
    "num_local_experts": (None, 0, 1),
}
"""The same, for keys that only some families have."""

_READ = frozenset(
    {*_REQUIRED, *_DEFAULTS, *_SAME, *_SAME_UNLESS_OWNED, "model_type", "num_key_value_heads", "head_dim", "layer_types",
     "rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings", "norm_topk_prob", "bos_token_id"}
)  # fmt: skip

_IDLE = frozenset(
    {"architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "initializer_range",
     "output_router_logits", "router_aux_loss_coef", "router_z_loss_coef", "output_attentions", "output_hidden_states",
     "return_dict", "is_encoder_decoder", "id2label", "label2id", "num_labels", "problem_type", "chunk_size_feed_forward"}
)  # fmt: skip
"""Keys without effect on a forward pass."""


def parse_config(config: Mapping[str, Any], tensors: Mapping[str, Any] | None = None) -> ModelConfig:
    """Read a `ModelConfig` from the contents of a Hugging Face `config.json`.

    Keys that determine a shape are required; others default as in transformers. Give the `tensors` that the weights hold by
    their headers, where there are any: a model with more layers or experts than they can hold is refused, and never built.

    Raises:
        UnknownModelError: the model type has no forward pass here.
        ConfigError: keys are missing, contradict each other, or ask for a computation that is not implemented.
    """
    require_known(config.get("model_type"))
    check_schema(config)
    model_type = config["model_type"]
    _refuse_other_computations(config)
    _require_keys(config, (*_REQUIRED, "num_experts") if model_type == "olmoe" else _REQUIRED)
    config = _DEFAULTS | ({"max_position_embeddings": 4096} if model_type == "olmoe" else {}) | dict(config)
    experts = _experts(config) if model_type == "olmoe" else None
    if tensors is not None:
        check_sizes(config["num_hidden_layers"], experts.count if experts else 1, tensors)
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads")
    sliding_layers = _sliding_layers(config)
    return ModelConfig(
        model_type=model_type,
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=_head_dim(config),
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config[_eps_key(model_type)],
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        clip_qkv=as_float(config.get("clip_qkv")),
        sliding_window=config["sliding_window"] if sliding_layers else None,
        sliding_layers=sliding_layers,
        experts=experts,
        pad_token_id=config["pad_token_id"],
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=_frozen(config["eos_token_id"]),
        **read_rope(config),
    )


def unknown_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that `parse_config` ignores because their meaning is unknown, in alphabetical order."""
    return tuple(sorted(set(config) - _READ - _IDLE))


def to_config_json(config: ModelConfig, *, dtype: str | None = None) -> dict[str, Any]:
    """The `config.json` with which `transformers.AutoModelForCausalLM` loads this model; the inverse of `parse_config`.

    `dtype` is torch's name of the stored dtype, such as `"bfloat16"`, written under both its old and its new key.
    """
    eos = list(config.eos_token_id) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    written: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[config.model_type]],
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        _eps_key(config.model_type): config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
    }
    written |= write_rope(config) | _family_keys(config)
    if config.query_width != config.hidden_size:
        written["head_dim"] = config.head_dim
    if dtype is not None:
        written |= {"dtype": dtype, "torch_dtype": dtype}
    return written


def _family_keys(config: ModelConfig) -> dict[str, Any]:
    """The keys that only some families have."""
    written: dict[str, Any] = {}
    if config.model_type in OWNERS["clip_qkv"]:
        written["clip_qkv"] = config.clip_qkv
    if config.model_type in OWNERS["sliding_layers"]:
        written["layer_types"] = [SLIDING if config.window(layer) else FULL for layer in range(config.layers)]
    if config.sliding_window is not None:
        written["sliding_window"] = config.sliding_window
    if config.experts is not None:
        written["num_experts"] = config.experts.count
        written["num_experts_per_tok"] = config.experts.per_token
        written["norm_topk_prob"] = config.experts.renormalized
    return written


def _eps_key(model_type: str) -> str:
    return "layer_norm_eps" if model_type == "olmo" else "rms_norm_eps"


def _require_keys(config: Mapping[str, Any], required: tuple[str, ...]) -> None:
    missing = [key for key in required if config.get(key) is None]
    if "num_experts" in missing and config.get("num_local_experts") is not None:
        missing.remove("num_experts")
    if missing:
        raise ConfigError(f"config.json must give {', '.join(required)} (missing: {', '.join(missing)}); add them")


def _refuse_other_computations(config: Mapping[str, Any]) -> None:
    owned = {key for key, owners in OWNERS.items() if config["model_type"] in owners}
    if "experts" in owned:
        owned |= {"num_experts", "num_local_experts"}
    others = {key: values for key, values in _SAME_UNLESS_OWNED.items() if key not in owned}
    for key, same in (_SAME | others).items():
        if config.get(key) not in same:
            refuse(key, config[key], " or ".join(repr(value) for value in same if value is not None) or "absent")


def _sliding_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Olmo 3's layers with a window: those named by `layer_types`, or three of every four."""
    given = config.get("layer_types")
    if config["model_type"] != "olmo3":
        if set(given or ()) - {FULL}:
            refuse("layer_types", sorted(set(given or ()) - {FULL}), f"{FULL!r} only")
        return ()
    if given is None:
        return tuple(layer for layer in range(config["num_hidden_layers"]) if (layer + 1) % 4)
    if set(given) - {FULL, SLIDING}:
        refuse("layer_types", sorted(set(given) - {FULL, SLIDING}), f"{FULL!r} or {SLIDING!r}")
    if len(given) != config["num_hidden_layers"]:
        raise ConfigError(
            f"layer_types must name {config['num_hidden_layers']} layers, as in num_hidden_layers (got {len(given)}); "
            "correct the config"
        )
    return tuple(layer for layer, kind in enumerate(given) if kind == SLIDING)


def _experts(config: Mapping[str, Any]) -> Experts:
    count = config.get("num_experts")
    return Experts(
        count=config["num_local_experts"] if count is None else count,
        per_token=config["num_experts_per_tok"],
        renormalized=bool(config.get("norm_topk_prob", False)),
    )


def _head_dim(config: Mapping[str, Any]) -> int:
    given: int | None = config.get("head_dim")
    if given is not None:
        return given
    hidden_size, heads = config["hidden_size"], config["num_attention_heads"]
    if hidden_size % heads:
        raise ConfigError(
            "hidden_size must be a multiple of num_attention_heads if head_dim is absent "
            f"(got {hidden_size} and {heads}); correct the config"
        )
    return int(hidden_size // heads)


def _frozen(token_id: int | list[int] | None) -> int | tuple[int, ...] | None:
    return tuple(token_id) if isinstance(token_id, list) else token_id
