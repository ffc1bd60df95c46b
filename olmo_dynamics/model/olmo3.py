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

import torch

from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import RMSNorm
from olmo_dynamics.model.olmo2 import Olmo2Attention, Olmo2Block
from olmo_dynamics.model.rope import Rope, rope_positions, rope_table


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
