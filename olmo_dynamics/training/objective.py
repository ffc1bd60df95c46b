"""The objective of training: cross-entropy with z-loss and, with experts, the losses that balance their router.

>>> share = BatchShare(batch.denominator(recipe.mean_over), len(batch))                         # doctest: +SKIP
>>> terms = objective(execution, batch, recipe, share)                                          # doctest: +SKIP
>>> terms[0].backward()                                                                         # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.model import LanguageModel
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.execution import Execution, open_execution
from olmo_dynamics.training.loss import head_loss
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.routing import balance, router_z


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss of a batch and its terms: the minimised total, and the terms before their weights.

    `cross_entropy` in nats per token; `balance` and `router_z`, see `routing`, are None without experts.
    """

    total: float
    cross_entropy: float
    balance: float | None = None
    router_z: float | None = None


@dataclass(frozen=True, slots=True)
class BatchShare:
    """Counts of a whole batch that its parts are divided by."""

    count: int  # the denominator of the whole batch
    sequences: int  # of the whole batch


def objective(execution: Execution, part: Batch, recipe: Recipe, share: BatchShare) -> Float[Tensor, " terms"]:
    """A part's addend to the batch's loss, then to the terms of `LossTerms`, in float32; only the first has a gradient.

    Cross-entropy and z-loss are sums over the part's labels divided by the whole batch's denominator. The router's losses are
    means over all the part's tokens, weighted by its share of the sequences, as the trainers take them micro-batch by
    micro-batch: `balance` is not linear, so its value over the whole batch differs slightly.
    """
    with execution.router_hook.capture() as router_logits:
        hidden = execution.hidden(part)[:, :-1].flatten(0, 1)
    labels = part.token_ids[:, 1:].flatten()
    if part.loss_mask is not None:
        loss_mask = part.loss_mask[:, 1:].flatten()
        hidden, labels = hidden[loss_mask], labels[loss_mask]
    loss, cross_entropy = head_loss(hidden, execution.head, labels, z_loss=recipe.z_loss, count=share.count)
    if not router_logits:
        return torch.stack([loss, cross_entropy])
    experts, weight = execution.model.config.experts, len(part) / share.sequences
    assert experts is not None
    logits = torch.stack(router_logits)
    terms = balance(logits, experts.per_token) * weight, router_z(logits) * weight
    loss = loss + recipe.balance_loss * terms[0] + recipe.router_z_loss * terms[1]
    return torch.stack([loss, cross_entropy, *(term.detach() for term in terms)])


@torch.no_grad()
def evaluate(model: LanguageModel, batch: Batch, recipe: Recipe) -> LossTerms:
    """A batch's loss under the recipe, in float32, micro-batch by micro-batch; the model stays unchanged."""
    with open_execution(model, Recipe(steps=1)) as execution:
        share, parts = (
            BatchShare(batch.denominator(recipe.mean_over), len(batch)),
            batch.split(recipe.micro_batch or len(batch)),
        )
        terms = [objective(execution, part.to(execution.head.device), recipe, share).double() for part in parts]
        return LossTerms(*torch.stack(terms).sum(0).tolist())
