"""The effect of an edit: the loss before and after, over a probe and over each of its domains.

    >>> effect = editable.ablate(probe, 45)  # doctest: +SKIP
    >>> effect.increase, effect.increase_by_domain["code"]  # doctest: +SKIP

A prediction at position t is scored against the token at t + 1 if both are real, as in the store's `loss` group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from olmo_dynamics.names import Site
from olmo_dynamics.probes import Probe
from olmo_dynamics.quantities.as_html import shown, table


@dataclass(frozen=True, slots=True)
class ProbeLoss:
    """Cross-entropy in nats per token: over all scored tokens, and over those of each domain.

    A domain without a scored token has NaN.
    """

    mean: float
    by_domain: dict[str, float]


@dataclass(frozen=True, slots=True)
class Effect:
    """The loss of a model, in nats per token, before and after one edit at one place or at every layer."""

    edit: str  # in words
    site: Site
    layer: int | None  # None: at each of several layers
    loss_before: float
    loss_after: float
    before_by_domain: dict[str, float]
    after_by_domain: dict[str, float]

    @property
    def increase(self) -> float:
        """`loss_after - loss_before`, in nats per token."""
        return self.loss_after - self.loss_before

    @property
    def increase_by_domain(self) -> dict[str, float]:
        """The increase over the tokens of each domain."""
        return {name: self.after_by_domain[name] - before for name, before in self.before_by_domain.items()}

    def __str__(self) -> str:
        """The edit, its place, and the loss before and after."""
        where = f"{self.site} of {'several layers' if self.layer is None else f'layer {self.layer}'}"
        return f"{self.edit} at {where}: {self.loss_before:.4f} → {self.loss_after:.4f} nats per token ({self.increase:+.4f})"

    def _repr_html_(self) -> str:
        """The same as HTML, with one row per domain."""
        before = {"all": self.loss_before} | self.before_by_domain
        after = {"all": self.loss_after} | self.after_by_domain
        rows = [
            (name, f"{loss:.4f}", f"{after[name]:.4f}", f"{after[name] - loss:+.4f}") for name, loss in before.items()
        ]
        words = {"site": str(self.site), "layer": "several" if self.layer is None else str(self.layer)}
        losses = table(("domain", "before (nat/token)", "after (nat/token)", "increase (nat/token)"), rows)
        return shown(f"Effect of: {self.edit}", words, losses)


def compared(words: str, places: Sequence[tuple[Site, int]], before: ProbeLoss, after: ProbeLoss) -> Effect:
    """The effect of an edit at one or several places of one site."""
    site, layer = places[0]
    everywhere = len(places) > 1
    return Effect(
        words, site, None if everywhere else layer, before.mean, after.mean, before.by_domain, after.by_domain
    )


def token_losses(
    logits: Float[Tensor, "batch positions vocab"], token_ids: Int[Tensor, "batch positions"]
) -> Float[Tensor, "batch predictions"]:
    """Cross-entropy of each token but the first, given the tokens before it, [batch, positions - 1], as float64 on the CPU.

    Logits narrower than float32 are widened first.
    """
    wide = logits[:, :-1].to(torch.promote_types(logits.dtype, torch.float32))
    targets = token_ids[:, 1:].flatten().to(logits.device)
    losses = F.cross_entropy(wide.flatten(0, 1), targets, reduction="none")
    return losses.view(token_ids.shape[0], -1).double().cpu()


def averaged(losses: Float[Tensor, "sequences predictions"], probe: Probe) -> ProbeLoss:
    """Means in float64 over the probe's scored tokens."""
    values = losses.numpy()
    scored = probe.mask[:, :-1] & probe.mask[:, 1:]
    inside = {name: scored & (probe.domain == number)[:, None] for number, name in enumerate(probe.domains)}
    by_domain = {name: float(values[of].mean()) if of.any() else math.nan for name, of in inside.items()}
    return ProbeLoss(float(values[scored].mean()), by_domain)
