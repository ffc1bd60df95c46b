"""Sections of the group `ngram`: divergences from unigrams and bigrams, and losses on samples of them.

>>> [section.title for section in ngrams(Drawn(open_store("run.zarr")))]  # doctest: +SKIP
['Unigrams and bigrams', 'Losses on sequences of unigrams and bigrams']
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from olmo_dynamics import plots
from olmo_dynamics.plots.captions import Caption
from olmo_dynamics.plots.page import Section
from olmo_dynamics.quantities import find
from olmo_dynamics.reporting.drawing import Drawn

_CROSSOVER = Caption(
    "A prediction close to the n-gram model has a small divergence. Models learn the frequencies of tokens first, then those of "
    "pairs: the line of unigrams falls, dips and rises again, and that of bigrams follows later. A ring marks a dip.",
)
_SAMPLES = Caption(
    "The loss on windows that are sampled from the n-gram models, which hold no other structure. It rises again where the model "
    "expects more than frequencies and finds it missing.",
)


def ngrams(store: Drawn) -> Iterator[Section]:
    """The crossover of both orders, and the losses on their samples."""
    table = store.table("ngram")
    divergences = partial(store.draw, plots.ngram_crossover, table, "kl", note=_counted(store), probe=True)
    yield store.section("Unigrams and bigrams", divergences, _CROSSOVER.of(find("ngram/kl")))
    losses = partial(store.draw, plots.ngram_crossover, table, "cross_entropy", note=_counted(store))
    yield store.section("Losses on sequences of unigrams and bigrams", losses, _SAMPLES.of(find("ngram/cross_entropy")))


def _counted(store: Drawn) -> str:
    """The origin of the counts, as the store tells it."""
    facts = store.store.group("ngram").attributes
    name, tokens = facts.get("counts_file"), facts.get("counted_tokens")
    return f"{tokens:,} tokens counted, of {name}" if isinstance(tokens, int) and name else ""
