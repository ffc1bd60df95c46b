"""The batch of one update: token ids, a mask of the labels that count, and the ends of documents.

>>> batch = Batch(torch.zeros(16, 128, dtype=torch.int64))
>>> batch.loss_mask is None, batch.documents is None  # every label counts, attention reaches the beginning
(True, True)
>>> batch.denominator("labels"), batch.denominator("positions")
(2032, 2048)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Sequences of one update.

    Attributes:
        token_ids: int64.
        loss_mask: True if a token, as the label of the position before it, counts in the loss; None if all do.
        documents: the number of each token's document, rising within a sequence; attention stays within one. None
            if attention reaches the sequence's beginning.
    """

    token_ids: Int[Tensor, "sequences length"]
    loss_mask: Bool[Tensor, "sequences length"] | None = None
    documents: Int[Tensor, "sequences length"] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    def split(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` of the sequences, in order."""
        for first in range(0, len(self), size):
            yield self._each(itemgetter(slice(first, first + size)))

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def denominator(self, mean_over: str) -> int:
        """The divisor of the sum of the labels' losses.

        "positions", OLMo's: every position, whether or not it has a label that counts. "labels", OLMo-core's: the labels
        that count, at most `length - 1` per sequence; but a sequence of which no token counts, as its instance filter
        leaves it, has all its `length` positions in the denominator.
        """
        sequences, length = self.token_ids.shape
        if mean_over == "positions":
            return sequences * length
        if self.loss_mask is None:
            return sequences * (length - 1)
        left_out = sequences - int(self.loss_mask.any(1).sum())
        return max(int(self.loss_mask[:, 1:].sum()) + left_out * length, 1)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        loss_mask, documents = (None if each is None else change(each) for each in (self.loss_mask, self.documents))
        return Batch(change(self.token_ids), loss_mask, documents)
