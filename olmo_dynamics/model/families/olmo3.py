"""Olmo 3: OLMo 2 with sliding-window attention in most layers.

Released models have a window in three layers of four and full attention in the fourth. Models trained on long texts
stretch the rotation of the full layers (YaRN) and leave that of the sliding layers unchanged.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "olmo3", "hidden_size": 64, "num_hidden_layers": 4,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100, "sliding_window": 8}), device="cpu")
    >>> [block.self_attn.window for block in model.model.layers]
    [8, 8, 8, None]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from olmo_dynamics.errors import ConfigError
from olmo_dynamics.model.config import ModelConfig, refuse
from olmo_dynamics.model.config_json import FULL
from olmo_dynamics.model.config_schema import brief
from olmo_dynamics.model.families.olmo2 import Olmo2Attention, Olmo2Block
from olmo_dynamics.model.family import OLMO_DEFAULTS, Family
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import RMSNorm
from olmo_dynamics.model.rope import Rope, rope_positions, rope_table
from olmo_dynamics.model.rope_json import as_float, read_rope, read_scaling, read_theta, write_rope, write_scaling

SLIDING = "sliding_attention"
"""The name of a layer's kind of attention in `layer_types` and `rope_parameters`, where a token sees a window."""

_THETA = 500_000.0


class Olmo3Attention(Olmo2Attention):
    """OLMo 2's attention; in a sliding layer a token sees itself and the `sliding_window - 1` tokens before it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.window = config.window(layer)


class Olmo3Block(Olmo2Block):
    """OLMo 2's block, with a window in sliding layers."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.self_attn = Olmo3Attention(config, layer)


class Olmo3(LanguageModel):
    """An Olmo 3 language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, Olmo3Block, RMSNorm(config.hidden_size, eps=config.norm_eps))

    def ropes(
        self, positions: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Rope, ...]:
        """Rotation tables as in every family, except in sliding layers: no YaRN, and their own theta if the config has one."""
        config = self.config
        places = rope_positions(positions, device=device, dtype=dtype)
        theta = config.sliding_rope_theta or config.rope_theta
        sliding = rope_table(places, head_dim=config.head_dim, theta=theta)
        tables = super().ropes(positions, device=device, dtype=dtype)
        return tuple(sliding if config.window(layer) else full for layer, full in enumerate(tables))


def _read(config: Mapping[str, Any]) -> dict[str, Any]:
    """A flat theta applies to every layer, as in training; only the stretching is limited to full layers."""
    layers = _sliding_layers(config)
    rope = _read_ropes(config) if config.get("rope_parameters") else read_rope(config, theta=_THETA)
    return {**rope, "sliding_layers": layers, "sliding_window": config["sliding_window"] if layers else None}


def _write(config: ModelConfig) -> dict[str, Any]:
    """RoPE also in the spelling of transformers 5, which gives sliding layers a theta of 500000 for any flat one."""
    scaling = write_scaling(config.yarn) or {"rope_type": "default"}
    written = write_rope(config) | {
        "rope_parameters": {
            FULL: scaling | {"rope_theta": config.rope_theta},
            SLIDING: {"rope_type": "default", "rope_theta": config.sliding_rope_theta or config.rope_theta},
        },
        "layer_types": [SLIDING if config.window(layer) else FULL for layer in range(config.layers)],
    }
    return written if config.sliding_window is None else written | {"sliding_window": config.sliding_window}


def _sliding_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The layers with a window: those named by `layer_types`, or three of every four."""
    given, layers = config.get("layer_types"), config["num_hidden_layers"]
    if given is None:
        return tuple(layer for layer in range(layers) if (layer + 1) % 4)
    if set(given) - {FULL, SLIDING}:
        refuse("layer_types", sorted(set(given) - {FULL, SLIDING}), f"{FULL!r} or {SLIDING!r}")
    if len(given) != layers:
        raise ConfigError(
            f"layer_types must name {layers} layers, as in num_hidden_layers (got {len(given)}); correct the config"
        )
    return tuple(layer for layer, kind in enumerate(given) if kind == SLIDING)


def _read_ropes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotation of full layers, and that of sliding ones."""
    key, ropes = "rope_parameters", config["rope_parameters"]
    if not all(name in (FULL, SLIDING) and isinstance(rope, Mapping) for name, rope in ropes.items()):
        refuse(key, ropes, f"given for {FULL} and {SLIDING} apart")
    full, sliding = ropes.get(FULL, {}), ropes.get(SLIDING, {})
    if read_scaling(f"{key} of {SLIDING}", sliding, config):
        refuse(f"{key} of {SLIDING}", sliding, "of rope_type 'default'")
    yarn, scaling = read_scaling(key, full, config), config.get("rope_scaling")
    if scaling and read_scaling("rope_scaling", scaling, config) != yarn:
        raise ConfigError(
            f"rope_scaling must equal {key} of {FULL} (got {brief(scaling)} and {brief(full)}); remove the wrong one"
        )
    theta, own = read_theta(key, full, config, _THETA), sliding.get("rope_theta")
    sliding_theta = read_theta(key, {}, config, _THETA) if own is None else as_float(own)
    return {"rope_theta": theta, "yarn": yarn, "sliding_rope_theta": None if sliding_theta == theta else sliding_theta}


FAMILY = Family(
    architecture="Olmo3ForCausalLM",
    network=Olmo3,
    parts=frozenset({"sliding_window", "sliding_layers", "sliding_rope_theta"}),
    keys=frozenset({"sliding_window", "layer_types"}),
    defaults={**OLMO_DEFAULTS, "rms_norm_eps": 1e-5, "sliding_window": 4096},
    read=_read,
    write=_write,
)
