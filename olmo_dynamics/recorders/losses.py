"""Losses and statistics of logits, token by token, from slices of the logits.

    >>> recorder = LossRecorder().start(Context(config=config, probe=probe))  # doctest: +SKIP
    >>> recorder.observe(seen)  # doctest: +SKIP
    >>> records = recorder.finish()  # doctest: +SKIP

A prediction made at position t is scored against the token at t + 1 if both are real. Sums over the vocabulary are
those of `logit_sums`. `_without_first` leaves out the predictions made at position 0. Padding columns count in
log-sum-exp, as in training, but not in the entropy or the top probability.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS, WITHOUT_FIRST, find
from olmo_dynamics.quantities.declaration import Group, Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import ProbeTokens
from olmo_dynamics.recorders.kernels.logit_sums import CROSS_ENTROPY, LogitSums


class LossRecorder(Recorder):
    """The groups `logits`, `loss` and `tokens`; recorders that saw different tokens merge exactly.

    Logits may come in slices of the vocabulary: ten float64 numbers are kept per token, so that logits are never held whole.
    """

    group = GROUPS["loss"]
    sites = frozenset({Site.LOGITS})

    def __init__(self) -> None:
        self._sums: LogitSums | None = None  # made when the first logits come

    @property
    def groups(self) -> tuple[Group, ...]:
        """The three groups that follow from the same sums."""
        return GROUPS["logits"], self.group, GROUPS["tokens"]

    def observe(self, seen: Observation) -> None:
        """Add the logits of some sequences and positions of the probe, for some columns of the vocabulary."""
        if not seen.mask.any():
            return
        held = self._held()
        rows, positions = seen.rows, seen.positions
        sums = LogitSums(held.state[rows, positions][seen.mask], held.tokenizer_size)
        sums.add(seen.real.detach(), self._targets[rows, positions][seen.mask], seen.columns.start)
        held.state[rows, positions][seen.mask] = sums.state

    def merge(self, other: LossRecorder) -> None:
        """Add the tokens that `other` saw."""
        if other._sums is not None:
            self._held().take(other._sums)

    def finish(self) -> list[Record]:
        """Every quantity of the three groups; no record if no logits were seen."""
        return [] if self._sums is None else self._records(self._sums)

    @property
    def _probe(self) -> ProbeTokens:
        assert self.context.probe is not None
        return self.context.probe

    @cached_property
    def _scored(self) -> Bool[np.ndarray, "sequences positions"]:
        """The predictions that have a real next token."""
        mask = self._probe.mask
        scored = np.zeros(mask.shape, dtype=bool)
        scored[:, :-1] = mask[:, :-1] & mask[:, 1:]
        return scored

    @cached_property
    def _targets(self) -> Int64[np.ndarray, "sequences positions"]:
        return np.where(self._scored, np.roll(self._probe.token_ids, -1, axis=1), 0)

    def _held(self) -> LogitSums:
        if self._sums is None:
            shape = self._probe.token_ids.shape
            self._sums = LogitSums.zeros(shape, tokenizer_size=self._probe.tokenizer_size)
        return self._sums

    def _seen(self, sums: LogitSums) -> Bool[np.ndarray, "sequences positions"]:
        """The tokens of which every logit was seen."""
        columns = self.context.config.vocab_size if self.context.config else 1
        seen: np.ndarray = sums.columns >= columns
        return seen

    def _records(self, sums: LogitSums) -> list[Record]:
        measured, everything = sums.measured(), self._seen(sums)
        without_first = everything.copy()
        without_first[:, 0] = False
        records = []
        for suffix, chosen in (("", everything), (WITHOUT_FIRST, without_first)):
            values = _logits(measured[:, chosen])
            records += [_record(f"logits/{name}{suffix}", value) for name, value in values.items()]
            for number, domain in enumerate(self._probe.domains):
                inside = chosen & (self._probe.domain == number)[:, None]
                records += [
                    _record(f"loss/{name}{suffix}", value, domain)
                    for name, value in self._loss(measured, inside).items()
                ]
        finite = np.logical_and.reduce(np.isfinite(measured))
        records.append(_record("logits/status", _status(everything, finite)))
        scored = everything & self._scored
        return [*records, *self._by_position(measured, scored, finite), *self._by_token(measured, scored, finite)]

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
        self,
        measured: Float[np.ndarray, "6 sequences positions"],
        all_scored: Bool[np.ndarray, "sequences positions"],
        finite: Bool[np.ndarray, "sequences positions"],
    ) -> list[Record]:
        records = []
        for number, domain in enumerate(self._probe.domains):
            scored = all_scored & (self._probe.domain == number)[:, None]
            sums = np.where(scored, measured[CROSS_ENTROPY], 0.0).sum(axis=0)
            counts = scored.sum(axis=0)
            means = np.full(scored.shape[1], math.nan, np.float32)
            means[1:] = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)[:-1]
            records.append(_record("loss/position_cross_entropy", means, domain))
            records.append(_record("loss/status", _status(scored, finite), domain))
        return records

    @staticmethod
    def _by_token(
        measured: Float[np.ndarray, "6 sequences positions"],
        scored: Bool[np.ndarray, "sequences positions"],
        finite: Bool[np.ndarray, "sequences positions"],
    ) -> list[Record]:
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
