"""The n-gram models of a file of counts, made once for all passes through a model.

>>> source = NgramSource(CountsFile("pretraining.npz"))  # doctest: +SKIP
>>> source.of(context).vocabulary  # doctest: +SKIP
100278
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from olmo_dynamics.errors import OptionError
from olmo_dynamics.probes.counting import CountsFile, TokenCounts
from olmo_dynamics.recorders.context import Context, ProbeTokens
from olmo_dynamics.recorders.inside.ngram_model import NgramModel


class NgramSource:
    """Models of one file; copies of a recorder share it."""

    def __init__(self, file: CountsFile) -> None:
        self.file = file
        self._made: tuple[TokenCounts, NgramModel] | None = None
        self._lock = Lock()

    def __deepcopy__(self, _: object) -> NgramSource:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def of(self, context: Context) -> NgramModel:
        """The models for the vocabulary of a pass: the ids of the tokenizer that the model has columns for.

        Raises:
            OptionError: the file cannot be read, or is of another vocabulary, or nothing but the probe was counted.
        """
        config, probe = context.config, context.probe
        assert config is not None
        assert probe is not None
        counts = self.file.read(min(probe.tokenizer_size, config.vocab_size), config.vocab_size)
        with self._lock:
            if self._made is None or self._made[0] is not counts:
                _refuse_probe(counts, probe, self.file)
                self._made = counts, NgramModel(counts)
            return self._made[1]


def _refuse_probe(counts: TokenCounts, probe: ProbeTokens, file: CountsFile) -> None:
    """Refuse counts in which every token is the probe's, but for one that each window may have left out."""
    ids = probe.token_ids[probe.mask]
    inside = np.bincount(ids[ids < counts.vocabulary], minlength=counts.vocabulary)
    if np.maximum(counts.unigram - inside, 0).sum() <= len(probe.token_ids):
        raise OptionError(
            f"--counts must be of other tokens than the probe (all {counts.tokens:,} tokens of {file.path} are the probe's), "
            "since so few give no bigram model; count tokens of the pretraining data"
        )
