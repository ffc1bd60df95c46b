"""Experts counted by token id: specialisation in the vocabulary, from a store or from published counts.

>>> published = [{0: {17: 30, 42: 5}, 1: {17: 10, 42: 5}}]  # a map from expert to counts of token ids, for each layer
>>> counts = token_counts(published, layers=[7])
>>> vocabulary_specialisation(counts, minimum=1).select("layer", "ids", "value").rows()
[(7, 2, 0.625)]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.experts.choices import Choices, unplaced
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.store import Store

PublishedTokens = Sequence[Mapping[Any, Mapping[Any, int]]]
"""A map from expert to counts of token ids for each layer, as the files `eid2token` of OLMoE's repository hold."""

MINIMUM = 10
"""The fewest occurrences of a token id that is counted, unless told."""

_OF_LAYER = (*LEADING, "vocabulary", "layer")


def token_counts(
    source: Store | Choices | PublishedTokens,
    kind: str = "input",
    *,
    top: int = 1,
    layers: Sequence[int] | None = None,
    revision: str = "published",
) -> pl.DataFrame:
    """N_ix: how often each token id is sent to each expert, by revision and layer.

    Args:
        source: a store with the group `routing`, choices, or published counts (of input ids, with `top` 8 in OLMoE's files).
        kind: `input` for the id read, `predicted` for the most probable next one, `true` for the next one in the text.
        top: the number of most probable experts of a token that count.
        layers: the layers of published counts, by default from 0; of the others those to count, by default all.
        revision: the name that the rows of published counts are given.

    Returns:
        The leading columns, `vocabulary` (the kind), `layer`, `token`, `expert`, `count` and `top`; only pairs that occur.

    Raises:
        OptionError: the store has no routing or no predicted tokens, or `kind`, `top` or a layer is not there.
    """
    if isinstance(source, Sequence):
        return (
            _of_published(source, layers, revision)
            .with_columns(vocabulary=pl.lit(kind), top=pl.lit(top, pl.Int64))
            .select(_COLUMNS)
        )
    choices = Choices.of(source)
    if not 1 <= top <= choices.per_token:
        raise OptionError(f"top must be between 1 and {choices.per_token}, the experts per token (got {top})")
    parts = [part for layer in layers or choices.layers for part in _of_layer(choices, kind, layer, top)]
    columns = pl.DataFrame(
        {
            name: np.concatenate([part[place] for part in parts] or [np.zeros(0, np.int64)])
            for place, name in enumerate(_NUMBERS)
        }
    )
    leading = choices.leading.with_row_index("place").cast({"place": pl.Int64})
    found = columns.sort("place", maintain_order=True).join(leading, on="place", how="left", maintain_order="left")
    return found.with_columns(vocabulary=pl.lit(kind), top=pl.lit(top, pl.Int64)).select(_COLUMNS)


def vocabulary_specialisation(
    counts: pl.DataFrame, *, minimum: int = MINIMUM, by: Literal["layer", "expert"] = "layer"
) -> pl.DataFrame:
    """The degree to which a token id decides its expert: means over ids of max_i N_ix / N_x. OLMoE, arXiv:2409.02060, eq. 8.

    N_x counts the routings of x to all experts, so for `top` > 1 the share is at most 1 / top; `of_tokens` is the share of the
    occurrences of x, which OLMoE's figures show. An id that occurs once is sent to one expert whatever the router does: the
    published script counts such ids in its figures (`minimum=1`), and asks for 10 occurrences in its lists of tokens.

    Args:
        counts: a table of `token_counts`.
        minimum: the fewest occurrences of an id that is counted.
        by: `layer` for means over all ids; `expert` for means over the ids whose most frequent expert it is.

    Returns:
        The leading columns, `vocabulary`, `layer`, `expert` if asked for, `ids` (how many were counted), `value`, `of_tokens`
        and `top`.

    Raises:
        OptionError: the table lacks a column, or `minimum` is below 1.
    """
    if minimum < 1:
        raise OptionError(f"minimum must be at least 1 (got {minimum})")
    own = _owners(counts).filter(pl.col("occurrences") >= minimum)
    keys = [*_OF_LAYER, "top", *(["expert"] if by == "expert" else [])]
    found = own.group_by(keys, maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("ids"), pl.col("share").mean().alias("value")
    )
    ordered = _in_order(found, counts, *(["expert"] if by == "expert" else []))
    of_tokens = (pl.col("value") * pl.col("top")).alias("of_tokens")
    return ordered.with_columns(of_tokens).select(
        *(name for name in keys if name != "top"), "ids", "value", "of_tokens", "top"
    )


