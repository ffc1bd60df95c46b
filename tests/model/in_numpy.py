"""Every family once more, of one sequence, in NumPy: RoPE as complex multiplication, attention head by head, each token's
experts one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from olmo_dynamics.model import ModelConfig

Array = np.ndarray


def numpy_logits(config: ModelConfig, weights: dict[str, Array], token_ids: Array) -> Array:
    """Logits `[positions, vocabulary]`."""

    def norm(x: Array, name: str) -> Array:
        if config.model_type == "olmo":
            return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + config.norm_eps)
        return weights[name] * x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps)

    x = weights["model.embed_tokens.weight"][token_ids]
    for layer in range(config.layers):
        at = f"model.layers.{layer}."
        if config.model_type in ("olmo", "olmoe"):
            x = x + attention(config, weights, norm(x, at + "input_layernorm.weight"), layer, norm)
            x = x + fed(config, weights, norm(x, at + "post_attention_layernorm.weight"), layer)
        else:
            x = x + norm(attention(config, weights, x, layer, norm), at + "post_attention_layernorm.weight")
            x = x + norm(fed(config, weights, x, layer), at + "post_feedforward_layernorm.weight")
    head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
    return norm(x, "model.norm.weight") @ weights[head].T


def attention(
    config: ModelConfig, weights: dict[str, Array], x: Array, layer: int, norm: Callable[[Array, str], Array]
) -> Array:
    at, positions = f"model.layers.{layer}.self_attn.", np.arange(len(x))
    q, k, v = (x @ weights[at + f"{role}_proj.weight"].T for role in "qkv")
    if config.model_type != "olmo":
        q, k = norm(q, at + "q_norm.weight"), norm(k, at + "k_norm.weight")
    if config.clip_qkv:
        q, k, v = (np.minimum(np.maximum(t, -config.clip_qkv), config.clip_qkv) for t in (q, k, v))
    window = config.sliding_window if layer in config.sliding_layers else len(x)
    behind = positions[:, None] - positions[None, :]
    heads = []
    for head in range(config.heads):
        group = head * config.kv_heads // config.heads
        own, shared = (slice(i * config.head_dim, (i + 1) * config.head_dim) for i in (head, group))
        scores = turned(config, layer, q[:, own]) @ turned(config, layer, k[:, shared]).T / math.sqrt(config.head_dim)
        scores[(behind < 0) | (behind >= window)] = -np.inf
        weight = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weight / weight.sum(axis=1, keepdims=True) @ v[:, shared])
    return np.concatenate(heads, axis=1) @ weights[at + "o_proj.weight"].T


def turned(config: ModelConfig, layer: int, x: Array) -> Array:
    half = config.head_dim // 2
    sliding = layer in config.sliding_layers
    theta = (config.sliding_rope_theta if sliding else None) or config.rope_theta
    frequencies, magnitude = theta ** (-np.arange(half) / half), 1.0
    if config.yarn and not sliding:
        frequencies, magnitude = yarn_frequencies(config, frequencies), config.yarn.attention_factor
        magnitude = magnitude or 1 + math.log(config.yarn.factor) / 10
    turn = np.exp(1j * np.outer(np.arange(len(x)), frequencies))
    z = magnitude * (x[:, :half] + 1j * x[:, half:]) * turn
    return np.concatenate([z.real, z.imag], axis=1)


def yarn_frequencies(config: ModelConfig, frequencies: Array) -> Array:
    """Each pair's frequency, by the number of turns it makes over the original positions."""
    yarn, found = config.yarn, []
    # the pair, a fraction, that turns so many times: its frequency is theta ** (-pair / pairs)
    fast, slow = (
        len(frequencies) * math.log(yarn.original_positions / (times * 2 * math.pi), config.rope_theta)
        for times in (yarn.beta_fast, yarn.beta_slow)
    )
    first, last = max(math.floor(fast), 0), min(math.ceil(slow), config.head_dim - 1)
    for pair, frequency in enumerate(frequencies):
        share = (pair - first) / (last - first if last != first else 0.001)
        share = min(max(share, 0.0), 1.0)
        found.append(frequency * (1 - share + share / yarn.factor))
    return np.array(found)


def fed(config: ModelConfig, weights: dict[str, Array], x: Array, layer: int) -> Array:
    at = f"model.layers.{layer}.mlp."

    def swiglu(x: Array, at: str) -> Array:
        gate, up = (x @ weights[at + f"{role}_proj.weight"].T for role in ("gate", "up"))
        return gate / (1 + np.exp(-gate)) * up @ weights[at + "down_proj.weight"].T

    if config.experts is None:
        return swiglu(x, at)
    written = np.zeros_like(x)
    for token, logits in zip(range(len(x)), x @ weights[at + "gate.weight"].T, strict=True):
        probability = np.exp(logits) / np.exp(logits).sum()
        chosen = sorted(range(config.experts.count), key=lambda expert: -probability[expert])[
            : config.experts.per_token
        ]
        total = probability[chosen].sum() if config.experts.renormalized else 1.0
        for expert in chosen:
            written[token] += probability[expert] / total * swiglu(x[token], f"{at}experts.{expert}.")
    return written
