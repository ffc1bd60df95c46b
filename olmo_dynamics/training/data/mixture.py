"""Several files by weight: a fixed share of every thousand sequences, in an order drawn from the seed.

Sequence number i of the run belongs to block i // 1000. Each block holds the same number of every file's sequences, the
weights rounded to thousandths (largest remainders), in an order shuffled by PCG64([seed, block]). So a batch follows from its
number alone, and any run of blocks is exactly in proportion.

    >>> quotas([0.7, 0.2, 0.1])
    (700, 200, 100)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from olmo_dynamics.errors import OptionError, TrainingError
from olmo_dynamics.probes.token_sources import TokenSource
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.data.batch_size import BatchSizes
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.data.masks import UNMASKED, LabelMask
from olmo_dynamics.training.data.order import FIRST_EPOCH, DataOrder
from olmo_dynamics.training.data.shuffle import order_of_epoch

BLOCK = 1000


@dataclass(frozen=True)
class MixtureSampler:
    """Batches to which each file contributes its share; a file that was read whole begins its next epoch.

    `order.skipped` sequences of the mixture precede this run.
    """

    parts: tuple[TokenFiles, ...]
    weights: tuple[float, ...]
    order: DataOrder
    sizes: BatchSizes
    mask: LabelMask = UNMASKED

    @property
    def sources(self) -> tuple[TokenSource, ...]:
        """The files, in order."""
        return tuple(source for part in self.parts for source in part.sources)

    def batch(self, position: int) -> Batch:
        """The batch after `position` others.

        Raises:
            TrainingError: it lies before the beginning of the mixture.
        """
        first = self.order.skipped + self.sizes.before(position)
        if first < 0:
            raise TrainingError(
                f"the mixture began {self.order.skipped} sequences before this run: choose a later --step"
            )
        owners, numbers = self._owners(first, self.sizes.at(position))
        ids = np.empty((len(owners), self.parts[0].length), np.int64)
        for index, part in enumerate(self.parts):
            chosen = owners == index
            ids[chosen] = part.read([self._instance(part, int(number)) for number in numbers[chosen]])
        return self.mask.batch(ids)

    def before(self) -> Batch | None:
        """The last batch before this run began, or None."""
        return self.batch(-1) if self.order.skipped >= self.sizes.first else None

    def __str__(self) -> str:
        """`shuffled, seed 0, mixed 700:300 in 1000, after 0 sequences`."""
        order, shares = self.order, ":".join(map(str, quotas(self.weights)))
        return f"{order.kind}, seed {order.seed}, mixed {shares} in {BLOCK}, after {order.skipped} sequences"

    def _owners(self, first: int, count: int) -> tuple[Int64[np.ndarray, " count"], Int64[np.ndarray, " count"]]:
        """Each sequence's file, and the number of that file's sequences before it, from `first` on."""
        shares = np.asarray(quotas(self.weights))
        begin, end = first // BLOCK, (first + count - 1) // BLOCK
        owners = np.concatenate(
            [_block(quotas(self.weights), self.order.seed, block) for block in range(begin, end + 1)]
        )
        numbers = np.empty(len(owners), np.int64)
        for index, share in enumerate(shares):
            chosen = owners == index
            numbers[chosen] = begin * share + np.arange(chosen.sum())
        here = slice(first - begin * BLOCK, first - begin * BLOCK + count)
        return owners[here], numbers[here]

    def _instance(self, part: TokenFiles, number: int) -> int:
        epoch, row = divmod(number, part.count)
        kind = self.order.kind
        return int(order_of_epoch(kind, part.count, self.order.seed, FIRST_EPOCH[kind] + epoch)[row])


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """Sequences of each file in a block: the weights' shares of 1000, rounded so that they sum to it.

    Raises:
        OptionError: a weight is not above 0, or too small for one sequence in a block.
    """
    if not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise OptionError(f"weights of data must be above 0 (got {', '.join(map(str, weights))})")
    exact = np.asarray(weights, np.float64) / sum(weights) * BLOCK
    shares = np.floor(exact).astype(int)
    for index in np.argsort(shares - exact, kind="stable")[: BLOCK - shares.sum()]:
        shares[index] += 1
    if shares.min() < 1:
        raise OptionError(
            f"each weight must be at least a thousandth of their sum (got {', '.join(map(str, weights))})"
        )
    return tuple(shares.tolist())


@lru_cache(maxsize=4)
def _block(shares: tuple[int, ...], seed: int, block: int) -> Int64[np.ndarray, " block"]:
    owners = np.repeat(np.arange(len(shares)), shares)
    np.random.Generator(np.random.PCG64([seed, block])).shuffle(owners)
    return owners
