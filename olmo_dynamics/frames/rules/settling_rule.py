"""Layers that settle first: an order of blocks by the revision from which their weights' norm stays near its last value.

A block settles at the first revision since which abs(n - n_last) ≤ 10 % of max abs(n - n_last), for the norm n of all of its
weights. The rank correlation of depth with settling (Kendall's S, the pairs in order minus those out of order) is compared
with that of permuted blocks: exact for blocks that are alike.

>>> settled(np.array([[0.0, 0.0], [9.5, 5.0], [10.0, 10.0]])).tolist()
[1, 2]
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

from olmo_dynamics.frames.rules.step_changes import SEED

FALSE_ALARMS = 0.01
"""The probability of an order in a store whose blocks are alike, at most."""

NEARNESS = 0.1
"""The share of the farthest distance within which a block has settled."""

_SHUFFLES = 9_999


def settled(norms: Float[np.ndarray, "revisions blocks"]) -> Int[np.ndarray, " blocks"]:
    """The place of the revision at which each block settles."""
    distance = np.abs(norms - norms[-1])
    away = distance > NEARNESS * distance.max(axis=0)
    found: np.ndarray = (len(norms) - np.argmax(away[::-1], axis=0)) * away.any(axis=0)
    return found


def order_and_chance(when: Int[np.ndarray, " blocks"]) -> tuple[int, float]:
    """Kendall's S of depth and settling, and the share of permutations in which it is as large, in size."""
    own = int(_order(when[np.newaxis])[0])
    few = len(when) <= 7
    if few:
        null = _order(np.array(list(permutations(when.tolist()))))
        return own, float((np.abs(null) >= abs(own)).mean())
    drawing = np.random.default_rng(SEED)
    null = _order(drawing.permuted(np.tile(when, (_SHUFFLES, 1)), axis=1))
    return own, float((1 + (np.abs(null) >= abs(own)).sum()) / (1 + _SHUFFLES))


def _order(when: Int[np.ndarray, "rows blocks"]) -> Int[np.ndarray, " rows"]:
    count = when.shape[1]
    first, second = np.triu_indices(count, k=1)
    total = np.zeros(len(when), dtype=np.int64)
    for before, after in zip(first.tolist(), second.tolist(), strict=True):
        total += np.sign(when[:, after] - when[:, before])
    return total
