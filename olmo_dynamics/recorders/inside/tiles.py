"""Attention by tiles: the logits and weights of some queries at a time, over the keys that they see.

    >>> import torch
    >>> from olmo_dynamics.names import Site
    >>> from olmo_dynamics.recorders.base import Observation
    >>> seen = Observation(values=torch.zeros(1, 3, 2), site=Site.QUERY_ROTATED, positions=slice(0, 3),
    ...                    mask=np.ones((1, 3), dtype=bool), beside={"key": torch.zeros(1, 3, 2)})
    >>> [tile] = attention_tiles(seen, head_dim=2)
    >>> tile.weights[0, 0, 2]
    tensor([0.3333, 0.3333, 0.3333])

A tile holds at most `TILE` logits on the CPU, which stay in the cache, or one query's; no matrix of all queries and all keys
is ever whole. Logits are computed in float32, or in float64 where the pass is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from olmo_dynamics.recorders.base import Observation

TILE = 1 << 17
"""Logits of a tile on the CPU: 512 KiB of float32."""

GPU_TILE = 1 << 25
"""Logits of a tile on a GPU: 128 MiB of float32."""

HIDDEN = -1e30
"""The logit of a key that a query does not see: finite, so that 0 times it is 0."""


@dataclass(eq=False)
class Tile:
    """Some queries of every sequence of a batch: their logits, and the softmax of these.

    Attributes:
        logits: over the keys from `first_key` to the last query; `HIDDEN` where a query does not see a key. They are
            overwritten once `weights` are computed, so read them before.
        first_query: the position of the first query.
        first_key: the position of the first key.
        visible: the number of keys that each query sees.
    """

    logits: Float[Tensor, "batch heads queries keys"]
    first_query: int
    first_key: int
    visible: Int64[np.ndarray, " queries"]

    @cached_property
    def largest(self) -> Float[Tensor, "batch heads queries"]:
        """The largest logit of each query."""
        return self.logits.amax(-1)

    @cached_property
    def _below(self) -> Float[Tensor, "batch heads queries keys"]:
        return self.logits.sub_(self.largest[..., None])

    @cached_property
    def exponentials(self) -> Float[Tensor, "batch heads queries keys"]:
        """`exp(logit - largest)`, 0 where a query does not see a key."""
        return self._below.exp()

    @cached_property
    def totals(self) -> Float[Tensor, "batch heads queries"]:
        """The sums of `exponentials` over keys."""
        return self.exponentials.sum(-1)

    @property
    def weights(self) -> Float[Tensor, "batch heads queries keys"]:
        """The attention weights: each query's sum to 1."""
        return self.exponentials / self.totals[..., None]

    @cached_property
    def entropies(self) -> Float[Tensor, "batch heads queries"]:
        """The entropy of each query's weights in nats: `ln(total) - sum_j exp_j (logit_j - largest) / total`."""
        expected = (self.exponentials * self._below).sum(-1) / self.totals
        return self.totals.log() - expected

    @cached_property
    def distances(self) -> Float[Tensor, "batch heads queries"]:
        """The mean number of tokens from each query back to the keys that it attends to."""
        *_, queries, keys = self.exponentials.shape
        back = torch.arange(keys - 1, -1, -1, device=self.totals.device, dtype=self.totals.dtype)
        own = torch.arange(queries - 1, -1, -1, device=self.totals.device, dtype=self.totals.dtype)
        return self.exponentials @ back / self.totals - own

    @property
    def on_first(self) -> Float[Tensor, "batch heads queries"]:
        """Each query's weight on position 0; 0 where it does not see it."""
        weights = self.exponentials[..., 0] / self.totals
        return weights if self.first_key == 0 else torch.zeros_like(weights)

    def on_earlier(self, back: int) -> Float[Tensor, "batch heads queries"]:
        """Each query's weight on the position so many before its own; 0 where it does not see it."""
        offset = self.first_query - back - self.first_key
        found = torch.zeros_like(self.totals)
        picked = self.exponentials.diagonal(offset, -2, -1)
        first = max(-offset, 0)
        found[..., first : first + picked.shape[-1]] = picked
        return found / self.totals


def attention_tiles(
    seen: Observation, *, head_dim: int, first_query: int = 0, elements: int | None = None
) -> Iterator[Tile]:
    """The tiles of an observation at `Site.QUERY_ROTATED`, in the order of the queries.

    Args:
        seen: queries after RoPE, with their keys beside them.
        head_dim: features of a head. With fewer key heads than heads, each serves a run of neighbouring heads.
        first_query: the position of the first query of the first tile.
        elements: logits of a tile; as many as suit the device unless given.
    """
    first_visible = seen.first_visible
    queries, keys = (
        by_head(x, head_dim) for x in (seen.values, seen.beside["key"])
    )  # [batch, heads, positions, head_dim]
    queries = queries * head_dim**-0.5
    batch, heads, positions, _ = queries.shape
    most = elements or (TILE if queries.device.type == "cpu" else GPU_TILE)
    size = max(1, most // (batch * heads * positions))
    keys = keys.transpose(2, 3).contiguous()
    for start in range(first_query, positions, size):
        stop = min(start + size, positions)
        first_key = int(first_visible[start])
        logits = _products(queries[:, :, start:stop], keys[..., first_key:stop])
        _hide(logits, first_visible[start:stop], np.arange(start, stop), first_key)
        yield Tile(logits, start, first_key, np.arange(start, stop) - first_visible[start:stop] + 1)


def wide(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The same numbers in float32 at least."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def by_head(x: Float[Tensor, "batch positions width"], head_dim: int) -> Float[Tensor, "batch heads positions d"]:
    """Heads apart, in float32 at least."""
    return wide(x).view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def _products(
    queries: Float[Tensor, "batch heads queries d"], keys: Float[Tensor, "batch kv_heads d keys"]
) -> Float[Tensor, "batch heads queries keys"]:
    """Dot products of each head's queries with the keys of its group."""
    batch, heads, size, width = queries.shape
    grouped = queries.reshape(batch, keys.shape[1], -1, width)  # the queries of a group's heads, one below another
    return (grouped @ keys).view(batch, heads, size, -1)


def _hide(
    logits: Float[Tensor, "batch heads queries keys"],
    first_visible: Int64[np.ndarray, " queries"],
    places: Int64[np.ndarray, " queries"],
    first_key: int,
) -> None:
    """Mark the keys that a query does not see: before its first one, and behind itself."""
    for first, stop in ((first_key, int(first_visible[-1])), (int(places[0]) + 1, int(places[-1]) + 1)):
        if first < stop:
            keys = np.arange(first, stop)
            hidden = (keys < first_visible[:, None]) | (keys > places[:, None])
            there = logits[..., first - first_key : stop - first_key]
            there.masked_fill_(torch.tensor(hidden, device=logits.device), HIDDEN)
