"""Learning rates of published runs, step by step, from their configs.

>>> schedule = PublishedSchedule(stage=0, kind="cosine", peak=3e-4, warmup=100, end=1000)
>>> schedule.rates(np.array([50, 100, 1000]), tokens_per_step=1).round(6).tolist()
[0.00015, 0.0003, 3e-05]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

COSINE, FLOORED = "cosine", "floored cosine"
KINDS, UNITS = (COSINE, FLOORED), ("steps", "tokens")


@dataclass(frozen=True, slots=True)
class PublishedSchedule:
    """The learning rate of a stage: linear warm-up to `peak`, then a cosine to `final` of it at `end`, and the weight decay.

    A floored cosine, GPT-NeoX's, falls as peak (1 + cos(π n / end)) / 2 with n counted from the end of warm-up, and stays at
    `final` of the peak once it is there. The update that makes step n has the rate of place n - `lag`.

    `warmup` and `end` are in `unit`; warm-up starts at `warmup_from` of the peak. `weight_decay` is decoupled and multiplied
    by the rate, as in AdamW; `decays_embeddings` tells whether it acts on the input embedding.
    """

    stage: int
    kind: str
    peak: float
    warmup: float
    end: float
    unit: str = "steps"
    warmup_from: float = 0.0
    final: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    decays_embeddings: bool = False
    lag: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.unit not in UNITS:
            raise ValueError(
                f"a schedule must be {' or '.join(KINDS)} in {' or '.join(UNITS)} (got {self.kind}, {self.unit})"
            )
        if not 0 <= self.warmup < self.end or self.peak <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"a schedule must have 0 <= warmup < end, a positive peak and no negative decay (got {self})"
            )

    def rates(self, steps: Int[np.ndarray, " steps"], tokens_per_step: int) -> Float[np.ndarray, " steps"]:
        """The learning rate of the update that makes each step."""
        place = (np.asarray(steps, np.float64) - self.lag) * (tokens_per_step if self.unit == "tokens" else 1)
        low, least = self.warmup_from * self.peak, self.final * self.peak
        rising = low + (self.peak - low) * place / max(self.warmup, 1)
        return np.where(place < self.warmup, rising, self._falling(place, least))

    def _falling(self, place: Float[np.ndarray, " steps"], least: float) -> Float[np.ndarray, " steps"]:
        """The rate after warm-up."""
        if self.kind == FLOORED:
            after = np.clip(place, 0, self.end - self.warmup) - self.warmup
            falling: Float[np.ndarray, " steps"] = self.peak * (1 + np.cos(np.pi * after / self.end)) / 2
            return falling.clip(min=least)
        share = np.clip((place - self.warmup) / (self.end - self.warmup), 0, 1)
        return least + (self.peak - least) * (1 + np.cos(np.pi * share)) / 2
