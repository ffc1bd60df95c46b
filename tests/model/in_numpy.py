"""Every family once more, of one sequence, in NumPy: RoPE as complex multiplication, attention head by head, each token's
experts one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from olmo_dynamics.model import DynamicScaling, LinearScaling, Llama3Scaling, ModelConfig

Array = np.ndarray


def numpy_logits(config: ModelConfig, weights: dict[str, Array], token_ids: Array) -> Array:
    """Logits `[positions, vocabulary]`."""

    def centred(x: Array) -> Array:
        return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + config.norm_eps)

    def norm(x: Array, name: str) -> Array:
        found = weights.get(name, 1.0) * normalised(x)
        return found + weights.get(name.replace(".weight", ".bias"), 0.0)

    def normalised(x: Array) -> Array:
        if config.model_type in ("olmo", "gpt_neox") or (config.norms and config.norms.centred):
            return centred(x)
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + config.norm_eps)

    x = weights["model.embed_tokens.weight"][token_ids]
    for layer in range(config.layers):
        at = f"model.layers.{layer}."
        if at + "post_feedforward_layernorm.weight" in weights:
            x = x + norm(attention(config, weights, x, layer, norm), at + "post_attention_layernorm.weight")
            x = x + norm(fed(config, weights, x, layer), at + "post_feedforward_layernorm.weight")
        else:
            written = attention(config, weights, norm(x, at + "input_layernorm.weight"), layer, norm)
            read = x if config.parallel_residual else x + written
            x = x + written + fed(config, weights, norm(read, at + "post_attention_layernorm.weight"), layer)
    head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
    return norm(x, "model.norm.weight") @ weights[head].T


def attention(
    config: ModelConfig, weights: dict[str, Array], x: Array, layer: int, norm: Callable[[Array, str], Array]
) -> Array:
    at, positions = f"model.layers.{layer}.self_attn.", np.arange(len(x))
    q, k, v = (linear(weights, x, at + f"{role}_proj") for role in "qkv")
    limit = config.clip_qkv or np.inf
    if config.norms:  # the ladder clips before it normalises
        q, k, v = (np.minimum(np.maximum(t, -limit), limit) for t in (q, k, v))
        if config.norms.on_queries:
            q, k = (norm(t, at + f"{role}_norm.weight") for t, role in ((q, "q"), (k, "k")))
    elif at + "q_norm.weight" in weights:  # of all heads together, or of each by itself
        width = len(weights[at + "q_norm.weight"]), len(weights[at + "k_norm.weight"])
        q, k = (
            norm(t.reshape(len(x), -1, size), at + f"{role}_norm.weight").reshape(len(x), -1)
            for t, size, role in zip((q, k), width, "qk", strict=True)
        )
    if config.clip_qkv and not config.norms:
        q, k, v = (np.minimum(np.maximum(t, -limit), limit) for t in (q, k, v))
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
    return linear(weights, np.concatenate(heads, axis=1), at + "o_proj")


def linear(weights: dict[str, Array], x: Array, name: str) -> Array:
    return x @ weights[name + ".weight"].T + weights.get(name + ".bias", 0)


def turned(config: ModelConfig, layer: int, x: Array) -> Array:
    width = config.head_dim if config.rotary_dim is None else config.rotary_dim
    x, rest = x[:, :width], x[:, width:]
    half = width // 2
    sliding = layer in config.sliding_layers
    theta = (config.sliding_rope_theta if sliding else None) or config.rope_theta
    if isinstance(config.scaling, DynamicScaling) and len(x) > config.max_positions:
        grown = config.scaling.factor * len(x) / config.max_positions - (config.scaling.factor - 1)
        theta = theta * grown ** (width / (width - 2))
    frequencies, magnitude = theta ** (-np.arange(half) / half), 1.0
    if isinstance(config.scaling, LinearScaling):
        frequencies = frequencies / config.scaling.factor
    if isinstance(config.scaling, Llama3Scaling):
        frequencies = np.array([llama3_frequency(config.scaling, frequency) for frequency in frequencies])
    if config.yarn and not sliding:
        frequencies, magnitude = yarn_frequencies(config, frequencies), config.yarn.attention_factor
        magnitude = magnitude or 1 + math.log(config.yarn.factor) / 10
    turn = np.exp(1j * np.outer(np.arange(len(x)), frequencies))
    z = magnitude * (x[:, :half] + 1j * x[:, half:]) * turn
    return np.concatenate([z.real, z.imag, rest], axis=1)


def llama3_frequency(scaling: Llama3Scaling, frequency: float) -> float:
    """A pair's frequency, by its wavelength in positions."""
    wavelength = 2 * math.pi / frequency
    longest, shortest = (
        scaling.original_positions / factor for factor in (scaling.low_freq_factor, scaling.high_freq_factor)
    )
    if wavelength < shortest:
        return frequency
    if wavelength > longest:
        return frequency / scaling.factor
    smooth = (scaling.original_positions / wavelength - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    return (1 - smooth) * frequency / scaling.factor + smooth * frequency


def yarn_frequencies(config: ModelConfig, frequencies: Array) -> Array:
    """Each pair's frequency, by the number of turns it makes over the original positions."""
    yarn, found = config.yarn, []
    # the pair, a fraction, that turns so many times: its frequency is theta ** (-pair / pairs)
    fast, slow = (
        len(frequencies) * math.log(yarn.original_positions / (times * 2 * math.pi), config.rope_theta)
        for times in (yarn.beta_fast, yarn.beta_slow)
    )
    first, last = max(math.floor(fast), 0), min(math.ceil(slow), 2 * len(frequencies) - 1)
    for pair, frequency in enumerate(frequencies):
        share = (pair - first) / (last - first if last != first else 0.001)
        share = min(max(share, 0.0), 1.0)
        found.append(frequency * (1 - share + share / yarn.factor))
    return np.array(found)


def fed(config: ModelConfig, weights: dict[str, Array], x: Array, layer: int) -> Array:
    at = f"model.layers.{layer}.mlp."

    def swiglu(x: Array, at: str) -> Array:
        gate, up = (linear(weights, x, at + f"{role}_proj") for role in ("gate", "up"))
        return linear(weights, gate / (1 + np.exp(-gate)) * up, at + "down_proj")

    if config.activation:
        up = linear(weights, x, at + "up_proj")
        cubic = np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))
        bell = special.erf(up / math.sqrt(2)) if config.activation == "gelu" else cubic
        return linear(weights, up / 2 * (1 + bell), at + "down_proj")
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
