"""Differences between the layers of an OLMo-core model: attention windows and RoPE scaling.

All layers share one block; a window follows a pattern over the layers, and overrides of single layers may scale RoPE there.

    >>> layer_windows({"sliding_window": {"pattern": [2, -1], "force_full_attention_on_first_layer": False}}, 4)
    [2, None, 2, None]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from olmo_dynamics.checkpoints.formats.config_fields import (
    check_fields,
    optional_fields,
    require_count,
    require_fields,
    to_number,
)
from olmo_dynamics.checkpoints.formats.unpickling import brief
from olmo_dynamics.errors import CheckpointError

WHERE = "config.json"

FREE = frozenset({"_CLASS_", "type", "dtype", "name", "init_device"})
"""Fields of any part that never change what a trained model computes."""

_MIXER_ONLY: dict[str, tuple[Any, ...]] = {
    "name": (None, "default", "fused"),
    "bias": (None, False),
    "clip_qkv": (None,),
    "gate": (None,),
    "use_head_qk_norm": (None, False),
    "scalable_softmax": (None, False),
    "attention_sinks": (None, False),
    "softmax_scale": (None,),
}
_MIXER_USED = frozenset({"n_heads", "n_kv_heads", "head_dim", "rope", "qk_norm", "sliding_window"})
_MIXER_IDLE = FREE | {"backend", "use_flash", "dropout"}

_ROPE_ONLY: dict[str, tuple[Any, ...]] = {
    "name": (None, "default", "fused"),
    "no_global_rope": (None, False),
    "partial_rotary_factor": (None, 1, 1.0),
    "rotary_dim": (None,),
}
_YARN = frozenset({"factor", "beta_fast", "beta_slow", "old_context_len", "_CLASS_", "type"})


def layer_windows(mixer: Mapping[str, Any], layers: int) -> list[int | None]:
    """The window of each layer's attention, which includes the querying token; None if attention is full.

    Raises:
        CheckpointError: the pattern is invalid.
    """
    sliding = optional_fields(WHERE, mixer, "sliding_window")
    if not sliding:
        return [None] * layers
    pattern = sliding.get("pattern")
    if (
        not isinstance(pattern, list)
        or not pattern
        or not all(type(width) is int and (width > 0 or width == -1) for width in pattern)
    ):
        raise CheckpointError(
            f"{WHERE}: a sliding window's pattern must be a list of widths or -1 (got {brief(pattern)})"
        )
    first = bool(sliding.get("force_full_attention_on_first_layer", True))
    windows = [pattern[(layer - first) % len(pattern)] for layer in range(layers)]
    if first:
        windows[0] = -1
    if sliding.get("force_full_attention_on_last_layer", True):
        windows[-1] = -1
    return [None if width == -1 else width for width in windows]


def rope_scaling(model: Mapping[str, Any], windows: list[int | None]) -> dict[str, Any]:
    """RoPE scaling of the full layers, under Hugging Face's names; empty if there is none.

    Raises:
        CheckpointError: full layers are scaled differently, a sliding one is scaled, or a layer differs in another point.
    """
    scalings = _scalings(model, len(windows))
    full = [scaling for scaling, width in zip(scalings, windows, strict=True) if width is None]
    sliding = [scaling for scaling, width in zip(scalings, windows, strict=True) if width is not None]
    if any(sliding) or any(each != full[0] for each in full):
        raise CheckpointError(f"{WHERE}: RoPE must be scaled alike on all full layers, and on no sliding one")
    if not full or not full[0]:
        return {}
    scaling = full[0]
    if not str(scaling.get("_CLASS_", "")).endswith("YaRNRoPEScalingConfig") or scaling.keys() - _YARN:
        raise CheckpointError(f"{WHERE}: RoPE scaling must be YaRN (got {brief(scaling)})")
    factor = to_number(WHERE, scaling, "factor", 8)
    if factor < 1:
        raise CheckpointError(f"{WHERE}: YaRN's factor must be at least 1 (got {factor})")
    return {
        "rope_type": "yarn",
        "factor": factor,
        "beta_fast": to_number(WHERE, scaling, "beta_fast", 32),
        "beta_slow": to_number(WHERE, scaling, "beta_slow", 1),
        "original_max_position_embeddings": require_count(WHERE, scaling, "old_context_len", 8192),
        "attention_factor": 0.1 * math.log(factor) + 1,
    }


def _scalings(model: Mapping[str, Any], layers: int) -> list[Mapping[str, Any]]:
    """Each layer's scaling, from the common block and the overrides."""
    block = require_fields(WHERE, model, "block")
    scalings = [_scaling(block)] * layers
    for layer, override in optional_fields(WHERE, model, "block_overrides").items():
        if not layer.isdecimal() or int(layer) >= layers or not isinstance(override, dict):
            raise CheckpointError(
                f"{WHERE}: block_overrides must map layers below {layers} to blocks (got {brief(layer)})"
            )
        read_mixer(override, f"{WHERE}, model.block_overrides.{layer}")
        if _unscaled(override) != _unscaled(block):
            raise CheckpointError(f"{WHERE}: layer {layer} may differ from the others only in RoPE scaling")
        scalings[int(layer)] = _scaling(override)
    return scalings


def _scaling(block: Mapping[str, Any]) -> Mapping[str, Any]:
    return optional_fields(WHERE, read_mixer(block, WHERE)["rope"], "scaling")


def _unscaled(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block without absent fields, and without RoPE scaling."""
    found = {name: value for name, value in block.items() if value is not None}
    place = _mixer_name(block)
    mixer = {name: value for name, value in found[place].items() if value is not None}
    mixer["rope"] = {name: value for name, value in mixer["rope"].items() if value is not None and name != "scaling"}
    return {**found, place: mixer}


def read_mixer(block: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A block's attention: `sequence_mixer` since version 3, `attention` before."""
    mixer = require_fields(where, block, _mixer_name(block))
    check_fields(f"{where}, attention", mixer, used=_MIXER_USED, only=_MIXER_ONLY, idle=_MIXER_IDLE)
    rope = require_fields(where, mixer, "rope")
    check_fields(f"{where}, rope", rope, used={"theta", "scaling"}, only=_ROPE_ONLY, idle=FREE | {"full_precision"})
    return mixer


def _mixer_name(block: Mapping[str, Any]) -> str:
    return "sequence_mixer" if "sequence_mixer" in block else "attention"
