"""Numbers of routing that need all layers, or the tokens that the model predicts.

>>> for name, values, at in records_across(finished, probe, predicted):  # doctest: +SKIP
...     print(name, at)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16, Int64

from olmo_dynamics.recorders.context import ProbeTokens
from olmo_dynamics.recorders.experts.choice_counts import (
    count_choices,
    cross_layer_co_activation,
    pooled_balance_loss,
)
from olmo_dynamics.recorders.experts.predicted_tokens import UNSEEN
from olmo_dynamics.recorders.experts.vocabulary import vocabulary_specialisation

VOCABULARIES = ("input", "predicted", "true")
"""The token ids that choices are counted by: the token read, the most probable next one, and the next one in the text."""

At = dict[str, str | int | float]


@dataclass(frozen=True)
class LayerChoices:
    """The chosen experts of a finished layer, and its means of the router's probabilities and of its squared log-sum-exp."""

    chosen: Int16[np.ndarray, "sequences positions k"]
    mean_probability: Float64[np.ndarray, " experts"]
    mean_square: float


def records_across(
    finished: Mapping[int, LayerChoices], probe: ProbeTokens, predicted: Int64[np.ndarray, "sequences positions"] | None
) -> Iterator[tuple[str, object, At]]:
    """The name of each quantity, its values and the labels of the axes that they leave open; none of a probe of padding."""
    layers = sorted(finished)
    if predicted is not None:
        yield "predicted_token", predicted, {}
    seen = _seen(finished, probe)
    if not layers or not seen.any():
        return
    chosen = np.stack([finished[layer].chosen[seen] for layer in layers])
    probabilities = np.stack([finished[layer].mean_probability for layer in layers])
    experts = probabilities.shape[1]
    counts = np.stack([count_choices(each.astype(np.int64), experts) for each in chosen])
    yield "pooled_balance_loss", pooled_balance_loss(counts, probabilities, chosen.shape[-1]), {}
    yield "pooled_router_z", np.mean([finished[layer].mean_square for layer in layers]), {}
    together = cross_layer_co_activation(chosen, experts)
    for one, other in zip(*np.triu_indices(len(layers), 1), strict=True):
        at: At = {"layer": layers[one], "later_layer": layers[other]}
        yield "cross_layer_co_activation", together[one, other], at
    first = np.stack([finished[layer].chosen[..., 0] for layer in layers]).astype(np.int64)
    for kind, ids in _token_ids(probe, predicted).items():
        yield from _of_vocabulary(kind, layers, ids[seen], first[:, seen], experts)


def _of_vocabulary(
    kind: str,
    layers: list[int],
    ids: Int64[np.ndarray, " tokens"],
    first: Int64[np.ndarray, "layers tokens"],
    experts: int,
) -> Iterator[tuple[str, object, At]]:
    there = ids != UNSEEN
    found = vocabulary_specialisation(ids[there], first[:, there], experts)
    yield "vocabulary_id_count", np.int64(found.ids), {"vocabulary": kind}
    for layer, of_layer, of_experts in zip(layers, found.of_layers, found.of_experts, strict=True):
        at: At = {"layer": layer, "vocabulary": kind}
        yield "vocabulary_specialisation", of_layer, at
        yield "expert_vocabulary_specialisation", of_experts, at


def _seen(finished: Mapping[int, LayerChoices], probe: ProbeTokens) -> np.ndarray:
    """The tokens whose choices are known in all layers."""
    known = [each.chosen[..., 0] >= 0 for each in finished.values()]
    seen: np.ndarray = np.logical_and.reduce([probe.mask, *known])
    return seen


def _token_ids(
    probe: ProbeTokens, predicted: Int64[np.ndarray, "sequences positions"] | None
) -> dict[str, Int64[np.ndarray, "sequences positions"]]:
    """The ids of each kind, `UNSEEN` where there is none; without the predicted ones if no logits were seen."""
    following = np.full(probe.token_ids.shape, UNSEEN, dtype=np.int64)
    following[:, :-1] = np.where(probe.mask[:, 1:], probe.token_ids[:, 1:], UNSEEN)
    of_kinds = {"input": probe.token_ids.astype(np.int64), "predicted": predicted, "true": following}
    return {kind: ids for kind, ids in of_kinds.items() if ids is not None}
