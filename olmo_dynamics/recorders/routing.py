"""Routing of tokens: the load, the probabilities and the co-activation of the experts of each layer.

    >>> recorder = RoutingRecorder().start(Context(probe=probe))  # doctest: +SKIP
    >>> recorder.observe(seen)  # doctest: +SKIP
    >>> records = list(recorder.finish_layer(0))  # doctest: +SKIP

The choice is the model's own and never repeated from the logits, so that ties are broken as in the model. Softmax and
log-sum-exp are float64, from the logits as the model computed them. Padding is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int16, Int64
from torch import Tensor

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS, find
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import ProbeTokens

DEAD_BELOW = 0.1
"""An expert is dead if its load is below this share of the mean load."""

_NO_EXPERT = -1  # chosen by padding, and by tokens that were not seen


class RoutingRecorder(Recorder):
    """The group `routing`, for any number of layers; recorders that saw different sequences merge exactly.

    Sums over probabilities are kept sequence by sequence, so that the order in which sequences come changes no bit.
    """

    group = GROUPS["routing"]
    sites = frozenset({Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS})

    def __init__(self) -> None:
        self._layers: dict[int, _Layer] = {}

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The experts, the experts again as partners, and the choices of a token."""
        assert self.context.config is not None
        assert self.context.config.experts is not None
        experts = self.context.config.experts
        return {
            "expert": range(experts.count),
            "partner": range(experts.count),
            "choice": range(1, experts.per_token + 1),
        }

    def observe(self, seen: Observation) -> None:
        """Add the router logits, or the chosen experts, of some sequences and positions of the probe."""
        layer, values, shape = self._layers.setdefault(seen.layer, _Layer()), seen.values, self._probe.mask.shape
        if seen.site is Site.ROUTER_LOGITS:
            if layer.scores is None:
                layer.scores = _Scores.zeros(shape[0], values.shape[-1])
            layer.scores.add(values, seen.mask, seen.rows)
        if seen.site is Site.CHOSEN_EXPERTS:
            if layer.chosen is None:
                layer.chosen = np.full((*shape, values.shape[-1]), _NO_EXPERT, dtype=np.int16)
            layer.chosen[seen.rows, seen.positions][seen.mask] = values.detach().cpu().numpy()[seen.mask]

    def merge(self, other: RoutingRecorder) -> None:
        """Add the sequences that `other` saw."""
        for layer, seen in other._layers.items():
            self._layers.setdefault(layer, _Layer()).merge(seen)

    def finish_layer(self, layer: int) -> list[Record]:
        """The records of one layer, whose state is dropped."""
        seen = self._layers.pop(layer, None)
        if seen is None or seen.scores is None or seen.chosen is None:
            return []
        measured = _measured(seen.scores, seen.chosen)
        records = [Record(find(f"routing/{name}"), np.asarray(value), {"layer": layer}) for name, value in measured]
        return records + self._by_domain(layer, seen.chosen, seen.scores.experts)

    @property
    def _probe(self) -> ProbeTokens:
        assert self.context.probe is not None
        return self.context.probe

    def _by_domain(self, layer: int, chosen: Int16[np.ndarray, "sequences positions k"], experts: int) -> list[Record]:
        quantity = find("routing/domain_specialisation")
        domains = range(len(self._probe.domains))
        counts = np.stack([count_choices(_sent(chosen[self._probe.domain == each]), experts) for each in domains])
        shares = domain_specialisation(counts, chosen.shape[-1])
        labels = zip(self._probe.domains, shares, strict=True)
        return [Record(quantity, share, {"domain": domain, "layer": layer}) for domain, share in labels]


@dataclass
class _Scores:
    """Sums by sequence: of probabilities over tokens, of the squares of log-sum-exp, and the number of tokens."""

    probabilities: Float64[np.ndarray, "sequences experts"]
    squares: Float64[np.ndarray, " sequences"]
    tokens: Int64[np.ndarray, " sequences"]

    @classmethod
    def zeros(cls, sequences: int, experts: int) -> _Scores:
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
    """The sums and choices of one layer."""

    scores: _Scores | None = None
    chosen: Int16[np.ndarray, "sequences positions k"] | None = None

    def merge(self, other: _Layer) -> None:
        if other.scores is not None:
            self.scores = self.scores or _Scores.zeros(*other.scores.probabilities.shape)
            self.scores.merge(other.scores)
        if other.chosen is not None:
            mine = np.full_like(other.chosen, _NO_EXPERT) if self.chosen is None else self.chosen
            self.chosen = np.where(other.chosen == _NO_EXPERT, mine, other.chosen)


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
    sent: np.ndarray = chosen[chosen[..., 0] != _NO_EXPERT].astype(np.int64)
    return sent


def count_choices(chosen: Int64[np.ndarray, "tokens k"], experts: int) -> Int64[np.ndarray, " experts"]:
    """N_i: the number of tokens sent to each expert."""
    return np.bincount(chosen.ravel(), minlength=experts)


def domain_specialisation(
    counts: Int64[np.ndarray, "*domains experts"], per_token: int
) -> Float64[np.ndarray, "*domains experts"]:
    """The share of each domain's tokens sent to each expert; sums to `per_token`, NaN for a domain without tokens.

    OLMoE, arXiv:2409.02060, equation 7: `counts` are N_i(D), of which each token gave `per_token`.
    """
    tokens = counts.sum(axis=-1, keepdims=True) / per_token
    shares: np.ndarray = np.divide(counts, tokens, out=np.full(counts.shape, math.nan), where=tokens > 0)
    return shares


def co_activation(chosen: Int64[np.ndarray, "tokens k"], experts: int) -> Float[np.ndarray, "experts experts"]:
    """N_ij / N_i: the share of the tokens of expert i that are sent to j as well, whatever their ranks among the k.

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
