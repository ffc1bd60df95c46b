"""Losses and statistics of logits, token by token, from slices of the logits.

    >>> recorder = LossRecorder(probe)  # doctest: +SKIP
    >>> recorder.observe(logits, rows=slice(0, 4), positions=slice(0, 128))  # doctest: +SKIP
    >>> records = recorder.records()  # doctest: +SKIP

A prediction made at position t is scored against the token at t + 1 where both are real. Sums over the vocabulary are
those of `logit_sums`. `_without_first` leaves out the predictions made at position 0. Padding columns count in log-sum-exp, as in training, but not in the entropy or the top probability.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from olmo_dynamics.names import Record, Status
from olmo_dynamics.quantities import WITHOUT_FIRST, find
from olmo_dynamics.recorders.logit_sums import CROSS_ENTROPY, LogitSums



@runtime_checkable
class ProbeTokens(Protocol):
    """What the recorders need of a probe: `olmo_dynamics.probes.Probe` is one."""

    @property
    def token_ids(self) -> Int64[np.ndarray, "sequences positions"]:
        """Token ids."""

    @property
    def mask(self) -> Bool[np.ndarray, "sequences positions"]:
        """True for real tokens, False for padding on the right."""

    @property
    def domain(self) -> Int64[np.ndarray, " sequences"]:
        """The place in `domains` of each sequence's domain."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of domains."""

    @property
    def token_bytes(self) -> Int64[np.ndarray, "sequences positions"]:
        """UTF-8 bytes of each token; -1 where unknown."""

    @property
    def tokenizer_size(self) -> int:
        """How many ids the tokenizer knows; columns from there on are padding."""


