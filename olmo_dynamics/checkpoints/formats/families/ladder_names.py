"""The names of OLMo ladder models in files of hf_olmo: those of Ai2's first trainer, after `model.`.

Queries, keys and values are one tensor, one below another, and so are the up and gate projections.

    >>> published_name("model.layers.3.mlp.gate_proj.weight")
    'model.transformer.blocks.3.ff_proj.weight'
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from olmo_dynamics.checkpoints.formats.canonical_names import NATIVE_BLOCK_NAMES, NATIVE_NAMES
from olmo_dynamics.checkpoints.formats.family_facts.trainer_families import OLMO_LADDER

LADDER = OLMO_LADDER.model_type
"""The `model_type` that a ladder model's config is given."""

FUSED = {"att_proj": ("q_proj", "k_proj", "v_proj"), "ff_proj": ("up_proj", "gate_proj")}
"""The roles whose rows a stored tensor holds, in their order."""

_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)")
_OUTSIDE = {canonical: native for native, canonical in NATIVE_NAMES.items()}
_INSIDE = {canonical: native for native, canonical in NATIVE_BLOCK_NAMES.items()} | {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
}


def published_name(name: str) -> str:
    """The name in hf_olmo of a canonical tensor; of a part of a fused one, the whole's."""
    stem, _, kind = name.rpartition(".")
    found = _BLOCK.fullmatch(stem)
    if found is None:
        return f"model.{_OUTSIDE[stem]}.{kind}"
    role = found[2].rpartition(".")[2]
    whole = next((fused for fused, roles in FUSED.items() if role in roles), None) or _INSIDE[found[2]]
    return f"model.transformer.blocks.{found[1]}.{whole}.{kind}"


def in_stored_order(names: Sequence[str]) -> list[str]:
    """The canonical names of one stored tensor's parts, in the order of their rows."""
    order = [role for roles in FUSED.values() for role in roles]
    places = {name: name.split(".")[-2] for name in names}
    return sorted(names, key=lambda name: order.index(places[name]) if places[name] in order else 0)
