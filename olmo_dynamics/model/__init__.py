"""What the weights mean: reimplemented models, whose code is the definition that the rest of the package measures by.

    >>> from olmo_dynamics.model import MODEL_TYPES
    >>> "olmo2" in MODEL_TYPES
    True

The door is lazy: importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from olmo_dynamics.model.build import build_model, expected_shapes, init_weights
    from olmo_dynamics.model.config import MODEL_TYPES, ModelConfig, parse_config, to_config_json
    from olmo_dynamics.model.olmo2 import Olmo2
    from olmo_dynamics.model.rope import Rope
    from olmo_dynamics.model.sites import Tap, find_tap, taps
    from olmo_dynamics.model.stream import Observation, Stage, StreamedPass, stages
    from olmo_dynamics.model.weights import check_shapes, load_model_weights, to_tensor

_HOME = {
    "MODEL_TYPES": "config",
    "ModelConfig": "config",
    "Observation": "stream",
    "Olmo2": "olmo2",
    "Rope": "rope",
    "Stage": "stream",
    "StreamedPass": "stream",
    "Tap": "sites",
    "build_model": "build",
    "check_shapes": "weights",
    "expected_shapes": "build",
    "find_tap": "sites",
    "init_weights": "build",
    "load_model_weights": "weights",
    "parse_config": "config",
    "stages": "stream",
    "taps": "sites",
    "to_config_json": "config",
    "to_tensor": "weights",
}

__all__ = [
    "MODEL_TYPES",
    "ModelConfig",
    "Observation",
    "Olmo2",
    "Rope",
    "Stage",
    "StreamedPass",
    "Tap",
    "build_model",
    "check_shapes",
    "expected_shapes",
    "find_tap",
    "init_weights",
    "load_model_weights",
    "parse_config",
    "stages",
    "taps",
    "to_config_json",
    "to_tensor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
