"""The memory of a backward pass, for the plan of a collection.

>>> config = ModelConfig(hidden_size=64, layers=2, heads=4, kv_heads=4, head_dim=16, intermediate_size=128,
...                      vocab_size=100, max_positions=32, norm_eps=1e-6, rope_theta=1e4)
>>> gradient_bytes(config, (8, 32)) > 5 * 8 * 32 * 64 * 4  # the stream at 3 borders, its gradient, and the head's inputs
True
"""

from __future__ import annotations

import math

from olmo_dynamics.model import ModelConfig, expected_shapes
from olmo_dynamics.model.stream import COLUMNS, stages

_ITEM = 4  # float32
_BESIDE_BORDERS = 2  # streams beside those at the borders between layers: the gradient, and the head's inputs
_HIDDEN_COPIES, _WIDE_COPIES = (
    24,
    6,
)  # of one window in one block, kept by autograd: [positions, hidden], [.., intermediate]
_SCORES = 3  # [heads, positions, positions]


def gradient_bytes(config: ModelConfig, shape: tuple[int, int]) -> int:
    """The stream at every border, a stage's weights in float32 and their sums, its largest gradient, one window's block."""
    sequences, positions = shape
    streams = (config.layers + 1 + _BESIDE_BORDERS) * sequences * positions * config.hidden_size
    return _ITEM * (streams + max(_block(config), _ends(config)) + _window(config, positions))


def _block(config: ModelConfig) -> int:
    shapes = expected_shapes(config)
    found = 0
    for stage in stages(config):
        if stage.layer >= 0:
            sizes = [math.prod(shapes[name]) for name in stage.tensors]
            found = max(found, 2 * sum(sizes) + max(sizes))
    return found


def _ends(config: ModelConfig) -> int:
    """The head's weights, and slices of its gradient and of the logits' with their copies."""
    return config.vocab_size * config.hidden_size + 4 * COLUMNS * config.hidden_size


def _window(config: ModelConfig, positions: int) -> int:
    experts = 1 if config.experts is None else config.experts.per_token
    widths = (
        _HIDDEN_COPIES * max(config.hidden_size, config.query_width) + _WIDE_COPIES * experts * config.intermediate_size
    )
    return positions * (widths + 3 * COLUMNS) + _SCORES * config.heads * positions**2
