"""The axes of a store, from a first checkpoint and the probe.

>>> axes = axes_of(checkpoint, chosen, config=config, probe=probe, until=None)  # doctest: +SKIP
>>> axes["layer"].labels  # doctest: +SKIP
array([-1,  0,  1])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from olmo_dynamics import quantities
from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.model import ModelConfig, model_sites
from olmo_dynamics.names import NO_LAYER, Site, TensorInfo
from olmo_dynamics.probes import Probe
from olmo_dynamics.store import Axis


def axes_of(
    checkpoint: Checkpoint,
    chosen: Sequence[TensorInfo],
    *,
    config: ModelConfig | None,
    probe: Probe | None,
    until: int | None,
) -> dict[str, Axis]:
    """The axes on which measurements of some tensors, and of a forward pass through `until` blocks, can lie."""
    axes = [
        *_tensor_axes(chosen),
        Axis("feature", np.arange(_hidden_size(checkpoint, chosen))),
        *_embedding_axes(chosen),
    ]
    if config is not None and probe is not None:
        axes += [*_activation_axes(config, probe, until=until), *_expert_axes(config)]
    return {axis.name: axis for axis in axes}


def embedding_names(tensors: Sequence[TensorInfo]) -> list[str]:
    """The tensors with a row for each token id."""
    return [info.name for info in tensors if info.role in ("embed_tokens", "lm_head") and len(info.shape) == 2]


def _tensor_axes(chosen: Sequence[TensorInfo]) -> list[Axis]:
    return [
        Axis(
            "tensor",
            np.array([info.name for info in chosen]),
            {
                "layer": np.array([info.layer for info in chosen], dtype=np.int64),
                "expert": np.array([info.expert for info in chosen], dtype=np.int64),
                "role": np.array([info.role for info in chosen]),
                "element_count": np.array([info.size for info in chosen], dtype=np.int64),
            },
        ),
        Axis("quantile", np.array(quantities.QUANTILES)),
    ]


def _embedding_axes(chosen: Sequence[TensorInfo]) -> list[Axis]:
    names = embedding_names(chosen)
    if not names:
        return []
    rows = max(info.shape[0] for info in chosen if info.name in names)
    return [Axis("embedding", np.array(names)), Axis("token", np.arange(rows)), Axis("decile", np.arange(1, 11))]


def _expert_axes(config: ModelConfig) -> list[Axis]:
    if config.experts is None:
        return []
    experts = np.arange(config.experts.count)
    return [
        Axis("expert", experts),
        Axis("partner", experts),
        Axis("choice", np.arange(1, config.experts.per_token + 1)),
    ]


def _activation_axes(config: ModelConfig, probe: Probe, *, until: int | None) -> list[Axis]:
    sequences, positions = probe.shape
    domain_of_sequence = np.array([probe.domains[index] for index in probe.domain])
    return [
        Axis(
            "site",
            np.array([site.value for site in model_sites(config) if site is not Site.LOGITS and not site.is_choice]),
        ),
        Axis("layer", np.arange(NO_LAYER, config.layers if until is None else until)),
        Axis("token_quantile", np.array(quantities.TOKEN_QUANTILES)),
        Axis("input", np.array(["attention_input", "mlp_input"])),
        Axis("threshold", np.array(quantities.THRESHOLDS)),
        Axis("rms_threshold", np.array(quantities.RMS_THRESHOLDS)),
        Axis("rank", np.arange(1, quantities.MASSIVE_RANKS + 1)),
        Axis("top", np.arange(1, 4)),
        Axis("domain", np.array(probe.domains)),
        Axis("sequence", np.arange(sequences), {"domain_of_sequence": domain_of_sequence}),
        Axis("position", np.arange(positions)),
    ]


def _hidden_size(checkpoint: Checkpoint, chosen: Sequence[TensorInfo]) -> int:
    declared = checkpoint.config.get("hidden_size")
    if isinstance(declared, int) and declared > 0:
        return declared
    return max((info.shape[info.residual_axis] for info in chosen if info.residual_axis is not None), default=1)
