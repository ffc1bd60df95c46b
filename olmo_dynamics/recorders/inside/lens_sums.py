"""Sums over the vocabulary that compare the logits at several depths with the final ones, slice by slice.

>>> sums = LensSums(vectors, targets, tokenizer_size=100_278)  # doctest: +SKIP
>>> sums.add(final, head, first_column=0)  # doctest: +SKIP
>>> sums.measured()["kl_to_final"]  # doctest: +SKIP

Elements are float32 (float64 where the pass is), sums float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from olmo_dynamics.recorders.inside.tiles import wide


class LensSums:
    """Sums of some tokens at every depth; `vectors` have passed the final norm, and `targets` are the next tokens' ids."""

    def __init__(
        self,
        vectors: Float[Tensor, "depths tokens width"],
        targets: Int64[Tensor, " tokens"],
        tokenizer_size: int,
    ) -> None:
        self._vectors, self._targets, self._size = vectors, targets, tokenizer_size
        shape = (len(vectors) + 1, len(targets))  # the final logits come last
        self._known, self._all, self._top = (self._full(shape, -torch.inf) for _ in range(3))
        self._chosen, self._apart = self._full(shape, 0.0), self._full(shape, 0.0)
        self._likeliest = torch.zeros(shape, dtype=torch.int64, device=vectors.device)

    def add(
        self, final: Float[Tensor, "tokens columns"], head: Float[Tensor, "columns width"], first_column: int
    ) -> None:
        """Add one slice of the vocabulary: the final logits, and the rows of the head's matrix that gave them."""
        final = wide(final)
        known = min(max(self._size - first_column, 0), len(head))
        weights = None
        if known:
            weights, shrunk = self._final_weights(final[:, :known])
            self._apart *= shrunk
        for depth in range(len(self._vectors) + 1):
            logits = final if depth == len(self._vectors) else wide(F.linear(self._vectors[depth], head))
            self._add_depth(depth, logits, known, first_column)
            if weights is not None:
                difference = (final - logits)[:, :known]
                self._apart[depth] += (weights * difference).sum(-1, dtype=torch.float64)

    def release(self) -> None:
        """Let go of the vectors, once every slice was added."""
        self._vectors = self._vectors[:, :0]

    def measured(self) -> dict[str, Float[Tensor, "depths tokens"]]:
        """Cross-entropy in nats, KL(final ‖ depth), and whether the likeliest token is the final one, of each token."""
        weighted = self._apart / (self._known[-1] - self._top[-1]).exp()
        measured = {
            "cross_entropy": self._all - self._chosen,
            "kl_to_final": weighted - self._known[-1] + self._known,
            "top1_agreement": (self._likeliest == self._likeliest[-1]).double(),
        }
        return {name: each[:-1] for name, each in measured.items()}

    def _final_weights(self, known: Float[Tensor, "tokens columns"]) -> tuple[Tensor, Tensor]:
        """`exp(final - largest so far)`, and the factor by which earlier sums shrink."""
        largest = torch.maximum(self._top[-1], known.amax(-1).double())
        shrunk = torch.where(self._top[-1].isinf(), 0, (self._top[-1] - largest).exp())
        return (known - largest[:, None].to(known.dtype)).exp(), shrunk

    def _add_depth(self, depth: int, logits: Float[Tensor, "tokens columns"], known: int, first_column: int) -> None:
        self._all[depth] = torch.logaddexp(self._all[depth], logits.logsumexp(-1).double())
        here = (self._targets >= first_column) & (self._targets < first_column + logits.shape[1])
        places = (self._targets - first_column).clamp(0, logits.shape[1] - 1)
        chosen = logits.gather(1, places[:, None])[:, 0].double()
        self._chosen[depth] = torch.where(here, chosen, self._chosen[depth])
        if known:
            self._known[depth] = torch.logaddexp(self._known[depth], logits[:, :known].logsumexp(-1).double())
            top, column = logits[:, :known].max(-1)
            higher = top.double() > self._top[depth]
            self._likeliest[depth] = torch.where(higher, column + first_column, self._likeliest[depth])
            self._top[depth] = torch.where(higher, top.double(), self._top[depth])

    def _full(self, shape: tuple[int, int], value: float) -> Tensor:
        return torch.full(shape, value, dtype=torch.float64, device=self._vectors.device)
