"""The largest of many numbers, kept by head: enough of them for an exact upper quantile.

    >>> import torch
    >>> largest = Largest(needed(1000, 0.999), heads=1)
    >>> for part in torch.arange(1000.0).view(1, 1, 10, 100).split(4, dim=2):
    ...     largest.offer(part)
    >>> quantile(largest.of_head(0), 1000, 0.999)
    998.001

The quantile q of n numbers lies between two neighbours near place q (n - 1), so the n - floor(q (n - 1)) largest are all that
it needs. They are chosen exactly, and the largest of two parts are among the largest of each: selections merge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from olmo_dynamics.recorders.inside.tiles import HIDDEN
from olmo_dynamics.recorders.kernels.upper_values import upper_values


def needed(numbers: int, level: float) -> int:
    """The largest numbers that the quantile at `level` is computed from, out of as many as there are."""
    return numbers - math.floor(level * (numbers - 1)) if numbers else 0


def quantile(largest: Float64[np.ndarray, " kept"], numbers: int, level: float) -> float:
    """The quantile at `level` of `numbers` numbers whose largest are given in falling order; linear between neighbours.

    It is NaN if some that it needs are not given.
    """
    if not numbers or len(largest) < needed(numbers, level):
        return math.nan
    place = level * (numbers - 1)
    below = math.floor(place)
    lower = largest[numbers - 1 - below]
    upper = largest[max(numbers - 2 - below, 0)]
    return float(lower + (place - below) * (upper - lower))


class Largest:
    """The `count` largest of the numbers offered, for each of some heads; those at or below `HIDDEN` do not count."""

    def __init__(self, count: int, heads: int) -> None:
        self.count, self.heads = count, heads
        self._kept: list[list[Tensor]] = [[] for _ in range(heads)]
        self._least = [HIDDEN] * heads  # nothing at or below it is among a head's largest

    def offer(self, numbers: Float[Tensor, "batch heads queries keys"]) -> None:
        """Add numbers of each head."""
        for head, some in enumerate(_above(numbers, self._least)):
            if len(some):
                self._kept[head].append(some)
                if sum(map(len, self._kept[head])) > 2 * self.count:
                    self._settle(head)

    def merge(self, other: Largest) -> None:
        """Add the numbers that `other` was offered."""
        for head, some in enumerate(other._kept):
            self._kept[head] += some
            self._settle(head)

    def of_head(self, head: int) -> Float64[np.ndarray, " kept"]:
        """The largest numbers of a head in falling order; fewer than `count` if fewer were offered."""
        self._settle(head)
        found: np.ndarray = torch.cat(self._kept[head]).double().cpu().numpy() if self._kept[head] else np.zeros(0)
        return found

    def _settle(self, head: int) -> None:
        """Drop what is not among the largest; one tensor is left, in falling order."""
        if self._kept[head]:
            together = torch.cat(self._kept[head])
            kept = together.topk(min(self.count, len(together))).values
            self._kept[head] = [kept]
            if len(kept) == self.count:
                self._least[head] = float(kept[-1])


def _above(numbers: Float[Tensor, "batch heads queries keys"], limits: Sequence[float]) -> Sequence[Tensor]:
    """Each head's numbers above its limit: on a CPU by one compiled pass, where torch needs three."""
    if not numbers.is_cuda:
        return [torch.from_numpy(some) for some in upper_values(numbers.numpy(), limits)]
    by_head = numbers.transpose(0, 1)
    above = by_head > torch.tensor(limits, device=numbers.device, dtype=numbers.dtype)[:, None, None, None]
    return torch.split(by_head[above], above.flatten(1).count_nonzero(dim=1).tolist())
