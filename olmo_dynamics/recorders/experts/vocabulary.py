"""Specialisation of experts in token ids: whether an id decides to which expert it is sent.

    >>> ids = np.repeat([7, 9], 10)                       # two ids, ten times each
    >>> first = np.array([[0] * 10 + [1] * 5 + [2] * 5])  # the first choice of each token, in one layer
    >>> found = vocabulary_specialisation(ids, first, experts=3)
    >>> found.of_layers, found.of_experts, found.ids
    (array([0.75]), array([[1. , 0.5, nan]]), 2)

OLMoE, arXiv:2409.02060, equation 8, for k = 1. An id that occurs once has a share of 1 whatever the router does, so ids
that occur less than `MINIMUM` times are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

MINIMUM = 10
"""The fewest occurrences of a token id that is counted: that of the lists published with OLMoE."""


@dataclass(frozen=True)
class VocabularySpecialisation:
    """Means over token ids of the share of an id's occurrences that go to the expert that it is sent to most often."""

    of_layers: Float64[np.ndarray, " layers"]
    of_experts: Float64[np.ndarray, "layers experts"]
    ids: int


def vocabulary_specialisation(
    ids: Int64[np.ndarray, " tokens"],
    first: Int64[np.ndarray, "layers tokens"],
    experts: int,
    *,
    minimum: int = MINIMUM,
) -> VocabularySpecialisation:
    """Of all ids with at least `minimum` occurrences, and of those that each expert is sent most; NaN where there are none.

    Of equally frequent experts the one with the lowest number counts as an id's own.
    """
    _, place, occurrences = np.unique(ids, return_inverse=True, return_counts=True)
    often = np.flatnonzero(occurrences >= minimum)
    if not len(often):
        empty = np.full((len(first), experts), math.nan)
        return VocabularySpecialisation(empty[:, 0].copy(), empty, 0)
    number = np.full(len(occurrences), -1)
    number[often] = np.arange(len(often))
    kept = number[place] >= 0
    starts = number[place][kept] * experts
    of_layers, of_experts = np.empty(len(first)), np.full((len(first), experts), math.nan)
    for layer, chosen in enumerate(first):
        counts = np.bincount(starts + chosen[kept], minlength=len(often) * experts).reshape(-1, experts)
        shares, owner = counts.max(axis=1) / occurrences[often], counts.argmax(axis=1)
        of_layers[layer] = shares.mean()
        owned = np.bincount(owner, minlength=experts)
        np.divide(np.bincount(owner, shares, experts), owned, out=of_experts[layer], where=owned > 0)
    return VocabularySpecialisation(of_layers, of_experts, len(often))
