"""Where tokens are sent: the load, the probabilities and the company of the experts of each layer.

    >>> import torch
    >>> probe = Tokens(np.zeros((1, 2), dtype=int), tokenizer_size=1)  # doctest: +SKIP
    >>> recorder = RoutingRecorder(probe)  # doctest: +SKIP
    >>> recorder.observe(Site.ROUTER_LOGITS, 0, torch.zeros(1, 2, 64), slice(0, 1), slice(0, 2))  # doctest: +SKIP
    >>> recorder.observe(Site.CHOSEN_EXPERTS, 0, chosen, slice(0, 1), slice(0, 2))  # doctest: +SKIP

The choice is the model's own, never taken again from the logits, so that ties fall as they fell there. Softmax and
log-sum-exp are float64, from the logits as the model computed them. Padding is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int16, Int64, Shaped
from torch import Tensor

from olmo_dynamics.names import Record, Site, Status
from olmo_dynamics.quantities import find
from olmo_dynamics.recorders.losses import ProbeTokens

DEAD_BELOW = 0.1
"""An expert is dead whose load is below this share of the mean load."""

_NOBODY = -1  # chosen at padding, and where nothing was seen


class RoutingRecorder:
    """The group `routing`, for any number of layers; recorders that saw different sequences merge exactly.

    Sums over probabilities are kept sequence by sequence, so that the order in which sequences come changes no bit.
    """

    def __init__(self, probe: ProbeTokens) -> None:
        self._probe = probe
        self._layers: dict[int, _Layer] = {}

    def observe(
        self, site: Site, layer: int, values: Shaped[Tensor, "batch positions width"], rows: slice, positions: slice
    ) -> None:
        """Adds the router logits, or the chosen experts, of some sequences and positions of the probe."""
        seen = self._layers.setdefault(layer, _Layer())
        mask = self._probe.mask[rows, positions]
        if site is Site.ROUTER_LOGITS:
            if seen.scores is None:
                seen.scores = _Scores.of_nothing(len(self._probe.mask), values.shape[-1])
            seen.scores.add(values, mask, rows)
        if site is Site.CHOSEN_EXPERTS:
            if seen.chosen is None:
                seen.chosen = np.full((*self._probe.mask.shape, values.shape[-1]), _NOBODY, dtype=np.int16)
            seen.chosen[rows, positions][mask] = values.detach().cpu().numpy()[mask]

    def merge(self, other: RoutingRecorder) -> None:
        """Adds what `other` saw."""
        for layer, seen in other._layers.items():
            self._layers.setdefault(layer, _Layer()).merge(seen)

    def harvest(self, layer: int) -> list[Record]:
        """What was measured at one layer, which is dropped."""
        seen = self._layers.pop(layer, None)
        if seen is None or seen.scores is None or seen.chosen is None:
            return []
        measured = _measured(seen.scores, seen.chosen)
        records = [Record(find(f"routing/{name}"), np.asarray(value), {"layer": layer}) for name, value in measured]
        return records + self._by_domain(layer, seen.chosen, seen.scores.experts)

    def records(self) -> list[Record]:
        """What was measured at every layer not yet harvested."""
        return [record for layer in sorted(self._layers) for record in self.harvest(layer)]

    def _by_domain(self, layer: int, chosen: Int16[np.ndarray, "sequences positions k"], experts: int) -> list[Record]:
        quantity = find("routing/domain_specialisation")
        domains = range(len(self._probe.domains))
        counts = np.stack([count_choices(_sent(chosen[self._probe.domain == each]), experts) for each in domains])
        shares = domain_specialisation(counts, chosen.shape[-1])
        labels = zip(self._probe.domains, shares, strict=True)
        return [Record(quantity, share, {"domain": domain, "layer": layer}) for domain, share in labels]


@dataclass
class _Scores:
    """By sequence: probabilities summed over tokens, the squares of log-sum-exp, and how many tokens there were."""

    probabilities: Float64[np.ndarray, "sequences experts"]
    squares: Float64[np.ndarray, " sequences"]
    tokens: Int64[np.ndarray, " sequences"]

    @classmethod
    def of_nothing(cls, sequences: int, experts: int) -> _Scores:
        return cls(np.zeros((sequences, experts)), np.zeros(sequences), np.zeros(sequences, dtype=np.int64))

    @property
    def experts(self) -> int:
        return int(self.probabilities.shape[1])

    def add(
        self, logits: Float[Tensor, "batch positions experts"], mask: Bool[np.ndarray, "batch positions"], rows: slice
    ) -> None:
        wide = logits.detach().cpu().double()
        probabilities, squares = wide.softmax(dim=-1).numpy(), wide.logsumexp(dim=-1).square().numpy()
        for row, real in enumerate(mask):
            self.probabilities[rows.start + row] += probabilities[row, real].sum(axis=0)
            self.squares[rows.start + row] += squares[row, real].sum()
            self.tokens[rows.start + row] += real.sum()

    def merge(self, other: _Scores) -> None:
        self.probabilities += other.probabilities
        self.squares += other.squares
        self.tokens += other.tokens


@dataclass
class _Layer:
    """What was seen of one layer."""

    scores: _Scores | None = None
    chosen: Int16[np.ndarray, "sequences positions k"] | None = None

    def merge(self, other: _Layer) -> None:
        if other.scores is not None:
            self.scores = self.scores or _Scores.of_nothing(*other.scores.probabilities.shape)
            self.scores.merge(other.scores)
        if other.chosen is not None:
            mine = np.full_like(other.chosen, _NOBODY) if self.chosen is None else self.chosen
            self.chosen = np.where(other.chosen == _NOBODY, mine, other.chosen)


def _measured(scores: _Scores, chosen: Int16[np.ndarray, "sequences positions k"]) -> Iterator[tuple[str, object]]:
    """Every quantity that is not by domain."""
    tokens, sent = int(scores.tokens.sum()), _sent(chosen)
    yield "chosen_experts", chosen
    if tokens == 0 or not len(sent):
        yield "status", np.uint8(Status.NOT_MEASURED)
        return
    counts = count_choices(sent, scores.experts)
    probabilities, router_z = scores.probabilities.sum(axis=0) / tokens, scores.squares.sum() / tokens
    entropy = load_entropy(counts)
    yield "expert_load", counts / counts.sum()
    yield "mean_probability", probabilities
    yield "co_activation", co_activation(sent, scores.experts)
    yield "load_imbalance", counts.max() / counts.mean()
    yield "load_entropy", entropy
    yield "dead_experts", np.int64((counts < DEAD_BELOW * counts.mean()).sum())
    yield "balance_loss", balance_loss(counts, probabilities)
    yield "router_z", router_z
    finite = np.isfinite(probabilities).all() and np.isfinite(router_z)
    status = Status.NONFINITE if not finite else Status.DEGENERATE if math.isnan(entropy) else Status.MEASURED
    yield "status", np.uint8(status)


def _sent(chosen: Int16[np.ndarray, "sequences positions k"]) -> Int64[np.ndarray, "tokens k"]:
    """The choices of the tokens that were seen."""
    sent: np.ndarray = chosen[chosen[..., 0] != _NOBODY].astype(np.int64)
    return sent


def count_choices(chosen: Int64[np.ndarray, "tokens k"], experts: int) -> Int64[np.ndarray, " experts"]:
    """N_i: the tokens sent to each expert."""
    return np.bincount(chosen.ravel(), minlength=experts)


def domain_specialisation(
    counts: Int64[np.ndarray, "*domains experts"], per_token: int
) -> Float64[np.ndarray, "*domains experts"]:
    """Of each domain's tokens, the share sent to each expert; sums to `per_token`, NaN for a domain without tokens.

    OLMoE, arXiv:2409.02060, equation 7: `counts` are N_i(D), of which each token gave `per_token`.
    """
    tokens = counts.sum(axis=-1, keepdims=True) / per_token
    shares: np.ndarray = np.divide(counts, tokens, out=np.full(counts.shape, math.nan), where=tokens > 0)
    return shares


def co_activation(chosen: Int64[np.ndarray, "tokens k"], experts: int) -> Float[np.ndarray, "experts experts"]:
    """N_ij / N_i: of the tokens sent to i, the share sent to j as well, whatever their ranks among the k.

    OLMoE, arXiv:2409.02060, equation 6. NaN on the diagonal, and in the row of an expert without tokens.
    """
    pairs = np.zeros((experts, experts), dtype=np.int64)
    for first in range(chosen.shape[1]):
        for second in range(first):
            places = chosen[:, first] * experts + chosen[:, second]
            pairs += np.bincount(places, minlength=experts * experts).reshape(experts, experts)
    counts = np.broadcast_to(count_choices(chosen, experts)[:, None], pairs.shape)
    defined = (counts > 0) & ~np.eye(experts, dtype=bool)
    shares: np.ndarray = np.divide(pairs + pairs.T, counts, out=np.full(pairs.shape, math.nan), where=defined)
    return shares.astype(np.float32, copy=False)


def load_entropy(counts: Int64[np.ndarray, " experts"]) -> float:
    """-sum_i load_i ln load_i / ln E, between 0 and 1; NaN for a single expert."""
    if len(counts) == 1:
        return math.nan
    loads = counts[counts > 0] / counts.sum()
    return float(-(loads * np.log(loads)).sum() / math.log(len(counts)))


def balance_loss(counts: Int64[np.ndarray, " experts"], probabilities: Float64[np.ndarray, " experts"]) -> float:
    """(E/k) sum_i f_i P_i, f_i = N_i / N: 1 where balanced, as in OLMo-core; the Hugging Face function gives k there."""
    return float(len(counts) * (counts / counts.sum()) @ probabilities)
