"""Routing of tokens: the load, the probabilities, the co-activation and the specialisation of the experts of each layer.

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
from olmo_dynamics.recorders.experts.across_layers import VOCABULARIES, LayerChoices, records_across
from olmo_dynamics.recorders.experts.choice_counts import (
    balance_loss,
    co_activation,
    count_choices,
    domain_specialisation,
    load_entropy,
)
from olmo_dynamics.recorders.experts.predicted_tokens import PredictedTokens

DEAD_BELOW = 0.1
"""An expert is dead if its load is below this share of the mean load."""

_NO_EXPERT = -1  # chosen by padding, and by tokens that were not seen


class RoutingRecorder(Recorder):
    """The group `routing`, for any number of layers; recorders that saw different sequences merge exactly.

    Sums over probabilities are kept sequence by sequence, so that the order in which sequences come changes no bit. The choices
    of all layers are kept to the end, when they are compared with each other and with the tokens that the model predicts.
    """

    group = GROUPS["routing"]
    sites = frozenset({Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS})

    def __init__(self) -> None:
        self._layers: dict[int, _Layer] = {}
        self._finished: dict[int, LayerChoices] = {}
        self._predicted: PredictedTokens | None = None

    def sites_in(self, available: Sequence[Site]) -> frozenset[Site]:
        """The router's sites, and the logits for the predicted tokens, if there are any."""
        routed = super().sites_in(available)
        return routed | {Site.LOGITS} & set(available) if routed else routed

    def kept_bytes(self) -> int:
        """The choices of all layers, and the predicted tokens with their logits."""
        config, probe = self.context.config, self.context.probe
        if config is None or config.experts is None or probe is None:
            return 0
        return int(probe.mask.size * (2 * config.experts.per_token * self.context.layers + 16))

    def labels(self) -> Mapping[str, Sequence[str | int | float]]:
        """The experts, the experts again as partners, the choices of a token, layers again, and the kinds of token ids."""
        assert self.context.config is not None
        assert self.context.config.experts is not None
        experts = self.context.config.experts
        return {
            "expert": range(experts.count),
            "partner": range(experts.count),
            "choice": range(1, experts.per_token + 1),
            "later_layer": range(self.context.layers),
            "vocabulary": VOCABULARIES,
        }

    def observe(self, seen: Observation) -> None:
        """Add the router logits, the chosen experts, or the model's logits, of some sequences and positions of the probe."""
        if seen.site is Site.LOGITS:
            self._held_predictions().observe(seen)
            return
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
        if other._predicted is not None:
            self._held_predictions().take(other._predicted)

    def finish_layer(self, layer: int) -> list[Record]:
        """The records of one layer, whose state is dropped."""
        seen = self._layers.pop(layer, None)
        if seen is None or seen.scores is None or seen.chosen is None:
            return []
        measured = list(_measured(seen.scores, seen.chosen))
        self._finished[layer] = LayerChoices(seen.chosen, seen.scores.mean_probability, seen.scores.mean_square)
        records = [Record(find(f"routing/{name}"), np.asarray(value), {"layer": layer}) for name, value in measured]
        return records + self._by_domain(layer, seen.chosen, seen.scores.experts)

    def finish(self) -> Iterator[Record]:
        """The records that compare layers, and of token ids."""
        if not self._finished:
            return
        predicted = None if self._predicted is None else self._predicted.tokens
        for name, values, at in records_across(self._finished, self._probe, predicted):
            yield Record(find(f"routing/{name}"), np.asarray(values), at)

    def _held_predictions(self) -> PredictedTokens:
        if self._predicted is None:
            shape, size = self._probe.mask.shape, self._probe.tokenizer_size
            self._predicted = PredictedTokens.zeros(shape, tokenizer_size=size)
        return self._predicted

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
    """Sums by sequence: of probabilities over tokens, of the squares of log-sum-exp, of the gaps from one rank of the logits to
    the next, and the number of tokens."""

    probabilities: Float64[np.ndarray, "sequences experts"]
    squares: Float64[np.ndarray, " sequences"]
    gaps: Float64[np.ndarray, "sequences ranks"]
    tokens: Int64[np.ndarray, " sequences"]

    @classmethod
    def zeros(cls, sequences: int, experts: int) -> _Scores:
        gaps, tokens = np.zeros((sequences, experts - 1)), np.zeros(sequences, dtype=np.int64)
        return cls(np.zeros((sequences, experts)), np.zeros(sequences), gaps, tokens)

    @property
    def experts(self) -> int:
        return int(self.probabilities.shape[1])

    @property
    def mean_probability(self) -> Float64[np.ndarray, " experts"]:
        """NaN without tokens, as the mean square."""
        return self._mean(self.probabilities)

    @property
    def mean_square(self) -> float:
        return float(self._mean(self.squares))

    def margin(self, per_token: int) -> float:
        """The mean gap from the last logit that is chosen to the next; NaN where all experts are chosen."""
        return float(self._mean(self.gaps[:, per_token - 1])) if per_token < self.experts else math.nan

    def add(
        self, logits: Float[Tensor, "batch positions experts"], mask: Bool[np.ndarray, "batch positions"], rows: slice
    ) -> None:
        wide = logits.detach().cpu().double()
        ranked = wide.sort(dim=-1, descending=True).values
        probabilities, squares = wide.softmax(dim=-1).numpy(), wide.logsumexp(dim=-1).square().numpy()
        gaps = (ranked[..., :-1] - ranked[..., 1:]).numpy()
        for row, real in enumerate(mask):
            self.probabilities[rows.start + row] += probabilities[row, real].sum(axis=0)
            self.squares[rows.start + row] += squares[row, real].sum()
            self.gaps[rows.start + row] += gaps[row, real].sum(axis=0)
            self.tokens[rows.start + row] += real.sum()

    def merge(self, other: _Scores) -> None:
        self.probabilities += other.probabilities
        self.squares += other.squares
        self.gaps += other.gaps
        self.tokens += other.tokens

    def _mean(self, sums: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray(sums.sum(axis=0) / self.tokens.sum())


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
    sent = _sent(chosen)
    yield "chosen_experts", chosen
    if scores.tokens.sum() == 0 or not len(sent):
        yield "status", np.uint8(Status.NOT_MEASURED)
        return
    counts = count_choices(sent, scores.experts)
    probabilities, router_z = scores.mean_probability, scores.mean_square
    entropy = load_entropy(counts)
    yield "expert_load", counts / counts.sum()
    yield "mean_probability", probabilities
    yield "co_activation", co_activation(sent, scores.experts)
    yield "load_imbalance", counts.max() / counts.mean()
    yield "load_entropy", entropy
    yield "dead_experts", np.int64((counts < DEAD_BELOW * counts.mean()).sum())
    yield "balance_loss", balance_loss(counts, probabilities)
    yield "router_z", router_z
    yield "router_margin", scores.margin(chosen.shape[-1])
    finite = np.isfinite(probabilities).all() and np.isfinite(router_z)
    status = Status.NONFINITE if not finite else Status.DEGENERATE if math.isnan(entropy) else Status.MEASURED
    yield "status", np.uint8(status)


def _sent(chosen: Int16[np.ndarray, "sequences positions k"]) -> Int64[np.ndarray, "tokens k"]:
    """The choices of the tokens that were seen."""
    sent: np.ndarray = chosen[chosen[..., 0] != _NO_EXPERT].astype(np.int64)
    return sent
