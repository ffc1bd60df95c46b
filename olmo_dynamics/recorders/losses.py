"""Losses and statistics of logits, token by token, from slices of the logits.

    >>> recorder = LossRecorder(probe)  # doctest: +SKIP
    >>> recorder.observe(logits, rows=slice(0, 4), positions=slice(0, 128))  # doctest: +SKIP
    >>> records = recorder.records()  # doctest: +SKIP

A prediction made at position t is scored against the token at t + 1 where both are real. Elements are float32 (or float64),
shifted by their maximum before exp; sums over the vocabulary are float64. `_without_first` leaves out the predictions
made at position 0. Padding columns count in log-sum-exp, as in training, but not in the entropy or the top probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from olmo_dynamics.names import Record, Status
from olmo_dynamics.quantities import WITHOUT_FIRST, find
from olmo_dynamics.recorders.compiled import compiled

_SLICE_ELEMENTS = 1 << 19  # logits handled at a time: 2 MiB of float32 stay in the cache

_LSE, _MEAN, _VARIANCE, _ENTROPY, _TOP, _CROSS_ENTROPY = range(6)


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
    """The groups `logits`, `loss` and `tokens`; recorders that saw different slices merge exactly.

    Six float64 numbers are kept of each token, so any order and slicing gives the same result.
    """

    def __init__(self, probe: ProbeTokens) -> None:
        self._probe = probe
        self._measured = np.full((6, *probe.token_ids.shape), math.nan)
        self._seen = np.zeros(probe.token_ids.shape, dtype=bool)
        self._scored = np.zeros(probe.token_ids.shape, dtype=bool)  # predictions with a real next token
        self._scored[:, :-1] = probe.mask[:, :-1] & probe.mask[:, 1:]
        self._targets = np.where(self._scored, np.roll(probe.token_ids, -1, axis=1), 0)

    @property
    def complete(self) -> bool:
        """Whether every real token's logits were seen."""
        return bool(self._seen[self._probe.mask].all())

    def observe(self, logits: Float[Tensor, "batch positions vocab"], rows: slice, positions: slice) -> None:
        """Adds the logits of some sequences and positions of the probe."""
        real = self._probe.mask[rows, positions]
        if real.any():
            flat = logits.detach().reshape(-1, logits.shape[-1])
            wanted = flat if real.all() else flat[torch.tensor(real.reshape(-1)).to(flat.device)]
            targets = torch.from_numpy(self._targets[rows, positions][real])
            self._measured[:, rows, positions][:, real] = _measure_in_slices(
                wanted, targets, self._probe.tokenizer_size
            )
        self._seen[rows, positions] |= real

    def merge(self, other: LossRecorder) -> None:
        """Adds what `other` saw."""
        self._measured[:, other._seen] = other._measured[:, other._seen]
        self._seen |= other._seen

    def records(self) -> list[Record]:
        """Every quantity of the three groups."""
        everything, without_first = self._seen, self._seen.copy()
        without_first[:, 0] = False
        records = []
        for suffix, chosen in (("", everything), (WITHOUT_FIRST, without_first)):
            values = self._logits(chosen)
            records += [_record(f"logits/{name}{suffix}", value) for name, value in values.items()]
            for number, domain in enumerate(self._probe.domains):
                inside = chosen & (self._probe.domain == number)[:, None]
                records += [
                    _record(f"loss/{name}{suffix}", value, domain) for name, value in self._loss(inside).items()
                ]
        finite = np.logical_and.reduce(np.isfinite(self._measured))
        records.append(_record("logits/status", _status(everything, finite)))
        return [*records, *self._by_position(finite), *self._by_token(finite)]

    def _logits(self, chosen: Bool[np.ndarray, "sequences positions"]) -> dict[str, float]:
        names = ("lse_mean", "lse_square_mean", "lse_std", "lse_max", "logit_mean", "logit_rms", "logit_centred_rms",
                 "entropy", "top_probability")  # fmt: skip
        if not chosen.any():
            return dict.fromkeys(names, math.nan)
        lse, mean, variance, entropy, top, _ = self._measured[:, chosen]
        with np.errstate(invalid="ignore"):
            values = (lse.mean(), np.mean(lse**2), lse.std(), lse.max(), mean.mean(),
                      np.sqrt(np.mean(variance + mean**2)), np.sqrt(variance.mean()), entropy.mean(), top.mean())  # fmt: skip
        return dict(zip(names, map(float, values), strict=True))

    def _loss(self, inside: Bool[np.ndarray, "sequences positions"]) -> dict[str, object]:
        scored = inside & self._scored
        losses = self._measured[_CROSS_ENTROPY][scored]
        target_bytes = self._probe.token_bytes[:, 1:][scored[:, :-1]]
        known = len(target_bytes) and (target_bytes >= 0).all() and target_bytes.sum() > 0
        return {
            "cross_entropy": losses.mean() if len(losses) else math.nan,
            "bits_per_byte": losses.sum() / (target_bytes.sum() * math.log(2)) if known else math.nan,
            "scored_tokens": np.int64(len(losses)),
        }

    def _by_position(self, finite: Bool[np.ndarray, "sequences positions"]) -> list[Record]:
        records = []
        for number, domain in enumerate(self._probe.domains):
            scored = self._seen & self._scored & (self._probe.domain == number)[:, None]
            sums = np.where(scored, self._measured[_CROSS_ENTROPY], 0.0).sum(axis=0)
            counts = scored.sum(axis=0)
            means = np.full(scored.shape[1], math.nan, np.float32)
            means[1:] = np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)[:-1]
            records.append(_record("loss/position_cross_entropy", means, domain))
            records.append(_record("loss/status", _status(scored, finite), domain))
        return records

    def _by_token(self, finite: Bool[np.ndarray, "sequences positions"]) -> list[Record]:
        scored = self._seen & self._scored
        losses = np.full(scored.shape, math.nan, np.float32)
        losses[:, 1:] = np.where(scored, self._measured[_CROSS_ENTROPY], math.nan)[:, :-1]
        return [_record("tokens/token_cross_entropy", losses), _record("tokens/status", _status(scored, finite))]


