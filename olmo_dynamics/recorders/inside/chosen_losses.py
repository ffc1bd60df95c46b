"""Losses of chosen tokens of a probe, from slices of the logits.

>>> losses = ChosenLosses(probe, chosen)  # doctest: +SKIP
>>> losses.add(seen)  # doctest: +SKIP
>>> losses.of_tokens()[0, 5]  # of token 5 of the first window, in nats  # doctest: +SKIP
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from olmo_dynamics.recorders.base import Observation
from olmo_dynamics.recorders.context import ProbeTokens
from olmo_dynamics.recorders.kernels.logit_sums import CROSS_ENTROPY, LogitSums


class ChosenLosses:
    """Losses of the tokens where `chosen` is True, by their own positions; those of other sequences merge.

    With `targets` given, `chosen` are the positions that predict them.
    """

    def __init__(
        self,
        probe: ProbeTokens,
        chosen: Bool[np.ndarray, "sequences positions"],
        targets: Int64[np.ndarray, "sequences positions"] | None = None,
    ) -> None:
        self._probe = probe
        self._predictions = chosen
        if targets is None:
            self._predictions = np.zeros_like(chosen)
            self._predictions[:, :-1] = chosen[:, 1:]
            targets = np.roll(probe.token_ids, -1, axis=1)
        self._targets = np.where(self._predictions, targets, 0)
        self._sums: LogitSums | None = None

    @classmethod
    def of_predicted(cls, probe: ProbeTokens) -> ChosenLosses:
        """Losses of every token that is predicted: all but the first of each window."""
        chosen = np.ones_like(probe.mask)
        chosen[:, 0] = False
        return cls(probe, chosen)

    def add(self, seen: Observation) -> None:
        """Add the logits of some sequences and positions, for some columns of the vocabulary."""
        there = seen.rows, seen.positions
        chosen = self._predictions[there]
        if not chosen.any():
            return
        state = self._held().state[there]
        sums = LogitSums(state[chosen], self._probe.tokenizer_size)
        logits = seen.values.detach()[torch.tensor(chosen, device=seen.values.device)]
        sums.add(logits, self._targets[there][chosen], seen.columns.start)
        state[chosen] = sums.state

    def merge(self, other: ChosenLosses) -> None:
        """Add the tokens that `other` saw."""
        if other._sums is not None:
            self._held().take(other._sums)

    def of_tokens(self) -> Float64[np.ndarray, "sequences positions"]:
        """The loss of each token in nats, NaN where it was not chosen or not seen."""
        losses = np.full(self._predictions.shape, np.nan)
        losses[:, 1:] = self.of_predictions()[:, :-1]
        return losses

    def of_predictions(self) -> Float64[np.ndarray, "sequences positions"]:
        """The loss of each prediction in nats, at the position that makes it."""
        if self._sums is None:
            return np.full(self._predictions.shape, np.nan)
        losses: np.ndarray = self._sums.measured()[CROSS_ENTROPY]
        return losses

    @property
    def seen(self) -> bool:
        """True if logits of some chosen token were seen."""
        return self._sums is not None

    def _held(self) -> LogitSums:
        if self._sums is None:
            self._sums = LogitSums.zeros(self._predictions.shape, tokenizer_size=self._probe.tokenizer_size)
        return self._sums
