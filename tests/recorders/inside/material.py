"""Recorded passes of tiny models, and what transformers computes in the same places."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.model import Compute, LanguageModel
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.recorders import Recorder
from tests.model.drawing import same_in_transformers
from tests.recorders.material import Tokens

Key = tuple[Any, ...]


def padded(token_ids: torch.Tensor, lengths: list[int], domain: list[int] | None = None) -> Tokens:
    """A probe whose windows have these lengths, in two domains or one."""
    ids = token_ids.numpy()
    mask = np.arange(ids.shape[1]) < np.array(lengths)[:, None]
    place = np.array(domain or [0] * len(lengths))
    return Tokens(ids, int(ids.max()) + 1, mask=mask, domain=place, domains=("code", "prose")[: place.max() + 1])


def recorded(model: LanguageModel, probe: Tokens, *recorders: Recorder, **compute: Any) -> dict[Key, np.ndarray]:
    """The records of a pass, by quantity and labels."""
    until = compute.pop("until", None)
    forward = RecordedPass(model.config, probe, recorders, until=until, compute=Compute(**compute))
    state = model.state_dict()
    records = [each for stage in forward.stages for each in forward.run(stage, {n: state[n] for n in stage.tensors})]
    found = keyed(records)
    assert len(found) == len(records)
    return found


def keyed(records: list[Record]) -> dict[Key, np.ndarray]:
    return {(each.quantity.name, *sorted(each.at.items())): each.values for each in records}


def of_layer(records: dict[Key, np.ndarray], layer: int) -> dict[str, np.ndarray]:
    return {key[0]: values for key, values in records.items() if key[1:] == (("layer", layer),)}


@torch.no_grad()
def attention_in_transformers(model: LanguageModel, token_ids: torch.Tensor) -> list[dict[str, np.ndarray]]:
    """Of each layer: logits and weights [batch, heads, queries, keys], and values, of eager attention in float64."""
    layers: list[dict[str, np.ndarray]] = []

    def attend(module, query, key, value, attention_mask, scaling, **_):
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        logits = query @ key.transpose(2, 3) * scaling
        weights = (logits + attention_mask).softmax(dim=-1, dtype=torch.float32)
        visible = (attention_mask == 0).expand_as(logits)
        arrays = {"logits": logits, "weights": weights, "value": value, "visible": visible}
        layers.append({name: each.double().numpy() for name, each in arrays.items()})
        weights = weights.to(value.dtype)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    AttentionInterface.register("kept", attend)
    AttentionMaskInterface.register("kept", eager_mask)
    theirs: transformers.PreTrainedModel = same_in_transformers(model, "kept")
    found = theirs(token_ids, output_attentions=True)
    eager = same_in_transformers(model, "eager")(token_ids, output_attentions=True)
    for layer, one, other in zip(layers, found.attentions, eager.attentions, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0, atol=1e-6)
        layer["weights"] = other.double().numpy()
    return layers