def _measure_in_slices(
    logits: Float[Tensor, "tokens vocab"], targets: Int64[Tensor, " tokens"], tokenizer_size: int
) -> Float[np.ndarray, "6 tokens"]:
    at_once = max(1, _SLICE_ELEMENTS // logits.shape[1])
    slices = zip(torch.split(logits, at_once), torch.split(targets, at_once), strict=True)
    return np.concatenate([_measure(part.cpu(), wanted, tokenizer_size) for part, wanted in slices], axis=1)


def _measure(
    logits: Float[Tensor, "tokens vocab"], targets: Int64[Tensor, " tokens"], tokenizer_size: int
) -> Float[np.ndarray, "6 tokens"]:
    """Log-sum-exp, mean, variance, entropy, top probability and cross-entropy of each token."""
    known = _Part.of(logits[:, :tokenizer_size])
    lse, mean, squares = known.lse, known.mean, known.squares
    if tokenizer_size < logits.shape[1]:
        padding = _Part.of(logits[:, tokenizer_size:])
        with np.errstate(invalid="ignore"):
            lse = np.logaddexp(lse, padding.lse)
        share = padding.count / logits.shape[1]
        squares = squares + padding.squares + (padding.mean - mean) ** 2 * known.count * share
        mean = mean + (padding.mean - mean) * share
    chosen = logits.gather(1, targets[:, None])[:, 0].double().numpy()
    return np.stack([lse, mean, squares / logits.shape[1], known.entropy, 1 / known.total, lse - chosen])


@dataclass(frozen=True)
class _Part:
    """Sums over some columns of the logits z, shifted by their largest z: of exp(z), z exp(z), z and (z - mean)**2."""

    count: int
    shift: Float[np.ndarray, " tokens"]
    total: Float[np.ndarray, " tokens"]
    expected: Float[np.ndarray, " tokens"]
    linear: Float[np.ndarray, " tokens"]
    squares: Float[np.ndarray, " tokens"]

    @classmethod
    def of(cls, logits: Float[Tensor, "tokens columns"]) -> _Part:
        shift = logits.amax(dim=1, keepdim=True)
        shifted = logits - shift
        sums = np.zeros((4, len(logits)))
        _sum_columns(shifted.exp().numpy(), shifted.numpy(), sums)
        return cls(logits.shape[1], shift[:, 0].double().numpy(), *sums)

    @property
    def lse(self) -> Float[np.ndarray, " tokens"]:
        lse: np.ndarray = self.shift + np.log(self.total)
        return lse

    @property
    def mean(self) -> Float[np.ndarray, " tokens"]:
        return self.shift + self.linear / self.count

    @property
    def entropy(self) -> Float[np.ndarray, " tokens"]:
        entropy: np.ndarray = np.log(self.total) - self.expected / self.total
        return entropy


@compiled
def _sum_columns(
    weights: Float[np.ndarray, "tokens columns"],
    shifted: Float[np.ndarray, "tokens columns"],
    sums: Float[np.ndarray, "4 tokens"],
) -> None:
    tokens, columns = weights.shape
    for token in range(tokens):
        total = expected = linear = 0.0
        for i in range(columns):
            weight, value = np.float64(weights[token, i]), np.float64(shifted[token, i])
            total += weight
            expected += weight * value
            linear += value
        mean, squares = linear / columns, 0.0
        for i in range(columns):
            deviation = np.float64(shifted[token, i]) - mean
            squares += deviation * deviation
        sums[0, token], sums[1, token], sums[2, token], sums[3, token] = total, expected, linear, squares


def _status(
    chosen: Bool[np.ndarray, "sequences positions"], finite: Bool[np.ndarray, "sequences positions"]
) -> np.uint8:
    if not chosen.any():
        return np.uint8(Status.NOT_MEASURED)
    return np.uint8(Status.MEASURED if finite[chosen].all() else Status.NONFINITE)


def _record(key: str, value: object, domain: str | None = None) -> Record:
    return Record(find(key), np.asarray(value), {} if domain is None else {"domain": domain})
