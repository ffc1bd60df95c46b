"""Facts that the name of a parameter tells: its block, its expert, its role, and where it touches the residual stream.

>>> name = "model.layers.3.self_attn.q_proj.weight"
>>> layer_of(name), expert_of(name), role_of(name), residual_axis_of(role_of(name), (64, 64))
(3, None, 'q_proj', 1)
"""

from __future__ import annotations

import re

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.([0-9]{1,9})\.(.+)$")
_EXPERT = re.compile(r"(?:^|\.)experts\.([0-9]{1,9})\.")

_READS_RESIDUAL = frozenset(
    {"embed_tokens", "lm_head", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "gate", "router"}
)
_WRITES_RESIDUAL = frozenset({"o_proj", "down_proj"})
_NORMS = frozenset({"post_attention_layernorm", "post_feedforward_layernorm", "input_layernorm", "norm"})
_ON_RESIDUAL = _NORMS | {f"{role}_bias" for role in _NORMS | _WRITES_RESIDUAL}


def layer_of(name: str) -> int | None:
    """The block that a tensor belongs to; None outside the blocks."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def expert_of(name: str) -> int | None:
    """The expert of its layer that a tensor belongs to, if any."""
    found = _EXPERT.search(name)
    return int(found.group(1)) if found else None


def role_of(name: str) -> str:
    """The purpose of a tensor: `q_proj`, `embed_tokens`, `norm`, …; the last word of the name before `.weight`."""
    words = name.removesuffix(".weight").split(".")
    suffix = "_bias" if words[-1] == "bias" and len(words) > 1 else ""
    return (words[-2] if suffix else words[-1]) + suffix


def residual_axis_of(role: str, shape: tuple[int, ...]) -> int | None:
    """The axis that runs along the residual stream; None where none does (q_norm, k_norm) or the role is unknown."""
    if len(shape) == 1:
        return 0 if role in _ON_RESIDUAL else None
    if len(shape) == 2 and role in _READS_RESIDUAL:
        return 1
    return 0 if len(shape) == 2 and role in _WRITES_RESIDUAL else None
