"""The gradient of a batch: micro-batch by micro-batch, by one thread or by several that each take a share of the sequences.

A small model is bound by the barriers between torch's own threads: where another process holds one of the cores, each
of hundreds of operations waits for it. Workers meet once a step instead. Their shares are summed in a fixed order, so the
result depends on how many workers and micro-batches there are, and on nothing else.

    >>> with open_gradients(state.model, recipe) as gradients:                                  # doctest: +SKIP
    ...     losses = gradients.of(batch)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from olmo_dynamics.errors import OptionError
from olmo_dynamics.model import LanguageModel
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.compute import Compute, open_compute, trained
from olmo_dynamics.training.objective import Losses, Share, objective
from olmo_dynamics.training.ranks import ShardedGradients, as_float, count
from olmo_dynamics.training.recipe import Recipe

Part = tuple[Tensor, list[Tensor]]
"""A part's addends: the terms of the loss in float64, and the gradients, of one micro-batch as they came, of more in float32."""


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


@dataclass
class Gradients:
    """What makes the gradients of one model, batch after batch."""

    compute: Compute
    recipe: Recipe
    pool: Pool
    _warm: bool = field(default=False, init=False)

    def of(self, batch: Batch) -> Losses:
        """Leave the gradient of the batch's loss in every trained `parameter.grad` of the masters."""
        self.compute.refresh()
        share = Share(batch.denominator(self.recipe.mean_over), len(batch))
        batch = batch.to(self.compute.head.device)
        parts = list(batch.split(-(-len(batch) // self.pool.count)))
        losses, gradients = zip(*self._map(partial(self._sum, share=share), parts), strict=True)
        for parameter, shares in zip(trained(self.compute.masters), zip(*gradients, strict=True), strict=True):
            parameter.grad = add_up(shares)
        return Losses(*torch.stack(losses).sum(0).tolist())

    def _map(self, work: partial[Part], parts: list[Batch]) -> list[Part]:
        """The work done on each part; the first time one after the other, so that one thread compiles and the rest reuse."""
        threads = self.pool.threads
        if threads is None:
            return [work(part) for part in parts]
        if self.compute.compiled and not self._warm:
            self._warm = True
            return [threads.submit(work, part).result() for part in parts]
        return list(threads.map(work, parts))

    def _sum(self, part: Batch, *, share: Share) -> Part:
        """A worker's addend, summed over its micro-batches."""
        losses = torch.zeros((), dtype=torch.float64)
        total: list[Tensor] = []
        for micro in part.split(self.recipe.micro_batch or len(part)):
            terms = objective(self.compute, micro, self.recipe, share)
            gradients = torch.autograd.grad(terms[0], trained(self.compute.model))
            losses = losses + terms.detach().double().cpu()
            total = [add_up(pair) for pair in zip(total, gradients, strict=True)] if total else list(gradients)
        return losses, total


@contextmanager
def open_gradients(
    model: LanguageModel, recipe: Recipe, *, workers: int | None = None
) -> Iterator[Gradients | ShardedGradients]:
    """The maker of a model's gradients; None leaves the number of workers to the recipe."""
    if count() > 1:  # what is taken apart rounds itself, and is not compiled
        with open_compute(model, replace(recipe, dtype="float32", compile=False)) as compute:
            yield ShardedGradients(compute, recipe)
        return
    with open_pool(recipe.workers if workers is None else workers) as pool, open_compute(model, recipe) as compute:
        yield Gradients(compute, recipe, pool)


def add_up(addends: Sequence[Tensor]) -> Tensor:
    """The sum in float32 at least, in place where the first is that already."""
    total = addends[0].to(torch.promote_types(addends[0].dtype, torch.float32))
    for addend in addends[1:]:
        total.add_(addend)
    return total


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> float:
    """Scale all gradients by `min(1, limit / (norm + 1e-6))` and return their L2 norm over everything, before scaling.

    Squares are summed in float64: torch's float32 norm drifts by percents on tensors of 1e8 elements on a CPU.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float64) for gradient in gradients]
    norm = as_float(torch.linalg.vector_norm(torch.stack(norms)))
    if norm + 1e-6 > limit:
        for gradient in gradients:
            gradient.mul_(limit / (norm + 1e-6))
    return norm
