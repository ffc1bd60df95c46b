"""Sums over tokens of what one sublayer writes to the stream, and of what each head writes.

>>> sums = WriteSums()  # doctest: +SKIP
>>> sums.add(written, before)  # doctest: +SKIP
>>> sums.measured()["write_ratio"]  # doctest: +SKIP

Norms and cosines of one token are float32 (float64 where the pass is), sums over tokens float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.base import Observation
from olmo_dynamics.recorders.inside.tiles import wide


class WriteSums:
    """Sums over tokens; those of other tokens merge."""

    def __init__(self) -> None:
        self._tokens = self._head_tokens = self._zeros = 0
        self._ratios = self._cosines = 0.0
        self._heads: np.ndarray = np.zeros(0)

    def add(self, written: Float[Tensor, "tokens width"], before: Float[Tensor, "tokens width"]) -> None:
        """Add tokens: what was written, and the stream before."""
        one, other = written.norm(dim=-1), before.norm(dim=-1)
        self._tokens += len(written)
        self._zeros += int(((one == 0) | (other == 0)).sum())
        self._ratios += float((one / other).sum(dtype=torch.float64))
        self._cosines += float(((written * before).sum(-1) / (one * other)).sum(dtype=torch.float64))

    def add_heads(self, seen: Observation, *, head_dim: int) -> None:
        """Add the heads' outputs of an observation, each times its slice of the projection."""
        real = torch.tensor(seen.mask.reshape(-1), device=seen.values.device)
        outputs, projection = wide(seen.beside["heads"]).flatten(0, 1)[real], wide(seen.beside["projection"])
        heads = zip(outputs.split(head_dim, dim=1), projection.split(head_dim, dim=1), strict=True)  # type: ignore[no-untyped-call]
        norms = [(output @ matrix.T).norm(dim=-1).sum(dtype=torch.float64) for output, matrix in heads]
        some = torch.stack(norms).cpu().numpy()
        self._heads = self._heads + some if len(self._heads) else some
        self._head_tokens += len(outputs)

    def merge(self, other: WriteSums) -> None:
        """Add the tokens that `other` saw."""
        self._tokens += other._tokens
        self._head_tokens += other._head_tokens
        self._zeros += other._zeros
        self._ratios += other._ratios
        self._cosines += other._cosines
        if len(other._heads):
            self._heads = self._heads + other._heads if len(self._heads) else other._heads

    def measured(self) -> dict[str, float]:
        """Mean ratio of norms, and mean cosine; NaN if the stream or a write is zero at some token."""
        if not self._tokens or self._zeros:
            return {"write_ratio": math.nan, "write_cosine": math.nan}
        return {"write_ratio": self._ratios / self._tokens, "write_cosine": self._cosines / self._tokens}

    @property
    def status(self) -> Status:
        """Measured, non-finite, or degenerate where the stream or a write is zero at some token."""
        if self._zeros:
            return Status.DEGENERATE
        return Status.MEASURED if math.isfinite(self._ratios + self._cosines) else Status.NONFINITE

    def head_norms(self) -> Float64[np.ndarray, " heads"]:
        """The mean norm of what each head writes."""
        found: np.ndarray = self._heads / max(self._head_tokens, 1)
        return found
