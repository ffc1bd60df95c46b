"""Batches of windows of one long token array, shuffled again each epoch by a seed.

The order is OLMo-core's: epoch e, counted from 1, visits `arange(windows)` shuffled by NumPy's PCG64(seed + e), cut to
whole batches. So the number of batches already taken is all that resuming needs.

    >>> windows = Windows(np.arange(64), length=4, sequences=2, seed=34521)
    >>> windows.batch(0).token_ids[:, 0].numpy() // 4, windows.batches_per_epoch
    (array([15, 14]), 8)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Integer, UInt32

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.data.batch import Batch


@dataclass(frozen=True)
class Windows:
    """Adjacent windows of `length` tokens, `sequences` of them per batch; a tail that fills no window is dropped."""

    tokens: Integer[np.ndarray, " tokens"]
    length: int
    sequences: int
    seed: int

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or not np.issubdtype(self.tokens.dtype, np.integer):
            given = f"{self.tokens.dtype} of shape {self.tokens.shape}"
            raise TrainingError(f"training tokens must be a one-dimensional integer array (got {given})")
        if self.batches_per_epoch == 0:
            needed = self.sequences * self.length
            raise TrainingError(
                f"one batch is {self.sequences} windows of {self.length}, {needed} tokens (got {self.tokens.size}): "
                "give more data or a smaller batch"
            )

    @property
    def count(self) -> int:
        """The number of windows."""
        return self.tokens.size // self.length

    @property
    def batches_per_epoch(self) -> int:
        """The number of whole batches in one pass over the windows."""
        return self.count // self.sequences

    def batch(self, position: int) -> Batch:
        """The batch after `position` others."""
        epoch, row = divmod(position, self.batches_per_epoch)
        chosen = self._order(epoch + 1)[row * self.sequences : (row + 1) * self.sequences]
        rows = self.tokens[: self.count * self.length].reshape(self.count, self.length)
        return Batch(torch.from_numpy(np.asarray(rows[chosen], dtype=np.int64)))

    @cached_property
    def _orders(self) -> dict[int, UInt32[np.ndarray, " windows"]]:
        return {}

    def _order(self, epoch: int) -> UInt32[np.ndarray, " windows"]:
        """The shuffled window numbers of one epoch; only the latest is kept."""
        if epoch not in self._orders:
            order = np.arange(self.count, dtype=np.uint32)
            np.random.Generator(np.random.PCG64(self.seed + epoch)).shuffle(order)
            self._orders.clear()
            self._orders[epoch] = order
        return self._orders[epoch]
