"""The model's loss on sequences that are sampled from unigram and bigram models of counted tokens.

    >>> recorder = NgramSampleRecorder(NgramSource(CountsFile("pretraining.npz"))).start(context)  # doctest: +SKIP
    >>> recorder.probe().token_ids.shape  # doctest: +SKIP
    (16, 128)

Such sequences are a probe of their own: half of the windows is of order 1 and half of order 2, the same for every revision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from olmo_dynamics.names import Site
from olmo_dynamics.quantities import GROUPS
from olmo_dynamics.quantities.declaration import Record
from olmo_dynamics.recorders.base import Observation, Recorder
from olmo_dynamics.recorders.context import PlainProbe, ProbeTokens
from olmo_dynamics.recorders.inside.chosen_losses import ChosenLosses
from olmo_dynamics.recorders.inside.ngram import LACKS_COUNTS
from olmo_dynamics.recorders.inside.ngram_model import ORDERS, NgramModel
from olmo_dynamics.recorders.inside.ngram_source import NgramSource

WINDOWS, LONGEST, SEED = 8, 128, 0
"""Windows of each order, the most tokens of one, and the seed by which they are drawn."""


class NgramSampleRecorder(Recorder):
    """Losses on samples, of the group `ngram`."""

    group = GROUPS["ngram"]
    sites = frozenset({Site.LOGITS})
    needs_whole_pass = True
    by_default = False

    def __init__(self, source: NgramSource | None = None) -> None:
        self._source = source
        self._losses: ChosenLosses | None = None

    @property
    def lacks(self) -> str:
        """Counts, if it was given none."""
        return "" if self._source else LACKS_COUNTS

    def labels(self) -> Mapping[str, tuple[int, ...]]:
        """The orders of the models."""
        return {"order": ORDERS}

    def attributes(self) -> Mapping[str, str | int | float]:
        """The samples' seed, and their number and length."""
        return {"seed": SEED, "sample_windows": WINDOWS, "sample_positions": self._length}

    def probe(self) -> ProbeTokens:
        """Windows of each order."""
        model = self._model
        ids = [model.sample(order, WINDOWS, self._length, SEED) for order in ORDERS]
        return PlainProbe(np.concatenate(ids), tokenizer_size=model.vocabulary)

    def begin(self) -> None:
        """Choose every token that is predicted."""
        if self.context.probe is not None:
            self._losses = ChosenLosses.of_predicted(self.context.probe)

    def observe(self, seen: Observation) -> None:
        """Add the logits of some windows, for some columns of the vocabulary."""
        assert self._losses is not None
        self._losses.add(seen)

    def merge(self, other: NgramSampleRecorder) -> None:
        """Add the windows that `other` saw."""
        if self._losses is not None and other._losses is not None:
            self._losses.merge(other._losses)

    def finish(self) -> Iterator[Record]:
        """The losses of the model and of the n-gram model itself, by order."""
        if self._losses is None or self.context.probe is None:
            return
        losses, ids = self._losses.of_tokens()[:, 1:], self.context.probe.token_ids
        if np.isnan(losses).all():
            return
        for number, order in enumerate(ORDERS):
            some = slice(number * WINDOWS, (number + 1) * WINDOWS)
            own = self._model.probabilities(order, ids[some, :-1], ids[some, 1:])
            yield self.record("cross_entropy", losses[some].mean(), order=order)
            yield self.record("sample_entropy", -np.log(own).mean(), order=order)

    @property
    def _model(self) -> NgramModel:
        assert self._source is not None
        return self._source.of(self.context)

    @property
    def _length(self) -> int:
        assert self.context.config is not None
        return min(LONGEST, self.context.config.max_positions)
