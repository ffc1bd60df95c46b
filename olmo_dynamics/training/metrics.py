"""Metrics of each update, as a plain row for a table, a progress bar, TensorBoard or Weights & Biases.

>>> from olmo_dynamics.model import ModelConfig
>>> from olmo_dynamics.training.recipe import Recipe
>>> from olmo_dynamics.training.state import new_state
>>> from olmo_dynamics.training.trainer import train
>>> config = ModelConfig(hidden_size=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate_size=16, vocab_size=32,
...                      max_positions=16, norm_eps=1e-6, rope_theta=5e5)
>>> recipe, rows = Recipe(steps=1, sequences_per_step=4, sequence_length=16), []
>>> state = train(new_state(config, recipe), recipe, torch.arange(100).numpy() % 32, callbacks=[Metrics([rows.append])])
>>> list(rows[0])[:5]
['step', 'tokens', 'loss', 'gradient_norm', 'learning_rate']
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from olmo_dynamics.training.trainer import Event

Row = dict[str, int | float]
"""`step`, `tokens`, `loss` (nats per token), `gradient_norm` (before clipping), `learning_rate`, `skipped` (a spike: no update
was made), `tokens_per_second`, `memory_bytes`; with experts `balance` and `router_z`."""


@dataclass
class Metrics:
    """A callback of `train` that makes one row per update and passes it to every sink, in order.

    `tokens_seen` counts the tokens before the first update. The rate is over wall-clock time since the last row, so it
    includes other callbacks; `memory_bytes` is the peak so far: of the GPU if the model is on one, else of the process.
    """

    sinks: Sequence[Callable[[Row], None]]
    tokens_seen: int = 0
    _since: float = field(default_factory=time.perf_counter)

    def __call__(self, event: Event) -> None:
        """Make the row of one update."""
        now = time.perf_counter()
        row: Row = {
            "step": event.step,
            "tokens": event.tokens_seen,
            "loss": event.loss,
            "gradient_norm": event.gradient_norm,
            "learning_rate": event.learning_rate,
            "skipped": event.skipped,
            "tokens_per_second": (event.tokens_seen - self.tokens_seen) / max(now - self._since, 1e-9),
            "memory_bytes": peak_memory(next(event.state.model.parameters()).device),
        }
        routed = {"balance": event.losses.balance, "router_z": event.losses.router_z}
        row |= {name: value for name, value in routed.items() if value is not None}
        self.tokens_seen, self._since = event.tokens_seen, now
        for sink in self.sinks:
            sink(row)


def peak_memory(device: torch.device) -> int:
    """Peak memory so far, in bytes: by torch on a CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
