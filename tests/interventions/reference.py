"""The same interventions without nnsight and without our model: plain hooks on transformers' modules, losses in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
import transformers
from torch import Tensor

from olmo_dynamics.model import ModelConfig
from olmo_dynamics.names import Site
from olmo_dynamics.probes import Probe

DOMAINS = ("code", "tables")


def make_probe(config: ModelConfig, *, positions: int = 12, seed: int = 0) -> Probe:
    """Five windows of two domains, some of them padded on the right."""
    lengths = np.array([positions, 7, positions, 2, 9])
    mask = np.arange(positions) < lengths[:, None]
    drawn = np.random.default_rng(seed).integers(0, config.vocab_size, mask.shape)
    token_ids = np.where(mask, drawn, 0).astype(np.int64)
    unknown = np.full(mask.shape, -1, dtype=np.int64)
    return Probe(token_ids, mask, np.array([0, 0, 1, 1, 1]), DOMAINS, unknown, config.vocab_size)


def run(
    theirs: transformers.Olmo2ForCausalLM, probe: Probe, edits: dict[tuple[Site, int], Callable[[Tensor], Tensor]]
) -> np.ndarray:
    """transformers' logits, float64, of a forward pass with some activations edited."""
    with ExitStack() as stack, torch.no_grad():
        for (site, layer), edit in edits.items():
            stack.enter_context(_hook(theirs, site, layer, edit))
        logits: np.ndarray = theirs(torch.tensor(probe.token_ids)).logits.double().numpy()
    return logits


def _hook(theirs, site, layer, edit):
    """A hook at the place in transformers' model that corresponds to one of our sites."""
    stack = theirs.model
    inside = stack.layers[layer] if site.in_block else None
    after = {
        Site.EMBEDDING: lambda: stack.embed_tokens,
        Site.QUERY: lambda: inside.self_attn.q_norm,
        Site.ATTENTION_OUTPUT: lambda: inside.self_attn.o_proj,
        Site.ATTENTION_OUTPUT_NORMED: lambda: inside.post_attention_layernorm,
        Site.MLP_OUTPUT: lambda: inside.mlp.down_proj,
        Site.RESIDUAL_OUT: lambda: inside,
        Site.FINAL_NORM: lambda: stack.norm,
        Site.LOGITS: lambda: theirs.lm_head,
    }
    if site is Site.MLP_HIDDEN:
        return inside.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: (edit(inputs[0]),))
    return after[site]().register_forward_hook(lambda _, __, output: edit(output))


def losses(logits: np.ndarray, probe: Probe) -> tuple[float, dict[str, float]]:
    """Mean cross-entropy over scored tokens and over each domain's, summed token by token."""
    found: dict[str, list[float]] = {name: [] for name in probe.domains}
    for row in range(probe.shape[0]):
        for position in range(1, probe.shape[1]):
            if probe.mask[row, position]:
                z = logits[row, position - 1]
                loss = np.log(np.exp(z - z.max()).sum()) + z.max() - z[probe.token_ids[row, position]]
                found[probe.domains[probe.domain[row]]].append(loss)
    everything = [loss for each in found.values() for loss in each]
    return float(np.mean(everything)), {name: float(np.mean(each)) for name, each in found.items()}
