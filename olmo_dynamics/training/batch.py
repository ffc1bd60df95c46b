"""What one update sees: token ids, which of them count as labels, and where documents end.

>>> batch = Batch(torch.zeros(16, 128, dtype=torch.int64))
>>> batch.counted is None, batch.documents is None  # every label counts, attention goes back to the beginning
(True, True)
>>> batch.denominator("labels"), batch.denominator("positions")
(2032, 2048)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Sequences of one update.

    Attributes:
        token_ids: int64.
        counted: True where a token, as the label of the position before it, counts in the loss; None where all do.
        documents: the number of each token's document, rising within a sequence; attention stays within one. None
            where it goes back to the sequence's beginning.
    """

    token_ids: Int[Tensor, "sequences length"]
    counted: Bool[Tensor, "sequences length"] | None = None
    documents: Int[Tensor, "sequences length"] | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    def split(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` of the sequences, in order."""
        for first in range(0, len(self), size):
            rows = slice(first, first + size)
            yield Batch(*(None if each is None else each[rows] for each in self._tensors()))  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(*(None if each is None else each.to(device) for each in self._tensors()))  # type: ignore[arg-type]

    def denominator(self, mean_over: str) -> int:
        """What the sum of the labels' losses is divided by.

        "positions", OLMo's: every position, whether or not it has a label that counts. "labels", OLMo-core's: the labels
        that count, `length - 1` a sequence at most; but a sequence of which no token counts, as its instance filter
        leaves it, has all its `length` positions in the denominator.
        """
        sequences, length = self.token_ids.shape
        if mean_over == "positions":
            return sequences * length
        if self.counted is None:
            return sequences * (length - 1)
        left_out = sequences - int(self.counted.any(1).sum())
        return max(int(self.counted[:, 1:].sum()) + left_out * length, 1)

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.token_ids, self.counted, self.documents
