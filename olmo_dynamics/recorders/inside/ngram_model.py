"""Unigram and bigram models of counts, smoothed by adding δ.

    >>> from olmo_dynamics.probes.counting import TokenCounts
    >>> model = NgramModel(TokenCounts.of_ids(np.array([0, 1, 1, 0, 1]), vocabulary=2))
    >>> model.delta, model.unigram.tolist(), model.entropies[:2].round(4).tolist()
    (0.5, [0.4166666666666667, 0.5833333333333334], [0.4506, 0.6931])

δ is 1 / V: one count in all for every context, spread evenly over the vocabulary. A larger one would drown the counts of rare
contexts where the vocabulary is large. The bigram model after a token u is sparse but for a constant,

    p_v = s_v + r,    s_v = n_uv / (n_u + δ V),    r = δ / (n_u + δ V),

so its entropy needs the pairs that were seen alone: `- sum over seen v of p_v ln p_v - (V - seen) r ln r`. After a token that
was never counted, or lies outside the vocabulary, it is uniform; of the latter, V stands for all as a context.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from olmo_dynamics.probes.counting import TokenCounts

ORDERS = (1, 2)
"""The orders of the models: contexts of no token, and of one."""

_AT_ONCE = 1 << 22  # pairs of which entropies are taken together


@dataclass(frozen=True, eq=False)
class SparseRows:
    """The entries of some contexts in some columns that are not the row's constant."""

    rows: Int64[np.ndarray, " entries"]
    columns: Int64[np.ndarray, " entries"]
    shares: Float64[np.ndarray, " entries"]


class NgramModel:
    """Both models of the same counts, in float64; made once, and only read."""

    def __init__(self, counts: TokenCounts) -> None:
        self.counts, self.vocabulary = counts, counts.vocabulary
        self.delta = 1 / counts.vocabulary
        smoothed = counts.unigram + self.delta
        self.unigram: Float64[np.ndarray, " vocabulary"] = smoothed / (counts.tokens + 1)
        self.unigram_entropy = -float((self.unigram * np.log(self.unigram)).sum())
        self._below = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts.pair_counts)])  # of the pairs before each
        self._first = np.searchsorted(counts.keys, np.arange(self.vocabulary + 2) * self.vocabulary)
        self.followed: Int64[np.ndarray, " contexts"] = np.diff(self._below[self._first])
        self.rest: Float64[np.ndarray, " contexts"] = self.delta / (self.followed + 1)
        self.entropies = self._entropies()

    @property
    def nbytes(self) -> int:
        """The memory that the models take, with their counts."""
        return self.counts.nbytes + self._below.nbytes + 5 * self.unigram.nbytes

    def bigrams(self, contexts: Int64[np.ndarray, " tokens"], first: int, stop: int) -> SparseRows:
        """The shares s_v of each context for the columns from `first` up to `stop`, beside its constant `rest`."""
        keys, size = self.counts.keys, self.vocabulary
        begin, end = np.searchsorted(keys, contexts * size + first), np.searchsorted(keys, contexts * size + stop)
        lengths = end - begin
        rows = np.repeat(np.arange(len(contexts)), lengths)
        places = np.arange(lengths.sum()) + np.repeat(begin - np.cumsum(lengths) + lengths, lengths)
        of = contexts[rows]
        shares: np.ndarray = self.counts.pair_counts[places] / (self.followed[of] + 1)
        return SparseRows(rows, keys[places] - of * size - first, shares)

    def probabilities(
        self, order: int, before: Int64[np.ndarray, "*n"], after: Int64[np.ndarray, "*n"]
    ) -> Float64[np.ndarray, "*n"]:
        """The probability of each token `after` the one `before` it."""
        if order == 1:
            return np.asarray(self.unigram[after])
        keys = before * self.vocabulary + after
        places = np.minimum(np.searchsorted(self.counts.keys, keys), len(self.counts.keys) - 1)
        seen = np.where(self.counts.keys[places] == keys, self.counts.pair_counts[places], 0)
        return np.asarray((seen + self.delta) / (self.followed[before] + 1))

    def sample(self, order: int, windows: int, positions: int, seed: int) -> Int64[np.ndarray, "windows positions"]:
        """Windows drawn from a model; their first tokens are drawn from the unigram model."""
        drawn = np.random.default_rng((seed, order)).random((positions, windows))
        ids = np.empty((positions, windows), dtype=np.int64)
        for position in range(positions):
            of_unigram = order == 1 or position == 0
            ids[position] = self._any(drawn[position]) if of_unigram else self._next(drawn[position], ids[position - 1])
        return np.ascontiguousarray(ids.T)

    def _any(self, drawn: Float64[np.ndarray, " windows"]) -> Int64[np.ndarray, " windows"]:
        below = np.cumsum(self.counts.unigram)
        place = drawn * (self.counts.tokens + 1)
        counted = np.searchsorted(below, place.astype(np.int64), side="right")
        return np.where(place < self.counts.tokens, counted, self._even(place - self.counts.tokens))

    def _next(
        self, drawn: Float64[np.ndarray, " windows"], before: Int64[np.ndarray, " windows"]
    ) -> Int64[np.ndarray, " windows"]:
        followed = self.followed[before]
        place = drawn * (followed + 1)
        inside = np.minimum(place.astype(np.int64), np.maximum(followed - 1, 0))
        found = np.searchsorted(self._below, self._below[self._first[before]] + inside, side="right") - 1
        counted = self.counts.keys[np.minimum(found, len(self.counts.keys) - 1)] - before * self.vocabulary
        return np.where(place < followed, counted, self._even(place - followed))

    def _even(self, place: Float64[np.ndarray, " windows"]) -> Int64[np.ndarray, " windows"]:
        """Tokens from the constant part of a model, by places from 0 to 1."""
        return np.clip((place * self.vocabulary).astype(np.int64), 0, self.vocabulary - 1)

    def _entropies(self) -> Float64[np.ndarray, " contexts"]:
        """The entropy of the bigram model after each token, in nats."""
        seen = np.diff(self._first)
        entropies: np.ndarray = -(self.vocabulary - seen) * self.rest * np.log(self.rest)
        for start in range(0, len(self.counts.keys), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            of = self.counts.keys[some] // self.vocabulary
            p = (self.counts.pair_counts[some] + self.delta) / (self.followed[of] + 1)
            entropies -= np.bincount(of, p * np.log(p), minlength=self.vocabulary + 1)
        return entropies
