"""What keeps a router from sending every token to the same experts: its two losses, and the logits they are made of.

>>> logits = torch.zeros(1, 6, 64)  # a router that knows no preference
>>> float(router_z(logits))  # ln(64)²
17.29...
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from olmo_dynamics.model import LanguageModel, taps
from olmo_dynamics.names import Site


def balance(logits: Float[Tensor, "layers tokens experts"], per_token: int) -> Float[Tensor, ""]:
    """`E / k · sum over experts of f · P`, the mean over layers: 1 where all experts are used alike, E / k at worst.

    `f` is how often an expert is chosen, per token (its sum is `k`), without gradient; `P` the mean of its probability.
    Both over the tokens given, a micro-batch, as in megablocks and so in OLMoE's training; OLMo-core's formula too.
    """
    layers, tokens, experts = logits.shape
    probabilities = logits.float().softmax(-1)
    chosen = probabilities.topk(per_token).indices + experts * torch.arange(layers, device=logits.device)[:, None, None]
    often = chosen.flatten().bincount(minlength=layers * experts).view(layers, experts) / tokens
    return experts / per_token * (often * probabilities.mean(1)).sum(1).mean()


def router_z(logits: Float[Tensor, "layers tokens experts"]) -> Float[Tensor, ""]:
    """The mean of `logsumexp(logits)²` over tokens and layers."""
    return logits.float().logsumexp(-1).square().mean()


class RouterEar:
    """Hears what the routers of a model say, each thread its own forward pass."""

    def __init__(self, model: LanguageModel) -> None:
        self._thread = threading.local()
        routers = [tap for tap in taps(model) if tap.site is Site.ROUTER_LOGITS]
        self._handles = [tap.register_forward_hook(self._hear) for tap in routers]

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """The logits of each layer, in order, of what this thread runs meanwhile."""
        self._thread.heard = heard = []
        try:
            yield heard
        finally:
            del self._thread.heard

    def close(self) -> None:
        """Leave the model."""
        for handle in self._handles:
            handle.remove()

    def _hear(self, tap: object, inputs: object, logits: Tensor) -> None:
        if hasattr(self._thread, "heard"):  # not so when checkpointing runs a block again
            self._thread.heard.append(logits.flatten(0, -2))