class LossRecorder:
    """The groups `logits`, `loss` and `tokens`; recorders that saw different tokens merge exactly.

    Logits may come in slices of the vocabulary, of which there are `vocab_size` (None: they come whole): ten float64
    numbers are kept of each token, so that logits are never held whole.
    """

    def __init__(self, probe: ProbeTokens, vocab_size: int | None = None) -> None:
        self._probe = probe
        self._vocab_size = vocab_size
        self._sums = LogitSums.of_nothing(probe.token_ids.shape, tokenizer_size=probe.tokenizer_size)
        self._scored = np.zeros(probe.token_ids.shape, dtype=bool)  # predictions with a real next token
        self._scored[:, :-1] = probe.mask[:, :-1] & probe.mask[:, 1:]
        self._targets = np.where(self._scored, np.roll(probe.token_ids, -1, axis=1), 0)

    @property
    def _seen(self) -> Bool[np.ndarray, "sequences positions"]:
        """The tokens whose logits were seen, all of them."""
        seen: np.ndarray = self._sums.columns >= (self._vocab_size or 1)
        return seen

    @property
    def complete(self) -> bool:
        """Whether every real token's logits were seen."""
        return bool(self._seen[self._probe.mask].all())

    def observe(
        self,
        logits: Float[Tensor, "batch positions columns"],
        rows: slice,
        positions: slice,
        first_column: int = 0,
    ) -> None:
        """Adds the logits of some sequences and positions of the probe, for tokens from `first_column` on."""
        real = self._probe.mask[rows, positions]
        if not real.any():
            return
        flat = logits.detach().reshape(-1, logits.shape[-1])
        wanted = flat if real.all() else flat[torch.tensor(real.reshape(-1)).to(flat.device)]
        sums = LogitSums(self._sums.state[rows, positions][real], self._probe.tokenizer_size)
        sums.add(wanted, self._targets[rows, positions][real], first_column)
        self._sums.state[rows, positions][real] = sums.state

    def merge(self, other: LossRecorder) -> None:
        """Adds what `other` saw."""
        self._sums.take(other._sums)

    def records(self) -> list[Record]:
        """Every quantity of the three groups."""
        measured, everything = self._sums.measured(), self._seen
        without_first = everything.copy()
        without_first[:, 0] = False
        records = []
        for suffix, chosen in (("", everything), (WITHOUT_FIRST, without_first)):
            values = _logits(measured[:, chosen])
            records += [_record(f"logits/{name}{suffix}", value) for name, value in values.items()]
            for number, domain in enumerate(self._probe.domains):
                inside = chosen & (self._probe.domain == number)[:, None]
                records += [
                    _record(f"loss/{name}{suffix}", value, domain) for name, value in self._loss(measured, inside).items()
                ]
        finite = np.logical_and.reduce(np.isfinite(measured))
        records.append(_record("logits/status", _status(everything, finite)))
        return [*records, *self._by_position(measured, finite), *self._by_token(measured, finite)]

    def _loss(
        self, measured: Float[np.ndarray, "6 sequences positions"], inside: Bool[np.ndarray, "sequences positions"]
    ) -> dict[str, object]:
        scored = inside & self._scored
        losses = measured[CROSS_ENTROPY][scored]
        target_bytes = self._probe.token_bytes[:, 1:][scored[:, :-1]]
        known = len(target_bytes) and (target_bytes >= 0).all() and target_bytes.sum() > 0
        return {
            "cross_entropy": losses.mean() if len(losses) else math.nan,
            "bits_per_byte": losses.sum() / (target_bytes.sum() * math.log(2)) if known else math.nan,
            "scored_tokens": np.int64(len(losses)),
        }

    def _by_position(
        self, measured: Float[np.ndarray, "6 sequences positions"], finite: Bool[np.ndarray, "sequences positions"]
    ) -> list[Record]:
        records = []
        for number, domain in enumerate(self._probe.domains):
            scored = self._seen & self._scored & (self._probe.domain == number)[:, None]
            sums = np.where(scored, measured[CROSS_ENTROPY], 0.0).sum(axis=0)
            counts = scored.sum(axis=0)
            means = np.full(scored.shape[1], math.nan, np.float32)
            means[1:] = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)[:-1]
            records.append(_record("loss/position_cross_entropy", means, domain))
            records.append(_record("loss/status", _status(scored, finite), domain))
        return records

    def _by_token(
        self, measured: Float[np.ndarray, "6 sequences positions"], finite: Bool[np.ndarray, "sequences positions"]
    ) -> list[Record]:
        scored = self._seen & self._scored
        losses = np.full(scored.shape, math.nan, np.float32)
        losses[:, 1:] = np.where(scored, measured[CROSS_ENTROPY], math.nan)[:, :-1]
        return [_record("tokens/token_cross_entropy", losses), _record("tokens/status", _status(scored, finite))]


def _logits(measured: Float[np.ndarray, "6 tokens"]) -> dict[str, float]:
    names = ("lse_mean", "lse_square_mean", "lse_std", "lse_max", "logit_mean", "logit_rms", "logit_centred_rms",
             "entropy", "top_probability")  # fmt: skip
    if not measured.shape[1]:
        return dict.fromkeys(names, math.nan)
    lse, mean, variance, entropy, top, _ = measured
    with np.errstate(invalid="ignore"):
        values = (lse.mean(), np.mean(lse**2), lse.std(), lse.max(), mean.mean(),
                  np.sqrt(np.mean(variance + mean**2)), np.sqrt(variance.mean()), entropy.mean(), top.mean())  # fmt: skip
    return dict(zip(names, map(float, values), strict=True))


def _status(
    chosen: Bool[np.ndarray, "sequences positions"], finite: Bool[np.ndarray, "sequences positions"]
) -> np.uint8:
    if not chosen.any():
        return np.uint8(Status.NOT_MEASURED)
    return np.uint8(Status.MEASURED if finite[chosen].all() else Status.NONFINITE)


def _record(key: str, value: object, domain: str | None = None) -> Record:
    return Record(find(key), np.asarray(value), {} if domain is None else {"domain": domain})
