"""Sections of tokens and of what single tokens do: losses by position, trends, predictions, massive activations, embedding rows.

>>> [section.title for section in massive(Drawn(open_store("run.zarr")))]  # doctest: +SKIP
['Massive activations', 'Places of the largest activations']
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import polars as pl

from olmo_dynamics import plots
from olmo_dynamics.frames import token_classes
from olmo_dynamics.frames.inside.token_classes import LEAST_REVISIONS
from olmo_dynamics.plots import AnyChart
from olmo_dynamics.plots.inside import inside_captions as captions
from olmo_dynamics.plots.page import Section
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.sentences import Told, of_places

_MOST_DOMAINS = 6  # panels of losses by position
_MOST_FREQUENT = 10  # the tenth of the probe's tokens that occur most often
_ENTROPY = Told("entropy", "the entropy of predictions, in nats,")


def positions(store: Drawn) -> Iterator[Section]:
    """Losses by position in the window."""
    yield store.section("Loss by position", partial(_positions, store), captions.POSITIONS)


def _positions(store: Drawn) -> AnyChart:
    losses = store.table("loss.position_cross_entropy")
    domains = losses["domain"].unique(maintain_order=True).to_list()
    note = f"the first {_MOST_DOMAINS} of {len(domains)} domains" if len(domains) > _MOST_DOMAINS else ""
    shown = losses.filter(pl.col("domain").is_in(domains[:_MOST_DOMAINS]))
    return store.draw(
        plots.loss_by_position, shown, note=note, probe=True, told=Told("value", "the loss at a position")
    )


def tokens(store: Drawn) -> Iterator[Section]:
    """Tokens by the trend of their loss, where a line of training has revisions enough."""
    later = store.chosen.filter(pl.col("step") > 0)["line"]
    if store.over_time and (later.unique_counts() >= LEAST_REVISIONS).any():
        yield store.section("Tokens by the trend of their loss", partial(_trends, store), captions.TOKENS)


def _trends(store: Drawn) -> AnyChart:
    classes = store.only(token_classes(store.store))
    learned = Told("share", "the share of tokens that are learned", classes.filter(trend="learned"))
    return store.draw(plots.token_trends, classes, told=learned)


def head_logits(store: Drawn) -> Iterator[Section]:
    """Entropy and confidence of the predictions, and the size of the logits."""
    size = (store.attributes.get("probe") or {}).get("tokenizer_size")
    chart = partial(plots.prediction_panel, vocabulary=size)
    make = partial(store.draw, chart, store.table("logits"), probe=True, told=_ENTROPY)
    yield store.section("Logits of the head", make, captions.PREDICTIONS)


def massive(store: Drawn) -> Iterator[Section]:
    """The largest activations by layer, and the features and positions in which they lie."""
    median = store.table("outliers.massive_median")
    chart = partial(plots.massive_activations, median=median)
    top = store.table("outliers.massive_top3")
    sizes = partial(store.draw, chart, top, probe=True, told=Told("value", "the largest activation"))
    yield store.section("Massive activations", sizes, captions.MASSIVE)
    found = store.table("outliers.massive")
    places = partial(store.draw, plots.massive_places, found, probe=True, told=of_places(found))
    yield store.section("Places of the largest activations", places, captions.MASSIVE_PLACES)


def rows(store: Drawn) -> Iterator[Section]:
    """Rows of the embedding and of the head by the use of their tokens."""
    if store.has_steps:
        deciles = store.table("embeddings.decile_rms")
        chart = partial(plots.embedding_rows, deciles=deciles)
        frequent = Told(
            "value", "the RMS of the rows of the most frequent tokens", deciles.filter(decile=_MOST_FREQUENT)
        )
        make = partial(store.draw, chart, store.table("embeddings"), probe=True, told=frequent)
        yield store.section("Embedding rows by use", make, captions.ROWS)
