"""Experts counted by domain: their loads, balance and specialisation, from a store or from published counts.

>>> published = {"arxiv": [{"0": 6, "1": 2}], "github": [{"0": 1, "1": 7}]}  # domain: one map for each layer
>>> counts = expert_counts(published, layers=[0])
>>> domain_specialisation(counts, per_token=2).filter(domain="arxiv").select("expert", "value", "baseline").rows()
[(0, 1.5, 1.0), (1, 0.5, 1.0)]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames.experts.choices import Choices, unplaced
from olmo_dynamics.frames.grid import LEADING
from olmo_dynamics.store import Store

PublishedCounts = Mapping[str, Sequence[Mapping[Any, int]]]
"""Domain: a map from expert to count for each layer, as `expert_counts.json`, and the pickles of OLMoE's repository, hold."""

DEAD_BELOW = 0.1  # of the mean load
_OF_LAYER = (*LEADING, "domain", "layer")


def expert_counts(
    source: Store | Choices | PublishedCounts,
    *,
    layers: Sequence[int] | None = None,
    experts: int | None = None,
    revision: str = "published",
) -> pl.DataFrame:
    """N_i: how often each expert is chosen, by revision, domain and layer; an expert that never is has a row of 0.

    Args:
        source: a store with the group `routing`, choices, or published counts.
        layers: the layers of published counts, by default from 0; of the others those to count, by default all.
        experts: the number of experts in published counts, by default the largest number that occurs, plus 1.
        revision: the name that the rows of published counts are given.

    Returns:
        The leading columns, `domain`, `layer`, `expert` and `count`.

    Raises:
        OptionError: the store has no routing, there is no such layer, or published counts are of more layers or experts.
    """
    if isinstance(source, Mapping):
        return _of_published(source, layers, experts, revision)
    choices = Choices.of(source)
    parts = []
    for layer in choices.layers if layers is None else layers:
        for place, chosen in enumerate(choices.at_layer(layer)):
            for domain in dict.fromkeys(choices.domains.tolist()):
                here = chosen[choices.domains == domain]
                counts = np.bincount(here[here >= 0].astype(np.int64), minlength=choices.experts)
                parts.append((place, domain, layer, counts))
    places = np.repeat([part[0] for part in parts], choices.experts)
    return _stacked([column.gather(places) for column in choices.leading], [part[1:] for part in parts]).sort(
        pl.Series(places), maintain_order=True
    )


def domain_specialisation(counts: Store | Choices | pl.DataFrame, *, per_token: int | None = None) -> pl.DataFrame:
    """The share of each domain's tokens that are sent to each expert, N_i(D) / N(D): OLMoE, arXiv:2409.02060, equation 7.

    Args:
        counts: a table of `expert_counts`, or a store or choices to count.
        per_token: k, the experts of a token; needed with a table.

    Returns:
        The columns of the counts, `value`, which sums to k over experts, `load` (N_i / (N k)), which sums to 1, and `baseline`
        (k / E, the value of random routing). A domain without tokens has no row.

    Raises:
        OptionError: a table is given without `per_token`, or lacks a column.
    """
    table, k = _counted(counts, per_token)
    total, experts = pl.col("count").sum().over(_OF_LAYER), pl.len().over(_OF_LAYER)
    some = table.filter(total > 0)
    load = pl.col("count") / total
    return some.with_columns((load * k).alias("value"), load.alias("load"), (k / experts).alias("baseline"))


def expert_balance(counts: Store | Choices | pl.DataFrame, *, by_domain: bool = False) -> pl.DataFrame:
    """Load imbalance (max N_i / mean N_i), load entropy over ln E, and dead experts (N_i < 0.1 mean N_i), by layer.

    Args:
        counts: a table of `expert_counts`, or a store or choices to count.
        by_domain: True for a row for each domain; else domains are added up.

    Returns:
        The leading columns, `domain` if asked for, `layer`, `load_imbalance`, `load_entropy` and `dead_experts`.

    Raises:
        OptionError: the table lacks a column, or the store has no routing.
    """
    table = counts if isinstance(counts, pl.DataFrame) else expert_counts(counts)
    keys = [name for name in _OF_LAYER if by_domain or name != "domain"]
    whole = _required(table).group_by([*keys, "expert"], maintain_order=True).agg(pl.col("count").sum())
    n, share = pl.col("count"), pl.col("count") / pl.col("count").sum()
    entropy = -pl.when(share > 0).then(share * share.log()).otherwise(0.0).sum() / pl.len().log()
    return whole.group_by(keys, maintain_order=True).agg(
        (n.max() / n.mean()).alias("load_imbalance"),
        pl.when(pl.len() > 1).then(entropy).otherwise(math.nan).alias("load_entropy"),
        (n < DEAD_BELOW * n.mean()).sum().cast(pl.Int64).alias("dead_experts"),
    )


def _counted(counts: Store | Choices | pl.DataFrame, per_token: int | None) -> tuple[pl.DataFrame, int]:
    if not isinstance(counts, pl.DataFrame):
        choices = Choices.of(counts)
        return expert_counts(choices), choices.per_token
    if per_token is None:
        raise OptionError("a table of counts needs per_token, the number of experts that a token is sent to; give it")
    return _required(counts), per_token


def _required(table: pl.DataFrame) -> pl.DataFrame:
    for name in (*_OF_LAYER, "expert", "count"):
        if name not in table.columns:
            raise OptionError(
                f"the table must be one of expert_counts(), with a column {name} (got {', '.join(table.columns)})"
            )
    return table


def _of_published(
    published: PublishedCounts, layers: Sequence[int] | None, experts: int | None, revision: str
) -> pl.DataFrame:
    parts = []
    largest = max((int(e) for maps in published.values() for each in maps for e in each), default=-1)
    size = largest + 1 if experts is None else experts
    if largest >= size:
        raise OptionError(f"experts must be above {largest}, the largest number in the counts (got {size})")
    for domain, maps in published.items():
        numbered = range(len(maps)) if layers is None else layers
        if len(numbered) != len(maps):
            raise OptionError(
                f"layers must name the {len(maps)} layers of the counts of {domain} (got {len(numbered)})"
            )
        for layer, of_layer in zip(numbered, maps, strict=True):
            counts = np.zeros(size, dtype=np.int64)
            for expert, count in of_layer.items():
                counts[int(expert)] = count
            parts.append((domain, layer, counts))
    return _stacked(unplaced(len(parts) * size, revision).get_columns(), parts)


def _stacked(leading: Sequence[pl.Series], parts: Sequence[tuple[str, int, np.ndarray]]) -> pl.DataFrame:
    """One row for each expert of each part: domain, layer, counts."""
    sizes = [len(counts) for _, _, counts in parts]
    return pl.DataFrame(
        [
            *leading,
            pl.Series("domain", np.repeat([domain for domain, _, _ in parts], sizes).tolist(), dtype=pl.String),
            pl.Series("layer", np.repeat([layer for _, layer, _ in parts], sizes).astype(np.int64)),
            pl.Series("expert", np.array([e for size in sizes for e in range(size)], dtype=np.int64)),
            pl.Series("count", np.concatenate([np.zeros(0, np.int64), *(counts for _, _, counts in parts)])),
        ]
    )
