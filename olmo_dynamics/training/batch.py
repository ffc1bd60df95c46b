"""What one update sees: token ids, which of them count as labels, and where documents end.

>>> batch = Batch(torch.zeros(16, 128, dtype=torch.int64))
>>> batch.counted is None, batch.documents is None  # every label counts, attention goes back to the beginning
(True, True)
"""

from __future__ import annotations

from dataclasses import dataclass

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
