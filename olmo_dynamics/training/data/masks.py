"""Masks of a batch: the labels that count, and the documents that attention stays within.

OLMo's instance filter (OLMo-core's repeated n-gram filter) finds stretches of a sequence that repeat themselves with a short
period. A sequence with a too long stretch stays in its batch, but none of its labels counts.

    >>> mask = LabelMask(end_of_text=0, documents=True, repeats=Repeats())
    >>> mask.batch(np.array([[5, 0, 7, 8]])).documents
    tensor([[0, 0, 1, 1]])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64

from olmo_dynamics.errors import OptionError
from olmo_dynamics.training.data.batch import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """A stretch that equals itself `period` tokens on is too long if it holds `max_count` periods or more."""

    min_period: int = 1
    max_period: int = 13
    max_count: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min_period <= self.max_period or self.max_count < 2:
            raise OptionError(
                f"repeats must have 1 <= min_period <= max_period and max_count >= 2 (got {self.min_period}, "
                f"{self.max_period} and {self.max_count})"
            )

    def too_many(self, ids: Int64[np.ndarray, "sequences length"]) -> Bool[np.ndarray, " sequences"]:
        """True for each sequence that has such a stretch.

        n tokens in a row that equal those `p` before them are `n // p + 1` periods.
        """
        found = np.zeros(len(ids), dtype=bool)
        for period in range(self.min_period, min(self.max_period, ids.shape[1] // 3) + 1):
            again = ids[:, period:] == ids[:, :-period]
            found |= longest_run(again) // period + 1 >= self.max_count
        return found


def longest_run(values: Bool[np.ndarray, "rows columns"]) -> Int64[np.ndarray, " rows"]:
    """The longest run of True in each row."""
    places = np.arange(1, values.shape[1] + 1)
    broken = np.maximum.accumulate(np.where(values, 0, places), axis=1)
    longest: Int64[np.ndarray, " rows"] = np.max(np.where(values, places - broken, 0), axis=1, initial=0)
    return longest


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelMask:
    """Masks to set in each batch; none, by default."""

    end_of_text: int | None = None  # the last token of every document
    documents: bool = False
    repeats: Repeats | None = None

    def batch(self, ids: Int64[np.ndarray, "sequences length"]) -> Batch:
        """Make the batch of these ids; a token that ends a document belongs to that document."""
        loss_mask = documents = None
        if self.repeats is not None and (bad := self.repeats.too_many(ids)).any():
            loss_mask = torch.from_numpy(np.broadcast_to(~bad[:, None], ids.shape).copy())
        if self.documents:
            ends = ids == self.end_of_text
            documents = torch.from_numpy(np.cumsum(ends, axis=1) - ends)
        return Batch(torch.from_numpy(ids), loss_mask, documents)


UNMASKED = LabelMask()
