"""A batch of an activation feed: the same tokens in every revision.

>>> tokens = torch.arange(3)
>>> batch = ActivationBatch(torch.zeros(2, 3, 8), ("step1", "step2"), tokens, tokens * 0, tokens, tokens * 0, ("code",))
>>> len(batch), batch["step2"].shape
(3, torch.Size([3, 8]))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from olmo_dynamics.errors import OptionError, did_you_mean

_OF_TOKENS = ("token_ids", "windows", "positions", "domains")


@dataclass(frozen=True, slots=True, eq=False)
class ActivationBatch:
    """Activations of some tokens in every revision, in memory of their own.

    Attributes:
        activations: [revision, token, feature]; [revision, layer, token, feature] where layers were given as a list. In the
            compute dtype; chosen experts are int64.
        revisions: the names along the first axis.
        token_ids: [token], int64.
        windows: the number of each token's window in the text.
        positions: its position in that window.
        domains: its domain, an index into `domain_names`.
        domain_names: the text or token files, by name.
    """

    activations: Tensor
    revisions: tuple[str, ...]
    token_ids: Tensor
    windows: Tensor
    positions: Tensor
    domains: Tensor
    domain_names: tuple[str, ...]

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.token_ids)

    def __getitem__(self, revision: str) -> Tensor:
        """The activations of one revision.

        Raises:
            OptionError: the feed has no such revision.
        """
        if revision not in self.revisions:
            near = did_you_mean(revision, self.revisions)
            raise OptionError(f"revision must be one of this feed's {len(self.revisions)} (got {revision!r}){near}")
        return self.activations[self.revisions.index(revision)]

    def take(self, tokens: Tensor) -> ActivationBatch:
        """Some of its tokens, copied, in the order given."""
        picked = {name: getattr(self, name)[tokens] for name in _OF_TOKENS}
        return replace(self, activations=self.activations.index_select(-2, tokens), **picked)

    def join(self, other: ActivationBatch) -> ActivationBatch:
        """Its tokens and those of another batch of the same feed behind them."""
        joined: dict[str, Any] = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in _OF_TOKENS}
        return replace(self, activations=torch.cat([self.activations, other.activations], dim=-2), **joined)
