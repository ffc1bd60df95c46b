"""N-gram statistics: how far a model's predictions are from unigram and bigram models of counted tokens.

    >>> recorder = NgramRecorder(NgramSource(CountsFile("pretraining.npz")))  # doctest: +SKIP
    >>> recorder.start(context).attributes()["delta"]  # doctest: +SKIP
    9.97227e-06

Early in training a model comes close to the unigram model, then to the bigram model, and then leaves both behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Float64, Int64

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record, Status
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.inside.ngram_model import ORDERS, NgramModel
from olmo_dynamics.recorders.inside.ngram_source import NgramSource
from olmo_dynamics.recorders.inside.ngram_sums import DivergenceSums

LACKS_COUNTS = "needs counts of tokens: give --counts FILE.npz, or a file of token ids that is not the probe"


class NgramRecorder(Recorder):
    """The divergences of the group `ngram`, over the tokens of the main probe that have a next one."""

    group = GROUPS["ngram"]
    sites = frozenset({Site.FINAL_NORM, Site.LOGITS})
    needs_whole_pass = True
    by_default = False

    def __init__(self, source: NgramSource | None = None) -> None:
        self._source = source
        self._sums: tuple[Observation, DivergenceSums] | None = None
        self._found: Float64[np.ndarray, "2 orders sequences positions"] | None = None  # kl and js

    @property
    def lacks(self) -> str:
        """Counts, if it was given none."""
        return "" if self._source else LACKS_COUNTS

    def labels(self) -> Mapping[str, tuple[int, ...]]:
        """The orders of the models."""
        return {"order": ORDERS}

    def attributes(self) -> Mapping[str, str | int | float]:
        """The origin of the counts, their hash and number, and δ."""
        assert self._source is not None
        counts = self._model.counts
        return {
            "counts_file": self._source.file.name,
            "counts_sha256": counts.sha256,
            "counted_tokens": counts.tokens,
            "counted_pairs": len(counts.keys),
            "delta": self._model.delta,
        }

    def kept_bytes(self) -> int:
        """The counts."""
        return self._model.nbytes

    def observe(self, seen: Observation) -> None:
        """Keep the vectors of some sequences, then add their logits, for some columns of the vocabulary."""
        if seen.site is Site.FINAL_NORM:
            self._sums = self._begin(seen)
        elif self._sums is not None:
            began, sums = self._sums
            sums.add(seen.values.detach().flatten(0, 1), seen.beside["head"], seen.columns.start)
            if seen.columns.stop >= self._columns:
                self._settle(began, sums)
                self._sums = None

    def merge(self, other: NgramRecorder) -> None:
        """Add the sequences that `other` saw."""
        if other._found is not None:
            held = self._held()
            np.copyto(held, other._found, where=~np.isnan(other._found))

    def finish(self) -> Iterator[Record]:
        """Means over all scored tokens, by order."""
        if self._found is None:
            return
        scored = self._scored
        contexts = self._contexts[scored]
        for number, order in enumerate(ORDERS):
            kl, js = self._found[:, number][:, scored]
            finite = bool(np.isfinite(kl).all() and np.isfinite(js).all())
            uncounted = (self._model.followed[contexts] == 0).mean() if order > 1 else 0.0
            yield self.record("kl", kl.mean(), order=order)
            yield self.record("js", js.mean(), order=order)
            yield self.record("uncounted_share", uncounted, order=order)
            yield self.record("status", np.uint8(Status.MEASURED if finite else Status.NONFINITE), order=order)

    def _begin(self, seen: Observation) -> tuple[Observation, DivergenceSums] | None:
        there = seen.rows, seen.positions
        chosen = np.flatnonzero(self._scored[there])
        if not len(chosen):
            return None
        contexts = self._contexts[there].reshape(-1)[chosen]
        hidden = seen.values.detach().flatten(0, 1).clone()
        return seen, DivergenceSums(self._model, contexts, hidden, chosen)

    def _settle(self, began: Observation, sums: DivergenceSums) -> None:
        there = self._held()[:, :, began.rows, began.positions]
        there[:, :, self._scored[began.rows, began.positions]] = sums.measured()

    def _held(self) -> Float64[np.ndarray, "2 orders sequences positions"]:
        if self._found is None:
            self._found = np.full((2, len(ORDERS), *self._scored.shape), np.nan)
        return self._found

    @property
    def _scored(self) -> Bool[np.ndarray, "sequences positions"]:
        """The tokens that have a real next one."""
        assert self.context.probe is not None
        mask = self.context.probe.mask
        scored: np.ndarray = mask.copy()
        scored[:, :-1] &= mask[:, 1:]
        scored[:, -1] = False
        return scored

    @property
    def _contexts(self) -> Int64[np.ndarray, "sequences positions"]:
        """The probe's tokens; those outside the vocabulary of the counts all as the context that stands for them."""
        assert self.context.probe is not None
        return np.asarray(np.minimum(self.context.probe.token_ids, self._model.vocabulary))

    @property
    def _columns(self) -> int:
        assert self.context.config is not None
        return self.context.config.vocab_size

    @property
    def _model(self) -> NgramModel:
        assert self._source is not None
        return self._source.of(self.context)
