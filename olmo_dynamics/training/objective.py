"""What an update makes smaller: cross-entropy with z-loss and, where there are experts, what keeps their router in balance.

>>> terms = objective(compute, batch, recipe, Share.whole(batch, recipe))                       # doctest: +SKIP
>>> terms[0].backward()                                                                         # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.model import LanguageModel
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.compute import Compute, open_compute
from olmo_dynamics.training.loss import head_loss
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.routing import balance, router_z


@dataclass(frozen=True, slots=True)
class Losses:
    """What a batch's loss is made of: the loss that is minimised, and its terms before they are weighted.

    `cross_entropy` in nats per token; `balance` and `router_z`, see `routing`, are None without experts.
    """

    total: float
    cross_entropy: float
    balance: float | None = None
    router_z: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a part of a batch needs to know of the whole."""

    count: int  # the denominator of the whole batch
    sequences: int  # of the whole batch


def objective(compute: Compute, part: Batch, recipe: Recipe, share: Share) -> Float[Tensor, " terms"]:
    """A part's addend to the batch's loss, then to the terms of `Losses`, in float32; only the first has a gradient.

    Cross-entropy and z-loss are sums over the part's labels divided by the whole batch's denominator. The router's losses are
    means over all the part's tokens, weighted by its share of the sequences, as the trainers take them micro-batch by
    micro-batch: `balance` is not linear, so that of the whole batch is a slightly other number.
    """
    with compute.ear.listening() as heard:
        hidden = compute.hidden(part)[:, :-1].flatten(0, 1)
    labels = part.token_ids[:, 1:].flatten()
    if part.counted is not None:
        counted = part.counted[:, 1:].flatten()
        hidden, labels = hidden[counted], labels[counted]
    loss, cross_entropy = head_loss(hidden, compute.head, labels, z_loss=recipe.z_loss, count=share.count)
    if not heard:
        return torch.stack([loss, cross_entropy])
    experts, weight = compute.model.config.experts, len(part) / share.sequences
    assert experts is not None
    logits = torch.stack(heard)
    terms = balance(logits, experts.per_token) * weight, router_z(logits) * weight
    loss = loss + recipe.balance_loss * terms[0] + recipe.router_z_loss * terms[1]
    return torch.stack([loss, cross_entropy, *(term.detach() for term in terms)])


@torch.no_grad()
def evaluate(model: LanguageModel, batch: Batch, recipe: Recipe) -> Losses:
    """A batch's loss under the recipe, in float32, micro-batch by micro-batch, nothing changed."""
    with open_compute(model, Recipe(steps=1)) as compute:
        share, parts = (
            Share(batch.denominator(recipe.mean_over), len(batch)),
            batch.split(recipe.micro_batch or len(batch)),
        )
        terms = [objective(compute, part.to(compute.head.device), recipe, share).double() for part in parts]
        return Losses(*torch.stack(terms).sum(0).tolist())
