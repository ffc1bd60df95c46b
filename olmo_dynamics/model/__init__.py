"""Models: reimplementations of families, whose code defines the activations that the package measures.

    >>> from olmo_dynamics.model import MODEL_TYPES
    >>> "olmo2" in MODEL_TYPES
    True

Names are loaded lazily: importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from olmo_dynamics.model.build import build_model, expected_shapes, init_weights, model_sites
    from olmo_dynamics.model.config import Experts, ModelConfig, Norms
    from olmo_dynamics.model.config_json import parse_config, published_config, to_config_json, unknown_keys
    from olmo_dynamics.model.families.gpt_neox import GptNeox
    from olmo_dynamics.model.families.llama import Llama
    from olmo_dynamics.model.families.olmo1 import Olmo1
    from olmo_dynamics.model.families.olmo2 import Olmo2
    from olmo_dynamics.model.families.olmo3 import Olmo3
    from olmo_dynamics.model.families.olmo_ladder import OlmoLadder
    from olmo_dynamics.model.families.olmoe import Olmoe
    from olmo_dynamics.model.family import MODEL_TYPES, Family, family_of
    from olmo_dynamics.model.heads import has_other_head, missing_head, resolve_config
    from olmo_dynamics.model.language_model import LanguageModel
    from olmo_dynamics.model.rope import Rope
    from olmo_dynamics.model.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, Yarn
    from olmo_dynamics.model.sites import Tap, find_tap, taps
    from olmo_dynamics.model.stream import Compute, Prepared, SiteValues, Stage, StreamedPass, stages
    from olmo_dynamics.model.weights import check_shapes, load_model_weights, to_tensor

_HOME = {
    "MODEL_TYPES": "family",
    "Compute": "stream",
    "Experts": "config",
    "Family": "family",
    "family_of": "family",
    "GptNeox": "families.gpt_neox",
    "LanguageModel": "language_model",
    "Llama": "families.llama",
    "ModelConfig": "config",
    "Olmo1": "families.olmo1",
    "Olmo2": "families.olmo2",
    "Norms": "config",
    "Olmo3": "families.olmo3",
    "OlmoLadder": "families.olmo_ladder",
    "Olmoe": "families.olmoe",
    "Prepared": "stream",
    "SiteValues": "stream",
    "Rope": "rope",
    "Stage": "stream",
    "StreamedPass": "stream",
    "Tap": "sites",
    "DynamicScaling": "rope_scaling",
    "LinearScaling": "rope_scaling",
    "Llama3Scaling": "rope_scaling",
    "Yarn": "rope_scaling",
    "build_model": "build",
    "check_shapes": "weights",
    "expected_shapes": "build",
    "find_tap": "sites",
    "resolve_config": "heads",
    "has_other_head": "heads",
    "init_weights": "build",
    "load_model_weights": "weights",
    "missing_head": "heads",
    "model_sites": "build",
    "parse_config": "config_json",
    "published_config": "config_json",
    "stages": "stream",
    "taps": "sites",
    "to_config_json": "config_json",
    "to_tensor": "weights",
    "unknown_keys": "config_json",
}

__all__ = [
    "MODEL_TYPES",
    "Compute",
    "DynamicScaling",
    "Experts",
    "Family",
    "GptNeox",
    "LanguageModel",
    "LinearScaling",
    "Llama",
    "Llama3Scaling",
    "ModelConfig",
    "Norms",
    "Olmo1",
    "Olmo2",
    "Olmo3",
    "OlmoLadder",
    "Olmoe",
    "Prepared",
    "Rope",
    "SiteValues",
    "Stage",
    "StreamedPass",
    "Tap",
    "Yarn",
    "build_model",
    "check_shapes",
    "expected_shapes",
    "family_of",
    "find_tap",
    "has_other_head",
    "init_weights",
    "load_model_weights",
    "missing_head",
    "model_sites",
    "parse_config",
    "published_config",
    "resolve_config",
    "stages",
    "taps",
    "to_config_json",
    "to_tensor",
    "unknown_keys",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
