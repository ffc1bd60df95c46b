"""Skipping of loss spikes: updates whose loss or gradient norm is an outlier of the last 128, as in SkipStepAdamW.

>>> history = LossHistory()
>>> [history.spikes(loss, 1.0) for loss in [3.0, 3.1] * 32 + [9.0]][-2:]
[False, True]
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

SPAN = 128  # updates that a new one is compared with
LEAST = 64  # updates, including the new one, before any is skipped
SIGMAS = 6.0


@dataclass
class LossHistory:
    """Cross-entropy and gradient norm (before clipping) of the last updates, including skipped ones.

    A skipped update leaves weights, moments and AdamW's step as they are. OLMo-core saves no history, so its resumed runs
    cannot skip in their first 63 steps; here it is part of the state.
    """

    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)

    def spikes(self, loss: float, gradient_norm: float) -> bool:
        """Add an update; True if its loss or norm is above mean + 6 standard deviations of those before it."""
        enough = len(self.losses) + 1 >= LEAST
        outlier = _above(self.losses, loss) or _above(self.gradient_norms, gradient_norm) if enough else False
        self.losses, self.gradient_norms = [*self.losses, loss][-SPAN:], [*self.gradient_norms, gradient_norm][-SPAN:]
        return outlier


def _above(before: Sequence[float], now: float) -> bool:
    return now - statistics.fmean(before) > SIGMAS * statistics.stdev(before)
