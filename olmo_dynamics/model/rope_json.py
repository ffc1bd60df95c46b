"""Rotary position embeddings in a `config.json`, in any of its three spellings.

transformers 4 wrote `rope_theta` and `rope_scaling`. transformers 5 writes `rope_parameters`; Olmo 3 has one for its full
layers and one for its sliding layers. A flat theta applies to every layer, as in training; only the stretching is limited
to full layers.

    >>> from olmo_dynamics.model.rope_json import read_rope
    >>> read_rope({"model_type": "olmo2", "rope_theta": 5e5, "rope_scaling": None})
    {'rope_theta': 500000.0, 'yarn': None}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olmo_dynamics.errors import ConfigError
from olmo_dynamics.model.config import ModelConfig, Yarn, refuse
from olmo_dynamics.model.config_schema import brief

FULL, SLIDING = "full_attention", "sliding_attention"
"""The names of a layer's kind of attention in `layer_types` and `rope_parameters`."""

_DEFAULT_THETA = {"olmo3": 500_000.0}  # 10000 elsewhere
_SAME: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "truncate": (None, True),
}
"""Keys that change the computation, and the values for which it is as implemented; None also means an absent key."""

_Rope = Mapping[str, Any]


def read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a `ModelConfig` that define the rotation of queries and keys.

    Raises:
        ConfigError: spellings contradict each other, or ask for a kind of RoPE that is not implemented.
    """
    if config["model_type"] == "olmo3" and config.get("rope_parameters"):
        return _by_layer_type(config)
    if config.get("rope_parameters") and config.get("rope_scaling"):
        raise ConfigError(
            "rope_parameters and rope_scaling must not be given together "
            f"(got {brief(config['rope_parameters'])} and {brief(config['rope_scaling'])}); remove one"
        )
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    rope = config.get(key) or {}
    return {"rope_theta": _theta(key, rope, config), "yarn": _yarn(key, rope, config)}


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_rope`, in the spelling of transformers 4 and, for Olmo 3, also in that of 5.

    transformers 5.23 gives sliding layers a theta of 500000 if only a flat theta is written, even another one.
    """
    scaling = _scaling(config.yarn)
    written: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_scaling": scaling}
    if config.model_type == "olmo3":
        written["rope_parameters"] = {
            FULL: (scaling or {"rope_type": "default"}) | {"rope_theta": config.rope_theta},
            SLIDING: {"rope_type": "default", "rope_theta": config.sliding_rope_theta or config.rope_theta},
        }
    return written


def as_float(value: Any) -> Any:
    """A float for a whole number, as JSON may write one; any other value unchanged."""
    return float(value) if type(value) is int else value


def _by_layer_type(config: Mapping[str, Any]) -> dict[str, Any]:
    key, ropes = "rope_parameters", config["rope_parameters"]
    if not all(name in (FULL, SLIDING) and isinstance(rope, Mapping) for name, rope in ropes.items()):
        refuse(key, ropes, f"given for {FULL} and {SLIDING} apart")
    full, sliding = ropes.get(FULL, {}), ropes.get(SLIDING, {})
    if _yarn(f"{key} of {SLIDING}", sliding, config):
        refuse(f"{key} of {SLIDING}", sliding, "of rope_type 'default'")
    yarn, scaling = _yarn(key, full, config), config.get("rope_scaling")
    if scaling and _yarn("rope_scaling", scaling, config) != yarn:
        raise ConfigError(
            f"rope_scaling must equal {key} of {FULL} (got {brief(scaling)} and {brief(full)}); remove the wrong one"
        )
    theta, own = _theta(key, full, config), sliding.get("rope_theta")
    sliding_theta = _theta(key, {}, config) if own is None else as_float(own)
    return {"rope_theta": theta, "yarn": yarn, "sliding_rope_theta": None if sliding_theta == theta else sliding_theta}


def _theta(key: str, rope: _Rope, config: Mapping[str, Any]) -> float:
    """RoPE's base: from `rope_parameters`, or from the config itself, or else the family's default."""
    found = [theta for theta in (rope.get("rope_theta"), config.get("rope_theta")) if theta is not None]
    if not found and "rope_theta" in config:
        refuse("rope_theta", None, "a number")  # some models were trained further without positions
    if len(set(found)) > 1:
        raise ConfigError(
            f"rope_theta must be one number (got {found[0]!r} in {key} and {found[1]!r} outside it); remove one"
        )
    return as_float(found[0]) if found else _DEFAULT_THETA.get(config["model_type"], 10_000.0)


def _yarn(key: str, rope: _Rope, config: Mapping[str, Any]) -> Yarn | None:
    """The stretching of RoPE, None if there is none."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    of_layers = any(name in rope for name in (FULL, SLIDING)) or any(
        isinstance(each, Mapping) for each in rope.values()
    )
    if kind not in ("default", "yarn") or of_layers:
        refuse(key, dict(rope), "of rope_type 'default' or 'yarn'")
    for name, same in _SAME.items():
        if rope.get(name) not in same:
            refuse(
                f"{name} of {key}", rope[name], " or ".join("absent" if each is None else repr(each) for each in same)
            )
    if kind == "default":
        return None
    optional = ("beta_fast", "beta_slow", "attention_factor")
    given: dict[str, Any] = {name: rope[name] for name in optional if rope.get(name) is not None}
    given["factor"] = rope.get("factor")
    return Yarn(
        original_positions=rope.get("original_max_position_embeddings", config["max_position_embeddings"]), **given
    )


def _scaling(yarn: Yarn | None) -> dict[str, Any] | None:
    if yarn is None:
        return None
    written = {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_positions,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
    }
    return written if yarn.attention_factor is None else written | {"attention_factor": yarn.attention_factor}
