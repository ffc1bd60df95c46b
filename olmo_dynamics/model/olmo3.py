"""Olmo 3: OLMo 2 whose attention, on most layers, looks back over a window only.

Released models slide on three layers of four and see everything on the fourth. What was trained for long texts stretches
the rotation of the full layers (YaRN) and leaves that of the sliding ones, which never look far, as it was.

    >>> import torch
    >>> from olmo_dynamics.model import build_model, init_weights, parse_config
    >>> model = build_model(parse_config({"model_type": "olmo3", "hidden_size": 64, "num_hidden_layers": 4,
    ...     "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100, "sliding_window": 8}), device="cpu")
    >>> [block.self_attn.window for block in model.model.layers]
    [8, 8, 8, None]
"""

from __future__ import annotations

import torch

from olmo_dynamics.model import olmo2
from olmo_dynamics.model.config import ModelConfig
from olmo_dynamics.model.language_model import LanguageModel
from olmo_dynamics.model.layers import RMSNorm
from olmo_dynamics.model.rope import Rope, rope_positions, rope_table


class Attention(olmo2.Attention):
    """OLMo 2's; on a sliding layer a token sees itself and the `sliding_window - 1` before it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.window = config.window(layer)


class Block(olmo2.Block):
    """OLMo 2's, with a window on sliding layers."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.self_attn = Attention(config, layer)


class Olmo3(LanguageModel):
    """An Olmo 3 language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, Block, RMSNorm(config.hidden_size, eps=config.norm_eps))

    def ropes(
        self, positions: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[Rope, ...]:
        """As in every family, but without YaRN, and with a theta of their own if there is one, on sliding layers."""
        config = self.config
        places = rope_positions(positions, device=device, dtype=dtype)
        theta = config.sliding_rope_theta or config.rope_theta
        sliding = rope_table(places, head_dim=config.head_dim, theta=theta)
        tables = super().ropes(positions, device=device, dtype=dtype)
        return tuple(sliding if config.window(layer) else full for layer, full in enumerate(tables))