def expert_tokens(counts: pl.DataFrame, *, minimum: int = MINIMUM, most: int = 15) -> pl.DataFrame:
    """The token ids that each expert is most specialised in: those whose most frequent expert it is, highest share first.

    Args:
        counts: a table of `token_counts`.
        minimum: the fewest occurrences of an id that is listed.
        most: the most ids of an expert.

    Returns:
        The leading columns, `vocabulary`, `layer`, `expert`, `token`, `occurrences` and `of_tokens` (the share of them that is
        sent to the expert).

    Raises:
        OptionError: the table lacks a column.
    """
    own = _owners(counts).filter(pl.col("occurrences") >= minimum)
    keys = [*_OF_LAYER, "expert"]
    ranked = (
        own.sort("share", "occurrences", descending=True, maintain_order=True)
        .group_by(keys, maintain_order=True)
        .head(most)
    )
    of_tokens = (pl.col("share") * pl.col("top")).alias("of_tokens")
    return (
        ranked.with_columns(of_tokens)
        .pipe(_in_order, counts, "expert")
        .select(*keys, "token", "occurrences", "of_tokens")
    )


def _in_order(found: pl.DataFrame, counts: pl.DataFrame, *further: str) -> pl.DataFrame:
    """Rows by revision, in the order of the counts, by layer, and by further columns."""
    revisions = pl.Enum(counts["revision"].unique(maintain_order=True))
    return found.sort(pl.col("revision").cast(revisions), "layer", *further, maintain_order=True)


def _owners(counts: pl.DataFrame) -> pl.DataFrame:
    """For each id its most frequent expert (of equals the lowest number), the share of its routings, and its occurrences."""
    for name in _COLUMNS:
        if name not in counts.columns:
            raise OptionError(
                f"the table must be one of token_counts(), with a column {name} (got {', '.join(counts.columns)})"
            )
    keys = [*_OF_LAYER, "top", "token"]
    ordered = counts.sort("expert", maintain_order=True)
    return ordered.group_by(keys, maintain_order=True).agg(
        pl.col("expert").get(pl.col("count").arg_max()),
        (pl.col("count").max() / pl.col("count").sum()).alias("share"),
        (pl.col("count").sum() // pl.col("top").first()).alias("occurrences"),
    )


_NUMBERS = ("place", "layer", "token", "expert", "count")
_COLUMNS = (*_OF_LAYER, "token", "expert", "count", "top")


def _of_layer(choices: Choices, kind: str, layer: int, top: int) -> Iterator[tuple[np.ndarray, ...]]:
    """For each revision: its place, the layer, and token, expert and count of every pair that occurs."""
    for place, (chosen, ids) in enumerate(zip(choices.at_layer(layer), choices.ids(kind), strict=True)):
        there = (ids >= 0) & (chosen[:, 0] >= 0)
        keys = ids[there, None].astype(np.int64) * choices.experts + chosen[there, :top]
        pairs, counts = np.unique(keys, return_counts=True)
        yield (
            np.full(len(pairs), place),
            np.full(len(pairs), layer),
            pairs // choices.experts,
            pairs % choices.experts,
            counts,
        )


def _of_published(published: PublishedTokens, layers: Sequence[int] | None, revision: str) -> pl.DataFrame:
    numbered = range(len(published)) if layers is None else layers
    if len(numbered) != len(published):
        raise OptionError(f"layers must name the {len(published)} layers of the counts (got {len(numbered)})")
    rows = [
        (layer, int(token), int(expert), int(count))
        for layer, of_layer in zip(numbered, published, strict=True)
        for expert, tokens in of_layer.items()
        for token, count in tokens.items()
    ]
    columns = pl.DataFrame(rows, schema=dict.fromkeys(_NUMBERS[1:], pl.Int64), orient="row")
    return pl.concat([unplaced(len(rows), revision), columns], how="horizontal")
