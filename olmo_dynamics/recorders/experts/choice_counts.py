"""Counts of chosen experts, and the ratios that follow from them.

    >>> chosen = np.array([[0, 1], [0, 2], [1, 0]])  # three tokens, sent to two experts of three
    >>> counts = count_choices(chosen, experts=3)
    >>> counts, round(load_entropy(np.ones(3, dtype=int)), 12)
    (array([3, 2, 1]), 1.0)

Experts are numbers from 0; `chosen` holds those of each token that was seen, the most probable first.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float64, Int16, Int64

_AT_ONCE = 4096  # tokens whose choices are multiplied at once: counts in float32 stay exact


def count_choices(chosen: Int64[np.ndarray, "tokens k"], experts: int) -> Int64[np.ndarray, " experts"]:
    """N_i: the number of tokens sent to each expert."""
    return np.bincount(chosen.ravel(), minlength=experts)


def domain_specialisation(
    counts: Int64[np.ndarray, "*domains experts"], per_token: int
) -> Float64[np.ndarray, "*domains experts"]:
    """The share of each domain's tokens sent to each expert; sums to `per_token`, NaN for a domain without tokens.

    OLMoE, arXiv:2409.02060, equation 7: `counts` are N_i(D), of which each token gave `per_token`.
    """
    tokens = counts.sum(axis=-1, keepdims=True) / per_token
    shares: np.ndarray = np.divide(counts, tokens, out=np.full(counts.shape, math.nan), where=tokens > 0)
    return shares


def co_activation(chosen: Int64[np.ndarray, "tokens k"], experts: int) -> Float[np.ndarray, "experts experts"]:
    """N_ij / N_i: the share of the tokens of expert i that are sent to j as well, whatever their ranks among the k.

    OLMoE, arXiv:2409.02060, equation 6. NaN on the diagonal, and in the row of an expert without tokens.
    """
    pairs = np.zeros((experts, experts), dtype=np.int64)
    for first in range(chosen.shape[1]):
        for second in range(first):
            places = chosen[:, first] * experts + chosen[:, second]
            pairs += np.bincount(places, minlength=experts * experts).reshape(experts, experts)
    counts = np.broadcast_to(count_choices(chosen, experts)[:, None], pairs.shape)
    defined = (counts > 0) & ~np.eye(experts, dtype=bool)
    shares: np.ndarray = np.divide(pairs + pairs.T, counts, out=np.full(pairs.shape, math.nan), where=defined)
    return shares.astype(np.float32, copy=False)


def cross_layer_co_activation(
    chosen: Int16[np.ndarray, "layers tokens k"], experts: int
) -> Float[np.ndarray, "layers layers experts experts"]:
    """N_ij / N_i for expert i of a layer and expert j of a later one, over all k x k pairs of their ranks.

    The first layer axis is that of i. NaN where the second layer is not the later one, and for an expert i without tokens.
    """
    layers, tokens, _ = chosen.shape
    together = np.zeros((layers * experts, layers * experts))
    for start in range(0, tokens, _AT_ONCE):
        sent = np.zeros((layers, min(_AT_ONCE, tokens - start), experts), dtype=np.float32)
        np.put_along_axis(sent, chosen[:, start : start + _AT_ONCE].astype(np.int64), 1.0, axis=-1)
        flat = sent.transpose(1, 0, 2).reshape(-1, layers * experts)
        together += flat.T @ flat
    counts = np.diagonal(together).reshape(layers, 1, experts, 1)
    pairs = together.reshape(layers, experts, layers, experts).transpose(0, 2, 1, 3)
    later = np.arange(layers)[:, None] < np.arange(layers)
    defined = np.broadcast_to(later[..., None, None] & (counts > 0), pairs.shape)
    shares: np.ndarray = np.divide(pairs, counts, out=np.full(pairs.shape, math.nan), where=defined)
    return shares.astype(np.float32)


def load_entropy(counts: Int64[np.ndarray, " experts"]) -> float:
    """-sum_i load_i ln load_i / ln E, between 0 and 1; NaN for a single expert."""
    if len(counts) == 1:
        return math.nan
    loads = counts[counts > 0] / counts.sum()
    return float(-(loads * np.log(loads)).sum() / math.log(len(counts)))


def balance_loss(counts: Int64[np.ndarray, " experts"], probabilities: Float64[np.ndarray, " experts"]) -> float:
    """(E/k) sum_i f_i P_i, f_i = N_i / N: 1 where balanced, as in OLMo-core; the Hugging Face function gives k there."""
    return float(len(counts) * (counts / counts.sum()) @ probabilities)


def pooled_balance_loss(
    counts: Int64[np.ndarray, "layers experts"], probabilities: Float64[np.ndarray, "layers experts"], per_token: int
) -> float:
    """E sum_i f_i P_i with f_i and P_i over the tokens of all layers together: k where balanced, as in transformers."""
    return per_token * balance_loss(counts.sum(axis=0), probabilities.mean(axis=0))
