"""The gradient of a batch: micro-batch by micro-batch, by one thread or by several that share the sequences.

A small model is bound by the barriers between torch's own threads: while another process holds one of the cores, each
of hundreds of operations waits for it. Workers synchronise once per step instead. Their shares are summed in a fixed order,
so the result depends only on the numbers of workers and micro-batches.

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
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.distributed import ShardedGradients, as_float, process_count
from olmo_dynamics.training.execution import Execution, open_execution, trainable
from olmo_dynamics.training.objective import BatchShare, LossTerms, objective
from olmo_dynamics.training.recipe import Recipe

Part = tuple[Tensor, list[Tensor]]
"""A part's addends: the terms of the loss in float64; the gradients, in float32 if summed over several micro-batches."""


@dataclass(frozen=True)
class Pool:
    """`count` threads, or the caller's own for one worker."""

    count: int
    threads: ThreadPoolExecutor | None


@contextmanager
def open_pool(count: int) -> Iterator[Pool]:
    """A pool of `count` workers; each of several runs torch on a single thread.

    Raises:
        OptionError: there is less than one worker.
    """
    if count < 1:
        raise OptionError(f"workers must be at least 1 (got {count})")
    if count == 1:
        yield Pool(1, None)
        return
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        yield Pool(count, threads)


@dataclass
class Gradients:
    """Gradients of one model, batch after batch."""

    execution: Execution
    recipe: Recipe
    pool: Pool
    _warm: bool = field(default=False, init=False)

    def of(self, batch: Batch) -> LossTerms:
        """Compute the gradient of the batch's loss, into every trained `parameter.grad` of the masters."""
        self.execution.refresh()
        share = BatchShare(batch.denominator(self.recipe.mean_over), len(batch))
        batch = batch.to(self.execution.head.device)
        parts = list(batch.split(-(-len(batch) // self.pool.count)))
        losses, gradients = zip(*self._map(partial(self._sum, share=share), parts), strict=True)
        for parameter, shares in zip(trainable(self.execution.masters), zip(*gradients, strict=True), strict=True):
            parameter.grad = add_up(shares)
        return LossTerms(*torch.stack(losses).sum(0).tolist())

    def _map(self, work: partial[Part], parts: list[Batch]) -> list[Part]:
        """Do the work on each part; the first time in sequence, so that one thread compiles and the rest reuse it."""
        threads = self.pool.threads
        if threads is None:
            return [work(part) for part in parts]
        if self.execution.compiled and not self._warm:
            self._warm = True
            return [threads.submit(work, part).result() for part in parts]
        return list(threads.map(work, parts))

    def _sum(self, part: Batch, *, share: BatchShare) -> Part:
        """Sum a worker's addend over its micro-batches."""
        losses = torch.zeros((), dtype=torch.float64)
        total: list[Tensor] = []
        for micro in part.split(self.recipe.micro_batch or len(part)):
            terms = objective(self.execution, micro, self.recipe, share)
            gradients = torch.autograd.grad(terms[0], trainable(self.execution.model))
            losses = losses + terms.detach().double().cpu()
            total = [add_up(pair) for pair in zip(total, gradients, strict=True)] if total else list(gradients)
        return losses, total


@contextmanager
def open_gradients(
    model: LanguageModel, recipe: Recipe, *, workers: int | None = None
) -> Iterator[Gradients | ShardedGradients]:
    """Prepare to compute a model's gradients; None leaves the number of workers to the recipe."""
    if process_count() > 1:  # a sharded model rounds its own weights, and is not compiled
        with open_execution(model, replace(recipe, dtype="float32", compile=False)) as execution:
            yield ShardedGradients(execution, recipe)
        return
    with open_pool(recipe.workers if workers is None else workers) as pool, open_execution(model, recipe) as execution:
        yield Gradients(execution, recipe, pool)


def add_up(addends: Sequence[Tensor]) -> Tensor:
    """The sum in float32 or better, in place if the first addend is in it already."""
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
