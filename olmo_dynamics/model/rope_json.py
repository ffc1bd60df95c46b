"""Rotary position embeddings in a `config.json`, in either of its spellings.

transformers 4 wrote `rope_theta` and `rope_scaling`. transformers 5 writes `rope_parameters`.

    >>> from olmo_dynamics.model.rope_json import read_rope
    >>> read_rope({"model_type": "olmo2", "rope_theta": 5e5, "rope_scaling": None})
    {'rope_theta': 500000.0, 'yarn': None}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from olmo_dynamics.errors import ConfigError
from olmo_dynamics.model.config import ModelConfig, refuse
from olmo_dynamics.model.config_schema import brief
from olmo_dynamics.model.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, Scaling, Yarn

THETA = 10_000.0
"""RoPE's base where a config gives none, in most families."""

KINDS = ("default", "yarn")
"""The kinds of RoPE that OLMo's families have."""

_SAME: dict[str, tuple[Any, ...]] = {
    "partial_rotary_factor": (None, 1),
    "mscale": (None,),
    "mscale_all_dim": (None,),
    "truncate": (None, True),
}
"""Keys that change the computation, and the values for which it is as implemented; None also means an absent key."""

Rope = Mapping[str, Any]


def read_rope(config: Mapping[str, Any], *, theta: float = THETA, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """Read the fields of a `ModelConfig` that define the rotation of queries and keys; `theta` is the base if none is given.

    Raises:
        ConfigError: spellings contradict each other, or ask for a kind of RoPE that is not among `kinds`.
    """
    if config.get("rope_parameters") and config.get("rope_scaling"):
        raise ConfigError(
            "rope_parameters and rope_scaling must not be given together "
            f"(got {brief(config['rope_parameters'])} and {brief(config['rope_scaling'])}); remove one"
        )
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    rope = config.get(key) or {}
    scaling = read_scaling(key, rope, config, kinds)
    found: dict[str, Any] = {"rope_theta": read_theta(key, rope, config, theta)}
    return found | ({"yarn": scaling} if scaling is None or isinstance(scaling, Yarn) else {"scaling": scaling})


def write_rope(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `read_rope`, in the spelling of transformers 4."""
    return {"rope_theta": config.rope_theta, "rope_scaling": write_scaling(config.yarn or config.scaling)}


def as_float(value: Any) -> Any:
    """A float for a whole number, as JSON may write one; any other value unchanged."""
    return float(value) if type(value) is int else value


def read_theta(key: str, rope: Rope, config: Mapping[str, Any], default: float) -> float:
    """RoPE's base: from an object of RoPE's parameters, which the config has under `key`, or from the config itself.

    Raises:
        ConfigError: both give one, and they differ; or the base is null.
    """
    found = [theta for theta in (rope.get("rope_theta"), config.get("rope_theta")) if theta is not None]
    if not found and "rope_theta" in config:
        refuse("rope_theta", None, "a number")  # some models were trained further without positions
    if len(set(found)) > 1:
        raise ConfigError(
            f"rope_theta must be one number (got {found[0]!r} in {key} and {found[1]!r} outside it); remove one"
        )
    return as_float(found[0]) if found else default


def read_scaling(
    key: str, rope: Rope, config: Mapping[str, Any], kinds: Sequence[str] = KINDS
) -> Yarn | Scaling | None:
    """The stretching of RoPE by an object of its parameters, which the config has under `key`; None if it asks for none.

    Raises:
        ConfigError: it asks for a kind of RoPE that is not among `kinds`.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    of_layers = any(name.endswith("_attention") or isinstance(each, Mapping) for name, each in rope.items())
    if kind not in kinds or of_layers:
        *others, last = map(repr, kinds)
        refuse(key, dict(rope), f"of rope_type {', '.join(others)} or {last}" if others else f"of rope_type {last}")
    for name, same in _SAME.items():
        if rope.get(name) not in same:
            refuse(
                f"{name} of {key}", rope[name], " or ".join("absent" if each is None else repr(each) for each in same)
            )
    if kind == "default":
        return None
    form = _FORMS[kind]
    given = {field: rope[name] for field, name in _KEYS[form].items() if rope.get(name) is not None}
    required = {each.name: None for each in fields(form) if each.default is MISSING}
    if "original_positions" in required:
        required["original_positions"] = config["max_position_embeddings"]
    scaling: Yarn | Scaling = form(**required | given)
    return scaling


def write_scaling(scaling: Yarn | Scaling | None) -> dict[str, Any] | None:
    """The object of RoPE's parameters that `read_scaling` reads; None without stretching."""
    if scaling is None:
        return None
    form = type(scaling)
    [kind] = [kind for kind, each in _FORMS.items() if each is form]
    values = {name: getattr(scaling, field) for field, name in _KEYS[form].items()}
    return {"rope_type": kind} | {name: value for name, value in values.items() if value is not None}


_FORMS: dict[str, type[Any]] = {
    "yarn": Yarn,
    "linear": LinearScaling,
    "dynamic": DynamicScaling,
    "llama3": Llama3Scaling,
}
_SPELLED = {"original_positions": "original_max_position_embeddings"}
_KEYS = {form: {each.name: _SPELLED.get(each.name, each.name) for each in fields(form)} for form in _FORMS.values()}
"""The key of each field of a way to stretch RoPE."""
