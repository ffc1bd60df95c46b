"""The loss of some tokens and its gradient, from slices of the vocabulary: logits are never held whole.

>>> hidden, weight, targets = torch.ones(2, 3), torch.zeros(5, 3), torch.tensor([4, 1])
>>> loss = VocabularyLoss(hidden, weight, targets)
>>> loss.of_logits(slice(0, 2))  # (p - 1[target]) / tokens
tensor([[ 0.1000,  0.1000],
        [ 0.1000, -0.4000]])
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from olmo_dynamics.model.parts import slices
from olmo_dynamics.model.stream import COLUMNS


class VocabularyLoss:
    """The mean cross-entropy of some tokens, given the head's inputs and weights; `hidden` is kept, and no logits are."""

    def __init__(
        self,
        hidden: Float[Tensor, "tokens hidden"],
        weight: Float[Tensor, "vocab hidden"],
        targets: Int[Tensor, " tokens"],
        *,
        columns_at_once: int = COLUMNS,
    ) -> None:
        self.hidden, self.targets = hidden, targets
        self._weight = weight
        self._lse = torch.full((len(hidden),), -torch.inf, dtype=hidden.dtype, device=hidden.device)
        for columns in slices(len(weight), columns_at_once):
            self._lse = torch.logaddexp(self._lse, F.linear(hidden, weight[columns]).logsumexp(dim=1))

    def of_logits(self, columns: slice) -> Float[Tensor, "tokens columns"]:
        """The gradient with respect to some columns of the logits: `(softmax(logits) - 1[target]) / tokens`."""
        gradient = (F.linear(self.hidden, self._weight[columns]) - self._lse[:, None]).exp_()
        inside = (self.targets >= columns.start) & (self.targets < columns.start + gradient.shape[1])
        gradient[inside, self.targets[inside] - columns.start] -= 1
        return gradient.div_(len(self.targets))

    def let_go(self) -> None:
        """Drop the weights; `lend` brings them back."""
        self._weight = self._weight[:0]

    def lend(self, weight: Float[Tensor, "vocab hidden"]) -> None:
        """Bring back the weights that were dropped."""
        self._weight = weight
