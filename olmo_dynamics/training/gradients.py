"""The gradient of a batch, by one thread or by several that each take a share of the sequences.

A model this small is bound by the barriers between torch's own threads: where another process holds one of the cores, each
of hundreds of operations waits for it. Workers meet once a step instead. Their shares are summed in a fixed order, so the
result depends on how many workers there are, and on nothing else.

    >>> with open_pool(2) as pool:
    ...     loss, cross_entropy = backward(model, batch, z_loss=1e-5, pool=pool)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import LanguageModel
from olmo_dynamics.training.loss import next_token_loss


@dataclass(frozen=True)
class Pool:
    """`count` threads, or the caller's own where there is one worker."""

    count: int
    threads: ThreadPoolExecutor | None


@contextmanager
def open_pool(count: int) -> Iterator[Pool]:
    """A pool of `count` workers; each of several runs torch on a single thread.

    Raises: OptionError for less than one.
    """
    if count < 1:
        raise OptionError(f"training wants at least 1 worker; got {count}")
    if count == 1:
        yield Pool(1, None)
        return
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        yield Pool(count, threads)


def backward(
    model: LanguageModel,
    batch: Int[Tensor, "sequences length"],
    *,
    z_loss: float,
    pool: Pool,
    mean_over: str = "labels",
) -> tuple[float, float]:
    """Leave the gradient of the batch's loss in every trained `parameter.grad`; return the loss and its cross-entropy."""
    loss_of = partial(next_token_loss, z_loss=z_loss, mean_over=mean_over)
    share = partial(_share, model, loss_of=loss_of, of=len(batch))
    parts = batch.chunk(pool.count)
    losses, gradients = zip(*(pool.threads.map(share, parts) if pool.threads else map(share, parts)), strict=True)
    for parameter, shares in zip(_trained(model), zip(*gradients, strict=True), strict=True):
        parameter.grad = sum(shares[1:], start=shares[0])
    loss, cross_entropy = torch.stack(losses).sum(0).tolist()
    return loss, cross_entropy


def _share(
    model: LanguageModel, part: Tensor, *, loss_of: Callable[..., tuple[Tensor, Tensor]], of: int
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One part's addend to the batch's [loss, cross-entropy] and to its gradient."""
    loss, cross_entropy = loss_of(model, part)
    weight = len(part) / of
    gradients = torch.autograd.grad(loss, _trained(model), grad_outputs=torch.full_like(loss, weight))
    return weight * torch.stack([loss.detach(), cross_entropy]), gradients


def _trained(model: LanguageModel) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
