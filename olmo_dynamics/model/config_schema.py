"""The schema of a `config.json`: the kind of value that each key may hold, checked before any of them is used.

A config comes from strangers, so nothing in it is trusted: a number that is out of bounds, text in place of a number, or a
list in place of an object is one error, whatever the key. The sizes that remain are small enough to be compared with the
headers of the weights, which `check_sizes` does before anything is built from them.

    >>> check_schema({"hidden_size": 64, "rope_scaling": None})
    >>> check_schema({"num_hidden_layers": 2**32})
    Traceback (most recent call last):
    olmo_dynamics.errors.ConfigError: num_hidden_layers must be at most 10000 (got 4294967296); correct the config
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from olmo_dynamics.errors import ConfigError
from olmo_dynamics.tensor_names import layer_of

MAX_LAYERS = 10_000
MAX_WIDTH = 1 << 28  # the product of two of them is still a size that torch can hold
MAX_POSITIONS = 1 << 40
FEW = 64  # parts of a model that are built at once, whatever the headers hold: their names are compared next
SMALLEST, LARGEST = 1e-30, 1e30
"""The range of every real number in a config; published ones lie between 1e-8 and 1e7."""

_SHOWN = 200  # characters of a value in an error

Check = Callable[[str, object], None]
"""Raises ConfigError where a value is not of the kind that a key needs."""


def check_schema(config: Mapping[str, Any]) -> None:
    """Check the kind and the bounds of every known key of a `config.json`; an absent key and null are the same.

    Raises:
        ConfigError: a value is of another kind, or out of bounds.
    """
    _check(config, _KEYS, "")


def check_sizes(layers: int, experts: int, tensors: Mapping[str, Any]) -> None:
    """Check that a config has no more layers and experts than the weights, by their headers, can hold.

    Raises:
        ConfigError: it has more.
    """
    held = len({layer for layer in map(layer_of, tensors) if layer is not None})
    most = max(FEW, len(tensors))
    if layers > most:
        raise ConfigError(
            f"num_hidden_layers must be the {held} layers that the weights hold (got {layers}); correct the config"
        )
    if layers * experts > most:
        raise ConfigError(
            f"num_experts must be no more than the weights hold, which are {len(tensors)} tensors "
            f"(got {experts} in each of {layers} layers); correct the config"
        )


def brief(value: object) -> str:
    """The value as Python writes it, cut short; text that no terminal can print is escaped.

    >>> brief("a" * 300)[-3:]
    'aa…'
    """
    try:
        text = repr(value)
    except RecursionError:
        return "values nested too deeply to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def require_count(name: str, value: object, most: int = MAX_WIDTH) -> None:
    """Check that a value is a whole number from 1 to `most`.

    Raises:
        ConfigError: it is not.
    """
    _require_whole(name, value, 1, most)


def require_positive(name: str, value: object) -> None:
    """Check that a value is a number above 0 that arithmetic can use.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0 or value == float("inf"):
        raise ConfigError(f"{name} must be a number above 0 (got {brief(value)}); correct the config")
    if not SMALLEST <= value <= LARGEST:
        raise ConfigError(f"{name} must be from {SMALLEST:g} to {LARGEST:g} (got {brief(value)}); correct the config")


def require_positive_fields(owner: object, names: Iterable[str]) -> None:
    """Check that fields of an object are numbers above 0 that arithmetic can use.

    Raises:
        ConfigError: one of them is not.
    """
    for name in names:
        require_positive(name, getattr(owner, name))


def _require_whole(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least} (got {brief(value)}); correct the config")
    if value > most:
        raise ConfigError(f"{name} must be at most {most} (got {brief(value)}); correct the config")


def _whole(least: int, most: int) -> Check:
    return lambda name, value: _require_whole(name, value, least, most)


def _require_kind(name: str, value: object, kind: type, words: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{name} must be {words} (got {brief(value)}); correct the config")


def _flag(name: str, value: object) -> None:
    _require_kind(name, value, bool, "true or false")


def _text(name: str, value: object) -> None:
    _require_kind(name, value, str, "text")


def _token_ids(name: str, value: object) -> None:
    for each in value if isinstance(value, list) else [value]:
        if type(each) is not int or abs(each) > MAX_WIDTH:
            raise ConfigError(f"{name} must be a token id or a list of them (got {brief(value)}); correct the config")


def _layer_types(name: str, value: object) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ConfigError(f"{name} must be a list of text, one for each layer (got {brief(value)}); correct the config")


def _rope(name: str, value: object) -> None:
    _require_kind(name, value, dict, "an object")
    assert isinstance(value, dict)
    _check(value, _ROPE_KEYS, f"{name}.")


def _rope_of_layers(name: str, value: object) -> None:
    """One rotation for all layers, or one for each kind of layer."""
    _rope(name, value)
    assert isinstance(value, dict)
    for kind, rope in value.items():
        if kind.endswith("_attention") and rope is not None:
            _rope(f"{name}.{kind}", rope)


def _check(found: Mapping[str, Any], keys: Mapping[str, Check], where: str) -> None:
    for key, check in keys.items():
        if found.get(key) is not None:
            check(where + key, found[key])


_ROPE_KEYS: dict[str, Check] = {
    "rope_type": _text,
    "type": _text,
    "original_max_position_embeddings": _whole(1, MAX_POSITIONS),
    **dict.fromkeys(
        (
            "rope_theta",
            "factor",
            "beta_fast",
            "beta_slow",
            "attention_factor",
            "low_freq_factor",
            "high_freq_factor",
            "partial_rotary_factor",
        ),
        require_positive,
    ),
}

_KEYS: dict[str, Check] = {
    "model_type": _text,
    "layer_norm_type": _text,
    "num_hidden_layers": _whole(1, MAX_LAYERS),
    "max_position_embeddings": _whole(1, MAX_POSITIONS),
    "sliding_window": _whole(1, MAX_POSITIONS),
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim",
         "num_experts_per_tok"), _whole(1, MAX_WIDTH)
    ),
    **dict.fromkeys(("num_experts", "num_local_experts"), _whole(0, MAX_WIDTH)),
    **dict.fromkeys(
        ("rms_norm_eps", "layer_norm_eps", "rope_theta", "clip_qkv", "rotary_pct", "rotary_emb_base"), require_positive
    ),
    **dict.fromkeys(
        ("tie_word_embeddings", "norm_topk_prob", "attention_bias", "mlp_bias", "use_parallel_residual",
         "layer_norm_with_affine", "bias_for_layer_norm", "attention_layer_norm", "attention_layer_norm_with_affine"), _flag
    ),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), _token_ids),
    "layer_types": _layer_types,
    "rope_scaling": _rope,
    "rope_parameters": _rope_of_layers,
}  # fmt: skip
