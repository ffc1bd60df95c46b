"""Divergences of a model's predictions from the n-gram models, from slices of the logits.

>>> sums = DivergenceSums(model, contexts, hidden, chosen)  # doctest: +SKIP
>>> sums.add(logits, head, first_column=0)  # doctest: +SKIP
>>> kl, js = sums.measured()  # doctest: +SKIP

With q = exp(z - lse) the KL divergence is `lse - sum_v p_v z_v - H(p)`, which needs one look at the logits. The Jensen-Shannon
divergence, `H((p + q) / 2) - (H(p) + H(q)) / 2`, needs lse first, so the head is applied once more when every slice was seen: no
matrix of all tokens and the whole vocabulary is kept. Sums and their elements are float64.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from olmo_dynamics.recorders.inside.ngram_model import ORDERS, NgramModel


class DivergenceSums:
    """Sums of some tokens: those `chosen` among the vectors `hidden` after the final norm, which follow `contexts`."""

    def __init__(
        self,
        model: NgramModel,
        contexts: Int64[np.ndarray, " tokens"],
        hidden: Float[Tensor, "vectors width"],
        chosen: Int64[np.ndarray, " tokens"],
    ) -> None:
        self._model, self._contexts, self._hidden = model, contexts, hidden
        self._chosen = torch.from_numpy(chosen).to(hidden.device)
        self._rest, self._entropy = self._wide(model.rest[contexts]), self._wide(model.entropies[contexts])
        self._heads: list[tuple[int, Tensor]] = []
        self._lse = torch.full_like(self._rest, -torch.inf)
        self._expected = [torch.zeros_like(self._rest) for _ in ORDERS]

    def add(
        self, logits: Float[Tensor, "vectors columns"], head: Float[Tensor, "columns width"], first_column: int
    ) -> None:
        """Add one slice of the vocabulary: the logits, and the rows of the head's matrix that gave them."""
        known = min(max(self._model.vocabulary - first_column, 0), len(head))
        if not known:
            return
        self._heads.append((first_column, head[:known]))
        z = self._of_tokens(logits[:, :known])
        self._lse = torch.logaddexp(self._lse, z.logsumexp(-1))
        for number, p in enumerate(self._of_orders(first_column, known)):
            self._expected[number] += (z * p).sum(-1)

    def measured(self) -> tuple[Float64[np.ndarray, "orders tokens"], Float64[np.ndarray, "orders tokens"]]:
        """The KL and the Jensen-Shannon divergence of each token's prediction, in nats; the vectors are let go."""
        entropies = (torch.full_like(self._lse, self._model.unigram_entropy), self._entropy)
        model_entropy, mixed = self._second_look()
        kl = [self._lse - each - own for each, own in zip(self._expected, entropies, strict=True)]
        js = [each - (own + model_entropy) / 2 for each, own in zip(mixed, entropies, strict=True)]
        self._heads, self._hidden = [], self._hidden[:0]
        return _array(kl), _array(js)

    def _second_look(self) -> tuple[Float64[Tensor, " tokens"], list[Float64[Tensor, " tokens"]]]:
        """The entropy of the model's predictions, and of the mean of each n-gram model and these."""
        entropy, mixed = torch.zeros_like(self._lse), [torch.zeros_like(self._lse) for _ in ORDERS]
        for first, head in self._heads:
            ln_q = self._of_tokens(F.linear(self._hidden, head)) - self._lse[:, None]
            q = ln_q.exp()
            entropy -= (q * ln_q).sum(-1)
            for number, p in enumerate(self._of_orders(first, len(head))):
                mean = (p + q) / 2
                mixed[number] -= (mean * mean.log()).sum(-1)
        return entropy, mixed

    def _of_orders(
        self, first: int, columns: int
    ) -> tuple[Float64[Tensor, " columns"], Float64[Tensor, "tokens columns"]]:
        """The probabilities of some columns by each n-gram model."""
        sparse = self._model.bigrams(self._contexts, first, first + columns)
        bigram = self._rest[:, None].repeat(1, columns)
        at = torch.from_numpy(sparse.rows), torch.from_numpy(sparse.columns)
        bigram[at[0].to(bigram.device), at[1].to(bigram.device)] += self._wide(sparse.shares)
        return self._wide(self._model.unigram[first : first + columns]), bigram

    def _of_tokens(self, vectors: Float[Tensor, "vectors columns"]) -> Float64[Tensor, "tokens columns"]:
        return vectors[self._chosen].double()

    def _wide(self, values: Float64[np.ndarray, "*some"]) -> Float64[Tensor, "*some"]:
        return torch.from_numpy(values).to(self._hidden.device)


def _array(orders: list[Tensor]) -> Float64[np.ndarray, "orders tokens"]:
    """Divergences, those of equal distributions 0 rather than a rounding error below."""
    found: np.ndarray = torch.stack(orders).clamp(min=0).cpu().numpy()
    return found
