"""The two losses that balance a router over its experts, and the hook that captures the router logits.

>>> logits = torch.zeros(1, 6, 64)  # a router without preference
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
    """`E / k · sum over experts of f · P`, the mean over layers: 1 if all experts are used equally, E / k at worst.

    `f` is the frequency of an expert's choice, per token (its sum is `k`), without gradient; `P` its mean probability.
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


class RouterHook:
    """Captures the router logits of a model, in each thread those of its own forward pass."""

    def __init__(self, model: LanguageModel) -> None:
        self._thread = threading.local()
        routers = [tap for tap in taps(model) if tap.site is Site.ROUTER_LOGITS]
        self._handles = [tap.register_forward_hook(self._keep) for tap in routers]

    @contextmanager
    def capture(self) -> Iterator[list[Tensor]]:
        """The logits of each layer, in order, of the forward passes of this thread within."""
        captured: list[Tensor] = []
        self._thread.logits = captured
        try:
            yield captured
        finally:
            del self._thread.logits

    def close(self) -> None:
        """Remove the hooks from the model."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, tap: object, inputs: object, logits: Tensor) -> None:
        if hasattr(self._thread, "logits"):  # not when checkpointing runs a block again
            self._thread.logits.append(logits.flatten(0, -2))
