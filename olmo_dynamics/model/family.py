"""A family of models: the words of its config, the parts that it has besides the common ones, and its network.

Each is declared in a file of its own in `olmo_dynamics.model.families`, and nowhere else.

    >>> sorted(family_of("olmo3").parts)
    ['sliding_layers', 'sliding_rope_theta', 'sliding_window']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from olmo_dynamics.errors import UnknownModelError
from olmo_dynamics.model.config_schema import brief

_FILES = {
    "olmo": "olmo1",
    "olmo2": "olmo2",
    "olmo3": "olmo3",
    "olmoe": "olmoe",
    "llama": "llama",
    "gpt_neox": "gpt_neox",
    "olmo_ladder": "olmo_ladder",
}
"""The module of each `model_type`; it is imported where the family is needed, since it imports torch."""

PLAIN = "olmo2"
"""The `model_type` of a `ModelConfig` that is made without one."""

MODEL_TYPES = tuple(_FILES)
"""The `model_type`s whose forward pass is implemented."""

OLMO_DEFAULTS: Mapping[str, Any] = {"max_position_embeddings": 2048, "pad_token_id": 1, "eos_token_id": 50279}
"""The values of keys that a `config.json` of any OLMo may leave out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One family.

    Attributes:
        architecture: the class of transformers, or of the software that reads such models where transformers has none.
        network: the `LanguageModel` of a `ModelConfig`.
        parts: the fields of a `ModelConfig` that only some families have, and this one does.
        needed: those of them that must be given.
        keys: the keys of a `config.json` that `read` reads, and that other families must leave out or switch off.
        required: those of them that must be given, each with its spellings.
        same: keys that change the computation, and the values for which it is as implemented; None: absent.
        eps: the key of the epsilon of norms.
        defaults: the values of absent keys in transformers.
        read: the rotation and the parts, as fields of a `ModelConfig`, from a `config.json` with all defaults.
        write: the inverse of `read`: keys of a `config.json` from a `ModelConfig`.
        publish: a model's tensors, given its `ModelConfig`, as the software of `architecture` names and fuses them.
        publish_config: the `config.json` to write beside these tensors, from that of `to_config_json`.
    """

    architecture: str
    network: Callable[[Any], Any]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    defaults: Mapping[str, Any]
    parts: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    required: tuple[tuple[str, ...], ...] = ()
    same: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    eps: str = "rms_norm_eps"
    publish: Callable[[Any, Mapping[str, Any]], dict[str, Any]] = lambda _, tensors: dict(tensors)
    publish_config: Callable[[Mapping[str, Any]], dict[str, Any]] = dict


def family_of(model_type: object) -> Family:
    """The family of a `model_type`.

    Raises:
        UnknownModelError: its forward pass is not implemented.
    """
    if not isinstance(model_type, str) or model_type not in _FILES:
        raise UnknownModelError(
            f"model_type must be one of {', '.join(MODEL_TYPES)} to run a forward pass (got {brief(model_type)}); "
            "record parameters only, which needs no forward pass"
        )
    family: Family = import_module(f"olmo_dynamics.model.families.{_FILES[model_type]}").FAMILY
    return family
