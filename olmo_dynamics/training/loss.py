"""The loss of predicting each next token, computed a slice of rows at a time so that the logits are never whole.

With a vocabulary of 100,000 the logits of a batch outweigh the model. Each slice's gradient is taken while its logits
exist, so nothing is computed twice and nothing large is kept for the backward pass.

    >>> loss, cross_entropy = next_token_loss(model, token_ids, z_loss=1e-5)
    >>> loss.backward()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from olmo_dynamics.model import LanguageModel

SLICE_ROWS = (
    256  # rows whose logits exist at one time: enough for a full-speed matrix product, few enough for the cache
)


def next_token_loss(
    model: LanguageModel, token_ids: Int[Tensor, "sequences length"], *, z_loss: float, mean_over: str = "labels"
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss to minimise and the cross-entropy in it, both means over the `length - 1` labels of every sequence.

    OLMo-core's convention: the mean counts labels. OLMo divides the same sum by all `length` positions, of which the last
    has no label: `mean_over="positions"`.
    """
    hidden = model.hidden(token_ids[:, :-1])
    labels = token_ids[:, 1:].reshape(-1)
    head = model.model.embed_tokens if model.lm_head is None else model.lm_head
    loss, cross_entropy = head_loss(hidden.reshape(labels.numel(), -1), head.weight, labels, z_loss=z_loss)
    if mean_over == "labels":
        return loss, cross_entropy
    share = labels.numel() / token_ids.numel()
    return loss * share, cross_entropy * share


def head_loss(
    hidden: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    labels: Int[Tensor, " rows"],
    *,
    z_loss: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss and its cross-entropy, from the head's input.

    With `z = logsumexp(logits)` of a row: `cross_entropy = mean(z - logits[label])` in nats per token, and
    `loss = cross_entropy + z_loss · mean(z²)`; logits and sums in float32. Only `loss` has a gradient.
    """
    return _apply(hidden, weight, labels, z_loss)


class _HeadLoss(torch.autograd.Function):
    """Both losses forward; the gradients of hidden and weight are made on the way, and only scaled on the way back."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        hidden_gradient, weight_gradient = torch.empty_like(hidden), torch.zeros_like(weight)
        cross_entropy = square = torch.zeros((), dtype=torch.float64, device=hidden.device)
        rows = labels.numel()
        for span in (slice(start, start + SLICE_ROWS) for start in range(0, rows, SLICE_ROWS)):
            z, label_logits, slope = _normalise((hidden[span] @ weight.T).float(), labels[span, None], z_loss)
            cross_entropy = cross_entropy + (z - label_logits).sum(dtype=torch.float64)
            square = square + z.square().sum(dtype=torch.float64)
            slope = slope.div_(rows).to(hidden.dtype)
            torch.mm(slope, weight, out=hidden_gradient[span])
            weight_gradient.addmm_(slope.T, hidden[span])
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        loss, cross_entropy = (cross_entropy + z_loss * square) / rows, cross_entropy / rows
        loss, cross_entropy = loss.float(), cross_entropy.float()
        ctx.mark_non_differentiable(cross_entropy)
        return loss, cross_entropy

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return hidden_gradient * slope, weight_gradient * slope, None, None


_apply: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]] = _HeadLoss.apply


def _normalise(logits: Tensor, labels: Tensor, z_loss: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's `z`, its label's logit, and d(row loss)/d(logits) = softmax · (1 + 2 · z_loss · z) - onehot(label).

    Works in place: after it `logits` holds the last of the three.
    """
    label_logits = logits.gather(1, labels)
    peak = logits.amax(1, keepdim=True)
    total = logits.sub_(peak).exp_().sum(1, keepdim=True)
    z = total.log() + peak
    slope = logits.mul_((1 + 2 * z_loss * z) / total)
    return z, label_logits, slope.scatter_add_(1, labels, slope.new_full(labels.shape, -1.0))
