"""Direct attribution of the final logits: the share of their variance over the vocabulary that one part of the stream gives.

The head is linear, and so is the final norm while its scale is held fixed: the logits z are a sum of contributions c, one of
each part of the stream. The share of a part is `cov(c, z) / var(z)` over the vocabulary, and the shares of all parts sum to 1.

>>> sums = LogitAttribution(FixedNorm.of(norm, stream), tokenizer_size=100_278)  # doctest: +SKIP
>>> sums.add(logits, head, first_column=0)  # doctest: +SKIP
>>> sums.share(written)  # doctest: +SKIP

With W the head's matrix, `cov(c, z)` is the part, as the head reads it, times `mean_v (z_v - mean z) W_v`: one vector for each
token, to which slices of the vocabulary are added as they come.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from olmo_dynamics.recorders.inside.final_norm import FixedNorm
from olmo_dynamics.recorders.inside.tiles import wide


class LogitAttribution:
    """Sums over the tokenizer's own ids, of the logits of some tokens and of the head's rows weighted by them."""

    def __init__(self, norm: FixedNorm, tokenizer_size: int) -> None:
        self._norm, self._size, self._columns = norm, tokenizer_size, 0
        nothing = torch.zeros((), dtype=torch.float64, device=norm.scale.device)
        self._logits = self._squares = self._weighted = self._rows = nothing

    def add(
        self, logits: Float[Tensor, "tokens columns"], head: Float[Tensor, "columns width"], first_column: int
    ) -> None:
        """Add one slice of the vocabulary: logits, and the rows of the head's matrix that gave them."""
        known = min(max(self._size - first_column, 0), len(head))
        if not known:
            return
        logits, head = wide(logits[:, :known]), wide(head[:known])
        self._logits = self._logits + logits.sum(-1, dtype=torch.float64)
        self._squares = self._squares + logits.double().square().sum(-1)
        self._weighted = self._weighted + logits @ head
        self._rows = self._rows + head.sum(0, dtype=torch.float64)
        self._columns += known

    def share(self, part: Float[Tensor, "tokens width"]) -> Float64[Tensor, " tokens"]:
        """The share of a part of the stream for each token; NaN where all logits are equal."""
        mean = self._logits / self._columns
        variance = self._squares / self._columns - mean.square()
        direction = (self._weighted - mean[:, None] * self._rows) / self._columns
        covariance = (self._norm(wide(part)).double() * direction).sum(-1)
        return torch.where(variance > 0, covariance / variance, torch.nan)
