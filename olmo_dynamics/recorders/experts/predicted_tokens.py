"""The token that a model finds most probable at each position, from slices of its logits.

>>> import torch
>>> found = PredictedTokens.zeros((1,), tokenizer_size=3)
>>> for start, logits in ((0, [[0.5, 2.0]]), (2, [[1.0, 9.0]])):  # the fourth column is padding
...     found.add(torch.tensor(logits), np.array([True]), start)
>>> found.tokens
array([1])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from olmo_dynamics.recorders.base import Observation

UNSEEN = -1
"""The token at padding, and where no logits were seen."""


@dataclass(frozen=True)
class PredictedTokens:
    """The largest logit of each position so far, and its token id; of equal ones the lowest id, as in `argmax`."""

    tokens: Int64[np.ndarray, "*positions"]
    largest: Float64[np.ndarray, "*positions"]
    tokenizer_size: int

    @classmethod
    def zeros(cls, shape: tuple[int, ...], *, tokenizer_size: int) -> PredictedTokens:
        """Of positions whose logits have not been seen."""
        return cls(np.full(shape, UNSEEN, dtype=np.int64), np.full(shape, -math.inf), tokenizer_size)

    def observe(self, seen: Observation) -> None:
        """Add the logits of some sequences and positions, for some columns of the vocabulary."""
        there = seen.rows, seen.positions
        PredictedTokens(self.tokens[there], self.largest[there], self.tokenizer_size).add(
            seen.values.detach(), seen.mask, seen.columns.start
        )

    def add(
        self, logits: Float[Tensor, "*positions columns"], mask: Bool[np.ndarray, "*positions"], first_column: int
    ) -> None:
        """Compare one slice of the logits with what was seen before; columns beyond the tokenizer's ids never win."""
        known = min(self.tokenizer_size - first_column, logits.shape[-1])
        if known <= 0:
            return
        largest, places = logits[..., :known].max(dim=-1)
        values = largest.double().cpu().numpy()
        better = mask & (values > self.largest)
        self.largest[better] = values[better]
        self.tokens[better] = places.cpu().numpy()[better] + first_column

    def take(self, other: PredictedTokens) -> None:
        """Take over the positions that `other` saw."""
        there = other.tokens != UNSEEN
        self.tokens[there], self.largest[there] = other.tokens[there], other.largest[there]
