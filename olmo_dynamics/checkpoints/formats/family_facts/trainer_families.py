"""The families whose checkpoints Ai2's trainers write: the `model_type`, the place of the norms, the fields of a config.

>>> OLMOE.model_type in NORMS_FIRST, OLMO2.model_type in NORMS_FIRST
(True, False)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainerFamily:
    """A family in the formats of Ai2's trainers.

    Attributes:
        model_type: its name in a `config.json`.
        norms_first: True if norms precede the sublayers, and so have the names of Llama's.
        eps: the key of the epsilon of norms.
        keeps_norms: True if a config keeps the trainer's own fields on norms, since Hugging Face's have no counterpart.
        has_experts: True if a router chooses experts.
    """

    model_type: str
    norms_first: bool = False
    eps: str = "rms_norm_eps"
    keeps_norms: bool = False
    has_experts: bool = False


OLMO = TrainerFamily("olmo", norms_first=True, eps="layer_norm_eps")
OLMO_LADDER = TrainerFamily("olmo_ladder", norms_first=True, eps="layer_norm_eps", keeps_norms=True)
OLMO2 = TrainerFamily("olmo2")
OLMO3 = TrainerFamily("olmo3")
OLMOE = TrainerFamily("olmoe", norms_first=True, has_experts=True)
FLEX_OLMO = TrainerFamily("flex_olmo", has_experts=True)

NORMS_FIRST = frozenset(
    each.model_type for each in (OLMO, OLMO_LADDER, OLMO2, OLMO3, OLMOE, FLEX_OLMO) if each.norms_first
)
"""The `model_type`s whose norms precede the sublayers."""
