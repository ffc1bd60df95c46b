"""What a checkpoint's `config.json` says about the shape of its model.

`parse_config` reads the flat form of transformers 4 and the nested `rope_parameters` of transformers 5, and refuses
every setting that would change the computation in a way not implemented here. `to_config_json` is its inverse.

    >>> from olmo_dynamics.model.config import parse_config
    >>> config = parse_config({"model_type": "olmo2", "hidden_size": 64, "num_hidden_layers": 2,
    ...                        "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100})
    >>> config.head_dim, config.kv_heads, config.rope_theta
    (16, 4, 10000.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from olmo_dynamics.errors import CheckpointError, UnknownModelError

MODEL_TYPES = ("olmo2",)
"""The `model_type`s whose forward pass is implemented."""

_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")

_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, "silu"),
    "attention_bias": (None, False),
    "attention_dropout": (None, 0, 0.0),
    "clip_qkv": (None,),
    "sliding_window": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
}
"""Keys that change the computation, and the values that leave it as implemented; None stands for an absent key too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of one model, in plain words; `parse_config` makes it from a `config.json`.

    Raises CheckpointError when numbers contradict each other.
    """

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int  # rows of the embedding, padding rows included
    max_positions: int
    norm_eps: float
    rope_theta: float
    tied_embeddings: bool = False  # the head reads the embedding's rows
    model_type: str = "olmo2"
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _require_known(self.model_type)
        for name in (
            "hidden_size",
            "layers",
            "heads",
            "kv_heads",
            "head_dim",
            "intermediate_size",
            "vocab_size",
            "max_positions",
        ):
            _require_count(name, getattr(self, name))
        for name in ("norm_eps", "rope_theta"):
            _require_positive(name, getattr(self, name))
        if self.heads % self.kv_heads:
            raise CheckpointError(
                f"heads must be a multiple of kv_heads; got {self.heads} and {self.kv_heads}: correct the config"
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"head_dim must be even, because RoPE turns pairs; got {self.head_dim}: correct the config"
            )

    @property
    def query_width(self) -> int:
        """Features of all queries of one token: `heads * head_dim`."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all keys (or values) of one token: `kv_heads * head_dim`."""
        return self.kv_heads * self.head_dim


def parse_config(config: Mapping[str, Any]) -> ModelConfig:
    """A `ModelConfig` from the contents of a Hugging Face `config.json`.

    Keys that fix a shape must be there; others default as in transformers' `Olmo2Config`.

    Raises UnknownModelError for a model type without a forward pass here, and CheckpointError for keys that are
    missing, contradict each other, or ask for a computation that is not implemented.
    """
    _require_known(config.get("model_type"))
    missing = [key for key in _REQUIRED if config.get(key) is None]
    if missing:
        raise CheckpointError(f"config.json must give {', '.join(_REQUIRED)}; missing: {', '.join(missing)}: add them")
    _refuse_other_computations(config)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads")
    return ModelConfig(
        model_type=config["model_type"],
        hidden_size=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=_head_dim(config),
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_positions=config.get("max_position_embeddings", 2048),
        norm_eps=config.get("rms_norm_eps", 1e-5),
        rope_theta=_rope_theta(config),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        pad_token_id=config.get("pad_token_id", 1),
        bos_token_id=config.get("bos_token_id"),
        eos_token_id=_frozen(config.get("eos_token_id", 50279)),
    )


def to_config_json(config: ModelConfig, *, dtype: str | None = None) -> dict[str, Any]:
    """The `config.json` with which `transformers.AutoModelForCausalLM` loads this model; the inverse of `parse_config`.

    `dtype` is torch's word for the stored dtype, such as `"bfloat16"`; both generations of its key are written.
    """
    eos = list(config.eos_token_id) if isinstance(config.eos_token_id, tuple) else config.eos_token_id
    written: dict[str, Any] = {
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
    }
    if config.query_width != config.hidden_size:
        written["head_dim"] = config.head_dim
    if dtype is not None:
        written |= {"dtype": dtype, "torch_dtype": dtype}
    return written


def _require_known(model_type: object) -> None:
    if model_type not in MODEL_TYPES:
        raise UnknownModelError(
            f"model_type must be one of {', '.join(MODEL_TYPES)} to run a forward pass; got {model_type!r}: "
            "record parameters only, which needs no forward pass"
        )


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{name} must be a whole number of at least 1; got {value!r}: correct the config")


def _require_positive(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise CheckpointError(f"{name} must be a number above 0; got {value!r}: correct the config")


def _refuse_other_computations(config: Mapping[str, Any]) -> None:
    for key, allowed in _ONLY.items():
        if config.get(key) not in allowed:
            _refuse(key, config[key], " or ".join(repr(value) for value in allowed if value is not None) or "absent")
    windowed = set(config.get("layer_types") or ()) - {"full_attention"}
    if windowed:
        _refuse("layer_types", sorted(windowed), "'full_attention' only")


def _refuse(key: str, came: object, wanted: str) -> NoReturn:
    raise CheckpointError(
        f"{key} must be {wanted} for the forward pass implemented here; got {came!r}: record parameters only"
    )


def _head_dim(config: Mapping[str, Any]) -> int:
    given = config.get("head_dim")
    if given is not None:
        return cast(int, given)
    hidden_size, heads = config["hidden_size"], config["num_attention_heads"]
    _require_count("hidden_size", hidden_size)
    _require_count("heads", heads)
    if hidden_size % heads:
        raise CheckpointError(
            "hidden_size must be a multiple of num_attention_heads where head_dim is absent; "
            f"got {hidden_size} and {heads}: correct the config"
        )
    return int(hidden_size // heads)


def _rope_theta(config: Mapping[str, Any]) -> float:
    """RoPE's base: in `rope_parameters` (transformers 5), beside it (transformers 4), else 10000."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    rope = config.get(key) or {}
    nested = any(isinstance(value, dict) for value in rope.values())
    if nested or rope.get("rope_type", rope.get("type", "default")) != "default":
        _refuse(key, rope, "of rope_type 'default'")
    found = [theta for theta in (rope.get("rope_theta"), config.get("rope_theta")) if theta is not None]
    if len(set(found)) > 1:
        raise CheckpointError(
            f"rope_theta must be one number; got {found[0]!r} in {key} and {found[1]!r} beside it: remove one"
        )
    return found[0] if found else 10_000.0


def _frozen(token_id: int | list[int] | None) -> int | tuple[int, ...] | None:
    return tuple(token_id) if isinstance(token_id, list) else token_id
