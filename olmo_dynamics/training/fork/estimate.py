"""The cost of a fork, before it is made: tokens, memory, and a lower bound of the time on this machine.

>>> estimate = estimate_fork(plan, tokens=81_920_000)                                       # doctest: +SKIP
>>> estimate.state_bytes, estimate.seconds                                                  # doctest: +SKIP
(23755325440, 41000.0)
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from olmo_dynamics.model import ModelConfig, expected_shapes
from olmo_dynamics.training.fork.plan import ForkPlan
from olmo_dynamics.training.recipe import EMBEDDING

STATE_BYTES = 16
"""Bytes per parameter: its weight, gradient and two moments, float32 each."""

FORMULA = "16 bytes per parameter; activations 4 B·T·(layers·(8·hidden + 4·query + 2·key-value + 4·MLP) + 2·hidden)"
_SAMPLE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class ForkEstimate:
    """`flops` is 6 · N · tokens, N the parameters that a token passes, without the embedding table."""

    tokens: int
    parameters: int
    state_bytes: int
    activation_bytes: int
    flops: float
    flops_per_second: float  # of one matrix product in the fork's precision, the most that training can approach

    @property
    def seconds(self) -> float:
        """The time at that rate: a lower bound."""
        return self.flops / self.flops_per_second


def estimate_fork(plan: ForkPlan, *, tokens: int) -> ForkEstimate:
    """Estimate a run of so many tokens."""
    recipe, shapes = plan.recipe, expected_shapes(plan.model)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    rows = min(recipe.sizes.largest, (recipe.micro_batch or recipe.sizes.largest) * recipe.workers)
    return ForkEstimate(
        tokens=tokens,
        parameters=parameters,
        state_bytes=STATE_BYTES * parameters,
        activation_bytes=activation_bytes(plan.model, rows * recipe.sequence_length, recipe.activation_checkpointing),
        flops=6.0 * passed_parameters(plan.model) * tokens,
        flops_per_second=measured_rate(recipe.dtype),
    )


def passed_parameters(model: ModelConfig) -> int:
    """The parameters that multiply a token: those of chosen experts and of the head, but not the embedding table."""
    total = 0
    for name, shape in expected_shapes(model).items():
        share = model.experts.per_token / model.experts.count if model.experts and ".experts." in name else 1
        table = name == EMBEDDING and "lm_head.weight" in expected_shapes(model)
        total += 0 if table else round(math.prod(shape) * share)
    return total


def activation_bytes(model: ModelConfig, tokens: int, checkpointed: bool) -> int:
    """Bytes kept for the backward pass of so many tokens in float32; if checkpointed, one block and every block's input."""
    width = 4 * model.intermediate_size * (model.experts.per_token if model.experts else 1)
    block = 8 * model.hidden_size + 4 * model.query_width + 2 * model.kv_width + width
    blocks = block + model.layers * model.hidden_size if checkpointed else model.layers * block
    return 4 * tokens * (blocks + 2 * model.hidden_size)


def measured_rate(dtype: str) -> float:
    """Floating-point operations per second of a product of 1024-wide matrices, measured for 0.3 s."""
    matrix = torch.ones(1024, 1024, dtype=getattr(torch, dtype))
    matrix @ matrix
    begin, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < _SAMPLE_SECONDS:
        matrix @ matrix
        count += 1
    return count * 2 * 1024**3 / spent
