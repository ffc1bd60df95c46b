"""The throughput of this machine, measured in a moment: matrix products, and statistics of weights.

>>> Throughput.measure(torch.float32, device="cpu", threads=1).flops > 0
True
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from olmo_dynamics.collection.cost_estimate import CostEstimate
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.recorders import tensor_stats

_SECONDS = 0.1  # for each rate, once it is warm
_TOKENS, _WIDTH = 512, 2048  # as one block of the forward pass sees them
_SURVEYED = TensorInfo("model.layers.0.mlp.up_proj.weight", "BF16", (2048, 2048), "", 0, 2 * 2048 * 2048)


@dataclass(frozen=True, slots=True)
class Throughput:
    """`flops`: multiplications and additions per second in matrix products; `surveyed`: bf16 bytes per second of statistics."""

    flops: float
    surveyed: float

    def seconds(self, costs: CostEstimate) -> float:
        """The compute time of an estimated cost: statistics, other recorders of weights, and the products of the forward pass."""
        return (costs.surveyed_bytes + sum(costs.beside.values())) / self.surveyed + costs.flops / self.flops

    @classmethod
    def measure(cls, dtype: torch.dtype, *, device: str, threads: int) -> Self:
        """Measure all threads together; takes less than a second."""
        left, right = (torch.ones(rows, _WIDTH, dtype=dtype, device=device) for rows in (_TOKENS, _WIDTH))
        product = _best(lambda: _multiply(left, right))
        raw = np.random.default_rng(0).integers(0, 256, _SURVEYED.nbytes, dtype=np.uint8)
        survey = _best(lambda: tensor_stats(raw, _SURVEYED))
        return cls(2 * _TOKENS * _WIDTH * _WIDTH / product, threads * _SURVEYED.nbytes / survey)


def _multiply(left: torch.Tensor, right: torch.Tensor) -> None:
    left @ right.T
    if left.is_cuda:
        torch.cuda.synchronize()


def _best(work: Callable[[], object]) -> float:
    """The shortest of some turns, after one that warms up, in seconds."""
    work()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < _SECONDS:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
