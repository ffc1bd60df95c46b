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
from olmo_dynamics.model.config import ModelConfig, refuse
from olmo_dynamics.model.config_schema import check_schema, check_sizes
from olmo_dynamics.model.family import MODEL_TYPES, Family, family_of

FULL = "full_attention"
"""The name of a layer's kind of attention in `layer_types`, where a token sees all tokens before it."""

_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")

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
    "clip_qkv": (None,),
    "sliding_window": (None,),
    "num_experts": (None, 0, 1),
    "num_local_experts": (None, 0, 1),
    "rope_interleaved": (None, False),
}
"""Keys that change the computation, and the values for which it is as implemented; None also means an absent key.

A family reads some of them (`Family.keys`), or takes other values.
"""

_READ = frozenset(
    {*_REQUIRED, *_SAME, "model_type", "num_key_value_heads", "head_dim", "layer_types", "max_position_embeddings",
     "rms_norm_eps", "layer_norm_eps", "num_experts_per_tok", "norm_topk_prob", "rope_theta", "rope_scaling",
     "rope_parameters", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"}
)  # fmt: skip
"""Keys that are known in a config of any family."""

_IDLE = frozenset(
    {"architectures", "transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "initializer_range",
     "output_router_logits", "router_aux_loss_coef", "router_z_loss_coef", "output_attentions", "output_hidden_states",
     "return_dict", "is_encoder_decoder", "id2label", "label2id", "num_labels", "problem_type", "chunk_size_feed_forward",
     "pretraining_tp", "classifier_dropout", "is_decoder"}
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
    family = family_of(config.get("model_type"))
    check_schema(config)
    _refuse_other_computations(config, family)
    _require_keys(config, family)
    config = {**family.defaults, **config}
    parts = family.read(config)
    if tensors is not None:
        experts = parts.get("experts")
        check_sizes(config["num_hidden_layers"], experts.count if experts else 1, tensors)
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads")
    return ModelConfig(
        model_type=config["model_type"],
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=_head_dim(config),
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_positions=config["max_position_embeddings"],
        norm_eps=config[family.eps],
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        pad_token_id=config.get("pad_token_id"),
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=_frozen(config.get("eos_token_id")),
        **parts,
    )


def unknown_keys(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys that `parse_config` ignores because their meaning is unknown, in alphabetical order."""
    return tuple(sorted(set(config) - _READ - _IDLE - known_keys(config.get("model_type"))))


def known_keys(model_type: object) -> frozenset[str]:
    """The keys of a `config.json` that only some families have, and this one does; empty for an unknown family."""
    if model_type not in MODEL_TYPES:
        return frozenset()
    family = family_of(model_type)
    return family.keys | set(family.same)


def to_config_json(config: ModelConfig, *, dtype: str | None = None) -> dict[str, Any]:
    """The `config.json` with which `transformers.AutoModelForCausalLM` loads this model; the inverse of `parse_config`.

    `dtype` is torch's name of the stored dtype, such as `"bfloat16"`, written under both its old and its new key.
    """
    family = family_of(config.model_type)
    eos = list(config.eos_token_id) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    written: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        family.eps: config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
    }
    written |= family.write(config)
    if config.query_width != config.hidden_size:
        written["head_dim"] = config.head_dim
    if dtype is not None:
        written |= {"dtype": dtype, "torch_dtype": dtype}
    return written


def published_config(config: ModelConfig, *, dtype: str | None = None) -> dict[str, Any]:
    """The `config.json` to write beside the tensors of `Family.publish`: that of `to_config_json` in the family's own words."""
    return family_of(config.model_type).publish_config(to_config_json(config, dtype=dtype))


def _require_keys(config: Mapping[str, Any], family: Family) -> None:
    required = {key: (key,) for key in _REQUIRED} | {spellings[0]: spellings for spellings in family.required}
    missing = [
        key for key, spellings in required.items() if all(config.get(spelling) is None for spelling in spellings)
    ]
    if missing:
        raise ConfigError(f"config.json must give {', '.join(required)} (missing: {', '.join(missing)}); add them")


def _refuse_other_computations(config: Mapping[str, Any], family: Family) -> None:
    for key, same in {**_SAME, **family.same}.items():
        if key not in family.keys and config.get(key) not in same:
            refuse(key, config[key], " or ".join(repr(value) for value in same if value is not None) or "absent")
    others = sorted(set(config.get("layer_types") or ()) - {FULL})
    if others and "layer_types" not in family.keys:
        refuse("layer_types", others, f"{FULL!r} only")


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
