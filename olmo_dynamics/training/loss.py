"""The loss of the head, computed slice by slice, so that the logits never exist as a whole.

With a vocabulary of 100,000 the logits of a batch are larger than the model. Each slice's gradient is computed while its
logits exist, so nothing is computed twice and nothing large is kept for the backward pass.

    >>> hidden, weight = torch.ones(2, 4, requires_grad=True), torch.zeros(3, 4, requires_grad=True)
    >>> loss, cross_entropy = head_loss(hidden, weight, torch.tensor([0, 2]), z_loss=1e-5)
    >>> loss.backward()
    >>> round(cross_entropy.item(), 4)  # ln(3)
    1.0986
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from olmo_dynamics.training.products import prefers_float32

SLICE_ROWS = 1024
"""Rows whose logits exist at one time: enough for a full-speed matrix product, and for few sums of the weight's gradient."""

CACHED = 1 << 18
"""Logits that a CPU normalises at one time, in float32: few enough to stay in its cache."""

LEAST_ROWS = 16
"""Rows of them at least, since each call costs time."""

LEAST_SHARE = 1e-30
"""Probabilities up to this are 0 in products of widened operands: subnormal numbers are multiplied many times more slowly."""


def head_loss(
    hidden: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    labels: Int[Tensor, " rows"],
    *,
    z_loss: float = 0.0,
    count: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss and its cross-entropy, from the head's input.

    With `z = logsumexp(logits)` of a row: `cross_entropy = sum(z - logits[label]) / count` in nats per token, and
    `loss = cross_entropy + z_loss · sum(z²) / count`; `count` is the number of rows if not given. Products are in the
    weights' dtype; everything after them, including the gradient of the weights, is summed in float32, losses in float64.
    Only `loss` has a gradient, once.
    """
    widened = prefers_float32(weight)
    if widened:  # then logits stay in float32 too
        hidden, weight = hidden.float(), weight.float()
    return _apply(hidden, weight, labels, z_loss, count or max(labels.numel(), 1), LEAST_SHARE if widened else 0.0)


class _HeadLoss(torch.autograd.Function):
    """Both losses; the forward pass computes the gradients of hidden and weight, and the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float, count: int, least: float
    ) -> tuple[Tensor, Tensor]:
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        z, label_logits = torch.empty(2, labels.numel(), dtype=torch.float32, device=hidden.device)
        for span in spans(labels.numel(), SLICE_ROWS):
            logits = hidden[span] @ weight.T
            for rows in spans(len(logits), rows_at_once(logits)):
                z[span][rows], label_logits[span][rows] = _differentiate(
                    logits[rows], labels[span][rows], z_loss, count, least
                )
            torch.mm(logits, weight, out=hidden_gradient[span])
            _add_product(weight_gradient, logits.T, hidden[span])
        ctx.gradients = hidden_gradient, weight_gradient
        ctx.dtype = weight.dtype
        cross_entropy, square = (z - label_logits).sum(dtype=torch.float64), z.square().sum(dtype=torch.float64)
        loss, cross_entropy = (cross_entropy + z_loss * square) / count, cross_entropy / count
        loss, cross_entropy = loss.float(), cross_entropy.float()
        ctx.mark_non_differentiable(cross_entropy)
        return loss, cross_entropy

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden_gradient, weight_gradient = ctx.gradients
        del ctx.gradients  # scaled in place: a copy of the second would be as large as the head
        return hidden_gradient.mul_(slope), weight_gradient.mul_(slope).to(ctx.dtype), None, None, None, None


_apply: Callable[[Tensor, Tensor, Tensor, float, int, float], tuple[Tensor, Tensor]] = _HeadLoss.apply


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right`, rounded to their dtype before the addition if that is narrower than `total`'s."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def spans(rows: int, most: int) -> Iterator[slice]:
    """All rows in order, at most so many at a time."""
    return (slice(start, start + most) for start in range(0, rows, most))


def rows_at_once(logits: Tensor) -> int:
    """The rows to normalise at one time: on a CPU few enough for its cache, elsewhere all."""
    return max(CACHED // logits.shape[1], LEAST_ROWS) if logits.device.type == "cpu" else max(len(logits), 1)


def _differentiate(logits: Tensor, labels: Tensor, z_loss: float, count: int, least: float) -> tuple[Tensor, Tensor]:
    """Each row's `z` and its label's logit; d(loss)/d(logits) takes the place of the logits.

    The derivative is `(softmax · (1 + 2 · z_loss · z) - onehot(label)) / count`, and `z` the largest logit less the logarithm
    of its probability, which is never small; all in float32, and the derivative rounded once. Shares up to `least` become 0.
    """
    wide, labels = logits.float(), labels[:, None]
    slope = wide.softmax(1)
    if least:
        slope = F.threshold(slope, least, 0.0, inplace=True)
    z = wide.amax(1, keepdim=True) - slope.amax(1, keepdim=True).log()
    label_logits = wide.gather(1, labels)
    slope.mul_((1 + 2 * z_loss * z) / count).scatter_add_(1, labels, slope.new_full(labels.shape, -1 / count))
    logits.copy_(slope)
    return z[:, 0], label_logits[:, 0]
